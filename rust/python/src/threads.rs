//! How many threads the core may use, as Python sees it.

use mlx_baselines3_core::threads;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Fails where the environment variable holds no number, so that nothing is made with a wrong one.
pub(crate) fn check() -> PyResult<usize> {
    threads::count().map_err(|error| PyValueError::new_err(error.to_string()))
}

/// The number of threads that work at most.
#[pyfunction]
fn threads_count() -> PyResult<usize> {
    check()
}

/// Sets the number of threads; None asks the environment variable again.
#[pyfunction]
#[pyo3(signature = (count))]
fn set_threads(count: Option<usize>) -> PyResult<()> {
    if count == Some(0) {
        return Err(PyValueError::new_err("got 0 threads, expected at least 1"));
    }
    threads::set(count);
    Ok(())
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(threads_count, m)?)?;
    m.add_function(wrap_pyfunction!(set_threads, m)?)
}
