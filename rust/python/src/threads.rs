//! How many threads the core may use.

use mlx_baselines3_core::threads;
use mlx_baselines3_macros::guarded;
use pyo3::prelude::*;

use crate::error::{bad, py_err};

/// Fails where the environment variable holds no number, so that nothing is made with a wrong one.
pub(crate) fn check() -> PyResult<usize> {
    threads::count().map_err(py_err)
}

/// The number of threads that work at most.
#[guarded]
#[pyfunction]
fn threads_count() -> PyResult<usize> {
    check()
}

/// Sets the number of threads; None asks the environment variable again.
#[guarded]
#[pyfunction]
#[pyo3(signature = (count))]
fn set_threads(count: Option<usize>) -> PyResult<()> {
    if let Some(count) = count
        && !(1..=threads::MOST).contains(&count)
    {
        let most = threads::MOST;
        return Err(bad(format!(
            "got {count} threads, expected from 1 to {most}"
        )));
    }
    threads::set(count);
    Ok(())
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(threads_count, m)?)?;
    m.add_function(wrap_pyfunction!(set_threads, m)?)
}
