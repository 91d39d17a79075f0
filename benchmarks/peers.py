"""
The peers of the comparison, and their virtual environments.

    python benchmarks/peers.py [NAME ...]     create the missing ones

``PEER_SB3=/path/to/python`` (``PEER_SBX``, ``PEER_RLOX``, ``PEER_ENVPOOL``) uses an interpreter that already
has the peer; ``PEER_SB3=none`` skips it. ``PEER_PYTHON`` creates new environments.

``BASELINE=/path/to/mlx_baselines3.whl`` measures another build of this package in turn with ours.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-peers"


@dataclasses.dataclass(frozen=True)
class Peer:
    """
    :param module: imports if it is installed; None for what comes with this package
    :param packages: distributions whose versions are told
    """

    module: str | None
    packages: tuple[str, ...]


PEERS = {
    "ours": Peer(None, ("mlx-baselines3", "mlx", "numpy")),
    "gymnasium": Peer(None, ("gymnasium",)),
    "sb3": Peer("stable_baselines3", ("stable-baselines3", "sb3-contrib", "torch", "gymnasium", "numpy")),
    "sbx": Peer("sbx", ("sbx-rl", "jax", "flax", "stable-baselines3")),
    "rlox": Peer("rlox", ("rlox",)),
    "envpool": Peer("envpool", ("envpool",)),
    "baseline": Peer("mlx_baselines3", ("mlx-baselines3", "mlx", "numpy")),
}


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """
    :param python: path, or None
    :param reason: why there is none
    """

    python: str | None
    reason: str = ""


_enabled = False


def enable() -> None:
    """Measure the peers that have their own environments."""
    global _enabled
    _enabled = True
    python_of.cache_clear()


def is_wanted(name: str) -> bool:
    """
    :param name: key of :data:`PEERS`
    :return: whether its figures belong in the tables, measured or with the reason why not
    """
    if name == "baseline":
        return "BASELINE" in os.environ
    return _enabled or PEERS[name].module is None


@functools.cache
def python_of(name: str) -> Interpreter:
    """
    :param name: key of :data:`PEERS`
    :return: the interpreter that has it
    """
    module = PEERS[name].module
    if module is None:
        return Interpreter(sys.executable)
    if name == "baseline":
        return _baseline()
    if not _enabled:
        return Interpreter(None, "`make bench-peers` measures peers")
    wanted = os.environ.get(f"PEER_{name.upper()}")
    if wanted == "none":
        return Interpreter(None, f"skipped by PEER_{name.upper()}=none")
    python = pathlib.Path(wanted) if wanted else FOLDER / name / "bin" / "python"
    failed = FOLDER / name / "failed.txt"
    if not wanted and failed.exists():
        return Interpreter(None, failed.read_text())
    if not python.exists():
        return Interpreter(None, f"{wanted} is not there" if wanted else f"peers.py {name} has not been run")
    question = f"import importlib.util as u; print(u.find_spec('{module}') is not None)"
    if "True" not in subprocess.run([python, "-c", question], capture_output=True, text=True).stdout:
        return Interpreter(None, f"{python} has no {module}")
    return Interpreter(str(python))


def _baseline() -> Interpreter:
    """The environment of the wheel that ``BASELINE`` names, created if need be."""
    wheel = pathlib.Path(os.environ.get("BASELINE", ""))
    if wheel.suffix != ".whl" or not wheel.is_file():
        return Interpreter(None, f"BASELINE is {str(wheel)!r}, expected the path of a wheel")
    home = FOLDER / "baseline" / hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]
    python, done = home / "bin" / "python", home / "installed.txt"
    if not done.exists():
        subprocess.run([os.environ.get("PEER_PYTHON") or sys.executable, "-m", "venv", home], check=True)
        extra = "[cpu]" if sys.platform == "linux" else ""
        command = [python, "-m", "pip", "install", "--quiet", f"{wheel.resolve()}{extra}"]
        pip = subprocess.run(command, capture_output=True, text=True)
        if pip.returncode:
            return Interpreter(None, (pip.stderr.splitlines() or ["pip failed"])[-1])
        done.write_text(wheel.name)
    return Interpreter(str(python))


def thread_settings(threads: int) -> dict[str, str]:
    """
    :param threads: how many
    :return: the environment variables that tell the libraries so
    """
    pools = ("OMP", "OPENBLAS", "MKL", "RAYON")
    settings = {f"{pool}_NUM_THREADS": str(threads) for pool in pools}
    settings |= {"MLX_BASELINES3_THREADS": str(threads), "BENCHMARK_THREADS": str(threads)}
    if threads == 1:
        settings["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return settings


def bare_loop() -> Interpreter:
    """
    :return: the Rust program that steps environments and does nothing else, built if need be
    """
    if shutil.which("cargo") is None:
        return Interpreter(None, "cargo is not there")
    command = ["cargo", "build", "--quiet", "--release", "--example", "bare_loop", "--message-format=json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        return Interpreter(None, "cargo build --example bare_loop failed")
    built = [json.loads(line).get("executable") for line in done.stdout.splitlines()]
    return Interpreter(next(path for path in reversed(built) if path))


def install(name: str) -> str:
    """
    Create a peer's environment.

    :param name: key of :data:`PEERS`
    :return: the result, in one line
    """
    if os.environ.get(f"PEER_{name.upper()}"):
        return f"{name}: taken from PEER_{name.upper()}"
    home = FOLDER / name
    wanted = pathlib.Path(__file__).with_name(f"requirements-{name}.txt")
    done, failed = home / "installed.txt", home / "failed.txt"
    if done.exists() and done.read_text() == wanted.read_text():
        return f"{name}: there already"
    subprocess.run([os.environ.get("PEER_PYTHON") or sys.executable, "-m", "venv", home], check=True)
    command = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "-r", wanted]
    pip = subprocess.run(command, capture_output=True, text=True)
    if pip.returncode:
        errors = [line for line in pip.stderr.splitlines() if line.startswith("ERROR")]
        failed.write_text((errors or pip.stderr.splitlines() or ["pip failed"])[-1])
        return f"{name}: {failed.read_text()}"
    failed.unlink(missing_ok=True)
    done.write_text(wanted.read_text())
    return f"{name}: installed"


if __name__ == "__main__":
    for peer in sys.argv[1:] or [name for name, peer in PEERS.items() if peer.module and name != "baseline"]:
        print(install(peer), flush=True)
