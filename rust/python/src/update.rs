//! The gradient steps, as `training/native_on_policy.py` and `training/native_off_policy.py` call them.

use std::ops::Range;

use mlx_baselines3_core::memory;
use mlx_baselines3_core::nn::{Extractor, ObservationColumn, TrainableMlp};
use mlx_baselines3_core::update::{
    ActorCriticBatch, ActorCriticMetrics, ActorCriticSettings, ActorCriticSizes, ActorCriticState,
    ActorCriticUpdate as CoreActorCritic, ActorKind, Distribution, OnPolicyMetrics,
    OnPolicySettings, OnPolicyUpdate as CoreOnPolicy, QSettings, QUpdate as CoreQ, Quantiles,
    Rollout, StateNoise, Transitions, UpdateError, follow,
};
use mlx_baselines3_macros::guarded;
use numpy::{Ix1, PyArray1, PyReadonlyArray1, PyReadwriteArray1};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::actor::Actor;
use crate::args::{Many, apart, place};
use crate::error::{bad, py_err};
use crate::extractor::{BranchSpec, ColumnArray, branches};
use crate::signals::watched_whole;
use crate::trained::{LayerSpec, TrainedArrays, net};

fn extractor(specs: &Many<BranchSpec>) -> PyResult<Extractor> {
    Extractor::new(&branches(specs)?).map_err(py_err)
}

pub(crate) fn distribution(
    name: &str,
    options: Vec<usize>,
    log_std: LogStd,
) -> PyResult<Distribution> {
    let log_std = match log_std {
        LogStd::Place(place) => place,
        LogStd::OfStates(noise) => {
            return Ok(Distribution::StateDependent {
                noise: noise.into(),
                squash: name == "squashed_state_dependent",
            });
        }
    };
    let size = options.first().copied().unwrap_or(0);
    Ok(match name {
        "categorical" => Distribution::Categorical(options),
        "bernoulli" => Distribution::Bernoulli(size),
        "gaussian" => Distribution::Gaussian { size, log_std },
        _ => return Err(bad(format!("no native distribution is called {name:?}"))),
    })
}

/// The arrays of observations: one of vectors, or those that extractors take.
type Observations<'py> = Many<ColumnArray<'py, Ix1>>;

impl Observations<'_> {
    fn places(&self) -> impl Iterator<Item = Range<usize>> {
        self.0.iter().map(ColumnArray::place)
    }

    fn columns(&self) -> PyResult<Vec<ObservationColumn<'_>>> {
        self.0.iter().map(ColumnArray::column).collect()
    }
}

/// The columns of a rollout.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct RolloutArrays<'py> {
    observations: Observations<'py>,
    actions: PyReadonlyArray1<'py, f32>,
    values: PyReadonlyArray1<'py, f32>,
    log_probs: PyReadonlyArray1<'py, f32>,
    advantages: PyReadonlyArray1<'py, f32>,
    returns: PyReadonlyArray1<'py, f32>,
    masks: Option<PyReadonlyArray1<'py, f32>>,
}

impl RolloutArrays<'_> {
    pub(crate) fn columns(&self) -> PyResult<Vec<ObservationColumn<'_>>> {
        self.observations.columns()
    }

    /// The rollout with these observations, which are those of [`RolloutArrays::columns`].
    pub(crate) fn rollout<'a>(
        &'a self,
        observations: &'a [ObservationColumn<'a>],
    ) -> PyResult<Rollout<'a>> {
        let masks = self.masks.as_ref().map(|masks| masks.as_slice());
        Ok(Rollout {
            observations,
            actions: self.actions.as_slice()?,
            values: self.values.as_slice()?,
            log_probs: self.log_probs.as_slice()?,
            advantages: self.advantages.as_slice()?,
            returns: self.returns.as_slice()?,
            masks: masks.transpose()?,
        })
    }

    pub(crate) fn places(&self) -> Vec<Range<usize>> {
        let rest = [
            &self.actions,
            &self.values,
            &self.log_probs,
            &self.advantages,
            &self.returns,
        ];
        let rest = rest.map(|array| place(array));
        let masks = self.masks.iter().map(|array| place(array));
        self.observations
            .places()
            .chain(rest)
            .chain(masks)
            .collect()
    }
}

/// The numbers of PPO's objective, or of A2C's: it has no clip range.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct OnPolicyNumbers {
    clip_range: Option<f32>,
    clip_range_vf: Option<f32>,
    ent_coef: f32,
    vf_coef: f32,
    max_grad_norm: f32,
    target_kl: Option<f32>,
    normalize: bool,
}

