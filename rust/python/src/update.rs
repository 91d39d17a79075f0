//! The gradient steps, as `native_update.py` sees them.

use std::ops::Range;

use mlx_baselines3_core::memory;
use mlx_baselines3_core::nn::{Layer, Net, Part};
use mlx_baselines3_core::update::{
    ActorCriticBatch, ActorCriticMetrics, ActorCriticSettings, ActorCriticState,
    ActorCriticUpdate as CoreActorCritic, ActorKind, Distribution, OnPolicySettings,
    OnPolicyUpdate as CoreOnPolicy, QSettings, QUpdate as CoreQ, Rollout, Rule, Trained,
    Transitions, UpdateError,
};
use mlx_baselines3_macros::guarded;
use numpy::{PyArray1, PyReadonlyArray1, PyReadwriteArray1};
use pyo3::prelude::*;

use crate::actor::activation;
use crate::args::{Many, apart, place};
use crate::error::{bad, py_err};
use crate::signals::watched_whole;

/// Inputs; outputs, place of the weights and of the biases for each part; activation and its number.
type LayerPlan = (usize, Many<(usize, usize, Option<usize>)>, String, f32);

fn net(layers: Many<LayerPlan>) -> PyResult<Net> {
    let layers: PyResult<Vec<Layer>> = layers
        .0
        .into_iter()
        .map(|(inputs, parts, name, number)| {
            let parts = parts.0.into_iter().map(|(outputs, weights, bias)| Part {
                outputs,
                weights,
                bias,
            });
            Ok(Layer::new(
                inputs,
                parts.collect(),
                activation(&name, number)?,
            ))
        })
        .collect();
    Net::new(layers?).map_err(py_err)
}

fn distribution(name: &str, options: Vec<usize>, log_std: usize) -> PyResult<Distribution> {
    let size = options.first().copied().unwrap_or(0);
    Ok(match name {
        "choices" => Distribution::Choices(options),
        "coins" => Distribution::Coins(size),
        "gaussian" => Distribution::Gaussian { size, log_std },
        _ => return Err(bad(format!("no native distribution is called {name:?}"))),
    })
}

/// Parameters and their optimizer: the vectors that a call changes, and what it goes by.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct TrainedArrays<'py> {
    parameters: PyReadwriteArray1<'py, f32>,
    means: PyReadwriteArray1<'py, f32>,
    squares: PyReadwriteArray1<'py, f32>,
    before: Option<[PyReadonlyArray1<'py, f32>; 2]>,
    steps: u64,
    learning_rate: f32,
    rule: String,
    smoothing: [f64; 2],
    eps: f64,
    bias_correction: bool,
}

impl TrainedArrays<'_> {
    /// Where the numbers lie that are written, and those that are not.
    fn places(&self) -> ([Range<usize>; 3], [Range<usize>; 2]) {
        let written = [&self.parameters, &self.means, &self.squares].map(|array| place(array));
        let nothing = [0..0, 0..0];
        let read = self.before.as_ref();
        (written, read.map_or(nothing, |[a, b]| [place(a), place(b)]))
    }

    fn trained(&mut self) -> PyResult<Trained<'_>> {
        let (betas, eps) = (self.smoothing, self.eps);
        let alpha = betas[0];
        let rule = match self.rule.as_str() {
            "adam" => Rule::Adam {
                betas,
                eps,
                bias_correction: self.bias_correction,
            },
            "rmsprop" => Rule::RmsProp { alpha, eps },
            "rmsprop_tf" => Rule::RmsPropTf { alpha, eps },
            name => return Err(bad(format!("no native optimizer is called {name:?}"))),
        };
        let before = match &self.before {
            Some([means, squares]) => Some([means.as_slice()?, squares.as_slice()?]),
            None => None,
        };
        Ok(Trained {
            parameters: self.parameters.as_slice_mut()?,
            means: self.means.as_slice_mut()?,
            squares: self.squares.as_slice_mut()?,
            before,
            steps: &mut self.steps,
            rule,
            learning_rate: self.learning_rate,
        })
    }
}

