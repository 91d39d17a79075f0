//! Fused collection: actor, environments and buffer, step after step, without leaving Rust.
//!
//! A call collects a chunk of steps: [`collect_rollout`] for on-policy algorithms, [`collect_transitions`]
//! for off-policy ones.

mod rollout;
mod transitions;

use thiserror::Error;

use crate::actor::{Actor, ActorError};
use crate::env::{ActionSpace, EnvError};
use crate::interrupt::Interrupted;
use crate::vec_env::VectorEnv;

pub use rollout::{CollectedRollout, CurrentObs, FinishedEpisode, RolloutColumns, collect_rollout};
pub use transitions::{
    ActionPlan, CollectedTransitions, LastStep, NextObs, RandomActions, ReplayColumns,
    collect_transitions,
};

/// What can go wrong in a chunk.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum CollectError {
    /// The policy.
    #[error(transparent)]
    Actor(#[from] ActorError),
    /// The environments.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// It was stopped from outside.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A column or a row of bounds of the wrong length.
    #[error("{what} holds {got} numbers, expected {expected}")]
    Column {
        /// Which one.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The right length.
        expected: usize,
    },
    /// A policy for other environments.
    #[error("the policy takes {got} numbers per observation, {id} gives {expected}")]
    Observation {
        /// The environment's id.
        id: &'static str,
        /// What the policy takes.
        got: usize,
        /// What the environment gives.
        expected: usize,
    },
    /// Actions of another kind or number than the environments take.
    #[error("the policy's actions are not those that {id} takes")]
    Action {
        /// The environment's id.
        id: &'static str,
    },
}

/// Lowest and highest action of a continuous space; not read for discrete ones.
#[derive(Debug, Clone, Copy)]
pub struct ActionBounds<'a> {
    /// The lowest.
    pub low: &'a [f32],
    /// The highest.
    pub high: &'a [f32],
}

/// A column of actions, step after step.
#[derive(Debug)]
pub enum ActionColumn<'a> {
    /// Discrete actions.
    Ints(&'a mut [i64]),
    /// Continuous actions.
    Floats(&'a mut [f32]),
}

impl ActionColumn<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Ints(column) => column.len(),
            Self::Floats(column) => column.len(),
        }
    }
}

fn check(what: &'static str, got: usize, expected: usize) -> Result<(), CollectError> {
    if got == expected {
        return Ok(());
    }
    Err(CollectError::Column {
        what,
        got,
        expected,
    })
}

/// Checks that the policy fits these environments and this column; returns the numbers of one action.
fn check_policy(
    envs: &dyn VectorEnv,
    actor: &Actor,
    actions: &ActionColumn<'_>,
    bounds: ActionBounds<'_>,
) -> Result<usize, CollectError> {
    let spec = envs.spec();
    if actor.obs_dim() != spec.obs_dim {
        return Err(CollectError::Observation {
            id: spec.id,
            got: actor.obs_dim(),
            expected: spec.obs_dim,
        });
    }
    let (width, fits) = match (spec.action, actions) {
        (ActionSpace::Discrete(n), ActionColumn::Ints(_)) => {
            (1, actor.head().is_discrete() && actor.options() as i64 <= n)
        }
        (ActionSpace::Box(width), ActionColumn::Floats(_)) => (width, !actor.head().is_discrete()),
        _ => (1, false),
    };
    if !fits || actor.action_dim() != width {
        return Err(CollectError::Action { id: spec.id });
    }
    if let ActionSpace::Box(width) = spec.action {
        check("the lower bounds", bounds.low.len(), width)?;
        check("the upper bounds", bounds.high.len(), width)?;
    }
    Ok(width)
}
