"""
NumPy's OpenBLAS multiplies MLX's matrices. What counts is which library was loaded first, so every
case is a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_baselines3 import _native

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="MLX brings Accelerate elsewhere"
)

# A bare parent, so that `prepare` runs when the test says so.
START = (
    f"""
import sys, types
package = types.ModuleType("mlx_baselines3")
package.__path__ = [{str(Path(_native.__file__).parent)!r}]
sys.modules["mlx_baselines3"] = package
"""
    + """
from mlx_baselines3 import _backend
_backend.prepare()
import mlx.core as mx
import numpy as np
mx.set_default_device(mx.cpu)
rng = np.random.default_rng(0)
left, right = rng.normal(size=(2, 96, 96)).astype(np.float32)
def product(a, b):
    return np.array(mx.array(a) @ mx.array(b))
import ctypes
def openblas(verb):
    library = ctypes.CDLL(_backend.blas_state().library)
    names = [f"{p}openblas_{verb}_num_threads{s}" for p in ("scipy_", "") for s in ("64_", "")]
    return next(found for name in names if (found := getattr(library, name, None)) is not None)
def numpy_product(a, b):
    # The bridge multiplies small matrices on one thread. Which sums are split over two threads, and so
    # the last bit, depends on the CPU's kernels: NumPy gets one thread, too.
    before = openblas("get")()
    openblas("set")(1)
    try:
        return a @ b
    finally:
        openblas("set")(before)
"""
)


def python(code, start=START, **environment):
    """Run the lines in a new process, warnings shown once on standard error."""
    settings = {**os.environ, "PYTHONWARNINGS": "always", **environment}
    if "MLX_BASELINES3_BLAS" not in environment:
        settings.pop("MLX_BASELINES3_BLAS", None)
    done = subprocess.run(
        [sys.executable, "-c", start + code],
        env=settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_products_are_numpys_to_the_last_bit_and_counted():
    python("""
assert _backend.blas_state().calls == 0
assert np.array_equal(product(left, right), numpy_product(left, right))
state = _backend.blas_state()
assert (state.active, state.calls) == (True, 1), state
assert "openblas" in state.library
assert "calls" in str(state)
product(left, right)
assert _backend.blas_state().calls == 2
""")


def test_batches_transposes_vectors_and_doubles():
    python("""
def close(found, expected, tolerance):
    np.testing.assert_allclose(np.array(found), expected, rtol=0, atol=tolerance)
x, y = mx.array(left), mx.array(right)
wide = left.astype(np.float64) @ right.astype(np.float64)
close(x.T @ y, left.T @ right, 1e-4)
close(x @ y.T, left @ right.T, 1e-4)
close(x.T @ y.T, left.T @ right.T, 1e-4)
close(x[:7, 3:40] @ y[3:40, :5], left[:7, 3:40] @ right[3:40, :5], 1e-4)
close(mx.addmm(mx.ones((96, 96)), x, y, alpha=0.5, beta=2.0), 0.5 * (left @ right) + 2, 1e-4)
batch = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
close(mx.array(batch) @ mx.array(batch).swapaxes(2, 3), batch @ batch.swapaxes(2, 3), 1e-5)
close(x @ y[0], left @ right[0], 1e-4)
calls = _backend.blas_state().calls
double = mx.array(left, mx.float64) @ mx.array(right, mx.float64)
assert double.dtype == mx.float64
close(double, wide, 1e-12)
assert _backend.blas_state().calls == calls + 1
empty = mx.zeros((3, 0)) @ mx.zeros((0, 2))
close(empty, np.zeros((3, 2)), 0)
""")


def test_switched_off_nothing_is_counted():
    done = python(
        """
assert np.allclose(product(left, right), left @ right, atol=1e-4)
state = _backend.blas_state()
assert (state.active, state.library, state.calls) == (False, None, 0), state
from mlx_baselines3 import _native
assert _native.blas_calls() == 0
print(state)
""",
        MLX_BASELINES3_BLAS="0",
    )
    assert done.stdout == "MLX's own (switched off by MLX_BASELINES3_BLAS=0)\n"
    assert done.stderr == ""


LATE = "import mlx.core\n" + START + "_backend.prepare()\nproduct(left, right)\nprint(_backend.blas_state())"


def test_too_late_is_said_once():
    done = python("", start=LATE)
    assert done.stderr.count("UserWarning") == 1
    assert "Import mlx_baselines3 first" in done.stderr
    assert done.stdout == "MLX's own (mlx.core was imported before mlx_baselines3)\n"


def test_too_late_does_not_matter_when_switched_off():
    assert python("", start=LATE, MLX_BASELINES3_BLAS="0").stderr == ""


def test_without_a_known_openblas_mlx_keeps_its_own():
    hidden = START.replace(
        "_backend.prepare()", "_backend._mapped_libraries = lambda part: set()\n_backend.prepare()"
    )
    done = python("product(left, right)\nprint(_backend.blas_state())", start=hidden)
    assert done.stdout == "MLX's own (NumPy has loaded no OpenBLAS)\n"
    unknown = hidden.replace("set()", "{'/lib/libopenblas.so'}").replace(
        "_backend.prepare()", "_backend._gemm_functions = lambda path: None\n_backend.prepare()"
    )
    done = python("product(left, right)\nprint(_backend.blas_state())", start=unknown)
    assert done.stdout == "MLX's own (no cblas_sgemm under a known name in /lib/libopenblas.so)\n"


def test_a_program_that_opens_everything_globally():
    """Some MPI programs do. The extension must not be found before it has something to answer with."""
    opened = "import os, sys\nsys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)\n" + START
    python(
        "assert np.allclose(product(left, right), left @ right, atol=1e-4)", opened, MLX_BASELINES3_BLAS="0"
    )


def test_forked_children_and_threads_multiply_too():
    python("""
import os, threading
product(left, right)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(left @ right, left @ right) else 1)
assert os.waitpid(child, 0)[1] == 0
expected, answers = numpy_product(left, right), []
def work():
    with mx.stream(mx.new_stream(mx.cpu)):
        answers.append(np.array_equal(product(left, right), expected))
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert answers == [True] * 4
""")


def test_a_library_that_multiplies_wrongly_is_refused():
    python(
        """
import ctypes
from mlx_baselines3 import _native
nothing = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value
for addresses, message in (((nothing, nothing), "wrongly"), ((0, nothing), "is 0")):
    try:
        _native.blas_install(*addresses, True, 0, 0)
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError("accepted")
""",
        MLX_BASELINES3_BLAS="0",
    )


def test_small_products_use_one_thread_and_leave_numpys_setting_alone():
    python("""
before = openblas("get")()
product(left, right)
assert openblas("get")() == before
""")
