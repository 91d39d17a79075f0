//! The iterations of DQN.

use super::batches::{Batch, MultiStep, Source};
use super::{LearnError, LearnedVector, SharedNumbers};
use crate::actor::Actor;
use crate::collect::{
    ActionBounds, ActionPlan, LastStep, RandomActions, ReplayColumns, collect_transitions,
};
use crate::interrupt::Watch;
use crate::update::{QSettings, QUpdate, Trained, average, check as expect};
use crate::vec_env::{Episode, VectorEnv};

/// What the iterations of a chunk are made of.
#[derive(Debug, Clone, Copy)]
pub struct QPlan<'a> {
    /// Steps of the environments in each.
    pub steps: usize,
    /// Probability of random actions at each step of all of them.
    pub exploration_rates: &'a [f64],
    /// Random actions in the order of their use: enough for all steps.
    pub random_actions: &'a [i64],
    /// Gradient steps in each.
    pub gradient_steps: usize,
    /// The learning rate of each.
    pub learning_rates: &'a [f32],
    /// Transitions of a gradient step.
    pub batch_size: usize,
    /// Discount factor of one step.
    pub gamma: f32,
    /// Returns of several steps, if such are meant.
    pub multi_step: Option<MultiStep<'a>>,
    /// Largest 2-norm of the gradient.
    pub max_grad_norm: f32,
    /// What the target network takes of the Q network and keeps of itself when it moves.
    pub shares: [f32; 2],
    /// The target network moves at every so many steps.
    pub target_interval: u64,
    /// Steps made before the first one.
    pub steps_before: u64,
    /// Whether the steps of the first iteration are among them.
    pub is_collected: bool,
    /// Somebody wants to see the end of this episode: collecting ends its iteration, and the chunk.
    pub awaited_episode: Option<usize>,
}

/// What DQN learns with.
#[derive(Debug)]
pub struct QLearning<'a> {
    /// The gradient step.
    pub update: &'a mut QUpdate,
    /// The Q network.
    pub network: LearnedVector<'a>,
    /// Parameters of the target network.
    pub target: &'a mut [f32],
}

impl QLearning<'_> {
    fn check(&self) -> Result<(), LearnError> {
        let size = self.update.size();
        expect("the target's parameters", self.target.len(), size)?;
        self.network.check(size)
    }
}

/// What a chunk of iterations gave.
#[derive(Debug, Default)]
pub struct LearnedChunk {
    /// Steps that were taken and stored.
    pub steps: usize,
    /// How many of them took random actions.
    pub random_steps: usize,
    /// The episodes that ended, each with its step.
    pub episodes: Vec<(usize, Episode)>,
    /// Iterations whose gradient steps were made.
    pub updates: usize,
    /// The losses of the last of them.
    pub losses: Vec<f64>,
    /// The losses of gradient steps that gave nan or infinity, there or in the parameters, which are left as
    /// they came out. Such steps are not counted.
    pub nonfinite_losses: Vec<f64>,
    /// Why the chunk ended before all iterations were made, if something went wrong.
    pub error: Option<LearnError>,
}

/// Takes all iterations that there are learning rates for. It ends before that where an awaited episode
/// ends, numbers are not finite, or `watch` stops it: between two steps or two iterations' gradient
/// steps, so that each of these is made as a whole or not at all.
///
/// # Errors
/// A [`LearnError`] if the parts do not fit each other; nothing has happened then. What goes wrong later is
/// in [`LearnedChunk::error`].
pub fn learn_q(
    envs: &mut dyn VectorEnv,
    actor: &mut Actor,
    plan: &QPlan<'_>,
    replay: &mut ReplayColumns<'_>,
    last: &mut LastStep<'_>,
    learning: &mut QLearning<'_>,
    (numbers, watch): (&mut dyn SharedNumbers, &mut Watch<'_>),
) -> Result<LearnedChunk, LearnError> {
    check(envs, plan)?;
    learning.check()?;
    let source = Source {
        n_envs: envs.num_envs(),
        obs_dim: envs.spec().obs_dim,
        action_dim: 1,
        multi_step: plan.multi_step,
    };
    let mut chunk = Chunk {
        plan,
        batch: Batch::new(plan.batch_size, &source, plan.gamma)?,
        source,
        is_random: vec![false; plan.steps],
        is_actor_current: false,
        losses: Vec::new(),
        done: LearnedChunk::default(),
    };
    for index in 0..plan.learning_rates.len() {
        let awaited = match index {
            0 if plan.is_collected => Ok(false),
            _ => chunk.collect(numbers, (envs, actor), (replay, last), learning, watch),
        };
        let made = awaited.and_then(|awaited| match awaited {
            true => Ok(false),
            false => chunk.update(index, learning, replay, numbers, watch),
        });
        match made {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                chunk.done.error = Some(error);
                break;
            }
        }
    }
    Ok(chunk.done)
}

