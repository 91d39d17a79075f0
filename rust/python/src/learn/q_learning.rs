//! Iterations of DQN, as `training/native_learning.py` asks for them.

use std::ops::Range;

use mlx_baselines3_core::learn::{
    LearnedChunk as CoreChunk, MultiStep, QLearning, QPlan, SharedNumbers, learn_q as core_learn_q,
};
use mlx_baselines3_macros::guarded;
use numpy::{PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArrayDyn, PyReadwriteArray1};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::{Shared, VectorArrays};
use crate::actor::Actor;
use crate::args::{Cursor, apart, place};
use crate::collect::{NewStep, ReplayColumns, exception, report_episodes};
use crate::error::{bad, py_err};
use crate::ffi::random::GlobalNumbers;
use crate::signals::watched;
use crate::update::QUpdate;
use crate::vec_env::EnvBatch;

/// Returns of several steps.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct MultiStepArrays<'py> {
    discounts: PyReadonlyArray1<'py, f32>,
    bootstraps: PyReadonlyArray1<'py, f32>,
}

/// What the iterations are made of.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct QPlanArrays<'py> {
    steps: usize,
    exploration_rates: PyReadonlyArray1<'py, f64>,
    random_actions: PyReadonlyArray1<'py, i64>,
    gradient_steps: usize,
    learning_rates: PyReadonlyArray1<'py, f32>,
    batch_size: usize,
    gamma: f32,
    multi_step: Option<MultiStepArrays<'py>>,
    max_grad_norm: f32,
    shares: [f32; 2],
    target_interval: u64,
    steps_before: u64,
    is_collected: bool,
    awaited_episode: Option<usize>,
}

impl QPlanArrays<'_> {
    fn places(&self) -> [Range<usize>; 5] {
        let of_returns = self
            .multi_step
            .as_ref()
            .map(|of| [place(&of.discounts), place(&of.bootstraps)]);
        let [discounts, bootstraps] = of_returns.unwrap_or([0..0, 0..0]);
        [
            place(&self.exploration_rates),
            place(&self.random_actions),
            place(&self.learning_rates),
            discounts,
            bootstraps,
        ]
    }

    fn plan(&self) -> PyResult<QPlan<'_>> {
        Ok(QPlan {
            steps: self.steps,
            exploration_rates: self.exploration_rates.as_slice()?,
            random_actions: self.random_actions.as_slice()?,
            gradient_steps: self.gradient_steps,
            learning_rates: self.learning_rates.as_slice()?,
            batch_size: self.batch_size,
            gamma: self.gamma,
            multi_step: match &self.multi_step {
                Some(of) => Some(MultiStep {
                    discounts: of.discounts.as_slice()?,
                    bootstraps: of.bootstraps.as_slice()?,
                }),
                None => None,
            },
            max_grad_norm: self.max_grad_norm,
            shares: self.shares,
            target_interval: self.target_interval,
            steps_before: self.steps_before,
            is_collected: self.is_collected,
            awaited_episode: self.awaited_episode,
        })
    }
}

/// A replay buffer.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct BufferArrays<'py> {
    columns: PyRef<'py, ReplayColumns>,
    cursor: Cursor,
}

/// What DQN learns with.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct QArrays<'py> {
    network: VectorArrays<'py>,
    target: PyReadwriteArray1<'py, f32>,
    update: PyRefMut<'py, QUpdate>,
}

/// What a chunk of iterations gave.
#[pyclass(frozen, get_all, module = "mlx_baselines3._native")]
pub(crate) struct LearnedChunk {
    n_steps: usize,
    n_random_steps: usize,
    n_updates: usize,
    losses: Py<PyArray1<f64>>,
    nonfinite_losses: Py<PyArray1<f64>>,
    optimizer_steps: u64,
    error: Option<Py<PyAny>>,
    episodes: Py<PyList>,
    new_obs: Py<PyArray2<f32>>,
}

