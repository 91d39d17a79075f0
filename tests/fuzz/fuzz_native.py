"""
Call everything in ``_native`` with arguments that are right, and with some that are not:
``python tests/fuzz/fuzz_native.py --count 1000000 --jobs 2``.

Each call must return or raise an ``Exception``. It is a failure if the process ends, if a call raises a
``BaseException`` or says that there was a panic, or if calls take longer than a minute. They are made in
child processes with little memory. One seed gives one series of calls, and a failure names the seed, the
call and its arguments: ``--seed SEED --count COUNT``, with its numbers, makes that child's calls again.
Every fourth child makes its calls from three threads at once, where the order is the system's.

``blas_install`` is left out: its arguments are addresses of machine code, and no check can tell a function
from other bytes. ``_backend.py`` takes them from the symbols of a library that it has opened.
"""

import argparse
import ast
import contextlib
import faulthandler
import importlib.util
import pathlib
import resource
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from native_calls import Fuzzer

EXCLUDED = {"blas_install"}
# What a child may allocate: enough for all that is meant, too little for what is not.
MEMORY = 2**31
SECONDS = 60
CALLS_OF_A_CHILD = 4000


def folder() -> pathlib.Path:
    """Where the package lies, without importing it: that would start MLX in every child."""
    package = importlib.util.find_spec("mlx_baselines3")
    assert package is not None
    assert package.submodule_search_locations is not None
    return pathlib.Path(next(iter(package.submodule_search_locations)))


def load_native() -> Any:
    """The extension by itself."""
    (path,) = folder().glob("_native*.so")
    spec = importlib.util.spec_from_file_location("_native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # What is pickled names it so.
    sys.modules["mlx_baselines3._native"] = module
    return module


def stub_names() -> set[str]:
    """
    Functions, and methods and attributes of classes as ``Class__name``, that the stub declares. Classes that
    have no constructor are arguments or answers of these.
    """
    names = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                if any(isinstance(item, ast.FunctionDef) and item.name == "__new__" for item in node.body):
                    collect(node.body, f"{node.name}__")
            elif isinstance(node, ast.If):
                collect(node.body, prefix)
            elif isinstance(node, ast.FunctionDef):
                names.add(prefix + node.name.strip("_"))
            elif prefix and isinstance(node, ast.AnnAssign):
                names.add(prefix + ast.unparse(node.target))

    collect(ast.parse((folder() / "_native.pyi").read_text(encoding="utf-8")).body, "")
    return names


def described(value: Any) -> str:
    """An argument in few words."""
    if isinstance(value, np.ndarray):
        flags = "" if value.flags.writeable else " read-only"
        return f"<{type(value).__name__} {value.dtype} {value.shape} strides {value.strides}{flags}>"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {described(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(described(item) for item in value[:12]) + "]"
    return repr(value)[:80]


class Calls(threading.Thread):
    """
    Some calls, one after the other. What is about to be called is in ``note``, a file, until the next one.

    :param native: the extension
    :param seed: decides them
    :param count: how many
    :param note: a file
    """

    def __init__(self, native: Any, seed: int, count: int, note: pathlib.Path):
        super().__init__(daemon=True)
        self.fuzzer, self.count, self.note = Fuzzer(native, seed), count, note
        self.failure = ""
        self.refused = 0

    def run(self) -> None:
        fuzzer = self.fuzzer
        with self.note.open("wb", buffering=0) as note:
            spoil = fuzzer.args

            def args(*arguments: Any) -> list[Any]:
                spoilt = spoil(*arguments)
                note.seek(0)
                note.write(described(fuzzer.last).encode("utf-8", "replace")[:3000].ljust(3000))
                return spoilt

            fuzzer.args = args  # type: ignore[method-assign]
            for _ in range(self.count):
                try:
                    fuzzer.call()
                except Exception as error:
                    self.refused += 1
                    if "internal error" in str(error):
                        self.failure = f"a panic: {error}"
                        return
                except BaseException as error:
                    self.failure = f"{type(error).__name__}: {error}"
                    return


def child(seed: int, count: int, notes: pathlib.Path) -> int:
    """Make the calls of one seed."""
    faulthandler.enable()
    native = load_native()
    native.set_threads(2)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    faulthandler.dump_traceback_later(SECONDS + count * 0.02, exit=True)
    workers = 3 if seed % 4 == 3 else 1
    calls = [Calls(native, 10 * seed + i, count // workers, notes / f"{seed}-{i}") for i in range(workers)]
    for other in calls[1:]:
        # The same objects from several threads.
        other.fuzzer.pool = calls[0].fuzzer.pool
    for thread in calls:
        thread.start()
    for thread in calls:
        thread.join()
    for thread in calls:
        if thread.failure:
            print(thread.failure, "\n  ", described(thread.fuzzer.last))
            return 1
    made, refused = sum(thread.count for thread in calls), sum(thread.refused for thread in calls)
    print(made, refused)
    return 0


def run_child(seed: int, count: int, notes: pathlib.Path) -> str:
    """What went wrong in a child, nothing if all is well."""
    command = [sys.executable, __file__, "--child", "--seed", str(seed), "--count", str(count)]
    done = subprocess.run([*command, "--notes", str(notes)], capture_output=True, text=True, errors="replace")
    kept = sorted(notes.glob(f"{seed}-*"))
    last = [note.read_text(encoding="utf-8", errors="replace").strip() for note in kept]
    for note in kept:
        note.unlink()
    if done.returncode == 0:
        return ""
    return "\n".join(
        [
            f"seed {seed}, count {count}: exit status {done.returncode}",
            done.stdout,
            done.stderr[-3000:],
            *last,
        ]
    )


def main() -> int:
    """Parse the arguments and run the children."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--notes", type=pathlib.Path, default=None)
    args = parser.parse_args()
    if args.child:
        return child(args.seed, args.count, args.notes)
    missing = stub_names() - EXCLUDED - set(Fuzzer(None, 0).targets)
    if missing:
        print("no calls are made of", sorted(missing))
        return 1
    start, failures = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as notes, ThreadPoolExecutor(args.jobs) as pool:
        counts = [min(CALLS_OF_A_CHILD, args.count - at) for at in range(0, args.count, CALLS_OF_A_CHILD)]
        seeds = range(args.seed, args.seed + len(counts))
        for failure in pool.map(run_child, seeds, counts, [pathlib.Path(notes)] * len(counts)):
            if failure:
                failures += 1
                print(failure, flush=True)
    print(f"{args.count} calls in {time.monotonic() - start:.0f} s, {failures} failures")
    return min(failures, 1)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
