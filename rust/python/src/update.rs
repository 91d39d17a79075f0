//! The gradient steps, as `training/native_on_policy.py` and `training/native_off_policy.py` call them.

use std::ops::Range;

use mlx_baselines3_core::memory;
use mlx_baselines3_core::nn::{LayerPart, TrainableLayer, TrainableMlp};
use mlx_baselines3_core::update::{
    ActorCriticBatch, ActorCriticMetrics, ActorCriticSettings, ActorCriticSizes, ActorCriticState,
    ActorCriticUpdate as CoreActorCritic, ActorKind, Distribution, Moments, OnPolicyMetrics,
    OnPolicySettings, OnPolicyUpdate as CoreOnPolicy, QSettings, QUpdate as CoreQ, Rollout, Rule,
    Trained, Transitions, UpdateError,
};
use mlx_baselines3_macros::guarded;
use numpy::{PyArray1, PyReadonlyArray1, PyReadwriteArray1};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::actor::activation;
use crate::args::{Many, apart, place};
use crate::error::{bad, py_err};
use crate::signals::watched_whole;

/// Outputs of a layer, and where their weights and biases begin in the vector of parameters.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct PartSpec {
    outputs: usize,
    weights: usize,
    bias: Option<usize>,
}

/// A layer whose parameters lie in a vector, and the activation after it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct LayerSpec {
    inputs: usize,
    parts: Many<PartSpec>,
    activation: String,
    parameter: f32,
}

impl LayerSpec {
    fn layer(self) -> PyResult<TrainableLayer> {
        let parts = self.parts.0.into_iter().map(|part| LayerPart {
            outputs: part.outputs,
            weights: part.weights,
            bias: part.bias,
        });
        let activation = activation(&self.activation, self.parameter)?;
        Ok(TrainableLayer::new(
            self.inputs,
            parts.collect(),
            activation,
        ))
    }
}

fn net(layers: Many<LayerSpec>) -> PyResult<TrainableMlp> {
    let layers: PyResult<_> = layers.0.into_iter().map(LayerSpec::layer).collect();
    TrainableMlp::new(layers?).map_err(py_err)
}

fn distribution(name: &str, options: Vec<usize>, log_std: usize) -> PyResult<Distribution> {
    let size = options.first().copied().unwrap_or(0);
    Ok(match name {
        "categorical" => Distribution::Categorical(options),
        "bernoulli" => Distribution::Bernoulli(size),
        "gaussian" => Distribution::Gaussian { size, log_std },
        _ => return Err(bad(format!("no native distribution is called {name:?}"))),
    })
}

/// First and second moment of the gradient, to be read.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct MomentArrays<'py> {
    exp_avg: PyReadonlyArray1<'py, f32>,
    exp_avg_sq: PyReadonlyArray1<'py, f32>,
}

/// Parameters and their optimizer: the vectors that a call changes, and its settings.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct TrainedArrays<'py> {
    parameters: PyReadwriteArray1<'py, f32>,
    exp_avg: PyReadwriteArray1<'py, f32>,
    exp_avg_sq: PyReadwriteArray1<'py, f32>,
    previous: Option<MomentArrays<'py>>,
    steps: u64,
    learning_rate: f32,
    rule: String,
    betas: [f64; 2],
    alpha: f64,
    eps: f64,
    bias_correction: bool,
}

