//! Learning: collection and gradient steps in turn, many iterations in one call.
//!
//! An iteration is what `learn()` repeats: so many steps of the environments, then so many gradient
//! steps. Everything comes out as if Python had made each of them: the same numbers of the same
//! generators in the same order.

mod batches;
mod on_policy;
mod q_learning;
mod vector;

use std::ops::Range;

use thiserror::Error;

use crate::actor::ActorError;
use crate::advantage::AdvantageError;
use crate::collect::CollectError;
use crate::interrupt::Interrupted;
use crate::memory::OutOfMemory;
use crate::nn::NnError;
use crate::update::UpdateError;

pub use batches::MultiStep;
pub use on_policy::{
    LearnedRollouts, OnPolicyLearning, OnPolicyPlan, RolloutMemory, learn_on_policy,
};
pub use q_learning::{LearnedChunk, QLearning, QPlan, learn_q};
pub use vector::LearnedVector;

/// What can go wrong in a chunk of iterations.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum LearnError {
    /// Collecting.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// The policy or the values.
    #[error(transparent)]
    Actor(#[from] ActorError),
    /// The advantages.
    #[error(transparent)]
    Advantage(#[from] AdvantageError),
    /// A gradient step.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// The networks that act and learn do not fit each other.
    #[error(transparent)]
    Network(#[from] NnError),
    /// Batches that there is no memory for.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// It was stopped from outside.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A number that makes no sense.
    #[error("{what} is {got}, expected {expected}")]
    Setting {
        /// Which one.
        what: &'static str,
        /// Its value.
        got: usize,
        /// What it should be.
        expected: &'static str,
    },
}

/// NumPy's global generator. Others draw from it, too: each number is drawn when it is needed and not before.
pub trait SharedNumbers {
    /// For each of `rates`, whether the next of `np.random.rand` is below it (or one of them is nan).
    ///
    /// # Errors
    /// [`Interrupted`] if nothing can be drawn any more.
    fn are_below(&mut self, rates: &[f64], below: &mut [bool]) -> Result<(), Interrupted>;

    /// Fills one array after the other as `np.random.randint` would from its range.
    ///
    /// # Errors
    /// [`Interrupted`] if nothing can be drawn any more.
    fn draw_ints(&mut self, arrays: [(Range<usize>, &mut [usize]); 2]) -> Result<(), Interrupted>;

    /// Exchanges the rows as `np.random.permutation` does: each, from the last one on, with one of those
    /// before it or itself.
    ///
    /// # Errors
    /// [`Interrupted`] if nothing can be drawn any more.
    fn shuffle(&mut self, rows: &mut [u32]) -> Result<(), Interrupted>;
}
