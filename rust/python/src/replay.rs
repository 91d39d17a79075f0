//! The short way into a replay buffer and out of it, for arrays that need no conversion.

use mlx_baselines3_core::buffer::ring::Ring;
use numpy::PyArray1;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};

use crate::ffi::random;
use crate::ffi::replay::{Columns, store, take};
use crate::terminal::TerminalObs;

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(store_step, m)?)?;
    m.add_function(wrap_pyfunction!(take_batch, m)?)?;
    m.add_function(wrap_pyfunction!(randint, m)?)
}

/// The ring that the attributes of a buffer describe.
fn ring_of(buffer: &Bound<'_, PyDict>) -> Option<Ring> {
    let py = buffer.py();
    let capacity = held(buffer, intern!(py, "buffer_size"))?.extract().ok()?;
    let pos = held(buffer, intern!(py, "pos"))?.extract().ok()?;
    let full = held(buffer, intern!(py, "full"))?.extract().ok()?;
    Ring::new(capacity, pos, full).ok()
}

fn held<'py>(
    buffer: &Bound<'py, PyDict>,
    name: &Bound<'py, PyString>,
) -> Option<Bound<'py, PyAny>> {
    buffer.get_item(name).ok()?
}

/// The columns that a step is stored in, and what keeps the observations that they lose.
fn columns_of<'py>(buffer: &Bound<'py, PyDict>) -> Option<(Columns<'py>, Bound<'py, PyAny>)> {
    let py = buffer.py();
    let terminal = held(buffer, intern!(py, "_terminal"))?;
    let observations = held(buffer, intern!(py, "observations"))?;
    let after = match terminal.is_none() {
        true => held(buffer, intern!(py, "next_observations"))?,
        false => observations.clone(),
    };
    let handled = held(buffer, intern!(py, "handle_timeout_termination"))?;
    let timeouts = match handled.cast_exact::<PyBool>().ok()?.is_true() {
        true => Some(held(buffer, intern!(py, "timeouts"))?),
        false => None,
    };
    let columns = Columns {
        arrays: [
            observations,
            held(buffer, intern!(py, "actions"))?,
            held(buffer, intern!(py, "rewards"))?,
            held(buffer, intern!(py, "dones"))?,
            after,
        ],
        timeouts,
    };
    Some((columns, terminal))
}

/// Stores one step at the cursor and moves that on, if every array is ready to be copied; changes
/// nothing otherwise.
///
/// `buffer` is the `__dict__` of a replay buffer: Python takes longer to look up the attributes and
/// to hand them over than the step takes to store.
#[pyfunction]
fn store_step(
    buffer: &Bound<'_, PyDict>,
    obs: &Bound<'_, PyAny>,
    next_obs: &Bound<'_, PyAny>,
    action: &Bound<'_, PyAny>,
    reward: &Bound<'_, PyAny>,
    done: &Bound<'_, PyAny>,
    infos: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    let (Some(ring), Some((columns, terminal))) = (ring_of(buffer), columns_of(buffer)) else {
        return Ok(false);
    };
    let mut terminal = match terminal.is_none() {
        true => None,
        false => Some(terminal.cast::<TerminalObs>()?.try_borrow_mut()?),
    };
    let terminal = terminal.as_mut().map(|kept| &mut kept.core);
    let rows = [obs, action, reward, done, next_obs];
    if !store(&columns, rows, infos, &ring, terminal)? {
        return Ok(false);
    }
    let (py, following) = (buffer.py(), ring.after(ring.pos(), 1));
    buffer.set_item(intern!(py, "pos"), following)?;
    if following == 0 {
        buffer.set_item(intern!(py, "full"), true)?;
    }
    Ok(true)
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

/// What `np.random.randint` would draw, or None if only NumPy can.
#[pyfunction]
fn randint(
    py: Python<'_>,
    low: i64,
    high: i64,
    count: usize,
) -> PyResult<Option<Bound<'_, PyArray1<i64>>>> {
    let drawn = random::randint(py, (low, high), count)?;
    Ok(drawn.map(|drawn| PyArray1::from_vec(py, drawn)))
}
