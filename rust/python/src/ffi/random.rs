//! Numbers of NumPy's global generator, without the 5 microseconds that `np.random.randint` takes to look
//! at its arguments.

use std::ffi::c_void;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyModule, PyType};

/// The start of `bitgen_t` of `numpy/random/bitgen.h`, in a capsule called `BitGenerator`.
#[repr(C)]
struct BitGenerator {
    state: *mut c_void,
    next_uint64: unsafe extern "C" fn(*mut c_void) -> u64,
    next_uint32: unsafe extern "C" fn(*mut c_void) -> u32,
}

/// `np.random.randint(low, high, size=count)`: the same numbers, and the generator goes on from the
/// same state. `None` where that is not to be had here: Python is to ask NumPy then.
///
/// Each number takes as many draws of 32 bits as it needs until one, cut to the bits of the largest
/// result, is in range.
pub(crate) fn randint(
    py: Python<'_>,
    (low, high): (i64, i64),
    count: usize,
) -> PyResult<Option<Vec<i64>>> {
    let largest = i128::from(high) - i128::from(low) - 1;
    let Ok(largest) = u32::try_from(largest) else {
        return Ok(None);
    };
    let Some(source) = global_generator(py)? else {
        return Ok(None);
    };
    let (capsule, lock) = source;
    if largest == u32::MAX {
        return Ok(None);
    }
    if largest == 0 {
        return Ok(Some(vec![low; count]));
    }
    let generator = capsule.pointer_checked(Some(c"BitGenerator"))?;
    let generator = generator.cast::<BitGenerator>();
    let mask = u32::MAX >> largest.leading_zeros();
    lock.call_method0(intern!(py, "acquire"))?;
    let draw = |_| {
        loop {
            // SAFETY: a capsule of this name holds a generator, which lives as long as the capsule;
            // the lock keeps others from it. It runs no Python code.
            let bits = unsafe {
                let generator = generator.as_ref();
                (generator.next_uint32)(generator.state)
            };
            if bits & mask <= largest {
                return low + i64::from(bits & mask);
            }
        }
    };
    let drawn = (0..count).map(draw).collect();
    lock.call_method0(intern!(py, "release"))?;
    Ok(Some(drawn))
}

type Source<'py> = (Bound<'py, PyCapsule>, Bound<'py, PyAny>);

/// Capsule and lock of the bits that `np.random.randint` draws from at this moment, if that is the
/// method of NumPy's legacy generator.
fn global_generator(py: Python<'_>) -> PyResult<Option<Source<'_>>> {
    static RANDOM: PyOnceLock<(Py<PyModule>, Py<PyType>)> = PyOnceLock::new();
    let (module, legacy) = RANDOM.get_or_try_init(py, || {
        let module = py.import("numpy.random")?;
        let legacy = module.getattr("RandomState")?.cast_into::<PyType>()?;
        Ok::<_, PyErr>((module.unbind(), legacy.unbind()))
    })?;
    let randint = module.bind(py).getattr(intern!(py, "randint"))?;
    let Ok(state) = randint.getattr(intern!(py, "__self__")) else {
        return Ok(None);
    };
    if !state.get_type().is(legacy.bind(py)) {
        return Ok(None);
    }
    let bits = state.getattr(intern!(py, "_bit_generator"))?;
    let capsule = bits.getattr(intern!(py, "capsule"))?;
    let lock = bits.getattr(intern!(py, "lock"))?;
    Ok(capsule.cast_into().ok().map(|capsule| (capsule, lock)))
}