/// The columns of a rollout.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct RolloutArrays<'py> {
    observations: PyReadonlyArray1<'py, f32>,
    actions: PyReadonlyArray1<'py, f32>,
    values: PyReadonlyArray1<'py, f32>,
    log_probs: PyReadonlyArray1<'py, f32>,
    advantages: PyReadonlyArray1<'py, f32>,
    returns: PyReadonlyArray1<'py, f32>,
}

impl RolloutArrays<'_> {
    fn places(&self) -> [Range<usize>; 6] {
        [
            &self.observations,
            &self.actions,
            &self.values,
            &self.log_probs,
            &self.advantages,
            &self.returns,
        ]
        .map(|array| place(array))
    }
}

/// The numbers of PPO's objective, or of A2C's: it has no clip range.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct OnPolicyNumbers {
    clip_range: Option<f32>,
    clip_range_vf: Option<f32>,
    ent_coef: f32,
    vf_coef: f32,
    max_grad_norm: f32,
    target_kl: Option<f32>,
    normalize: bool,
}

/// PPO and A2C.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct OnPolicyUpdate(CoreOnPolicy);

#[guarded]
#[pymethods]
impl OnPolicyUpdate {
    #[new]
    #[pyo3(signature = (actor, critic, head, options, log_std, size))]
    fn new(
        actor: Many<LayerPlan>,
        critic: Many<LayerPlan>,
        head: &str,
        options: Many<usize>,
        log_std: usize,
        size: usize,
    ) -> PyResult<Self> {
        crate::threads::check()?;
        let distribution = distribution(head, options.0, log_std)?;
        CoreOnPolicy::new(net(actor)?, net(critic)?, distribution, size)
            .map(Self)
            .map_err(py_err)
    }

    /// One pass over a rollout. Gives six numbers for each minibatch, whether it ended early, and the
    /// optimizer's steps so far.
    #[pyo3(signature = (rollout, order, batch_size, settings, trained))]
    fn epoch<'py>(
        &mut self,
        py: Python<'py>,
        rollout: RolloutArrays<'py>,
        order: PyReadonlyArray1<'py, u32>,
        batch_size: usize,
        settings: OnPolicyNumbers,
        mut trained: TrainedArrays<'py>,
    ) -> PyResult<(Bound<'py, PyArray1<f64>>, bool, u64)> {
        let (written, read) = trained.places();
        apart(
            &written,
            &[&read[..], &rollout.places(), &[place(&order)]].concat(),
        )?;
        let rollout = Rollout {
            observations: rollout.observations.as_slice()?,
            actions: rollout.actions.as_slice()?,
            values: rollout.values.as_slice()?,
            log_probs: rollout.log_probs.as_slice()?,
            advantages: rollout.advantages.as_slice()?,
            returns: rollout.returns.as_slice()?,
        };
        let settings = OnPolicySettings {
            clip_range: settings.clip_range,
            clip_range_vf: settings.clip_range_vf,
            ent_coef: settings.ent_coef,
            vf_coef: settings.vf_coef,
            max_grad_norm: settings.max_grad_norm,
            target_kl: settings.target_kl,
            normalize: settings.normalize,
        };
        let (core, order) = (&mut self.0, order.as_slice()?);
        let mut state = trained.trained()?;
        let (metrics, stopped) = watched_whole(py, |watch| {
            core.epoch(&rollout, order, batch_size, &settings, &mut state, watch)
        })?;
        let numbers: Vec<f64> = metrics.iter().flat_map(|row| row.to_array()).collect();
        Ok((PyArray1::from_vec(py, numbers), stopped, trained.steps))
    }
}

/// The batches of some gradient steps, one after the other in each array.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Batches<'py> {
    observations: PyReadonlyArray1<'py, f32>,
    next_observations: PyReadonlyArray1<'py, f32>,
    actions: PyReadonlyArray1<'py, f32>,
    rewards: PyReadonlyArray1<'py, f32>,
    dones: PyReadonlyArray1<'py, f32>,
    discounts: PyReadonlyArray1<'py, f32>,
}

