//! Work without the GIL that Ctrl-C can stop.

use mlx_baselines3_core::interrupt::Watch;
use pyo3::prelude::*;

use crate::error::{Failure, py_err};

/// Runs `work` without the GIL. While it asks its [`Watch`], Python's signal handlers run; what they
/// raise is the second answer, and stops the work. In a thread that is not the main one there are none.
pub(crate) fn watched<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&mut Watch<'_>) -> T + Send,
) -> (T, Option<PyErr>) {
    py.detach(|| {
        let mut raised = None;
        let mut ask = || {
            // None while the interpreter ends, when no handler can run.
            let answer = Python::try_attach(|py| py.check_signals());
            raised = answer.and_then(Result::err);
            raised.is_some()
        };
        let outcome = work(&mut Watch::new(&mut ask));
        (outcome, raised)
    })
}

/// The same for work that is of no use when it was stopped.
pub(crate) fn watched_whole<T: Send, E: Failure + Send>(
    py: Python<'_>,
    work: impl FnOnce(&mut Watch<'_>) -> Result<T, E> + Send,
) -> PyResult<T> {
    match watched(py, work) {
        (_, Some(raised)) => Err(raised),
        (outcome, None) => outcome.map_err(py_err),
    }
}
