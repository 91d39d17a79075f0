//! A chunk of a fused rollout.

use std::ops::Range;

use mlx_baselines3_core::collect::{
    CollectedRollout as CoreCollected, CurrentObs, RolloutColumns,
    collect_rollout as core_collect_rollout,
};
use mlx_baselines3_macros::guarded;
use numpy::{PyReadwriteArray1, PyReadwriteArrayDyn};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::{ActionArray, ActionBounds, TimedOutEpisode, exception, report_episodes};
use crate::actor::Actor;
use crate::args::{apart, place};
use crate::error::py_err;
use crate::signals::watched;
use crate::vec_env::EnvBatch;
use crate::vec_env::infos::Infos;

/// The present observations, and whether they are the first of an episode.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct CurrentArrays<'py> {
    obs: PyReadwriteArrayDyn<'py, f32>,
    episode_starts: PyReadwriteArray1<'py, bool>,
}

impl CurrentArrays<'_> {
    pub(crate) fn places(&self) -> [Range<usize>; 2] {
        [place(&self.obs), place(&self.episode_starts)]
    }

    pub(crate) fn slices(&mut self) -> PyResult<CurrentObs<'_>> {
        Ok(CurrentObs {
            obs: self.obs.as_slice_mut()?,
            starts: self.episode_starts.as_slice_mut()?,
        })
    }
}

/// The rows of a rollout buffer that a chunk fills.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct ColumnArrays<'py> {
    observations: PyReadwriteArrayDyn<'py, f32>,
    actions: ActionArray<'py>,
    rewards: PyReadwriteArrayDyn<'py, f32>,
    episode_starts: PyReadwriteArrayDyn<'py, f32>,
    masks: Option<PyReadwriteArrayDyn<'py, f32>>,
}

impl ColumnArrays<'_> {
    fn places(&self) -> impl Iterator<Item = Range<usize>> {
        let places = [
            place(&self.observations),
            self.actions.place(),
            place(&self.rewards),
            place(&self.episode_starts),
        ];
        places
            .into_iter()
            .chain(self.masks.iter().map(|column| place(column)))
    }

    fn columns(&mut self) -> PyResult<RolloutColumns<'_>> {
        Ok(RolloutColumns {
            observations: self.observations.as_slice_mut()?,
            actions: self.actions.column()?,
            rewards: self.rewards.as_slice_mut()?,
            episode_starts: self.episode_starts.as_slice_mut()?,
            masks: self
                .masks
                .as_mut()
                .map(|column| column.as_slice_mut())
                .transpose()?,
        })
    }
}

/// What a chunk of a rollout gave.
#[pyclass(frozen, get_all, module = "mlx_baselines3._native")]
pub(crate) struct CollectedRollout {
    n_steps: usize,
    error: Option<Py<PyAny>>,
    episodes: Py<PyList>,
    timeouts: Py<PyList>,
    infos: Py<Infos>,
}

#[guarded]
#[pymethods]
impl CollectedRollout {
    // The error's traceback leads to whoever holds this.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.error)?;
        visit.call(&self.episodes)?;
        visit.call(&self.timeouts)?;
        visit.call(&self.infos)
    }
}

/// Steps the environments with samples of the actor until the columns are full.
#[guarded]
#[pyfunction]
fn collect_rollout<'py>(
    py: Python<'py>,
    mut envs: PyRefMut<'py, EnvBatch>,
    mut actor: PyRefMut<'py, Actor>,
    bounds: &Bound<'py, ActionBounds>,
    mut current: CurrentArrays<'py>,
    mut columns: ColumnArrays<'py>,
) -> PyResult<CollectedRollout> {
    envs.check_open()?;
    let bounds = bounds.get().borrowed(py)?;
    let mut written = current.places().to_vec();
    written.extend(columns.places());
    apart(&written, &bounds.places())?;
    let current = current.slices()?;
    let (bounds, columns) = (bounds.bounds()?, columns.columns()?);
    let (core, batch) = (&mut actor.core, &mut *envs.envs);
    let (collected, raised) = watched(py, |watch| {
        core_collect_rollout(batch, core, bounds, current, columns, watch)
    });
    // A signal that came since is seen to here: raised after this call, it would lose the steps.
    let raised = raised.or_else(|| py.check_signals().err());
    report(py, &envs, &collected.map_err(py_err)?, raised)
}

fn report(
    py: Python<'_>,
    envs: &EnvBatch,
    collected: &CoreCollected,
    mut raised: Option<PyErr>,
) -> PyResult<CollectedRollout> {
    let finished = &collected.finished;
    let episodes = finished.iter().map(|end| (end.step, &end.episode));
    let episodes = report_episodes(py, envs, episodes, &mut raised)?;
    let mut timeouts = Vec::new();
    for end in finished.iter().filter(|_| raised.is_none()) {
        if let Some(obs) = &end.timeout_obs {
            timeouts.push(TimedOutEpisode::new(py, end.step, end.episode.env, obs)?);
        }
    }
    Ok(CollectedRollout {
        n_steps: collected.steps,
        error: exception(py, raised),
        episodes: PyList::new(py, episodes)?.unbind(),
        timeouts: PyList::new(py, timeouts)?.unbind(),
        infos: envs.infos(py)?.unbind(),
    })
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<CollectedRollout>()?;
    m.add_function(wrap_pyfunction!(collect_rollout, m)?)
}