/// The same, with standard normals for the actions at the observations and at the next ones.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct NoisyBatches<'py> {
    transitions: Batches<'py>,
    noise: PyReadonlyArray1<'py, f32>,
    next_noise: PyReadonlyArray1<'py, f32>,
}

impl NoisyBatches<'_> {
    /// That all that is written has its own memory.
    fn apart_from(
        &self,
        slow_copies: &[PyReadwriteArray1<'_, f32>; 2],
        trained: &[TrainedArrays<'_>],
    ) -> PyResult<()> {
        let mut written: Vec<_> = slow_copies.iter().map(|array| place(array)).collect();
        let mut read = self.transitions.places().to_vec();
        read.extend([place(&self.noise), place(&self.next_noise)]);
        for arrays in trained {
            let (changed, old) = arrays.places();
            written.extend(changed);
            read.extend(old);
        }
        apart(&written, &read)
    }
}

impl Batches<'_> {
    fn places(&self) -> [Range<usize>; 6] {
        [
            &self.observations,
            &self.next_observations,
            &self.actions,
            &self.rewards,
            &self.dones,
            &self.discounts,
        ]
        .map(|array| place(array))
    }

    /// All of the `count` batches.
    fn all(&self, count: usize) -> PyResult<Transitions<'_>> {
        let rewards = self.rewards.as_slice()?;
        if count > 0 && (rewards.is_empty() || !rewards.len().is_multiple_of(count)) {
            let rows = rewards.len();
            return Err(bad(format!(
                "{rows} rows cannot be {count} batches of the same size"
            )));
        }
        Ok(Transitions {
            observations: self.observations.as_slice()?,
            next_observations: self.next_observations.as_slice()?,
            actions: self.actions.as_slice()?,
            rewards,
            dones: self.dones.as_slice()?,
            discounts: self.discounts.as_slice()?,
        })
    }
}

/// One of `count` batches.
fn one<'a>(all: &Transitions<'a>, index: usize, count: usize) -> Transitions<'a> {
    let of = |numbers| share(numbers, index, count);
    Transitions {
        observations: of(all.observations),
        next_observations: of(all.next_observations),
        actions: of(all.actions),
        rewards: of(all.rewards),
        dones: of(all.dones),
        discounts: of(all.discounts),
    }
}

/// What one of `count` batches has of the numbers of all.
fn share(all: &[f32], index: usize, count: usize) -> &[f32] {
    let size = all.len() / count;
    &all[index * size..(index + 1) * size]
}

/// The numbers of the objectives of TD3 and SAC.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct ActorCriticNumbers {
    tau: f32,
    smoothing: [f32; 2],
    ent_coef: f32,
    target_entropy: f32,
}

/// DQN.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct QUpdate(CoreQ);

#[guarded]
#[pymethods]
impl QUpdate {
    #[new]
    #[pyo3(signature = (layers, size))]
    fn new(layers: Many<LayerPlan>, size: usize) -> PyResult<Self> {
        crate::threads::check()?;
        CoreQ::new(net(layers)?, size).map(Self).map_err(py_err)
    }

    /// `count` gradient steps on as many batches, one after the other in each array. Gives the losses
    /// and the optimizer's steps so far.
    #[pyo3(signature = (batches, count, max_grad_norm, target, trained))]
    fn run<'py>(
        &mut self,
        py: Python<'py>,
        batches: Batches<'py>,
        count: usize,
        max_grad_norm: f32,
        target: PyReadonlyArray1<'py, f32>,
        mut trained: TrainedArrays<'py>,
    ) -> PyResult<(Vec<f64>, u64)> {
        let (written, read) = trained.places();
        apart(
            &written,
            &[&read[..], &batches.places(), &[place(&target)]].concat(),
        )?;
        let (settings, target) = (QSettings { max_grad_norm }, target.as_slice()?);
        let all = batches.all(count)?;
        let mut losses = memory::with_capacity(count).map_err(py_err)?;
        let (core, mut state) = (&mut self.0, trained.trained()?);
        watched_whole(py, |watch| {
            for index in 0..count {
                watch.check()?;
                let batch = one(&all, index, count);
                losses.push(core.step(&batch, &settings, target, &mut state)?);
            }
            Ok::<_, UpdateError>(())
        })?;
        Ok((losses, trained.steps))
    }
}

