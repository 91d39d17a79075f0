//! Fused collection, as `native/actor.py` calls it: a chunk of steps in one call.

mod rollout;
mod transitions;

use std::ops::Range;

use mlx_baselines3_core::collect::{ActionBounds as CoreBounds, ActionColumn};
use mlx_baselines3_core::vec_env::Episode;
use mlx_baselines3_macros::guarded;
use numpy::{
    PyArray1, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1, PyReadwriteArrayDyn,
    PyUntypedArray, PyUntypedArrayMethods, dtype,
};
use pyo3::Borrowed;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::args::place;
use crate::ffi::new_array::array_of;
use crate::vec_env::EnvBatch;

pub(crate) use rollout::CurrentArrays;
pub(crate) use transitions::{NewStep, ReplayColumns};

/// Episodes that are reported without a look at the signals.
const EPISODES: usize = 1024;

/// An episode that ended during a chunk.
#[pyclass(frozen, get_all, module = "mlx_baselines3._native")]
pub(crate) struct FinishedEpisode {
    step: usize,
    env: usize,
    monitor_entry: Py<PyDict>,
}

#[guarded]
#[pymethods]
impl FinishedEpisode {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.monitor_entry)
    }
}

/// An episode that the time limit alone ended, and what it ended with.
#[pyclass(frozen, get_all, module = "mlx_baselines3._native")]
pub(crate) struct TimedOutEpisode {
    step: usize,
    env: usize,
    last_obs: Py<PyArray1<f32>>,
}

impl TimedOutEpisode {
    fn new(py: Python<'_>, step: usize, env: usize, obs: &[f32]) -> PyResult<Self> {
        let last_obs = array_of(py, obs)?.unbind();
        Ok(Self {
            step,
            env,
            last_obs,
        })
    }
}

/// The lowest and the highest action of a continuous space; empty for a discrete one.
#[pyclass(frozen, module = "mlx_baselines3._native")]
pub(crate) struct ActionBounds {
    low: Py<PyArray1<f32>>,
    high: Py<PyArray1<f32>>,
}

#[guarded]
#[pymethods]
impl ActionBounds {
    #[new]
    #[pyo3(signature = (*, low, high))]
    fn new(low: Py<PyArray1<f32>>, high: Py<PyArray1<f32>>) -> PyResult<Self> {
        Ok(Self { low, high })
    }
}

impl ActionBounds {
    pub(crate) fn borrowed<'py>(&self, py: Python<'py>) -> PyResult<BoundArrays<'py>> {
        Ok(BoundArrays {
            low: self.low.bind(py).try_readonly()?,
            high: self.high.bind(py).try_readonly()?,
        })
    }
}

/// The arrays of [`ActionBounds`] during a call.
pub(crate) struct BoundArrays<'py> {
    low: PyReadonlyArray1<'py, f32>,
    high: PyReadonlyArray1<'py, f32>,
}

impl BoundArrays<'_> {
    pub(crate) fn places(&self) -> [Range<usize>; 2] {
        [place(&self.low), place(&self.high)]
    }

    pub(crate) fn bounds(&self) -> PyResult<CoreBounds<'_>> {
        Ok(CoreBounds {
            low: self.low.as_slice()?,
            high: self.high.as_slice()?,
        })
    }
}

/// An array of actions of either kind.
pub(crate) enum Actions<Ints, Floats> {
    Ints(Ints),
    Floats(Floats),
}

/// A column of actions.
pub(crate) type ActionArray<'py> =
    Actions<PyReadwriteArrayDyn<'py, i64>, PyReadwriteArrayDyn<'py, f32>>;

impl ActionArray<'_> {
    /// Where the numbers lie.
    pub(crate) fn place(&self) -> Range<usize> {
        match self {
            Self::Ints(column) => place(column),
            Self::Floats(column) => place(column),
        }
    }

    pub(crate) fn column(&mut self) -> PyResult<ActionColumn<'_>> {
        Ok(match self {
            Self::Ints(column) => ActionColumn::Ints(column.as_slice_mut()?),
            Self::Floats(column) => ActionColumn::Floats(column.as_slice_mut()?),
        })
    }
}

/// Looks first: an extraction that fails writes a message about dtypes, which takes longer than a step.
fn holds_ints(array: &Bound<'_, PyAny>) -> bool {
    array
        .cast::<PyUntypedArray>()
        .is_ok_and(|array| array.dtype().is_equiv_to(&dtype::<i64>(array.py())))
}

impl<'a, 'py, Ints, Floats> FromPyObject<'a, 'py> for Actions<Ints, Floats>
where
    Ints: FromPyObject<'a, 'py>,
    Floats: FromPyObject<'a, 'py>,
{
    type Error = PyErr;

    fn extract(array: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if holds_ints(&array) {
            array.extract().map(Self::Ints).map_err(Into::into)
        } else {
            array.extract().map(Self::Floats).map_err(Into::into)
        }
    }
}

/// The finished episodes with their entries for Monitor. Making a million of them takes seconds: what a
/// signal's handler raises meanwhile goes to `raised`, and then only the last of them are made.
pub(crate) fn report_episodes<'a, 'py>(
    py: Python<'py>,
    envs: &EnvBatch,
    episodes: impl ExactSizeIterator<Item = (usize, &'a Episode)>,
    raised: &mut Option<PyErr>,
) -> PyResult<Vec<Bound<'py, FinishedEpisode>>> {
    let (mut reported, count) = (Vec::new(), episodes.len());
    for (at, (step, episode)) in episodes.enumerate() {
        if raised.is_none() && at % EPISODES == EPISODES - 1 {
            *raised = py.check_signals().err();
        }
        if raised.is_none() || count - at <= EPISODES {
            let finished = FinishedEpisode {
                step,
                env: episode.env,
                monitor_entry: envs.monitor_entry(py, episode)?.unbind(),
            };
            reported.push(Bound::new(py, finished)?);
        }
    }
    Ok(reported)
}

/// The exception, for an attribute.
pub(crate) fn exception(py: Python<'_>, raised: Option<PyErr>) -> Option<Py<PyAny>> {
    raised.map(|error| error.into_value(py).into_any())
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<ActionBounds>()?;
    m.add_class::<FinishedEpisode>()?;
    m.add_class::<TimedOutEpisode>()?;
    rollout::register(m)?;
    transitions::register(m)
}
