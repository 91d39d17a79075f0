"""Kernels are each user's own: MLX's folder for them is shared by all users of a machine."""

import os
import subprocess
import sys
import tempfile

import pytest

from mlx_baselines3 import _kernel_cache

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="temporary files are each user's own")


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """The folder for temporary files, as C++ and Python find it."""
    for name in ("TMP", "TEMP", "TEMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_the_first_user_keeps_the_usual_folder(temporary):
    for _ in range(2):
        _kernel_cache.keep_to_own_kernels()
        assert os.environ["TMPDIR"] == str(temporary)
    assert (temporary / "mlx").is_dir()
    assert _kernel_cache.kernel_folder() == temporary / "mlx"


def anyones(folder):
    folder.mkdir()
    folder.chmod(0o777)


def a_link(folder):
    (folder.parent / "elsewhere").mkdir()
    folder.symlink_to("elsewhere")


def a_file(folder):
    folder.touch()


@pytest.mark.parametrize("occupy", [anyones, a_link, a_file])
def test_a_folder_that_others_can_write_to_is_not_used(temporary, occupy):
    occupy(temporary / "mlx")
    for _ in range(2):
        _kernel_cache.keep_to_own_kernels()
        own = temporary / f"mlx-{os.geteuid()}"
        assert os.environ["TMPDIR"] == str(own)
        assert own.stat().st_mode & 0o777 == 0o700
    # Python's own files stay where they were.
    assert tempfile.gettempdir() == str(temporary)


def test_nor_is_one_of_another_user(temporary, monkeypatch):
    """This process takes itself for another user: every folder that it finds belongs to someone else."""
    (temporary / "mlx").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    _kernel_cache.keep_to_own_kernels()
    own = os.environ["TMPDIR"]
    # That of its number is another's, too, so it has a name that nobody could guess.
    assert os.path.basename(own).startswith("mlx-54321-")
    assert os.stat(own).st_mode & 0o777 == 0o700


def test_a_machine_without_a_place_to_write_can_import_it_all_the_same(temporary, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(_kernel_cache.tempfile, "gettempdir", refuse)
    monkeypatch.setattr(_kernel_cache.Path, "mkdir", refuse)
    _kernel_cache.keep_to_own_kernels()
    assert os.environ["TMPDIR"] == str(temporary)


@pytest.mark.parametrize("first", ["mlx_baselines3", "mlx.core"])
def test_mlx_compiles_into_the_own_folder(tmp_path, first):
    """C++ looks the folder up each time it compiles, so it does not matter who was imported first."""
    anyones(tmp_path / "mlx")
    code = (
        f"import {first}, mlx_baselines3\nimport mlx.core as mx\n"
        "mx.set_default_device(mx.cpu)\nmx.eval(mx.compile(lambda x: mx.exp(x) * x + 1)(mx.ones(3)))\n"
    )
    inherited = {name: value for name, value in os.environ.items() if name not in ("TMP", "TEMP", "TEMPDIR")}
    subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "TMPDIR": str(tmp_path), "MLX_BASELINES3_BLAS": "0"},
        timeout=120,
        check=True,
    )
    assert list((tmp_path / "mlx").iterdir()) == []
    assert len(list((tmp_path / f"mlx-{os.geteuid()}" / "mlx").rglob("*.so"))) == 1