fn check(envs: &dyn VectorEnv, plan: &QPlan<'_>) -> Result<(), LearnError> {
    let collected = usize::from(plan.is_collected);
    let iterations = plan.learning_rates.len().saturating_sub(collected);
    let steps = plan.steps.saturating_mul(iterations);
    let at_least_one = |what, got| match got {
        0 => Err(LearnError::Setting {
            what,
            got,
            expected: "at least 1",
        }),
        _ => Ok(()),
    };
    at_least_one("the number of steps", plan.steps)?;
    at_least_one("the batch size", plan.batch_size)?;
    at_least_one("the number of gradient steps", plan.gradient_steps)?;
    at_least_one("the target's interval", plan.target_interval as usize)?;
    let fits = |what, got, expected: usize, text| match got == expected {
        true => Ok(()),
        false => Err(LearnError::Setting {
            what,
            got,
            expected: text,
        }),
    };
    fits(
        "the number of exploration rates",
        plan.exploration_rates.len(),
        steps,
        "one for each step",
    )?;
    let enough = steps.saturating_mul(envs.num_envs());
    fits(
        "the number of random actions",
        plan.random_actions.len().min(enough),
        enough,
        "one for each environment and step",
    )?;
    match plan.multi_step {
        None => Ok(()),
        Some(multi_step) => fits(
            "the number of bootstraps",
            multi_step.bootstraps.len(),
            multi_step.discounts.len() + 1,
            "one more than there are discounts",
        ),
    }
}

/// A chunk under way.
struct Chunk<'a> {
    plan: &'a QPlan<'a>,
    source: Source<'a>,
    batch: Batch,
    is_random: Vec<bool>,
    // Whether the actor has the parameters that the last gradient steps gave.
    is_actor_current: bool,
    // Of the present gradient steps.
    losses: Vec<f64>,
    done: LearnedChunk,
}

impl Chunk<'_> {
    /// The steps of an iteration; whether the awaited episode ended.
    fn collect(
        &mut self,
        numbers: &mut dyn SharedNumbers,
        (envs, actor): (&mut dyn VectorEnv, &mut Actor),
        (replay, last): (&mut ReplayColumns<'_>, &mut LastStep<'_>),
        learning: &mut QLearning<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<bool, LearnError> {
        watch.check()?;
        let (plan, done) = (self.plan, &mut self.done);
        let rates = &plan.exploration_rates[done.steps..done.steps + plan.steps];
        numbers.are_below(rates, &mut self.is_random)?;
        let random = self.is_random.iter().filter(|&&random| random).count();
        if !self.is_actor_current && random < plan.steps {
            learning
                .update
                .net()
                .load_into(learning.network.parameters, actor.net_mut())?;
            self.is_actor_current = true;
        }
        let n_envs = self.source.n_envs;
        let drawn = done.random_steps * n_envs..(done.random_steps + random) * n_envs;
        let actions = ActionPlan {
            is_random: &self.is_random,
            random_actions: RandomActions::Ints(&plan.random_actions[drawn]),
            noise: None,
            bounds: ActionBounds {
                low: &[],
                high: &[],
            },
            until_end: false,
        };
        let new = collect_transitions(envs, actor, &actions, replay, last, watch)?;
        let before = plan.steps_before + done.steps as u64;
        let moves =
            (before + new.steps as u64) / plan.target_interval - before / plan.target_interval;
        for _ in 0..moves {
            average(learning.network.parameters, learning.target, plan.shares);
        }
        let episodes = new.episodes.iter();
        done.episodes
            .extend(episodes.map(|&(step, episode)| (done.steps + step, episode)));
        done.steps += new.steps;
        let taken = self.is_random[..new.steps].iter();
        done.random_steps += taken.filter(|&&random| random).count();
        match new.error {
            Some(error) => Err(error.into()),
            None => Ok(plan
                .awaited_episode
                .is_some_and(|awaited| done.episodes.len() >= awaited)),
        }
    }

    /// The gradient steps of an iteration; whether their numbers are finite.
    fn update(
        &mut self,
        index: usize,
        learning: &mut QLearning<'_>,
        replay: &ReplayColumns<'_>,
        numbers: &mut dyn SharedNumbers,
        watch: &mut Watch<'_>,
    ) -> Result<bool, LearnError> {
        self.losses.clear();
        let QLearning {
            update,
            network,
            target,
        } = learning;
        let rate = self.plan.learning_rates[index];
        let finite = network.update(rate, |trained| {
            self.descend((update, target), replay, trained, numbers, watch)?;
            Ok(self.losses.iter().all(|loss| loss.is_finite()))
        })?;
        if !finite {
            self.done.nonfinite_losses = std::mem::take(&mut self.losses);
            return Ok(false);
        }
        std::mem::swap(&mut self.done.losses, &mut self.losses);
        self.done.updates += 1;
        self.is_actor_current = false;
        Ok(true)
    }

    fn descend(
        &mut self,
        (update, target): (&mut QUpdate, &[f32]),
        replay: &ReplayColumns<'_>,
        trained: &mut Trained<'_>,
        numbers: &mut dyn SharedNumbers,
        watch: &mut Watch<'_>,
    ) -> Result<(), LearnError> {
        let settings = QSettings {
            max_grad_norm: self.plan.max_grad_norm,
        };
        for _ in 0..self.plan.gradient_steps {
            watch.check()?;
            self.batch.sample(replay, &self.source, numbers)?;
            let observations = self.batch.observations();
            let batch = self.batch.transitions(&observations);
            let loss = update.step(&batch, &settings, target, trained)?;
            self.losses.push(loss);
        }
        Ok(())
    }
}
