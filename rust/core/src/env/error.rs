//! What can be wrong with a call, in words for the person who made it.

use thiserror::Error;

use crate::memory::OutOfMemory;

/// What can be wrong with a call on a vector of environments.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum EnvError {
    /// No such environment.
    #[error("no native environment is called {id:?}; there are: {known}")]
    UnknownId {
        /// The id that was asked for.
        id: String,
        /// The ids there are.
        known: String,
    },
    /// Zero environments.
    #[error("n_envs is 0, expected at least 1 environment")]
    NoEnvs,
    /// More environments than memory.
    #[error("there is no memory for {n_envs} environments: {source}")]
    Memory {
        /// How many were asked for.
        n_envs: usize,
        /// How much memory it was.
        source: OutOfMemory,
    },
    /// An index past the last environment.
    #[error("environment index {index} is out of range for {n_envs} environment(s)")]
    Index {
        /// The index given.
        index: usize,
        /// How many environments there are.
        n_envs: usize,
    },
    /// Step before reset.
    #[error("environment {0} was stepped before its first reset; call reset() first")]
    NotReset(usize),
    /// Reset without a seed of an environment that never had one.
    #[error("environment {0} has no random generator yet; its first reset needs a seed")]
    NotSeeded(usize),
    /// Not the right number of actions.
    #[error("got {got} action values for {n_envs} environment(s), expected {expected}")]
    ActionCount {
        /// Numbers given.
        got: usize,
        /// How many environments there are.
        n_envs: usize,
        /// Numbers wanted.
        expected: usize,
    },
    /// Integers where floats belong, or the other way round.
    #[error("got {got} actions, expected {expected}")]
    ActionKind {
        /// What was given.
        got: &'static str,
        /// What was wanted.
        expected: &'static str,
    },
    /// A discrete action out of range.
    #[error(
        "action {action} of environment {env} is out of range, expected an integer from 0 to {max}"
    )]
    ActionRange {
        /// The environment.
        env: usize,
        /// Its action.
        action: i64,
        /// The largest valid one.
        max: i64,
    },
    /// A continuous action that is not a finite number.
    #[error("action {action} of environment {env} is not a finite number")]
    ActionNotFinite {
        /// The environment.
        env: usize,
        /// Its action.
        action: f64,
    },
    /// A buffer of the wrong length.
    #[error("the {what} buffer holds {got} values, expected {expected}")]
    Buffer {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The right length.
        expected: usize,
    },
    /// No constant of that name.
    #[error("{id} has no settable constant {name:?}; there are: {known}")]
    UnknownParam {
        /// The environment's id.
        id: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A constant that is not a number.
    #[error("{name} is {value}, expected a number")]
    BadParam {
        /// The constant.
        name: String,
        /// The value given.
        value: f64,
    },
    /// A saved state that does not fit the environment.
    #[error("the saved state of environment {env} has {got} numbers, which {id} cannot take")]
    BadState {
        /// The environment.
        env: usize,
        /// The environment's id.
        id: &'static str,
        /// How many numbers the state has.
        got: usize,
    },
}
