//! A chunk of fused off-policy steps.

use std::ops::Range;

use mlx_baselines3_core::buffer::ring::Ring;
use mlx_baselines3_core::collect::{
    ActionColumn, ActionPlan, CollectedTransitions as CoreCollected, LastStep as CoreLastStep,
    NextObs, RandomActions, ReplayColumns, collect_transitions as core_collect_transitions,
};
use mlx_baselines3_core::vec_env::VectorEnv;
use mlx_baselines3_macros::guarded;
use numpy::ndarray::{Ix1, Ix2};
use numpy::{PyArray1, PyArray2, PyReadonlyArrayDyn, PyReadwriteArrayDyn, PyUntypedArrayMethods};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::{ActionArray, Actions, BoundArrays, exception, report_episodes};
use crate::actor::Actor;
use crate::args::{Cursor, Many, apart, place};
use crate::error::{bad, py_err};
use crate::ffi::new_array::NewArray;
use crate::signals::watched;
use crate::terminal::TerminalObs;
use crate::vec_env::EnvBatch;
use crate::vec_env::infos::Infos;

type RandomArray<'py> = Actions<PyReadonlyArrayDyn<'py, i64>, PyReadonlyArrayDyn<'py, f32>>;

/// How the actions of a chunk come about.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct PlanArrays<'py> {
    is_random: Many<bool>,
    random_actions: RandomArray<'py>,
    noise: Option<PyReadonlyArrayDyn<'py, f32>>,
    bounds: BoundArrays<'py>,
    until_end: bool,
}

impl PlanArrays<'_> {
    fn is_discrete(&self) -> bool {
        matches!(self.random_actions, RandomArray::Ints(_))
    }

    fn places(&self) -> [Range<usize>; 4] {
        let random = match &self.random_actions {
            RandomArray::Ints(random) => place(random),
            RandomArray::Floats(random) => place(random),
        };
        let noise = self.noise.as_ref().map_or(0..0, |noise| place(noise));
        let [low, high] = self.bounds.places();
        [random, noise, low, high]
    }

    fn plan(&self) -> PyResult<ActionPlan<'_>> {
        Ok(ActionPlan {
            is_random: &self.is_random.0,
            random_actions: match &self.random_actions {
                RandomArray::Ints(random) => RandomActions::Ints(random.as_slice()?),
                RandomArray::Floats(random) => RandomActions::Floats(random.as_slice()?),
            },
            noise: self
                .noise
                .as_ref()
                .map(|noise| noise.as_slice())
                .transpose()?,
            bounds: self.bounds.bounds()?,
            until_end: self.until_end,
        })
    }
}

/// The columns of a replay buffer.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct ColumnArrays<'py> {
    observations: PyReadwriteArrayDyn<'py, f32>,
    next_observations: NextArray<'py>,
    actions: ActionArray<'py>,
    rewards: PyReadwriteArrayDyn<'py, f32>,
    dones: PyReadwriteArrayDyn<'py, f32>,
    timeouts: Option<PyReadwriteArrayDyn<'py, f32>>,
}

/// A column, or what keeps the next observations that the next row does not hold.
#[derive(FromPyObject)]
enum NextArray<'py> {
    Column(PyReadwriteArrayDyn<'py, f32>),
    NextRow(PyRefMut<'py, TerminalObs>),
}

impl ColumnArrays<'_> {
    fn places(&self) -> [Range<usize>; 6] {
        [
            place(&self.observations),
            match &self.next_observations {
                NextArray::Column(column) => place(column),
                NextArray::NextRow(_) => 0..0,
            },
            self.actions.place(),
            place(&self.rewards),
            place(&self.dones),
            self.timeouts.as_ref().map_or(0..0, |column| place(column)),
        ]
    }

    fn columns(&mut self, ring: Ring) -> PyResult<ReplayColumns<'_>> {
        Ok(ReplayColumns {
            ring,
            observations: self.observations.as_slice_mut()?,
            next: match &mut self.next_observations {
                NextArray::Column(column) => NextObs::Column(column.as_slice_mut()?),
                NextArray::NextRow(terminal) => NextObs::NextRow(&mut terminal.core),
            },
            actions: self.actions.column()?,
            rewards: self.rewards.as_slice_mut()?,
            dones: self.dones.as_slice_mut()?,
            timeouts: match &mut self.timeouts {
                Some(column) => Some(column.as_slice_mut()?),
                None => None,
            },
        })
    }
}

/// The last step of a chunk.
#[pyclass(frozen, get_all, module = "mlx_baselines3._native")]
pub(crate) struct LastStep {
    actions: Py<PyAny>,
    buffer_actions: Py<PyAny>,
    new_obs: Py<PyArray2<f32>>,
    rewards: Py<PyArray1<f32>>,
    dones: Py<PyArray1<bool>>,
    infos: Py<Infos>,
}

#[guarded]
#[pymethods]
impl LastStep {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.infos)
    }
}

/// What a chunk of off-policy steps gave.
#[pyclass(frozen, get_all, module = "mlx_baselines3._native")]
pub(crate) struct CollectedTransitions {
    n_steps: usize,
    error: Option<Py<PyAny>>,
    episodes: Py<PyList>,
    last: Py<LastStep>,
}

#[guarded]
#[pymethods]
impl CollectedTransitions {
    // The error's traceback leads to whoever holds this.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.error)?;
        visit.call(&self.episodes)?;
        visit.call(&self.last)
    }
}

