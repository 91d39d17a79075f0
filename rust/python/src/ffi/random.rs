//! Numbers of NumPy's global generator, without the 5 microseconds that `np.random.randint` takes to look
//! at its arguments.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mlx_baselines3_core::shuffle::{self, MersenneTwister};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyModule, PyString, PyType};

/// More numbers than this are NumPy's to draw.
const MANY: usize = 1 << 17;

/// More numbers are NumPy's to shuffle: 64 million take a quarter of a gigabyte.
const MOST_SHUFFLED: u32 = 1 << 26;

/// The start of `bitgen_t` of `numpy/random/bitgen.h`, in a capsule called `BitGenerator`.
#[repr(C)]
struct BitGenerator {
    state: *mut c_void,
    next_uint64: unsafe extern "C" fn(*mut c_void) -> u64,
    next_uint32: unsafe extern "C" fn(*mut c_void) -> u32,
    next_double: unsafe extern "C" fn(*mut c_void) -> f64,
}

/// Whole numbers from `low` on that are drawn from 32 bits at a time.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    low: i64,
    /// The largest number less the smallest.
    largest: u32,
}

impl Bounds {
    /// The numbers of `low..high`, or `None` if there are none, or too many.
    pub(crate) fn new(low: i64, high: i64) -> Option<Self> {
        let largest = u32::try_from(i128::from(high) - i128::from(low) - 1).ok()?;
        (largest < u32::MAX).then_some(Self { low, largest })
    }
}

/// NumPy's global generator while nobody else can draw from it.
pub(crate) struct Numbers<'a>(&'a BitGenerator);

impl Numbers<'_> {
    /// The next number of `np.random.rand`.
    #[inline]
    pub(crate) fn uniform(&mut self) -> f64 {
        // SAFETY: whoever made `self` has the generator's lock. It runs no Python code.
        unsafe { (self.0.next_double)(self.0.state) }
    }

    /// The next of the numbers that `np.random.randint` draws from `bounds`.
    ///
    /// It takes as many draws of 32 bits as it needs until one, cut to the bits of the largest
    /// result, is in range; for the only number there is, it takes none.
    #[inline]
    pub(crate) fn draw(&mut self, bounds: Bounds) -> i64 {
        let Bounds { low, largest } = bounds;
        if largest == 0 {
            return low;
        }
        let mask = u32::MAX >> largest.leading_zeros();
        loop {
            // SAFETY: whoever made `self` has the generator's lock. It runs no Python code.
            let bits = unsafe { (self.0.next_uint32)(self.0.state) };
            if bits & mask <= largest {
                return low + i64::from(bits & mask);
            }
        }
    }

    /// Exchanges the items as `np.random.permutation` does.
    pub(crate) fn shuffle(&mut self, items: &mut [u32]) {
        for last in (1..items.len()).rev() {
            // Rows of a rollout are counted in 32 bits.
            let largest = u32::try_from(last).unwrap_or(u32::MAX);
            let other = self.draw(Bounds { low: 0, largest });
            items.swap(last, other.cast_unsigned() as usize);
        }
    }
}

