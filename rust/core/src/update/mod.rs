//! Gradient steps of MLPs on the CPU: loss, backward pass, clip, optimizer.
//!
//! At the sizes of classic control an array library spends more time on dispatching operations than
//! on computing them. Here a step is a few products and loops, and as many steps as there are run in
//! one call. `common/training/` decides who learns this way; the losses are those of
//! `losses.py` in each algorithm's folder, and the tests hold the two together.
//!
//! What comes out depends on the batch alone, and not on the number of threads: a batch is cut into
//! the same pieces always, and what the pieces give is added up in their order.

mod actor;
mod actor_critic;
mod actor_critic_data;
mod critic_quantiles;
mod critics;
mod distribution;
mod features;
mod on_policy;
mod optimizer;
mod pieces;
mod q_learning;
mod quantiles;
mod recurrent;
mod squashed;
mod state_noise;
mod transitions;
mod views;

use thiserror::Error;

use crate::interrupt::Interrupted;
use crate::memory::OutOfMemory;
use crate::nn::NnError;
use crate::threads::{RANGE, add_up, each};

pub use actor_critic::ActorCriticUpdate;
pub use actor_critic_data::{
    ActorCriticBatch, ActorCriticMetrics, ActorCriticSettings, ActorCriticSizes, ActorCriticState,
    ActorKind,
};
pub use critic_quantiles::Quantiles;
pub use distribution::Distribution;
pub(crate) use distribution::{forbid, measure_states};
pub use on_policy::{OnPolicyMetrics, OnPolicySettings, OnPolicyUpdate, Rollout};
pub use optimizer::{Moments, Rule, Trained};
pub use q_learning::{QSettings, QUpdate};
pub use recurrent::{CriticInput, Memories, RecurrentUpdate, StoredStates};
pub use state_noise::StateNoise;
pub(crate) use state_noise::variances_of;
pub use transitions::Transitions;

/// What can be wrong with the networks or the data of an update.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UpdateError {
    /// Data of the wrong size.
    #[error("{what} has {got} numbers, expected {expected}")]
    Count {
        /// What it is.
        what: &'static str,
        /// Numbers given.
        got: usize,
        /// Numbers wanted.
        expected: usize,
    },
    /// Networks that do not fit each other.
    #[error("the {what} has {got} {side}, expected {expected}")]
    Width {
        /// The network.
        what: &'static str,
        /// "inputs" or "outputs".
        side: &'static str,
        /// Its number of them.
        got: usize,
        /// The number wanted.
        expected: usize,
    },
    /// Observations of a kind that the networks do not take.
    #[error("expected one array of float observations")]
    Columns,
    /// The layers of a network for inference.
    #[error(transparent)]
    Layers(#[from] NnError),
    /// A batch that there is no memory for.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// The work was stopped from outside.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A row that the data do not have.
    #[error("row {row} of data with {rows} rows")]
    Row {
        /// The row.
        row: usize,
        /// Number of rows.
        rows: usize,
    },
    /// A choice that is none.
    #[error("an action is {action}, expected a choice from 0 to {last}")]
    Choice {
        /// The action, as text: it may be any float.
        action: String,
        /// The last choice.
        last: usize,
    },
}

/// That `what` is of the right size.
pub(crate) fn check(what: &'static str, got: usize, expected: usize) -> Result<(), UpdateError> {
    if got == expected {
        return Ok(());
    }
    Err(UpdateError::Count {
        what,
        got,
        expected,
    })
}

/// The option that a float stands for.
fn choice(action: f32, options: usize) -> Result<usize, UpdateError> {
    let index = action as usize;
    if index < options && index as f32 == action {
        return Ok(index);
    }
    Err(UpdateError::Choice {
        action: action.to_string(),
        last: options.saturating_sub(1),
    })
}

/// The number of a row, where there is one for each or one for all.
fn one_or_each(numbers: &[f32], row: usize) -> f32 {
    numbers[if numbers.len() == 1 { 0 } else { row }]
}

/// Polyak update of a target network.
///
/// # Errors
/// [`UpdateError::Count`] if the two have not as many parameters.
pub fn follow(source: &[f32], target: &mut [f32], tau: f32) -> Result<(), UpdateError> {
    check("the target network", target.len(), source.len())?;
    polyak_update(source, target, tau);
    Ok(())
}

/// Polyak update: `target <- tau * source + (1 - tau) * target`
fn polyak_update(source: &[f32], target: &mut [f32], tau: f32) {
    average(source, target, [tau, 1.0 - tau]);
}

/// `target <- share * source + rest * target`
pub(crate) fn average(source: &[f32], target: &mut [f32], [share, rest]: [f32; 2]) {
    let cost = target.len() / 8;
    let mut ranges: Vec<_> = target.chunks_mut(RANGE).collect();
    each(&mut ranges, cost, |index, target| {
        let source = &source[index * RANGE..];
        pulp::Arch::new().dispatch(|| {
            for (target, &source) in target.iter_mut().zip(source) {
                *target = share * source + rest * *target;
            }
        });
    });
}

/// Whether the sum of all numbers is finite.
pub(crate) fn all_finite(numbers: &[f32]) -> bool {
    // The sum of the squares is a fraction of the work of the sum, and finite unless something is wrong.
    optimizer::sum_of_squares(numbers).is_finite() || numbers.iter().sum::<f32>().is_finite()
}