impl TrainedArrays<'_> {
    /// Where the numbers lie that are written, and those that are not.
    fn places(&self) -> ([Range<usize>; 3], [Range<usize>; 2]) {
        let written = [&self.parameters, &self.exp_avg, &self.exp_avg_sq].map(|array| place(array));
        let read = self.previous.as_ref().map_or([0..0, 0..0], |moments| {
            [place(&moments.exp_avg), place(&moments.exp_avg_sq)]
        });
        (written, read)
    }

    fn trained(&mut self) -> PyResult<Trained<'_>> {
        let (betas, alpha, eps) = (self.betas, self.alpha, self.eps);
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
        let previous = match &self.previous {
            Some(moments) => Some(Moments {
                exp_avg: moments.exp_avg.as_slice()?,
                exp_avg_sq: moments.exp_avg_sq.as_slice()?,
            }),
            None => None,
        };
        Ok(Trained {
            parameters: self.parameters.as_slice_mut()?,
            exp_avg: self.exp_avg.as_slice_mut()?,
            exp_avg_sq: self.exp_avg_sq.as_slice_mut()?,
            previous,
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

/// The metrics of each minibatch of an epoch, and how it ended.
#[pyclass(frozen, get_all, module = "mlx_baselines3._native")]
pub(crate) struct OnPolicyResult {
    loss: Py<PyArray1<f64>>,
    entropy_loss: Py<PyArray1<f64>>,
    policy_loss: Py<PyArray1<f64>>,
    value_loss: Py<PyArray1<f64>>,
    approx_kl: Py<PyArray1<f64>>,
    clip_fraction: Py<PyArray1<f64>>,
    stopped_early: bool,
    optimizer_steps: u64,
}

/// One of the metrics of all steps.
fn column<T>(py: Python<'_>, rows: &[T], of: fn(&T) -> f64) -> Py<PyArray1<f64>> {
    PyArray1::from_iter(py, rows.iter().map(of)).unbind()
}

impl OnPolicyResult {
    fn new(
        py: Python<'_>,
        metrics: &[OnPolicyMetrics],
        stopped_early: bool,
        optimizer_steps: u64,
    ) -> Self {
        Self {
            loss: column(py, metrics, |of| of.loss),
            entropy_loss: column(py, metrics, |of| of.entropy_loss),
            policy_loss: column(py, metrics, |of| of.policy_loss),
            value_loss: column(py, metrics, |of| of.value_loss),
            approx_kl: column(py, metrics, |of| of.approx_kl),
            clip_fraction: column(py, metrics, |of| of.clip_fraction),
            stopped_early,
            optimizer_steps,
        }
    }
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
        actor: Many<LayerSpec>,
        critic: Many<LayerSpec>,
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

    /// One pass over a rollout.
    #[pyo3(signature = (rollout, order, batch_size, settings, trained))]
    fn epoch<'py>(
        &mut self,
        py: Python<'py>,
        rollout: RolloutArrays<'py>,
        order: PyReadonlyArray1<'py, u32>,
        batch_size: usize,
        settings: OnPolicyNumbers,
        mut trained: TrainedArrays<'py>,
    ) -> PyResult<OnPolicyResult> {
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
        Ok(OnPolicyResult::new(py, &metrics, stopped, trained.steps))
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
        targets: &TargetArrays<'_>,
        trained: &ActorCriticArrays<'_>,
    ) -> PyResult<()> {
        let mut written = vec![place(&targets.actor), place(&targets.critic)];
        let mut read = self.transitions.places().to_vec();
        read.extend([place(&self.noise), place(&self.next_noise)]);
        let networks = [&trained.actor, &trained.critic];
        for arrays in networks.into_iter().chain(&trained.ent_coef) {
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
    target_policy_noise: f32,
    target_noise_clip: f32,
    ent_coef: f32,
    target_entropy: f32,
}

/// What one of the gradient steps is to update besides the critics.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct StepFlags {
    update_actor: bool,
    update_targets: bool,
}

/// Everything that has an optimizer.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct ActorCriticArrays<'py> {
    actor: TrainedArrays<'py>,
    critic: TrainedArrays<'py>,
    ent_coef: Option<TrainedArrays<'py>>,
}

/// The parameters of the target networks.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct TargetArrays<'py> {
    actor: PyReadwriteArray1<'py, f32>,
    critic: PyReadwriteArray1<'py, f32>,
}

/// The loss of each gradient step, and the optimizer's steps so far.
#[pyclass(frozen, get_all, module = "mlx_baselines3._native")]
pub(crate) struct QResult {
    loss: Py<PyArray1<f64>>,
    optimizer_steps: u64,
}

/// DQN.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct QUpdate(CoreQ);

#[guarded]
#[pymethods]
impl QUpdate {
    #[new]
    #[pyo3(signature = (layers, size))]
    fn new(layers: Many<LayerSpec>, size: usize) -> PyResult<Self> {
        crate::threads::check()?;
        CoreQ::new(net(layers)?, size).map(Self).map_err(py_err)
    }

    /// `count` gradient steps on as many batches, one after the other in each array.
    #[pyo3(signature = (batches, count, max_grad_norm, target, trained))]
    fn run<'py>(
        &mut self,
        py: Python<'py>,
        batches: Batches<'py>,
        count: usize,
        max_grad_norm: f32,
        target: PyReadonlyArray1<'py, f32>,
        mut trained: TrainedArrays<'py>,
    ) -> PyResult<QResult> {
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
        Ok(QResult {
            loss: PyArray1::from_vec(py, losses).unbind(),
            optimizer_steps: trained.steps,
        })
    }
}