impl OnPolicyNumbers {
    pub(crate) fn settings(&self) -> OnPolicySettings {
        OnPolicySettings {
            clip_range: self.clip_range,
            clip_range_vf: self.clip_range_vf,
            ent_coef: self.ent_coef,
            vf_coef: self.vf_coef,
            max_grad_norm: self.max_grad_norm,
            target_kl: self.target_kl,
            normalize: self.normalize,
        }
    }
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
    pub(crate) fn new(
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
pub(crate) struct OnPolicyUpdate(pub(crate) CoreOnPolicy);

#[guarded]
#[pymethods]
impl OnPolicyUpdate {
    #[new]
    #[pyo3(signature = (actor, critic, head, options, log_std, size, extractors=None))]
    fn new(
        actor: Many<LayerSpec>,
        critic: Many<LayerSpec>,
        head: &str,
        options: Many<usize>,
        log_std: LogStd,
        size: usize,
        extractors: Option<Many<Many<BranchSpec>>>,
    ) -> PyResult<Self> {
        crate::threads::check()?;
        let distribution = distribution(head, options.0, log_std)?;
        let core = CoreOnPolicy::new(net(actor)?, net(critic)?, distribution, size);
        let mut core = core.map_err(py_err)?;
        if let Some(extractors) = extractors {
            let extractors: PyResult<_> = extractors.0.iter().map(extractor).collect();
            core = core.with_extractors(extractors?).map_err(py_err)?;
        }
        Ok(Self(core))
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
        let columns = rollout.columns()?;
        let (rollout, settings) = (rollout.rollout(&columns)?, settings.settings());
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
    observations: Observations<'py>,
    next_observations: Observations<'py>,
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
        let mut read = self.transitions.places();
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
    fn places(&self) -> Vec<Range<usize>> {
        let rest = [&self.actions, &self.rewards, &self.dones, &self.discounts];
        let rest = rest.map(|array| place(array));
        let both = self.observations.places();
        both.chain(self.next_observations.places())
            .chain(rest)
            .collect()
    }

    /// The observations of all batches, and the next ones.
    fn observations(&self) -> PyResult<[Vec<ObservationColumn<'_>>; 2]> {
        Ok([
            self.observations.columns()?,
            self.next_observations.columns()?,
        ])
    }

    /// All else of the `count` batches.
    fn all(&self, count: usize) -> PyResult<Transitions<'_>> {
        let rewards = self.rewards.as_slice()?;
        if count > 0 && (rewards.is_empty() || !rewards.len().is_multiple_of(count)) {
            let rows = rewards.len();
            return Err(bad(format!(
                "{rows} rows cannot be {count} batches of the same size"
            )));
        }
        Ok(Transitions {
            observations: &[],
            next_observations: &[],
            actions: self.actions.as_slice()?,
            rewards,
            dones: self.dones.as_slice()?,
            discounts: self.discounts.as_slice()?,
        })
    }
}

/// One of `count` batches.
fn one<'a>(
    all: &Transitions<'a>,
    [observations, next_observations]: &'a [Vec<ObservationColumn<'a>>; 2],
    index: usize,
    count: usize,
) -> Transitions<'a> {
    let of = |numbers| share(numbers, index, count);
    Transitions {
        observations,
        next_observations,
        actions: of(all.actions),
        rewards: of(all.rewards),
        dones: of(all.dones),
        discounts: of(all.discounts),
    }
}

/// The observations of one of `count` batches, and the next ones.
fn columns<'a>(
    observations: &[Vec<ObservationColumn<'a>>; 2],
    index: usize,
    count: usize,
) -> [Vec<ObservationColumn<'a>>; 2] {
    let of = |column: &ObservationColumn<'a>| match *column {
        ObservationColumn::Floats(all) => ObservationColumn::Floats(share(all, index, count)),
        ObservationColumn::Bytes(all) => ObservationColumn::Bytes(share(all, index, count)),
    };
    observations
        .each_ref()
        .map(|all| all.iter().map(of).collect())
}

/// What one of `count` batches has of the numbers of all.
fn share<T>(all: &[T], index: usize, count: usize) -> &[T] {
    let size = all.len() / count;
    &all[index * size..(index + 1) * size]
}

/// Noise that depends on the state: where the logarithms of its deviations lie, and what they are for.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct StateNoiseSpec {
    log_std: usize,
    features: usize,
    actions: usize,
    full: bool,
    expln: bool,
}

impl From<StateNoiseSpec> for StateNoise {
    fn from(spec: StateNoiseSpec) -> Self {
        Self {
            log_std: spec.log_std,
            features: spec.features,
            actions: spec.actions,
            full: spec.full,
            expln: spec.expln,
        }
    }
}

