"""An MLX that is missing or broken gives one sentence with the command that mends it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_baselines3 import _backend, _native

HIDE_MLX = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mlx":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""
# A bare parent, so that the package's own start does not come first.
ALONE = """
import os, sys, types
from pathlib import Path
package = types.ModuleType("mlx_baselines3")
package.__path__ = [os.environ["PACKAGE"]]
sys.modules["mlx_baselines3"] = package
import mlx_baselines3._backend as guard
"""
PACKAGE = str(Path(_backend.__file__).parent)


def python(code, path="", start=ALONE):
    return subprocess.run(
        [sys.executable, "-c", start + code],
        env={**os.environ, "PYTHONPATH": str(path), "PACKAGE": PACKAGE},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def sentence(done):
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert done.stderr.count("Traceback") == 1
    assert "During handling" not in done.stderr
    assert "direct cause" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    return last


def fake_mlx(folder, core):
    (folder / "mlx" / "lib").mkdir(parents=True)
    (folder / "mlx" / "__init__.py").touch()
    (folder / "mlx" / "core.py").write_text(core)
    return folder


BOTH = "pip uninstall -y mlx-cpu mlx-cuda-12, then pip install 'mlx[cpu]' or pip install 'mlx[cuda12]'"
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about Linux wheels")


@pytest.mark.parametrize(
    "hide", [HIDE_MLX, "import sys\nsys.modules['mlx'] = sys.modules['mlx.core'] = None\n"]
)
def test_no_mlx_at_all(hide):
    code = "guard._ON_LINUX = True\nguard._installed_backends = lambda: []\nguard.prepare()"
    last = sentence(python(code, start=hide + ALONE))
    assert last.startswith("ImportError: mlx_baselines3 needs MLX, which cannot be imported (")
    assert last.endswith("mend it with: pip install 'mlx[cpu]' (or 'mlx[cuda12]', 'mlx[cuda13]')")


@LINUX
def test_mlx_without_a_backend(tmp_path):
    fake_mlx(tmp_path, "raise ImportError('libmlx.so: cannot open shared object file')")
    last = sentence(python("guard._installed_backends = lambda: []\nguard.prepare()", tmp_path))
    assert "libmlx.so: cannot open shared object file" in last
    assert "pip install 'mlx[cpu]' (or 'mlx[cuda12]', 'mlx[cuda13]')" in last


@LINUX
def test_a_broken_backend_is_installed_again(tmp_path):
    fake_mlx(tmp_path, "raise ImportError('undefined symbol')")
    installed = (
        "guard._installed_backends = lambda: ['mlx-cpu']\n"
        "guard._installed_version = {'mlx': '0.31.1', 'mlx-cpu': '0.32.4'}.get\nguard.prepare()"
    )
    last = sentence(python(installed, tmp_path))
    # The backend of MLX's own version, not the newest.
    assert last.endswith("mend it with: pip install --force-reinstall mlx-cpu==0.31.1")


@LINUX
def test_two_backends_that_broke_each_other_are_both_removed_first(tmp_path):
    """pip would find either installed already, and do nothing."""
    fake_mlx(tmp_path, "raise ImportError('libnccl.so.2: cannot open shared object file')")
    last = sentence(
        python("guard._installed_backends = lambda: ['mlx-cpu', 'mlx-cuda-12']\nguard.prepare()", tmp_path)
    )
    assert last.endswith(f"mend it with: {BOTH}")


def test_on_a_mac(tmp_path):
    fake_mlx(tmp_path, "raise ImportError('Library not loaded: @rpath/libmlx.dylib')")
    last = sentence(python("guard._ON_LINUX = False\nguard.prepare()", tmp_path))
    assert last.endswith("mend it with: pip install --force-reinstall mlx mlx-metal")


@LINUX
@pytest.mark.parametrize("length", [0, 40, 100, 4096, -1])
def test_a_library_cut_short_is_seen_before_it_kills_the_process(tmp_path, length):
    """Opened by the loader, some of these end the process with SIGBUS."""
    fake_mlx(tmp_path, "raise SystemExit('the library was opened')")
    elf = Path(_native.__file__).read_bytes()
    # The tables after the last segment are not loaded, so the cut starts before them.
    end = _backend._elf_size(Path(_native.__file__))
    assert len(elf) // 2 < end <= len(elf)
    (tmp_path / "mlx" / "lib" / "libmlx.so").write_bytes(elf[: length % end])
    assert "cut short" in sentence(python("guard.prepare()", tmp_path))


@LINUX
def test_two_backends_are_one_warning():
    done = python(
        "guard._installed_backends = lambda: ['mlx-cpu', 'mlx-cuda-12']\nguard.prepare()\nguard.prepare()"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("UserWarning") == 1
    assert "mlx-cpu and mlx-cuda-12 are installed together" in done.stderr
    assert f"Keep one: {BOTH}." in done.stderr


def test_backends_are_found_by_their_distributions(tmp_path):
    for name in ("mlx_cuda_12", "mlx_cuda_13"):
        folder = tmp_path / f"{name}-0.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 0.1\n"
        )
    done = python("print(guard._installed_backends())", tmp_path)
    assert "'mlx-cuda-12', 'mlx-cuda-13'" in done.stdout


def test_a_second_prepare_does_nothing_and_the_first_leaves_a_state():
    done = python(
        "assert 'not been imported' in guard.blas_state().reason\n"
        "guard.prepare()\nfirst = guard.blas_state()\n"
        "guard.prepare()\nassert guard.blas_state() == first\nassert 'mlx.core' in sys.modules"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
