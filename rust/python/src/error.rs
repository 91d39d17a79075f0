//! Errors of the core as Python exceptions.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlx_baselines3_core::actor::ActorError;
use mlx_baselines3_core::advantage::AdvantageError;
use mlx_baselines3_core::buffer::layout::TooLarge;
use mlx_baselines3_core::buffer::ring::BadCursor;
use mlx_baselines3_core::buffer::rows::RowError;
use mlx_baselines3_core::buffer::terminal::BadBlock;
use mlx_baselines3_core::collect::CollectError;
use mlx_baselines3_core::env::EnvError;
use mlx_baselines3_core::evaluate::EvaluateError;
use mlx_baselines3_core::learn::LearnError;
use mlx_baselines3_core::memory::OutOfMemory;
use mlx_baselines3_core::nn::{ExtractorError, NnError};
use mlx_baselines3_core::threads::ThreadsError;
use mlx_baselines3_core::update::UpdateError;
use pyo3::exceptions::{
    PyAttributeError, PyIndexError, PyMemoryError, PyRuntimeError, PyValueError,
};
use pyo3::prelude::*;

/// What `work` gives; a panic becomes a `RuntimeError`. `#[guarded]` puts it around every function
/// that Python can call.
pub(crate) fn guard<T>(work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(of_panic(&*panic)))
}

fn of_panic(panic: &(dyn Any + Send)) -> PyErr {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    PyRuntimeError::new_err(format!(
        "internal error of mlx_baselines3, please report it: {}",
        text.unwrap_or("a panic without a message")
    ))
}

/// A `ValueError` with this text.
pub(crate) fn bad(text: impl Display) -> PyErr {
    PyValueError::new_err(text.to_string())
}

/// The Python exception with the same message.
pub(crate) fn py_err(error: impl Failure) -> PyErr {
    error.raised()
}

/// An error of the core.
pub(crate) trait Failure {
    fn raised(self) -> PyErr;
}

macro_rules! value_errors {
    ($($error:ty),*) => {
        $(impl Failure for $error {
            fn raised(self) -> PyErr {
                bad(self)
            }
        })*
    };
}

value_errors!(BadCursor, BadBlock, RowError, ThreadsError);

impl Failure for OutOfMemory {
    fn raised(self) -> PyErr {
        PyMemoryError::new_err(self.to_string())
    }
}

impl Failure for TooLarge {
    fn raised(self) -> PyErr {
        PyMemoryError::new_err(self.to_string())
    }
}

impl Failure for EnvError {
    fn raised(self) -> PyErr {
        let message = self.to_string();
        match self {
            Self::NotReset(_) | Self::NotSeeded(_) => PyRuntimeError::new_err(message),
            Self::Index { .. } => PyIndexError::new_err(message),
            Self::UnknownParam { .. } => PyAttributeError::new_err(message),
            Self::Memory { .. } => PyMemoryError::new_err(message),
            _ => bad(message),
        }
    }
}

impl Failure for NnError {
    fn raised(self) -> PyErr {
        match self {
            Self::Memory(error) => error.raised(),
            other => bad(other),
        }
    }
}

impl Failure for ExtractorError {
    fn raised(self) -> PyErr {
        match self {
            Self::Network(error) => error.raised(),
            other => bad(other),
        }
    }
}

impl Failure for ActorError {
    fn raised(self) -> PyErr {
        match self {
            Self::Network(error) => error.raised(),
            Self::Memory(error) => error.raised(),
            other => bad(other),
        }
    }
}

impl Failure for CollectError {
    fn raised(self) -> PyErr {
        match self {
            Self::Env(error) => error.raised(),
            Self::Actor(error) => error.raised(),
            other => bad(other),
        }
    }
}

impl Failure for EvaluateError {
    fn raised(self) -> PyErr {
        match self {
            Self::Env(error) => error.raised(),
            Self::Actor(error) => error.raised(),
            Self::Network(error) => error.raised(),
            other => bad(other),
        }
    }
}

// What was interrupted has the exception of the signal's handler: see `signals`.
impl Failure for UpdateError {
    fn raised(self) -> PyErr {
        match self {
            Self::Memory(error) => error.raised(),
            Self::Layers(error) => error.raised(),
            other => bad(other),
        }
    }
}

impl Failure for LearnError {
    fn raised(self) -> PyErr {
        match self {
            Self::Collect(error) => error.raised(),
            Self::Actor(error) => error.raised(),
            Self::Advantage(error) => error.raised(),
            Self::Update(error) => error.raised(),
            Self::Network(error) => error.raised(),
            Self::Memory(error) => error.raised(),
            other => bad(other),
        }
    }
}

impl Failure for AdvantageError {
    fn raised(self) -> PyErr {
        match self {
            Self::Memory(error) => error.raised(),
            other => bad(other),
        }
    }
}
