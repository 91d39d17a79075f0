//! What goes into a gradient step of an actor and critics, and what comes out.

use super::{StateNoise, Trained, Transitions};

/// How the actor's outputs become actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorKind {
    /// They are the actions (TD3, DDPG). A target network of the actor chooses the target actions.
    Deterministic,
    /// Means and logarithms of the deviations of squashed Gaussians (SAC).
    Squashed,
    /// Means of squashed actions whose noise depends on the state (SAC with gSDE). The noise of a batch is the
    /// standard normals of one exploration matrix.
    StateDependent(StateNoise),
}

impl ActorKind {
    /// Whether actions are random, and a weight of their entropy is part of the objective.
    pub(super) fn is_random(&self) -> bool {
        *self != Self::Deterministic
    }

    /// How many standard normals go with `rows` rows of `action_dim` numbers.
    pub(super) fn noise(&self, rows: usize, action_dim: usize) -> usize {
        match self {
            Self::Deterministic | Self::Squashed => rows * action_dim,
            Self::StateDependent(noise) => noise.features * noise.actions,
        }
    }
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

/// Lengths of the vectors of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActorCriticSizes {
    /// Of the actor.
    pub actor: usize,
    /// Of all critics together.
    pub critic: usize,
}

/// The numbers of the objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActorCriticSettings {
    /// Coefficient of the Polyak update.
    pub tau: f32,
    /// Deviation of the noise on target actions (deterministic).
    pub target_policy_noise: f32,
    /// Bound of that noise.
    pub target_noise_clip: f32,
    /// Weight of the entropy, where it is not learned (squashed).
    pub ent_coef: f32,
    /// The entropy wanted, where the weight is learned.
    pub target_entropy: f32,
    /// Whether the actor is updated in this step.
    pub update_actor: bool,
    /// Whether the target networks are updated in this step.
    pub update_targets: bool,
}

/// Everything that a step changes.
#[derive(Debug)]
pub struct ActorCriticState<'a> {
    /// The actor.
    pub actor: Trained<'a>,
    /// All critics.
    pub critic: Trained<'a>,
    /// The actor's target network, empty if it has none.
    pub actor_target: &'a mut [f32],
    /// The target networks of all critics.
    pub critic_target: &'a mut [f32],
    /// The logarithm of the entropy's weight, where it is learned.
    pub log_ent_coef: Option<Trained<'a>>,
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