/// What `work` makes of the generator, which others wait for meanwhile. `None`, and no call, where
/// `np.random.randint` does not draw from it the way that is known here.
///
/// Other threads may run before `work` does.
pub(crate) fn with_numbers<T>(
    py: Python<'_>,
    work: impl FnOnce(&mut Numbers<'_>) -> T,
) -> PyResult<Option<T>> {
    match GlobalNumbers::find(py)? {
        Some(global) => global.visit(py, work).map(Some),
        None => Ok(None),
    }
}

/// `np.random.permutation(count)`: the same numbers, and the generator is in the same state afterwards.
/// `None` where that is not possible here: Python calls NumPy then.
pub(crate) fn permutation(py: Python<'_>, count: usize) -> PyResult<Option<Vec<u32>>> {
    let name = intern!(py, "permutation");
    // NumPy raises a MemoryError by itself.
    let Some(count) = u32::try_from(count).ok().filter(|&n| n <= MOST_SHUFFLED) else {
        return Ok(None);
    };
    let Some((_, lock, bits)) = global_generator(py, name)? else {
        return Ok(None);
    };
    lock.call_method0(intern!(py, "acquire"))?;
    let outcome = shuffled(py, &bits, count);
    lock.call_method0(intern!(py, "release"))?;
    outcome
}

/// The permutation, if the bits are the Mersenne Twister's.
fn shuffled(py: Python<'_>, bits: &Bound<'_, PyAny>, count: u32) -> PyResult<Option<Vec<u32>>> {
    let state = bits.getattr(intern!(py, "state"))?;
    let name: String = state
        .get_item(intern!(py, "bit_generator"))?
        .extract()
        .unwrap_or_default();
    if name != "MT19937" {
        return Ok(None);
    }
    let inside = state.get_item(intern!(py, "state"))?;
    let key: PyReadonlyArray1<'_, u32> = inside.get_item(intern!(py, "key"))?.extract()?;
    let pos: usize = inside.get_item(intern!(py, "pos"))?.extract()?;
    let Ok(key) = <[u32; shuffle::WORDS]>::try_from(key.as_slice()?) else {
        return Ok(None);
    };
    let (order, generator) = py.detach(|| {
        let mut generator = MersenneTwister::new(key, pos);
        (shuffle::permutation(&mut generator, count), generator)
    });
    let (key, pos) = generator.state();
    inside.set_item(intern!(py, "key"), PyArray1::from_slice(py, key))?;
    inside.set_item(intern!(py, "pos"), pos)?;
    bits.setattr(intern!(py, "state"), state)?;
    Ok(Some(order))
}

/// NumPy's global generator, to draw from it several times.
pub(crate) struct GlobalNumbers {
    capsule: Py<PyCapsule>,
    lock: Py<PyAny>,
}

impl GlobalNumbers {
    /// The one that `np.random.randint` draws from at this moment, if it does that the way that is known
    /// here.
    pub(crate) fn find(py: Python<'_>) -> PyResult<Option<Self>> {
        Self::behind(py, intern!(py, "randint"))
    }

    /// The same for `np.random.permutation`.
    pub(crate) fn of_permutations(py: Python<'_>) -> PyResult<Option<Self>> {
        Self::behind(py, intern!(py, "permutation"))
    }

    fn behind(py: Python<'_>, function: &Bound<'_, PyString>) -> PyResult<Option<Self>> {
        Ok(
            global_generator(py, function)?.map(|(capsule, lock, _)| Self {
                capsule: capsule.unbind(),
                lock: lock.unbind(),
            }),
        )
    }

    /// What `work` makes of the generator, which others wait for meanwhile. They may run before.
    pub(crate) fn visit<T>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Numbers<'_>) -> T,
    ) -> PyResult<T> {
        let generator = self
            .capsule
            .bind(py)
            .pointer_checked(Some(c"BitGenerator"))?;
        let generator = generator.cast::<BitGenerator>();
        let lock = self.lock.bind(py);
        lock.call_method0(intern!(py, "acquire"))?;
        // SAFETY: a capsule of this name holds a generator, which lives as long as the capsule; the lock
        // keeps others from it.
        let mut numbers = Numbers(unsafe { generator.as_ref() });
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut numbers)));
        lock.call_method0(intern!(py, "release"))?;
        match outcome {
            Ok(outcome) => Ok(outcome),
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// `np.random.randint(low, high, size=count)`: the same numbers, and the generator is in the same
/// state afterwards. `None` where that is not possible here: Python calls NumPy then.
pub(crate) fn randint(
    py: Python<'_>,
    (low, high): (i64, i64),
    count: usize,
) -> PyResult<Option<Vec<i64>>> {
    match Bounds::new(low, high) {
        // NumPy can be interrupted, and raises a MemoryError by itself.
        Some(bounds) if count <= MANY => with_numbers(py, |numbers| {
            (0..count).map(|_| numbers.draw(bounds)).collect()
        }),
        _ => Ok(None),
    }
}

type Source<'py> = (Bound<'py, PyCapsule>, Bound<'py, PyAny>, Bound<'py, PyAny>);

/// Capsule, lock and object of the bits that this function of `np.random` draws from at this moment, if it is
/// the method of NumPy's legacy generator.
fn global_generator<'py>(
    py: Python<'py>,
    function: &Bound<'py, PyString>,
) -> PyResult<Option<Source<'py>>> {
    static RANDOM: PyOnceLock<(Py<PyModule>, Py<PyType>)> = PyOnceLock::new();
    let (module, legacy) = RANDOM.get_or_try_init(py, || {
        let module = py.import("numpy.random")?;
        let legacy = module.getattr("RandomState")?.cast_into::<PyType>()?;
        Ok::<_, PyErr>((module.unbind(), legacy.unbind()))
    })?;
    let method = module.bind(py).getattr(function)?;
    let Ok(state) = method.getattr(intern!(py, "__self__")) else {
        return Ok(None);
    };
    if !state.get_type().is(legacy.bind(py)) {
        return Ok(None);
    }
    let bits = state.getattr(intern!(py, "_bit_generator"))?;
    let capsule = bits.getattr(intern!(py, "capsule"))?;
    let lock = bits.getattr(intern!(py, "lock"))?;
    Ok(capsule
        .cast_into()
        .ok()
        .map(|capsule| (capsule, lock, bits)))
}