#[guarded]
#[pymethods]
impl LearnedChunk {
    // The error's traceback leads to whoever holds this.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.error)?;
        visit.call(&self.episodes)
    }
}

/// Iterations of DQN, until there are no more learning rates or something has to be seen. None, and nothing
/// has happened, where NumPy's global generator is not the one that is known here.
#[guarded]
#[pyfunction]
fn learn_q<'py>(
    py: Python<'py>,
    mut envs: PyRefMut<'py, EnvBatch>,
    mut actor: PyRefMut<'py, Actor>,
    last_obs: PyReadonlyArrayDyn<'py, f32>,
    plan: QPlanArrays<'py>,
    buffer: BufferArrays<'py>,
    mut learned: QArrays<'py>,
) -> PyResult<Option<LearnedChunk>> {
    envs.check_open()?;
    let (mut network, mut columns) = (learned.network, buffer.columns.borrowed(py)?);
    let written = [
        &columns.places()[..],
        &network.places(),
        &[place(&learned.target)],
    ]
    .concat();
    apart(
        &written,
        &[&plan.places()[..], &[place(&last_obs)]].concat(),
    )?;
    let last_obs = last_obs.as_slice()?;
    if last_obs.len() != envs.envs.num_envs() * envs.envs.spec().obs_dim {
        return Err(bad(
            "the last observations are not those of the environments",
        ));
    }
    let Some(numbers) = GlobalNumbers::find(py)? else {
        return Ok(None);
    };
    let mut end = NewStep::new(py, &*envs.envs, None, last_obs)?;
    actor.forget();
    let mut shared = Shared::new(&numbers);
    let mut learning = QLearning {
        update: &mut learned.update.0,
        network: network.vector()?,
        target: learned.target.as_slice_mut()?,
    };
    let (chunk, interrupted) = {
        let (plan, ring) = (plan.plan()?, buffer.cursor.ring()?);
        let (mut replay, mut last) = (columns.columns(ring)?, end.slices());
        let (envs, actor, shared) = (&mut *envs.envs, &mut actor.core, &mut shared);
        let learning = &mut learning;
        watched(py, |watch| {
            let drawing = (shared as &mut dyn SharedNumbers, watch);
            core_learn_q(
                envs,
                actor,
                &plan,
                &mut replay,
                &mut last,
                learning,
                drawing,
            )
        })
    };
    let optimizer_steps = learning.network.optimizer_steps;
    let raised = interrupted.or(shared.raised);
    // A signal that came since is seen to here: raised after this call, it would lose the steps.
    let raised = raised.or_else(|| py.check_signals().err());
    let chunk = chunk.map_err(py_err)?;
    report(py, &envs, chunk, raised, end, optimizer_steps).map(Some)
}

fn report<'py>(
    py: Python<'py>,
    envs: &EnvBatch,
    chunk: CoreChunk,
    raised: Option<PyErr>,
    end: NewStep<'py>,
    optimizer_steps: u64,
) -> PyResult<LearnedChunk> {
    let mut error = raised.or_else(|| chunk.error.map(py_err));
    let ended = chunk
        .episodes
        .iter()
        .map(|(step, episode)| (*step, episode));
    let episodes = report_episodes(py, envs, ended, &mut error)?;
    Ok(LearnedChunk {
        n_steps: chunk.steps,
        n_random_steps: chunk.random_steps,
        n_updates: chunk.updates,
        losses: PyArray1::from_vec(py, chunk.losses).unbind(),
        nonfinite_losses: PyArray1::from_vec(py, chunk.nonfinite_losses).unbind(),
        optimizer_steps,
        error: exception(py, error),
        episodes: PyList::new(py, episodes)?.unbind(),
        new_obs: end.obs.finish().unbind(),
    })
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<LearnedChunk>()?;
    m.add_function(wrap_pyfunction!(learn_q, m)?)
}
