//! What stretches of steps have in common, whichever buffer they fill.

use thiserror::Error;

use crate::actor::{Actor, ActorError};
use crate::env::{ActionSpace, EnvError};
use crate::interrupt::Interrupted;
use crate::vec_env::VectorEnv;

/// What can go wrong in a stretch.
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

/// A column of actions, step after step.
#[derive(Debug)]
pub enum ActionColumn<'a> {
    /// Choices.
    Ints(&'a mut [i64]),
    /// Numbers.
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

pub(crate) fn check(what: &'static str, got: usize, expected: usize) -> Result<(), CollectError> {
    if got == expected {
        return Ok(());
    }
    Err(CollectError::Column {
        what,
        got,
        expected,
    })
}

/// Whether the policy is one for these environments and this column; the numbers of one action.
pub(crate) fn check_policy(
    envs: &dyn VectorEnv,
    actor: &Actor,
    actions: &ActionColumn<'_>,
    bounds: (&[f32], &[f32]),
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
        (ActionSpace::Discrete(n), ActionColumn::Ints(_)) => (
            1,
            actor.head().is_discrete() && actor.net().outputs() as i64 <= n,
        ),
        (ActionSpace::Box(width), ActionColumn::Floats(_)) => (width, !actor.head().is_discrete()),
        _ => (1, false),
    };
    if !fits || actor.action_dim() != width {
        return Err(CollectError::Action { id: spec.id });
    }
    if let ActionSpace::Box(width) = spec.action {
        check("the lower bounds", bounds.0.len(), width)?;
        check("the upper bounds", bounds.1.len(), width)?;
    }
    Ok(width)
}
