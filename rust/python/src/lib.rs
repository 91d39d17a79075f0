//! Python bindings of `mlx-baselines3-core`: each function converts its arguments, releases the GIL, calls
//! the core and wraps the result.

mod actor;
mod args;
mod blas;
mod buffers;
mod collect;
mod error;
mod evaluate;
mod extractor;
mod ffi;
mod learn;
mod recurrent;
mod replay;
mod signals;
mod snapshot;
mod terminal;
mod threads;
mod trained;
mod update;
mod vec_env;

use pyo3::prelude::*;

/// The native half of `mlx_baselines3`.
#[pymodule(gil_used = true)]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    actor::register(m)?;
    blas::register(m)?;
    buffers::register(m)?;
    collect::register(m)?;
    evaluate::register(m)?;
    learn::register(m)?;
    threads::register(m)?;
    recurrent::register(m)?;
    update::register(m)?;
    replay::register(m)?;
    snapshot::register(m)?;
    terminal::register(m)?;
    vec_env::register(m)
}
