"""TF32 is off unless the user asks for it, and a late request says whether it was heard."""

import os
import subprocess
import sys
import types

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3 import _tf32


def python(code, **environment):
    inherited = {name: value for name, value in os.environ.items() if name != "MLX_ENABLE_TF32"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout


# What MLX finds when it is loaded, as C reads it.
READ_AT_IMPORT = """
import ctypes, sys
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "mlx.core":
            print(getenv(b"MLX_ENABLE_TF32"))
sys.meta_path.insert(0, Watch())
import mlx_baselines3
"""


@pytest.mark.skipif(sys.platform == "win32", reason="C's environment is read through POSIX's getenv")
def test_mlx_is_loaded_with_tf32_off_unless_the_user_has_chosen():
    assert python(READ_AT_IMPORT).splitlines()[0] == "b'0'"
    assert python(READ_AT_IMPORT, MLX_ENABLE_TF32="1").splitlines()[0] == "b'1'"


def test_the_variable_is_set_once(monkeypatch):
    monkeypatch.delenv(_tf32.VARIABLE, raising=False)
    assert _tf32.switch_off()
    assert os.environ[_tf32.VARIABLE] == "0"
    monkeypatch.setenv(_tf32.VARIABLE, "1")
    assert not _tf32.switch_off()
    assert os.environ[_tf32.VARIABLE] == "1"


def test_a_late_request_does_not_matter_without_a_gpu():
    if mx.metal.is_available() or mx.cuda.is_available():
        pytest.skip("there is a GPU here")
    code = "import mlx.core, mlx_baselines3\nprint(mlx_baselines3.get_system_info(False)[0]['TF32'])"
    assert python(code, MLX_BASELINES3_BLAS="0") == "off (MLX has no GPU here)\n"


def short_product(left, right):
    """A product of numbers with ten bits of fraction, as TF32 has them."""

    def shortened(array):
        bits = np.array(array).view(np.uint32)
        return (((bits + np.uint32(1 << 12)) >> 13) << 13).view(np.float32)

    return mx.array(shortened(left) @ shortened(right))


def test_one_product_tells_tf32_from_float32():
    assert _tf32._is_exact(lambda left, right: mx.matmul(left, right, stream=mx.cpu))
    assert not _tf32._is_exact(short_product)


def machine(cuda, **info):
    yes, no = (types.SimpleNamespace(is_available=lambda answer=answer: answer) for answer in (True, False))
    return types.SimpleNamespace(
        metal=no if cuda else yes, cuda=yes if cuda else no, device_info=lambda: info
    )


HOPPER = machine(True, compute_capability_major=9)
TURING = machine(True, compute_capability_major=7)
M5 = machine(False, architecture="applegpu_g17s")
M4 = machine(False, architecture="applegpu_g16p")


@pytest.mark.parametrize(
    ("found", "exact", "said"),
    [
        (HOPPER, False, "had no effect"),
        (HOPPER, True, "still took effect"),
        (TURING, True, None),
        (M5, False, "had no effect"),
        (M5, True, "still took effect"),
        (M4, True, None),
    ],
)
def test_a_late_request_says_whether_it_was_heard(monkeypatch, recwarn, found, exact, said):
    monkeypatch.setitem(sys.modules, "mlx.core", found)
    monkeypatch.setattr(_tf32, "_is_exact", lambda product: exact)
    monkeypatch.setattr(_tf32, "_found_exact", None)
    monkeypatch.setenv(_tf32.VARIABLE, "0")
    _tf32.say_whether_it_took_effect()
    assert [str(warning.message).partition(said or "?")[1] for warning in recwarn] == [said] * bool(said)
    expected = "off (MLX_ENABLE_TF32=0)" if exact else "on (MLX was used before MLX_ENABLE_TF32 was set)"
    assert _tf32.describe(has_gpu=True) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", "off (MLX_ENABLE_TF32=0)"),
        ("1", "on (MLX_ENABLE_TF32=1)"),
        # C's atoi, with which MLX reads it, makes 0 of a word.
        ("true", "off (MLX_ENABLE_TF32=true)"),
        ("", "off (MLX_ENABLE_TF32=)"),
        (None, "on (MLX_ENABLE_TF32 is not set)"),
    ],
)
def test_the_description_reads_the_variable_as_mlx_does(monkeypatch, value, expected):
    monkeypatch.setattr(_tf32, "_found_exact", None)
    if value is None:
        monkeypatch.delenv(_tf32.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(_tf32.VARIABLE, value)
    assert _tf32.describe(has_gpu=True) == expected
