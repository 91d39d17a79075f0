//! What goes into a gradient step of an actor and critics, and what comes out.

use super::{Trained, Transitions};

/// How the actor's outputs become actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorKind {
    /// They are the actions (TD3, DDPG). A slow copy of the actor chooses in the targets.
    Deterministic,
    /// Means and logarithms of deviations of normal distributions, whose draws go through tanh (SAC).
    Squashed,
}

/// Transitions, and the draws of the actor.
#[derive(Debug, Clone, Copy)]
pub struct ActorCriticBatch<'a> {
    /// The transitions.
    pub transitions: Transitions<'a>,
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
