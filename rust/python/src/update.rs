//! The gradient steps, as `native_update.py` sees them.

use mlx_baselines3_core::nn::{Layer, Net, Part};
use mlx_baselines3_core::update::{
    ActorCriticBatch, ActorCriticMetrics, ActorCriticSettings, ActorCriticState,
    ActorCriticUpdate as CoreActorCritic, ActorKind, Distribution, OnPolicySettings,
    OnPolicyUpdate as CoreOnPolicy, QBatch, QSettings, QUpdate as CoreQ, Rollout, Rule, Trained,
};
use numpy::{PyArray1, PyReadonlyArray1, PyReadwriteArray1};
use pyo3::prelude::*;

use crate::actor::{activation, bad};

/// Inputs; outputs, place of the weights and of the biases for each part; activation and its number.
type LayerPlan = (usize, Vec<(usize, usize, Option<usize>)>, String, f32);

fn net(layers: Vec<LayerPlan>) -> PyResult<Net> {
    let layers: PyResult<Vec<Layer>> = layers
        .into_iter()
        .map(|(inputs, parts, name, number)| {
            let parts = parts.into_iter().map(|(outputs, weights, bias)| Part {
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
    Net::new(layers?).map_err(bad)
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

/// Parameters and their optimizer, as Python hands them in: parameters and averages, the averages
/// as they were before the first step, steps so far, learning rate, and the rule with its numbers.
#[derive(FromPyObject)]
struct TrainedArrays<'py>(
    [PyReadwriteArray1<'py, f32>; 3],
    Option<[PyReadonlyArray1<'py, f32>; 2]>,
    u64,
    f32,
    (String, f64, f64, f64, bool),
);

impl TrainedArrays<'_> {
    fn trained(&mut self) -> PyResult<Trained<'_>> {
        let (name, first, second, eps, bias_correction) = &self.4;
        let (alpha, eps) = (*first, *eps);
        let rule = match name.as_str() {
            "adam" => Rule::Adam {
                betas: [*first, *second],
                eps,
                bias_correction: *bias_correction,
            },
            "rmsprop" => Rule::RmsProp { alpha, eps },
            "rmsprop_tf" => Rule::RmsPropTf { alpha, eps },
            _ => return Err(bad(format!("no native optimizer is called {name:?}"))),
        };
        let [parameters, means, squares] = &mut self.0;
        let before = match &self.1 {
            Some([means, squares]) => Some([means.as_slice()?, squares.as_slice()?]),
            None => None,
        };
        Ok(Trained {
            parameters: parameters.as_slice_mut()?,
            means: means.as_slice_mut()?,
            squares: squares.as_slice_mut()?,
            before,
            steps: &mut self.2,
            rule,
            learning_rate: self.3,
        })
    }
}

/// PPO and A2C.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct OnPolicyUpdate(CoreOnPolicy);

type OnPolicyNumbers = (Option<f32>, Option<f32>, f32, f32, f32, Option<f32>, bool);

#[pymethods]
impl OnPolicyUpdate {
    #[new]
    #[pyo3(signature = (actor, critic, head, options, log_std, size))]
    fn new(
        actor: Vec<LayerPlan>,
        critic: Vec<LayerPlan>,
        head: &str,
        options: Vec<usize>,
        log_std: usize,
        size: usize,
    ) -> PyResult<Self> {
        crate::threads::check()?;
        let distribution = distribution(head, options, log_std)?;
        CoreOnPolicy::new(net(actor)?, net(critic)?, distribution, size)
            .map(Self)
            .map_err(bad)
    }

    /// One pass over a rollout. Gives six numbers for each minibatch, whether it ended early, and the
    /// optimizer's steps so far.
    #[pyo3(signature = (rollout, order, batch_size, settings, trained))]
    fn epoch<'py>(
        &mut self,
        py: Python<'py>,
        rollout: [PyReadonlyArray1<'py, f32>; 6],
        order: PyReadonlyArray1<'py, u32>,
        batch_size: usize,
        settings: OnPolicyNumbers,
        mut trained: TrainedArrays<'py>,
    ) -> PyResult<(Bound<'py, PyArray1<f64>>, bool, u64)> {
        let [
            observations,
            actions,
            values,
            log_probs,
            advantages,
            returns,
        ] = &rollout;
        let rollout = Rollout {
            observations: observations.as_slice()?,
            actions: actions.as_slice()?,
            values: values.as_slice()?,
            log_probs: log_probs.as_slice()?,
            advantages: advantages.as_slice()?,
            returns: returns.as_slice()?,
        };
        let (clip_range, clip_range_vf, ent_coef, vf_coef, max_grad_norm, target_kl, normalize) =
            settings;
        let settings = OnPolicySettings {
            clip_range,
            clip_range_vf,
            ent_coef,
            vf_coef,
            max_grad_norm,
            target_kl,
            normalize,
        };
        let (core, order) = (&mut self.0, order.as_slice()?);
        let mut state = trained.trained()?;
        let (metrics, stopped) = py
            .detach(|| core.epoch(&rollout, order, batch_size, &settings, &mut state))
            .map_err(bad)?;
        let numbers = metrics.into_iter().flat_map(|row| row.to_array());
        Ok((PyArray1::from_iter(py, numbers), stopped, trained.2))
    }
}

/// What the batches of some gradient steps have in common: rows and numbers of each.
fn part<'a>(
    array: &'a PyReadonlyArray1<'_, f32>,
    index: usize,
    count: usize,
) -> PyResult<&'a [f32]> {
    let all = array.as_slice()?;
    let size = all.len() / count;
    Ok(&all[index * size..(index + 1) * size])
}

/// DQN.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct QUpdate(CoreQ);

#[pymethods]
impl QUpdate {
    #[new]
    #[pyo3(signature = (layers, size))]
    fn new(layers: Vec<LayerPlan>, size: usize) -> PyResult<Self> {
        crate::threads::check()?;
        CoreQ::new(net(layers)?, size).map(Self).map_err(bad)
    }

    /// `count` gradient steps on as many batches, one after the other in each array. Gives the losses
    /// and the optimizer's steps so far.
    #[pyo3(signature = (batches, count, max_grad_norm, target, trained))]
    fn run<'py>(
        &mut self,
        py: Python<'py>,
        batches: [PyReadonlyArray1<'py, f32>; 6],
        count: usize,
        max_grad_norm: f32,
        target: PyReadonlyArray1<'py, f32>,
        mut trained: TrainedArrays<'py>,
    ) -> PyResult<(Vec<f64>, u64)> {
        let settings = QSettings { max_grad_norm };
        let target = target.as_slice()?;
        let mut losses = Vec::with_capacity(count);
        let mut state = trained.trained()?;
        for index in 0..count {
            let of = |field: usize| part(&batches[field], index, count);
            let batch = QBatch {
                observations: of(0)?,
                next_observations: of(1)?,
                actions: of(2)?,
                rewards: of(3)?,
                dones: of(4)?,
                discounts: of(5)?,
            };
            let core = &mut self.0;
            let loss = py
                .detach(|| core.step(&batch, &settings, target, &mut state))
                .map_err(bad)?;
            losses.push(loss);
        }
        Ok((losses, trained.2))
    }
}

/// TD3, DDPG and SAC.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct ActorCriticUpdate(CoreActorCritic);

#[pymethods]
impl ActorCriticUpdate {
    #[new]
    #[pyo3(signature = (actor, critics, squashed, sizes))]
    fn new(
        actor: Vec<LayerPlan>,
        critics: Vec<Vec<LayerPlan>>,
        squashed: bool,
        sizes: [usize; 2],
    ) -> PyResult<Self> {
        crate::threads::check()?;
        let critics: PyResult<Vec<Net>> = critics.into_iter().map(net).collect();
        let kind = if squashed {
            ActorKind::Squashed
        } else {
            ActorKind::Deterministic
        };
        CoreActorCritic::new(net(actor)?, critics?, kind, sizes)
            .map(Self)
            .map_err(bad)
    }

    /// A gradient step for each of `flags` (whether the actor learns, whether slow copies follow) on
    /// as many batches, one after the other in each array. Gives four numbers for each, and the steps
    /// of the optimizers so far.
    #[pyo3(signature = (batches, flags, settings, slow_copies, trained))]
    fn run<'py>(
        &mut self,
        py: Python<'py>,
        batches: [PyReadonlyArray1<'py, f32>; 8],
        flags: Vec<(bool, bool)>,
        settings: (f32, f32, f32, f32, f32),
        mut slow_copies: [PyReadwriteArray1<'py, f32>; 2],
        mut trained: Vec<TrainedArrays<'py>>,
    ) -> PyResult<(Vec<[f64; 4]>, Vec<u64>)> {
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
        let (tau, deviation, bound, ent_coef, target_entropy) = settings;
        let mut metrics = Vec::with_capacity(flags.len());
        for (index, &(actor_learns, copies_follow)) in flags.iter().enumerate() {
            let of = |field: usize| part(&batches[field], index, flags.len());
            let batch = ActorCriticBatch {
                observations: of(0)?,
                next_observations: of(1)?,
                actions: of(2)?,
                rewards: of(3)?,
                dones: of(4)?,
                discounts: of(5)?,
                noise: of(6)?,
                next_noise: of(7)?,
            };
            let settings = ActorCriticSettings {
                tau,
                smoothing: [deviation, bound],
                ent_coef,
                target_entropy,
                actor_learns,
                copies_follow,
            };
            let core = &mut self.0;
            let row = py
                .detach(|| core.step(&batch, &settings, &mut state))
                .map_err(bad)?;
            metrics.push(numbers(row));
        }
        Ok((metrics, trained.iter().map(|arrays| arrays.2).collect()))
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