/// TD3, DDPG and SAC.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct ActorCriticUpdate(CoreActorCritic);

#[guarded]
#[pymethods]
impl ActorCriticUpdate {
    #[new]
    #[pyo3(signature = (actor, critics, squashed, sizes))]
    fn new(
        actor: Many<LayerPlan>,
        critics: Many<Many<LayerPlan>>,
        squashed: bool,
        sizes: [usize; 2],
    ) -> PyResult<Self> {
        crate::threads::check()?;
        let critics: PyResult<Vec<Net>> = critics.0.into_iter().map(net).collect();
        let kind = if squashed {
            ActorKind::Squashed
        } else {
            ActorKind::Deterministic
        };
        CoreActorCritic::new(net(actor)?, critics?, kind, sizes)
            .map(Self)
            .map_err(py_err)
    }

    /// A gradient step for each of `flags` (whether the actor learns, whether slow copies follow) on
    /// as many batches. Gives four numbers for each, and the steps of the optimizers so far.
    #[pyo3(signature = (batches, flags, settings, slow_copies, trained))]
    fn run<'py>(
        &mut self,
        py: Python<'py>,
        batches: NoisyBatches<'py>,
        flags: Many<(bool, bool)>,
        settings: ActorCriticNumbers,
        mut slow_copies: [PyReadwriteArray1<'py, f32>; 2],
        trained: Many<TrainedArrays<'py>>,
    ) -> PyResult<(Vec<[f64; 4]>, Vec<u64>)> {
        let (Many(flags), Many(mut trained)) = (flags, trained);
        batches.apart_from(&slow_copies, &trained)?;
        let [actor_target, critic_target] = &mut slow_copies;
        let mut states = trained.iter_mut().map(TrainedArrays::trained);
        let mut next = || states.next().transpose();
        let (Some(actor), Some(critic), entropy) = (next()?, next()?, next()?) else {
            return Err(bad("expected the parameters of an actor and of critics"));
        };
        let mut state = ActorCriticState {
            actor,
            critic,
            actor_target: actor_target.as_slice_mut()?,
            critic_target: critic_target.as_slice_mut()?,
            entropy,
        };
        let (count, core) = (flags.len(), &mut self.0);
        let all = batches.transitions.all(count)?;
        let (noise, next_noise) = (batches.noise.as_slice()?, batches.next_noise.as_slice()?);
        let mut metrics = memory::with_capacity(count).map_err(py_err)?;
        watched_whole(py, |watch| {
            for (index, &(actor_learns, copies_follow)) in flags.iter().enumerate() {
                watch.check()?;
                let batch = ActorCriticBatch {
                    transitions: one(&all, index, count),
                    noise: share(noise, index, count),
                    next_noise: share(next_noise, index, count),
                };
                let this_step = ActorCriticSettings {
                    tau: settings.tau,
                    smoothing: settings.smoothing,
                    ent_coef: settings.ent_coef,
                    target_entropy: settings.target_entropy,
                    actor_learns,
                    copies_follow,
                };
                metrics.push(numbers(core.step(&batch, &this_step, &mut state)?));
            }
            Ok::<_, UpdateError>(())
        })?;
        Ok((metrics, trained.iter().map(|arrays| arrays.steps).collect()))
    }
}

fn numbers(metrics: ActorCriticMetrics) -> [f64; 4] {
    [
        metrics.critic_loss,
        metrics.actor_loss,
        metrics.ent_coef,
        metrics.ent_coef_loss,
    ]
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<OnPolicyUpdate>()?;
    m.add_class::<QUpdate>()?;
    m.add_class::<ActorCriticUpdate>()
}
