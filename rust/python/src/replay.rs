//! The short way into a replay buffer and out of it, for arrays that need no conversion.

use mlx_baselines3_core::buffer::ring::Ring;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::ffi::replay::{Step, store, take};
use crate::terminal::TerminalObs;

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(store_step, m)?)?;
    m.add_function(wrap_pyfunction!(take_batch, m)?)
}

/// Stores one step at the cursor, if every array is ready to be copied; changes nothing otherwise.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // a tuple for the cursor takes longer to look into
fn store_step(
    columns: &Bound<'_, PyTuple>,
    rows: &Bound<'_, PyTuple>,
    timeouts: Option<&Bound<'_, PyAny>>,
    infos: &Bound<'_, PyAny>,
    capacity: &Bound<'_, PyAny>,
    pos: &Bound<'_, PyAny>,
    full: &Bound<'_, PyAny>,
    terminal: Option<PyRefMut<'_, TerminalObs>>,
) -> PyResult<bool> {
    let (Ok(capacity), Ok(pos), Ok(full)) = (capacity.extract(), pos.extract(), full.extract())
    else {
        return Ok(false);
    };
    let Ok(ring) = Ring::new(capacity, pos, full) else {
        return Ok(false);
    };
    let step = Step {
        columns,
        rows,
        cuts: timeouts.map(|column| (column, infos)),
    };
    let mut terminal = terminal;
    store(&step, &ring, terminal.as_mut().map(|kept| &mut kept.core))
}

/// Copies the transitions `(rows[i], envs[i])` of each column to its target, if every array is ready
/// and the batch is not large.
#[pyfunction]
fn take_batch(
    columns: Vec<Bound<'_, PyAny>>,
    targets: Vec<Bound<'_, PyAny>>,
    rows: &Bound<'_, PyAny>,
    envs: &Bound<'_, PyAny>,
    capacity: i64,
    n_envs: i64,
) -> bool {
    take(&columns, &targets, (rows, envs), (capacity, n_envs))
}
