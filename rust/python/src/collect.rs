//! A stretch of fused rollout, as `native_actor.py` sees it.

use std::ops::Range;

use mlx_baselines3_core::collect::{
    ActionColumn, Collected, Columns, Present, collect as core_collect,
};
use mlx_baselines3_core::vec_env::Episode;
use mlx_baselines3_macros::guarded;
use numpy::{
    PyArray1, PyArrayDescrMethods, PyReadonlyArray1, PyReadwriteArray1, PyReadwriteArrayDyn,
    PyUntypedArray, PyUntypedArrayMethods, dtype,
};
use pyo3::Borrowed;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::actor::Actor;
use crate::args::{apart, place};
use crate::error::py_err;
use crate::ffi::new_array::array_of;
use crate::signals::watched;
use crate::vec_env::EnvBatch;
use crate::vec_env::infos::Infos;

/// The step that an episode ended with, its environment, Monitor's entry.
pub(crate) type Entry<'py> = (usize, usize, Bound<'py, PyDict>);

/// Episodes that are told of without a look at the signals.
const EPISODES: usize = 1024;

/// Steps taken; what a signal's handler raised after them; Monitor's entries of the episodes that ended,
/// each with its step and environment; the timeouts; the infos of the last step.
type Stretch<'py> = (
    usize,
    Option<PyErr>,
    Vec<Entry<'py>>,
    Vec<(usize, usize, Bound<'py, PyArray1<f32>>)>,
    Bound<'py, Infos>,
);

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

/// Steps the environments with samples of the actor until the columns are full.
#[guarded]
#[pyfunction]
#[allow(clippy::too_many_arguments)] // one name for each column is the clearest door
fn collect<'py>(
    py: Python<'py>,
    mut envs: PyRefMut<'py, EnvBatch>,
    mut actor: PyRefMut<'py, Actor>,
    bounds: (PyReadonlyArray1<'py, f32>, PyReadonlyArray1<'py, f32>),
    mut last_obs: PyReadwriteArrayDyn<'py, f32>,
    mut last_starts: PyReadwriteArray1<'py, bool>,
    mut observations: PyReadwriteArrayDyn<'py, f32>,
    mut actions: ActionArray<'py>,
    mut rewards: PyReadwriteArrayDyn<'py, f32>,
    mut episode_starts: PyReadwriteArrayDyn<'py, f32>,
) -> PyResult<Stretch<'py>> {
    envs.check_open()?;
    apart(
        &[
            place(&last_obs),
            place(&last_starts),
            place(&observations),
            actions.place(),
            place(&rewards),
            place(&episode_starts),
        ],
        &[place(&bounds.0), place(&bounds.1)],
    )?;
    let columns = Columns {
        observations: observations.as_slice_mut()?,
        actions: actions.column()?,
        rewards: rewards.as_slice_mut()?,
        episode_starts: episode_starts.as_slice_mut()?,
    };
    let present = Present {
        obs: last_obs.as_slice_mut()?,
        starts: last_starts.as_slice_mut()?,
    };
    let bounds = (bounds.0.as_slice()?, bounds.1.as_slice()?);
    let (core, batch) = (&mut actor.core, &mut *envs.envs);
    let (collected, raised) = watched(py, |watch| {
        core_collect(batch, core, bounds, present, columns, watch)
    });
    // A signal that came since is seen to here: raised after this call, it would lose the steps.
    let raised = raised.or_else(|| py.check_signals().err());
    report(py, &envs, &collected.map_err(py_err)?, raised)
}

/// An entry of Monitor's for each episode, with its step and environment. Making a million of them takes
/// seconds: what a signal's handler raises meanwhile goes to `raised`, and then only the last of them are made.
pub(crate) fn entries<'a, 'py>(
    py: Python<'py>,
    envs: &EnvBatch,
    episodes: impl ExactSizeIterator<Item = (usize, &'a Episode)>,
    raised: &mut Option<PyErr>,
) -> PyResult<Vec<Entry<'py>>> {
    let (mut made, count) = (Vec::new(), episodes.len());
    for (at, (step, episode)) in episodes.enumerate() {
        if raised.is_none() && at % EPISODES == EPISODES - 1 {
            *raised = py.check_signals().err();
        }
        if raised.is_none() || count - at <= EPISODES {
            made.push((step, episode.env, envs.monitor_entry(py, episode)?));
        }
    }
    Ok(made)
}

fn report<'py>(
    py: Python<'py>,
    envs: &EnvBatch,
    collected: &Collected,
    mut raised: Option<PyErr>,
) -> PyResult<Stretch<'py>> {
    let finished = &collected.finished;
    let episodes = finished.iter().map(|end| (end.step, &end.episode));
    let episodes = entries(py, envs, episodes, &mut raised)?;
    let mut timeouts = Vec::new();
    for end in finished.iter().filter(|_| raised.is_none()) {
        if let Some(obs) = &end.cut_at {
            timeouts.push((end.step, end.episode.env, array_of(py, obs)?));
        }
    }
    let infos = envs.infos(py)?;
    Ok((collected.steps, raised, episodes, timeouts, infos))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(collect, m)?)
}
