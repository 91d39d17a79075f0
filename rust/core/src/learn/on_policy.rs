//! The iterations of PPO and A2C: a rollout, its advantages, the gradient steps on it.

use super::{LearnError, LearnedVector, SharedNumbers};
use crate::actor::{Actor, Head};
use crate::advantage::{Trajectory, gae};
use crate::collect::{
    ActionBounds, ActionColumn, CurrentObs, FinishedEpisode, RolloutColumns, collect_rollout,
};
use crate::interrupt::{Interrupted, Watch};
use crate::memory::filled;
use crate::nn::ObservationColumn;
use crate::rng::{Pcg64, SeedSequence};
use crate::update::{
    Distribution, OnPolicyMetrics, OnPolicySettings, OnPolicyUpdate, Rollout, Trained,
    check as expect,
};
use crate::vec_env::{Episode, VectorEnv};

/// What the iterations of a chunk are made of.
#[derive(Debug, Clone, Copy)]
pub struct OnPolicyPlan<'a> {
    /// Lowest and highest action of a continuous space.
    pub bounds: ActionBounds<'a>,
    /// Discount factor of the values that follow a time limit.
    pub gamma: f32,
    /// Discount factor of the advantages, and how much each counts in the one before.
    pub advantage: [f64; 2],
    /// Passes over a rollout.
    pub epochs: usize,
    /// Rows of a gradient step; `None`: all.
    pub batch_size: Option<usize>,
    /// The objective, without the clip ranges.
    pub settings: OnPolicySettings,
    /// The learning rate of each update; none collects a rollout and leaves it at that.
    pub learning_rates: &'a [f32],
    /// How far a likelihood may move in each, for PPO.
    pub clip_ranges: Option<&'a [f32]>,
    /// How far a value may move in each.
    pub clip_ranges_vf: Option<&'a [f32]>,
    /// The state of MLX's generator, which the actions of each rollout begin with.
    pub key: u64,
    /// What MLX's generator moves on by with each rollout.
    pub key_step: u64,
    /// Whether the rollout of the first update is there.
    pub is_collected: bool,
}

/// The columns of a rollout buffer, step after step.
#[derive(Debug)]
pub struct RolloutMemory<'a> {
    /// Observations.
    pub observations: &'a mut [f32],
    /// Actions.
    pub actions: ActionColumn<'a>,
    /// Rewards.
    pub rewards: &'a mut [f32],
    /// 1 where an observation is the first of an episode, else 0.
    pub episode_starts: &'a mut [f32],
    /// Values of the observations.
    pub values: &'a mut [f32],
    /// Log-likelihoods of the actions.
    pub log_probs: &'a mut [f32],
    /// Advantages.
    pub advantages: &'a mut [f32],
    /// Returns.
    pub returns: &'a mut [f32],
}

/// What PPO or A2C learns with.
#[derive(Debug)]
pub struct OnPolicyLearning<'a> {
    /// The gradient steps.
    pub update: &'a mut OnPolicyUpdate,
    /// Policy and values.
    pub network: LearnedVector<'a>,
}

/// What a chunk of iterations gave.
#[derive(Debug, Default)]
pub struct LearnedRollouts {
    /// Steps that were taken, those of a rollout that was interrupted too.
    pub steps: usize,
    /// Rollouts that were begun, of which each has moved MLX's generator.
    pub begun: usize,
    /// The episodes that ended, each with its step.
    pub episodes: Vec<(usize, Episode)>,
    /// Updates that were made, and how many of them have moved the parameters.
    pub updates: [usize; 2],
    /// Passes over rollouts in all of them.
    pub epochs: usize,
    /// The metrics of the minibatches of the last of them.
    pub metrics: Vec<OnPolicyMetrics>,
    /// How many of these each pass has.
    pub epoch_sizes: Vec<usize>,
    /// The losses of an update that gave nan or infinity, there or in the parameters, which are left as they
    /// came out. It is not counted.
    pub nonfinite_losses: Vec<f64>,
    /// Why the chunk ended before all iterations were made, if something went wrong.
    pub error: Option<LearnError>,
}

