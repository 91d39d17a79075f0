//! Iterations of PPO and A2C, as `training/native_rollout_learning.py` asks for them.

use std::ops::Range;

use mlx_baselines3_core::learn::{
    LearnedRollouts as CoreChunk, OnPolicyLearning, OnPolicyPlan, RolloutMemory, SharedNumbers,
    learn_on_policy as core_learn_on_policy,
};
use mlx_baselines3_core::vec_env::VectorEnv;
use mlx_baselines3_macros::guarded;
use numpy::{PyReadonlyArray1, PyReadwriteArrayDyn};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::{Shared, VectorArrays};
use crate::actor::Actor;
use crate::args::{apart, place};
use crate::collect::{ActionArray, ActionBounds, CurrentArrays, exception, report_episodes};
use crate::error::py_err;
use crate::ffi::random::GlobalNumbers;
use crate::signals::watched;
use crate::update::{OnPolicyNumbers, OnPolicyResult, OnPolicyUpdate};
use crate::vec_env::EnvBatch;

/// What the iterations are made of.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct PlanArrays<'py> {
    bounds: Bound<'py, ActionBounds>,
    gamma: f32,
    advantage: [f64; 2],
    epochs: usize,
    batch_size: Option<usize>,
    settings: OnPolicyNumbers,
    learning_rates: PyReadonlyArray1<'py, f32>,
    clip_ranges: Option<PyReadonlyArray1<'py, f32>>,
    clip_ranges_vf: Option<PyReadonlyArray1<'py, f32>>,
    key: u64,
    key_step: u64,
    is_collected: bool,
}

impl PlanArrays<'_> {
    fn places(&self) -> [Range<usize>; 3] {
        let of = |array: &Option<PyReadonlyArray1<'_, f32>>| {
            array.as_ref().map_or(0..0, |array| place(array))
        };
        [
            place(&self.learning_rates),
            of(&self.clip_ranges),
            of(&self.clip_ranges_vf),
        ]
    }
}

/// The columns of a rollout buffer. All are written.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct BufferArrays<'py> {
    observations: PyReadwriteArrayDyn<'py, f32>,
    actions: ActionArray<'py>,
    rewards: PyReadwriteArrayDyn<'py, f32>,
    episode_starts: PyReadwriteArrayDyn<'py, f32>,
    values: PyReadwriteArrayDyn<'py, f32>,
    log_probs: PyReadwriteArrayDyn<'py, f32>,
    advantages: PyReadwriteArrayDyn<'py, f32>,
    returns: PyReadwriteArrayDyn<'py, f32>,
}

impl BufferArrays<'_> {
    fn places(&self) -> [Range<usize>; 8] {
        [
            place(&self.observations),
            self.actions.place(),
            place(&self.rewards),
            place(&self.episode_starts),
            place(&self.values),
            place(&self.log_probs),
            place(&self.advantages),
            place(&self.returns),
        ]
    }

    fn memory(&mut self) -> PyResult<RolloutMemory<'_>> {
        Ok(RolloutMemory {
            observations: self.observations.as_slice_mut()?,
            actions: self.actions.column()?,
            rewards: self.rewards.as_slice_mut()?,
            episode_starts: self.episode_starts.as_slice_mut()?,
            values: self.values.as_slice_mut()?,
            log_probs: self.log_probs.as_slice_mut()?,
            advantages: self.advantages.as_slice_mut()?,
            returns: self.returns.as_slice_mut()?,
        })
    }
}

/// What acts, values and learns.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct LearningParts<'py> {
    actor: PyRefMut<'py, Actor>,
    critic: PyRefMut<'py, Actor>,
    update: PyRefMut<'py, OnPolicyUpdate>,
    network: VectorArrays<'py>,
}

/// What a chunk of iterations gave.
#[pyclass(frozen, get_all, module = "mlx_baselines3._native")]
pub(crate) struct LearnedRollouts {
    n_steps: usize,
    n_rollouts: usize,
    n_updates: usize,
    n_moves: usize,
    n_epochs: usize,
    metrics: Py<OnPolicyResult>,
    epoch_sizes: Vec<usize>,
    nonfinite_losses: Vec<f64>,
    optimizer_steps: u64,
    error: Option<Py<PyAny>>,
    episodes: Py<PyList>,
}