/// The logarithms of an on-policy actor's deviations.
#[derive(FromPyObject)]
pub(crate) enum LogStd {
    /// Where they begin.
    Place(usize),
    /// Those of noise that depends on the state.
    OfStates(StateNoiseSpec),
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

/// DQN and QR-DQN.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct QUpdate(pub(crate) CoreQ);

#[guarded]
#[pymethods]
impl QUpdate {
    #[new]
    #[pyo3(signature = (layers, size, branches=None, quantiles=0))]
    fn new(
        layers: Many<LayerSpec>,
        size: usize,
        branches: Option<Many<BranchSpec>>,
        quantiles: usize,
    ) -> PyResult<Self> {
        crate::threads::check()?;
        let mut core = CoreQ::new(net(layers)?, size)
            .and_then(|core| core.with_quantiles(quantiles))
            .map_err(py_err)?;
        if let Some(branches) = branches {
            core = core.with_extractor(extractor(&branches)?).map_err(py_err)?;
        }
        Ok(Self(core))
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
        let (all, observations) = (batches.all(count)?, batches.observations()?);
        let mut losses = memory::with_capacity(count).map_err(py_err)?;
        let (core, mut state) = (&mut self.0, trained.trained()?);
        watched_whole(py, |watch| {
            for index in 0..count {
                watch.check()?;
                let columns = columns(&observations, index, count);
                let batch = one(&all, &columns, index, count);
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

/// TD3, DDPG, SAC and TQC.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct ActorCriticUpdate(CoreActorCritic);

#[guarded]
#[pymethods]
impl ActorCriticUpdate {
    #[new]
    #[pyo3(signature = (actor, critics, squashed, *, actor_size, critic_size, quantiles=None, noise=None, branches=None))]
    #[allow(clippy::too_many_arguments)] // keywords
    fn new(
        actor: Many<LayerSpec>,
        critics: Many<Many<LayerSpec>>,
        squashed: bool,
        actor_size: usize,
        critic_size: usize,
        quantiles: Option<(usize, usize)>,
        noise: Option<StateNoiseSpec>,
        branches: Option<(Many<BranchSpec>, Option<Many<BranchSpec>>)>,
    ) -> PyResult<Self> {
        crate::threads::check()?;
        let critics: PyResult<Vec<TrainableMlp>> = critics.0.into_iter().map(net).collect();
        let kind = match (squashed, noise) {
            (false, _) => ActorKind::Deterministic,
            (true, None) => ActorKind::Squashed,
            (true, Some(noise)) => ActorKind::StateDependent(noise.into()),
        };
        let sizes = ActorCriticSizes {
            actor: actor_size,
            critic: critic_size,
        };
        let quantiles = quantiles.map(|(of_each, kept)| Quantiles { of_each, kept });
        let core = CoreActorCritic::new(net(actor)?, critics?, kind, sizes, quantiles);
        let mut core = core.map_err(py_err)?;
        if let Some((actor, critics)) = branches {
            let critics = critics.as_ref().map(extractor).transpose()?;
            let with_them = core.with_extractors(extractor(&actor)?, critics);
            core = with_them.map_err(py_err)?;
        }
        Ok(Self(core))
    }

    /// Gives the native actor of the same policy the parameters of the actor.
    fn load_actor(
        &self,
        parameters: PyReadonlyArray1<'_, f32>,
        mut actor: PyRefMut<'_, Actor>,
    ) -> PyResult<()> {
        actor.forget();
        let net = actor.core.net_mut();
        self.0
            .load_actor(parameters.as_slice()?, net)
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
        let observations = batches.transitions.observations()?;
        let (noise, next_noise) = (batches.noise.as_slice()?, batches.next_noise.as_slice()?);
        let mut metrics = memory::with_capacity(count).map_err(py_err)?;
        watched_whole(py, |watch| {
            for (index, step) in flags.iter().enumerate() {
                watch.check()?;
                let columns = columns(&observations, index, count);
                let batch = ActorCriticBatch {
                    transitions: one(&all, &columns, index, count),
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

/// `target <- tau * source + (1 - tau) * target`
#[guarded]
#[pyfunction]
fn polyak_average(
    py: Python<'_>,
    source: PyReadonlyArray1<'_, f32>,
    mut target: PyReadwriteArray1<'_, f32>,
    tau: f32,
) -> PyResult<()> {
    apart(&[place(&target)], &[place(&source)])?;
    let (source, target) = (source.as_slice()?, target.as_slice_mut()?);
    py.detach(|| follow(source, target, tau)).map_err(py_err)
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(polyak_average, m)?)?;
    m.add_class::<OnPolicyUpdate>()?;
    m.add_class::<OnPolicyResult>()?;
    m.add_class::<QUpdate>()?;
    m.add_class::<QResult>()?;
    m.add_class::<ActorCriticUpdate>()?;
    m.add_class::<ActorCriticResult>()
}