/// Makes all updates that there are learning rates for, each after its rollout; or collects one rollout. It
/// ends before that where numbers are not finite, or `watch` stops it: a step, and the gradient steps on a
/// rollout, are made as a whole or not at all.
///
/// # Errors
/// A [`LearnError`] if the parts do not fit each other; nothing has happened then. What goes wrong later is
/// in [`LearnedRollouts::error`].
pub fn learn_on_policy(
    (envs, actor, critic): (&mut dyn VectorEnv, &mut Actor, &mut Actor),
    plan: &OnPolicyPlan<'_>,
    memory: &mut RolloutMemory<'_>,
    current: CurrentObs<'_>,
    learning: &mut OnPolicyLearning<'_>,
    (numbers, watch): (&mut dyn SharedNumbers, &mut Watch<'_>),
) -> Result<LearnedRollouts, LearnError> {
    check(envs, plan, memory, learning)?;
    learning.update.check_actors(actor, critic)?;
    let (rows, n_envs) = (memory.rewards.len(), envs.num_envs());
    let steps = rows / n_envs;
    // The rows as NumPy flattens them, environment after environment.
    let places = (0..rows).map(|row| (row % steps * n_envs + row / steps) as u32);
    let mut chunk = Chunk {
        plan,
        parts: Parts {
            envs,
            actor,
            critic,
        },
        current,
        places: places.collect(),
        order: filled(0, rows)?,
        actions: filled(0.0, rows * learning.update.action_dim())?,
        dones: filled(0.0, n_envs)?,
        last_values: filled(0.0, n_envs)?,
        are_actors_current: false,
        metrics: Vec::new(),
        epoch_sizes: Vec::new(),
        done: LearnedRollouts::default(),
    };
    if let Err(error) = chunk.run(memory, learning, numbers, watch) {
        chunk.done.error = Some(error);
    }
    Ok(chunk.done)
}

fn check(
    envs: &dyn VectorEnv,
    plan: &OnPolicyPlan<'_>,
    memory: &RolloutMemory<'_>,
    learning: &OnPolicyLearning<'_>,
) -> Result<(), LearnError> {
    let count = plan.learning_rates.len();
    for (what, ranges) in [
        ("the clip ranges", plan.clip_ranges),
        ("the clip ranges of the values", plan.clip_ranges_vf),
    ] {
        ranges.map_or(Ok(()), |ranges| expect(what, ranges.len(), count))?;
    }
    let at_least_one = |what, got| match got {
        0 => Err(LearnError::Setting {
            what,
            got,
            expected: "at least 1",
        }),
        _ => Ok(()),
    };
    at_least_one("the number of epochs", plan.epochs)?;
    at_least_one("the batch size", plan.batch_size.unwrap_or(1))?;
    at_least_one("the number of environments", envs.num_envs())?;
    let (rows, n_envs) = (memory.rewards.len(), envs.num_envs());
    at_least_one("the number of rows", rows)?;
    let dim = learning.update.action_dim();
    for (what, got, expected) in [
        ("rewards", rows, rows.next_multiple_of(n_envs)),
        (
            "observations",
            memory.observations.len(),
            rows * envs.spec().obs_dim,
        ),
        ("actions", memory.actions.len(), rows * dim),
        ("episode starts", memory.episode_starts.len(), rows),
        ("values", memory.values.len(), rows),
        ("log-likelihoods", memory.log_probs.len(), rows),
        ("advantages", memory.advantages.len(), rows),
        ("returns", memory.returns.len(), rows),
    ] {
        expect(what, got, expected)?;
    }
    learning.network.check(learning.update.size())
}

/// What takes the steps.
struct Parts<'a> {
    envs: &'a mut dyn VectorEnv,
    actor: &'a mut Actor,
    critic: &'a mut Actor,
}

/// A chunk under way.
struct Chunk<'a> {
    plan: &'a OnPolicyPlan<'a>,
    parts: Parts<'a>,
    current: CurrentObs<'a>,
    places: Vec<u32>,
    order: Vec<u32>,
    // The actions of the rollout as the gradient steps take them.
    actions: Vec<f32>,
    dones: Vec<f32>,
    last_values: Vec<f32>,
    // Whether both have the parameters that the last update gave.
    are_actors_current: bool,
    // Of the present update.
    metrics: Vec<OnPolicyMetrics>,
    epoch_sizes: Vec<usize>,
    done: LearnedRollouts,
}