/// The metrics of each gradient step, and the steps of the optimizers so far, by name.
#[pyclass(frozen, get_all, module = "mlx_baselines3._native")]
pub(crate) struct ActorCriticResult {
    critic_loss: Py<PyArray1<f64>>,
    actor_loss: Py<PyArray1<f64>>,
    ent_coef: Py<PyArray1<f64>>,
    ent_coef_loss: Py<PyArray1<f64>>,
    optimizer_steps: Py<PyDict>,
}

impl ActorCriticResult {
    fn new(
        py: Python<'_>,
        metrics: &[ActorCriticMetrics],
        trained: &ActorCriticArrays<'_>,
    ) -> PyResult<Self> {
        let steps = PyDict::new(py);
        steps.set_item(intern!(py, "actor"), trained.actor.steps)?;
        steps.set_item(intern!(py, "critic"), trained.critic.steps)?;
        if let Some(ent_coef) = &trained.ent_coef {
            steps.set_item(intern!(py, "ent_coef"), ent_coef.steps)?;
        }
        Ok(Self {
            critic_loss: column(py, metrics, |of| of.critic_loss),
            actor_loss: column(py, metrics, |of| of.actor_loss),
            ent_coef: column(py, metrics, |of| of.ent_coef),
            ent_coef_loss: column(py, metrics, |of| of.ent_coef_loss),
            optimizer_steps: steps.unbind(),
        })
    }
}

/// TD3, DDPG and SAC.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct ActorCriticUpdate(CoreActorCritic);

#[guarded]
#[pymethods]
impl ActorCriticUpdate {
    #[new]
    #[pyo3(signature = (actor, critics, squashed, *, actor_size, critic_size))]
    fn new(
        actor: Many<LayerSpec>,
        critics: Many<Many<LayerSpec>>,
        squashed: bool,
        actor_size: usize,
        critic_size: usize,
    ) -> PyResult<Self> {
        crate::threads::check()?;
        let critics: PyResult<Vec<TrainableMlp>> = critics.0.into_iter().map(net).collect();
        let kind = if squashed {
            ActorKind::Squashed
        } else {
            ActorKind::Deterministic
        };
        let sizes = ActorCriticSizes {
            actor: actor_size,
            critic: critic_size,
        };
        CoreActorCritic::new(net(actor)?, critics?, kind, sizes)
            .map(Self)
            .map_err(py_err)
    }

    /// A gradient step for each of `flags`, on as many batches.
    #[pyo3(signature = (batches, flags, settings, targets, trained))]
    fn run<'py>(
        &mut self,
        py: Python<'py>,
        batches: NoisyBatches<'py>,
        flags: Many<StepFlags>,
        settings: ActorCriticNumbers,
        mut targets: TargetArrays<'py>,
        mut trained: ActorCriticArrays<'py>,
    ) -> PyResult<ActorCriticResult> {
        let Many(flags) = flags;
        batches.apart_from(&targets, &trained)?;
        let mut state = ActorCriticState {
            actor: trained.actor.trained()?,
            critic: trained.critic.trained()?,
            actor_target: targets.actor.as_slice_mut()?,
            critic_target: targets.critic.as_slice_mut()?,
            log_ent_coef: match &mut trained.ent_coef {
                Some(ent_coef) => Some(ent_coef.trained()?),
                None => None,
            },
        };
        let (count, core) = (flags.len(), &mut self.0);
        let all = batches.transitions.all(count)?;
        let (noise, next_noise) = (batches.noise.as_slice()?, batches.next_noise.as_slice()?);
        let mut metrics = memory::with_capacity(count).map_err(py_err)?;
        watched_whole(py, |watch| {
            for (index, step) in flags.iter().enumerate() {
                watch.check()?;
                let batch = ActorCriticBatch {
                    transitions: one(&all, index, count),
                    noise: share(noise, index, count),
                    next_noise: share(next_noise, index, count),
                };
                let this_step = ActorCriticSettings {
                    tau: settings.tau,
                    target_policy_noise: settings.target_policy_noise,
                    target_noise_clip: settings.target_noise_clip,
                    ent_coef: settings.ent_coef,
                    target_entropy: settings.target_entropy,
                    update_actor: step.update_actor,
                    update_targets: step.update_targets,
                };
                metrics.push(core.step(&batch, &this_step, &mut state)?);
            }
            Ok::<_, UpdateError>(())
        })?;
        ActorCriticResult::new(py, &metrics, &trained)
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<OnPolicyUpdate>()?;
    m.add_class::<OnPolicyResult>()?;
    m.add_class::<QUpdate>()?;
    m.add_class::<QResult>()?;
    m.add_class::<ActorCriticUpdate>()?;
    m.add_class::<ActorCriticResult>()
}
