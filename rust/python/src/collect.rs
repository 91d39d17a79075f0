//! A stretch of fused rollout, as `native_actor.py` sees it.

use mlx_baselines3_core::collect::{
    ActionColumn, CollectError, Columns, Finished, Present, collect as core_collect,
};
use numpy::{
    PyArray1, PyArrayDescrMethods, PyReadonlyArray1, PyReadwriteArray1, PyReadwriteArrayDyn,
    PyUntypedArray, PyUntypedArrayMethods, dtype,
};
use pyo3::Borrowed;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::actor::Actor;
use crate::vec_env::infos::Infos;
use crate::vec_env::{EnvBatch, py_err};

/// Monitor's entries of the episodes that ended, each with its step and environment; the timeouts; the infos of the last step.
type Stretch<'py> = (
    Vec<(usize, usize, Bound<'py, PyDict>)>,
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

pub(crate) fn bad(error: CollectError) -> PyErr {
    match error {
        CollectError::Env(error) => py_err(error),
        other => PyValueError::new_err(other.to_string()),
    }
}

/// Steps the environments with samples of the actor until the columns are full.
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
    let finished = py
        .detach(|| core_collect(batch, core, bounds, present, columns))
        .map_err(bad)?;
    report(py, &mut envs, &finished)
}

fn report<'py>(
    py: Python<'py>,
    envs: &mut EnvBatch,
    finished: &[Finished],
) -> PyResult<Stretch<'py>> {
    let (mut episodes, mut timeouts) = (Vec::with_capacity(finished.len()), Vec::new());
    for end in finished {
        let (step, env) = (end.step, end.episode.env);
        episodes.push((step, env, envs.monitor_entry(py, &end.episode)?));
        if let Some(obs) = &end.cut_at {
            timeouts.push((step, env, PyArray1::from_slice(py, obs)));
        }
    }
    Ok((episodes, timeouts, envs.infos(py)?))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(collect, m)?)
}