#[guarded]
#[pymethods]
impl LearnedRollouts {
    // The error's traceback leads to whoever holds this.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.error)?;
        visit.call(&self.metrics)?;
        visit.call(&self.episodes)
    }
}

/// Iterations of PPO or A2C, until there are no more learning rates; without any, one rollout. None, and
/// nothing has happened, where NumPy's global generator is not the one that is known here.
#[guarded]
#[pyfunction]
fn learn_on_policy<'py>(
    py: Python<'py>,
    mut envs: PyRefMut<'py, EnvBatch>,
    mut current: CurrentArrays<'py>,
    plan: PlanArrays<'py>,
    mut buffer: BufferArrays<'py>,
    mut parts: LearningParts<'py>,
) -> PyResult<Option<LearnedRollouts>> {
    envs.check_open()?;
    let bounds = plan.bounds.get().borrowed(py)?;
    let written = [
        &buffer.places()[..],
        &parts.network.places(),
        &current.places(),
    ]
    .concat();
    apart(&written, &[&plan.places()[..], &bounds.places()].concat())?;
    let Some(numbers) = GlobalNumbers::of_permutations(py)? else {
        return Ok(None);
    };
    parts.actor.forget();
    parts.critic.forget();
    let mut shared = Shared::new(&numbers);
    let mut learning = OnPolicyLearning {
        update: &mut parts.update.0,
        network: parts.network.vector()?,
    };
    let (chunk, interrupted) = {
        let plan = OnPolicyPlan {
            bounds: bounds.bounds()?,
            gamma: plan.gamma,
            advantage: plan.advantage,
            epochs: plan.epochs,
            batch_size: plan.batch_size,
            settings: plan.settings.settings(),
            learning_rates: plan.learning_rates.as_slice()?,
            clip_ranges: slice(&plan.clip_ranges)?,
            clip_ranges_vf: slice(&plan.clip_ranges_vf)?,
            key: plan.key,
            key_step: plan.key_step,
            is_collected: plan.is_collected,
        };
        let (mut memory, current) = (buffer.memory()?, current.slices()?);
        let (envs, shared, learning) = (&mut *envs.envs, &mut shared, &mut learning);
        let (actor, critic) = (&mut parts.actor.core, &mut parts.critic.core);
        watched(py, |watch| {
            let drawing = (shared as &mut dyn SharedNumbers, watch);
            let parts = (envs as &mut dyn VectorEnv, actor, critic);
            core_learn_on_policy(parts, &plan, &mut memory, current, learning, drawing)
        })
    };
    let optimizer_steps = learning.network.optimizer_steps;
    let raised = interrupted.or(shared.raised);
    // A signal that came since is seen to here: raised after this call, it would lose the steps.
    let raised = raised.or_else(|| py.check_signals().err());
    let chunk = chunk.map_err(py_err)?;
    report(py, &envs, chunk, raised, optimizer_steps).map(Some)
}

fn slice<'a>(array: &'a Option<PyReadonlyArray1<'_, f32>>) -> PyResult<Option<&'a [f32]>> {
    Ok(match array {
        Some(array) => Some(array.as_slice()?),
        None => None,
    })
}

fn report(
    py: Python<'_>,
    envs: &EnvBatch,
    chunk: CoreChunk,
    raised: Option<PyErr>,
    optimizer_steps: u64,
) -> PyResult<LearnedRollouts> {
    let mut error = raised.or_else(|| chunk.error.map(py_err));
    let ended = chunk.episodes.iter();
    let ended = ended.map(|(step, episode)| (*step, episode));
    let episodes = report_episodes(py, envs, ended, &mut error)?;
    let metrics = OnPolicyResult::new(py, &chunk.metrics, false, optimizer_steps);
    Ok(LearnedRollouts {
        n_steps: chunk.steps,
        n_rollouts: chunk.begun,
        n_updates: chunk.updates[0],
        n_moves: chunk.updates[1],
        n_epochs: chunk.epochs,
        metrics: Py::new(py, metrics)?,
        epoch_sizes: chunk.epoch_sizes,
        nonfinite_losses: chunk.nonfinite_losses,
        optimizer_steps,
        error: exception(py, error),
        episodes: PyList::new(py, episodes)?.unbind(),
    })
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<LearnedRollouts>()?;
    m.add_function(wrap_pyfunction!(learn_on_policy, m)?)
}