/// The arrays of the last step while it is under way. Discrete actions have no scaled form: the one array
/// is then empty.
struct NewStep<'py> {
    obs: NewArray<'py, f32, Ix2>,
    rewards: NewArray<'py, f32, Ix1>,
    dones: NewArray<'py, bool, Ix1>,
    ints: Option<NewArray<'py, i64, Ix1>>,
    floats: NewArray<'py, f32, Ix2>,
    scaled: NewArray<'py, f32, Ix2>,
}

impl<'py> NewStep<'py> {
    fn new(
        py: Python<'py>,
        envs: &dyn VectorEnv,
        plan: &PlanArrays<'py>,
        obs: &[f32],
    ) -> PyResult<Self> {
        let (n_envs, dim) = (envs.num_envs(), envs.spec().obs_dim);
        let discrete = plan.is_discrete();
        let width = if discrete { 0 } else { plan.bounds.low.len() };
        let mut now = NewArray::zeros(py, [n_envs, dim])?;
        let to = now.as_mut_slice();
        let known = to.len().min(obs.len());
        to[..known].copy_from_slice(&obs[..known]);
        let ints = match discrete {
            true => Some(NewArray::zeros(py, [n_envs])?),
            false => None,
        };
        Ok(Self {
            obs: now,
            rewards: NewArray::zeros(py, [n_envs])?,
            dones: NewArray::zeros(py, [n_envs])?,
            ints,
            floats: NewArray::zeros(py, [n_envs, width])?,
            scaled: NewArray::zeros(py, [n_envs, width])?,
        })
    }

    fn slices(&mut self) -> CoreLastStep<'_> {
        CoreLastStep {
            obs: self.obs.as_mut_slice(),
            rewards: self.rewards.as_mut_slice(),
            dones: self.dones.as_mut_slice(),
            actions: match &mut self.ints {
                Some(ints) => ActionColumn::Ints(ints.as_mut_slice()),
                None => ActionColumn::Floats(self.floats.as_mut_slice()),
            },
            scaled: self.scaled.as_mut_slice(),
        }
    }

    fn finish(self, py: Python<'py>, envs: &EnvBatch) -> PyResult<LastStep> {
        let (actions, buffer_actions) = match self.ints {
            Some(ints) => {
                let ints = ints.finish().into_any();
                (ints.clone(), ints)
            }
            None => (
                self.floats.finish().into_any(),
                self.scaled.finish().into_any(),
            ),
        };
        Ok(LastStep {
            actions: actions.unbind(),
            buffer_actions: buffer_actions.unbind(),
            new_obs: self.obs.finish().unbind(),
            rewards: self.rewards.finish().unbind(),
            dones: self.dones.finish().unbind(),
            infos: envs.infos(py)?.unbind(),
        })
    }
}

/// Steps the environments as the plan says, and stores every step in the columns, from the cursor on.
#[guarded]
#[pyfunction]
fn collect_transitions<'py>(
    py: Python<'py>,
    mut envs: PyRefMut<'py, EnvBatch>,
    mut actor: PyRefMut<'py, Actor>,
    last_obs: PyReadonlyArrayDyn<'py, f32>,
    plan: PlanArrays<'py>,
    mut columns: ColumnArrays<'py>,
    cursor: Cursor,
) -> PyResult<CollectedTransitions> {
    envs.check_open()?;
    let [random, noise, low, high] = plan.places();
    apart(
        &columns.places(),
        &[place(&last_obs), random, noise, low, high],
    )?;
    let last_obs = last_obs.as_slice()?;
    if last_obs.len() != envs.envs.num_envs() * envs.envs.spec().obs_dim {
        return Err(bad(
            "the last observations are not those of the environments",
        ));
    }
    let mut replay = columns.columns(cursor.ring()?)?;
    let mut end = NewStep::new(py, &*envs.envs, &plan, last_obs)?;
    let (collected, raised) = {
        let (plan, mut last) = (plan.plan()?, end.slices());
        let (envs, policy) = (&mut *envs.envs, &mut actor.core);
        watched(py, |watch| {
            core_collect_transitions(envs, policy, &plan, &mut replay, &mut last, watch)
        })
    };
    // A signal that came since is seen to here: raised after this call, it would lose the steps.
    let raised = raised.or_else(|| py.check_signals().err());
    report(py, &envs, collected.map_err(py_err)?, raised, end)
}

fn report<'py>(
    py: Python<'py>,
    envs: &EnvBatch,
    collected: CoreCollected,
    raised: Option<PyErr>,
    end: NewStep<'py>,
) -> PyResult<CollectedTransitions> {
    let mut error = raised.or_else(|| collected.error.map(py_err));
    // The infos report the last step; after an error nothing does.
    let last_reported = error.is_none().then(|| collected.steps.saturating_sub(1));
    let ended = &collected.episodes;
    let count = last_reported.map_or(ended.len(), |last| {
        ended.partition_point(|end| end.0 < last)
    });
    let earlier = ended[..count]
        .iter()
        .map(|(step, episode)| (*step, episode));
    let mut episodes = report_episodes(py, envs, earlier, &mut error)?;
    if error.is_some() && last_reported.is_some() {
        // A signal came just now: the last step is reported like those before it.
        let rest = ended[count..]
            .iter()
            .map(|(step, episode)| (*step, episode));
        episodes.extend(report_episodes(py, envs, rest, &mut error)?);
    }
    Ok(CollectedTransitions {
        n_steps: collected.steps,
        error: exception(py, error),
        episodes: PyList::new(py, episodes)?.unbind(),
        last: Py::new(py, end.finish(py, envs)?)?,
    })
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<LastStep>()?;
    m.add_class::<CollectedTransitions>()?;
    m.add_function(wrap_pyfunction!(collect_transitions, m)?)
}
