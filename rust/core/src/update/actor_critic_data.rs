//! What goes into a gradient step of an actor and critics, and what comes out.

use std::ops::Range;

use super::pieces::WithGradient;
use super::{Trained, one_or_each};
use crate::nn::Tape;

/// How the actor's outputs become actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorKind {
    /// They are the actions (TD3, DDPG). A slow copy of the actor chooses in the targets.
    Deterministic,
    /// Means and logarithms of deviations of normal distributions, whose draws go through tanh (SAC).
    Squashed,
}

/// Transitions, row after row.
#[derive(Debug, Clone, Copy)]
pub struct ActorCriticBatch<'a> {
    /// Observations.
    pub observations: &'a [f32],
    /// Observations after the action.
    pub next_observations: &'a [f32],
    /// Actions.
    pub actions: &'a [f32],
    /// Rewards.
    pub rewards: &'a [f32],
    /// 1 where the episode ended.
    pub dones: &'a [f32],
    /// Discount factor of each row, or one for all.
    pub discounts: &'a [f32],
    /// Standard normals for the actions at the observations; empty if the actor is deterministic.
    pub noise: &'a [f32],
    /// The same for the actions at the next observations.
    pub next_noise: &'a [f32],
}

/// The numbers of the objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActorCriticSettings {
    /// How far slow copies follow.
    pub tau: f32,
    /// Deviation of the noise that smooths the target, and its bound (deterministic).
    pub smoothing: [f32; 2],
    /// Weight of the entropy, where it is not learned (squashed).
    pub ent_coef: f32,
    /// The entropy wanted, where the weight is learned.
    pub target_entropy: f32,
    /// Whether the actor learns in this step.
    pub actor_learns: bool,
    /// Whether slow copies follow in this step.
    pub copies_follow: bool,
}

/// Everything that a step changes.
#[derive(Debug)]
pub struct ActorCriticState<'a> {
    /// The actor.
    pub actor: Trained<'a>,
    /// All critics.
    pub critic: Trained<'a>,
    /// The actor's slow copy, empty if it has none.
    pub actor_target: &'a mut [f32],
    /// The slow copy of all critics.
    pub critic_target: &'a mut [f32],
    /// The logarithm of the entropy's weight, where it is learned.
    pub entropy: Option<Trained<'a>>,
}

/// What a step gives; nan where there is no such number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActorCriticMetrics {
    /// The loss of the critics.
    pub critic_loss: f64,
    /// The loss of the actor, if it learned.
    pub actor_loss: f64,
    /// The weight of the entropy.
    pub ent_coef: f64,
    /// Its loss, if it is learned.
    pub ent_coef_loss: f64,
}

/// Rows of a batch.
pub(super) struct Rows<'a> {
    pub(super) batch: &'a ActorCriticBatch<'a>,
    pub(super) rows: Range<usize>,
    pub(super) obs_dim: usize,
    pub(super) action_dim: usize,
}

impl ActorCriticBatch<'_> {
    pub(super) fn discount(&self, row: usize) -> f32 {
        one_or_each(self.discounts, row)
    }
}

impl<'a> Rows<'a> {
    fn of(&self, numbers: &'a [f32], width: usize) -> &'a [f32] {
        &numbers[self.rows.start * width..self.rows.end * width]
    }

    pub(super) fn observations(&self) -> &'a [f32] {
        self.of(self.batch.observations, self.obs_dim)
    }

    pub(super) fn next_observations(&self) -> &'a [f32] {
        self.of(self.batch.next_observations, self.obs_dim)
    }

    pub(super) fn actions(&self, numbers: &'a [f32]) -> &'a [f32] {
        self.of(numbers, self.action_dim)
    }
}

/// Observations and actions side by side.
pub(super) fn pair(
    pairs: &mut Vec<f32>,
    observations: &[f32],
    actions: &[f32],
    widths: [usize; 2],
) {
    pairs.clear();
    let rows = observations.chunks_exact(widths[0]);
    for (observation, action) in rows.zip(actions.chunks_exact(widths[1])) {
        pairs.extend_from_slice(observation);
        pairs.extend_from_slice(action);
    }
}

/// The memory for some rows of a batch, and what they give.
#[derive(Debug, Clone, Default)]
pub(super) struct Piece {
    pub(super) actor: Tape,
    pub(super) critics: Vec<Tape>,
    pub(super) actions: Vec<f32>,
    pub(super) log_probs: Vec<f32>,
    pub(super) pairs: Vec<f32>,
    pub(super) goals: Vec<f32>,
    pub(super) by_values: Vec<f32>,
    pub(super) by_actions: Vec<f32>,
    pub(super) by_outputs: Vec<f32>,
    pub(super) gradient: Vec<f32>,
    pub(super) loss: f64,
    pub(super) log_prob_sum: f64,
}

impl WithGradient for Piece {
    fn gradient(&mut self) -> &mut Vec<f32> {
        &mut self.gradient
    }
}

/// The smaller of both, nan if one is.
pub(super) fn smaller(a: f32, b: f32) -> f32 {
    if b < a || b.is_nan() { b } else { a }
}