impl Chunk<'_> {
    fn run(
        &mut self,
        memory: &mut RolloutMemory<'_>,
        learning: &mut OnPolicyLearning<'_>,
        numbers: &mut dyn SharedNumbers,
        watch: &mut Watch<'_>,
    ) -> Result<(), LearnError> {
        if self.plan.learning_rates.is_empty() {
            return self.collect(memory, learning, watch);
        }
        for index in 0..self.plan.learning_rates.len() {
            if index > 0 || !self.plan.is_collected {
                self.collect(memory, learning, watch)?;
            }
            if !self.update(index, memory, learning, numbers, watch)? {
                break;
            }
        }
        Ok(())
    }

    /// A rollout, with values, likelihoods and advantages.
    fn collect(
        &mut self,
        memory: &mut RolloutMemory<'_>,
        learning: &mut OnPolicyLearning<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<(), LearnError> {
        let (plan, parts) = (self.plan, &mut self.parts);
        let moved = plan.key_step.wrapping_mul(self.done.begun as u64);
        // Not the key itself: an environment may have begun with it, and would draw the same numbers.
        let seed = SeedSequence::from_u64(!plan.key.wrapping_add(moved));
        *parts.actor.rng_mut() = Pcg64::new(&seed);
        self.done.begun += 1;
        if !self.are_actors_current {
            let parameters = &*learning.network.parameters;
            learning
                .update
                .load_into(parameters, parts.actor, parts.critic)?;
            self.are_actors_current = true;
        }
        let current = CurrentObs {
            obs: &mut *self.current.obs,
            starts: &mut *self.current.starts,
        };
        let columns = RolloutColumns {
            observations: &mut *memory.observations,
            actions: match &mut memory.actions {
                ActionColumn::Ints(column) => ActionColumn::Ints(column),
                ActionColumn::Floats(column) => ActionColumn::Floats(column),
            },
            rewards: &mut *memory.rewards,
            episode_starts: &mut *memory.episode_starts,
            masks: None,
        };
        let (envs, actor) = (&mut *parts.envs, &mut *parts.actor);
        let new = collect_rollout(envs, actor, plan.bounds, current, columns, watch)?;
        let before = self.done.steps;
        self.done.steps += new.steps;
        let ended = new.finished.iter();
        self.done
            .episodes
            .extend(ended.map(|end| (before + end.step, end.episode)));
        if new.steps * parts.envs.num_envs() < memory.rewards.len() {
            return Err(Interrupted.into());
        }
        self.evaluate(memory, &new.finished)?;
        self.find_advantages(memory, watch)
    }

    /// Values and likelihoods; the value of what followed a time limit is added to the reward.
    fn evaluate(
        &mut self,
        memory: &mut RolloutMemory<'_>,
        finished: &[FinishedEpisode],
    ) -> Result<(), LearnError> {
        let Parts {
            envs,
            actor,
            critic,
        } = &mut self.parts;
        copy_actions(&memory.actions, &mut self.actions);
        let seen = [ObservationColumn::Floats(memory.observations)];
        critic.outputs(&seen, memory.values)?;
        actor.log_probs(&seen, None, &self.actions, memory.log_probs)?;
        let cut = || finished.iter().filter(|end| end.timeout_obs.is_some());
        let ends: Vec<f32> = cut()
            .filter_map(|end| end.timeout_obs.as_deref())
            .flatten()
            .copied()
            .collect();
        if !ends.is_empty() {
            let mut values = vec![0.0; cut().count()];
            critic.outputs(&[ObservationColumn::Floats(&ends)], &mut values)?;
            let n_envs = envs.num_envs();
            for (end, value) in cut().zip(values) {
                memory.rewards[end.step * n_envs + end.episode.env] += self.plan.gamma * value;
            }
        }
        let now = [ObservationColumn::Floats(self.current.obs)];
        critic.outputs(&now, &mut self.last_values)?;
        Ok(())
    }

    fn find_advantages(
        &mut self,
        memory: &mut RolloutMemory<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<(), LearnError> {
        for (to, &from) in self.dones.iter_mut().zip(self.current.starts.iter()) {
            *to = f32::from(u8::from(from));
        }
        let seen = Trajectory {
            rewards: memory.rewards,
            values: memory.values,
            episode_starts: memory.episode_starts,
            last_values: &self.last_values,
            dones: &self.dones,
        };
        let [gamma, gae_lambda] = self.plan.advantage;
        let (advantages, returns) = (&mut *memory.advantages, &mut *memory.returns);
        gae(&seen, gamma, gae_lambda, advantages, returns, watch)?;
        Ok(())
    }

    /// The gradient steps on a rollout; whether their numbers are finite.
    fn update(
        &mut self,
        index: usize,
        memory: &RolloutMemory<'_>,
        learning: &mut OnPolicyLearning<'_>,
        numbers: &mut dyn SharedNumbers,
        watch: &mut Watch<'_>,
    ) -> Result<bool, LearnError> {
        if index == 0 && self.plan.is_collected {
            copy_actions(&memory.actions, &mut self.actions);
        }
        self.metrics.clear();
        self.epoch_sizes.clear();
        let OnPolicyLearning { update, network } = learning;
        let (rate, before) = (self.plan.learning_rates[index], network.optimizer_steps);
        let finite = network.update(rate, |trained| {
            self.descend(index, memory, update, trained, numbers, watch)?;
            Ok(self.metrics.iter().all(|of| of.loss.is_finite()))
        })?;
        if !finite {
            self.done.nonfinite_losses = self.metrics.iter().map(|of| of.loss).collect();
            return Ok(false);
        }
        let done = &mut self.done;
        std::mem::swap(&mut done.metrics, &mut self.metrics);
        std::mem::swap(&mut done.epoch_sizes, &mut self.epoch_sizes);
        done.epochs += done.epoch_sizes.len();
        let has_moved = network.optimizer_steps != before;
        done.updates[0] += 1;
        done.updates[1] += usize::from(has_moved);
        self.are_actors_current &= !has_moved;
        Ok(true)
    }

    fn descend(
        &mut self,
        index: usize,
        memory: &RolloutMemory<'_>,
        update: &mut OnPolicyUpdate,
        trained: &mut Trained<'_>,
        numbers: &mut dyn SharedNumbers,
        watch: &mut Watch<'_>,
    ) -> Result<(), LearnError> {
        let plan = self.plan;
        let settings = OnPolicySettings {
            clip_range: plan.clip_ranges.map(|ranges| ranges[index]),
            clip_range_vf: plan.clip_ranges_vf.map(|ranges| ranges[index]),
            ..plan.settings
        };
        let observations = [ObservationColumn::Floats(memory.observations)];
        let rollout = Rollout {
            observations: &observations,
            actions: &self.actions,
            values: memory.values,
            log_probs: memory.log_probs,
            advantages: memory.advantages,
            returns: memory.returns,
            masks: None,
        };
        let size = plan.batch_size.unwrap_or(self.places.len());
        for _ in 0..plan.epochs {
            self.order.copy_from_slice(&self.places);
            numbers.shuffle(&mut self.order)?;
            let (new, ended) =
                update.epoch(&rollout, &self.order, size, &settings, trained, watch)?;
            self.epoch_sizes.push(new.len());
            self.metrics.extend(new);
            if ended {
                break;
            }
        }
        Ok(())
    }
}

/// The actions as the gradient steps take them.
fn copy_actions(from: &ActionColumn<'_>, to: &mut [f32]) {
    match from {
        ActionColumn::Ints(column) => {
            let pairs = to.iter_mut().zip(column.iter());
            pairs.for_each(|(to, &from)| *to = from as f32);
        }
        ActionColumn::Floats(column) => to.copy_from_slice(column),
    }
}

impl OnPolicyUpdate {
    /// That the two see observations as they are, and act and value as these networks do.
    fn check_actors(&self, actor: &Actor, critic: &Actor) -> Result<(), LearnError> {
        let heads_fit = match (self.distribution(), actor.head()) {
            (Distribution::Categorical(options), Head::Categorical) => options.len() == 1,
            (Distribution::Gaussian { size, .. }, Head::Gaussian(std)) => std.len() == *size,
            _ => false,
        };
        let fits = heads_fit && !self.has_extractors() && *critic.head() == Head::Deterministic;
        match fits {
            true => Ok(()),
            false => Err(LearnError::Setting {
                what: "the kind of policy",
                got: actor.net().outputs(),
                expected: "the one that learns, without features extractors",
            }),
        }
    }

    /// Gives actor and critic the parameters.
    fn load_into(
        &self,
        parameters: &[f32],
        actor: &mut Actor,
        critic: &mut Actor,
    ) -> Result<(), LearnError> {
        let [policy, values] = self.nets();
        policy.load_into(parameters, actor.net_mut())?;
        values.load_into(parameters, critic.net_mut())?;
        if let Distribution::Gaussian { size, log_std } = *self.distribution() {
            let log_std = &parameters[log_std..log_std + size];
            actor.set_head(Head::gaussian(log_std))?;
        }
        Ok(())
    }
}
