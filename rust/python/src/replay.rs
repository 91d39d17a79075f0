//! The fast path into a replay buffer and out of it, for arrays that need no conversion.

use mlx_baselines3_core::buffer::ring::Ring;
use mlx_baselines3_macros::guarded;
use numpy::PyArray1;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};

use crate::args::Many;
use crate::error::bad;
use crate::ffi::random;
use crate::ffi::replay::{Columns, store, take};
use crate::ffi::sample::Sampling;
use crate::terminal::TerminalObs;

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<SampledBatches>()?;
    m.add_function(wrap_pyfunction!(store_step, m)?)?;
    m.add_function(wrap_pyfunction!(sample_batches, m)?)?;
    m.add_function(wrap_pyfunction!(take_batch, m)?)?;
    m.add_function(wrap_pyfunction!(permutation, m)?)?;
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
#[guarded]
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

/// A column of observations or a dict of them, as columns.
fn parts<'py>(column: &Bound<'py, PyAny>) -> Vec<Bound<'py, PyAny>> {
    match column.cast_exact::<PyDict>() {
        Ok(parts) => parts.iter().map(|(_, part)| part).collect(),
        Err(_) => vec![column.clone()],
    }
}

/// The next of `arrays`, or a dict of them where the column is one: the inverse of [`parts`].
fn joined<'py>(
    column: &Bound<'py, PyAny>,
    arrays: &mut impl Iterator<Item = Bound<'py, PyAny>>,
) -> PyResult<Py<PyAny>> {
    let Ok(parts) = column.cast_exact::<PyDict>() else {
        let array = arrays.next().ok_or_else(|| bad("a column has no array"))?;
        return Ok(array.unbind());
    };
    let field = PyDict::new(column.py());
    for ((key, _), array) in parts.iter().zip(arrays) {
        field.set_item(key, array)?;
    }
    Ok(field.into_any().unbind())
}

/// Observations, actions and what followed, the last of which may be the first once more.
type Fields<'py> = [Bound<'py, PyAny>; 3];

/// What to sample from the columns that the attributes of a buffer are.
fn sampling_of<'py>(
    buffer: &Bound<'py, PyDict>,
    (n_batches, batch_size, flat): (usize, usize, bool),
) -> Option<(Sampling<'py>, Fields<'py>)> {
    let py = buffer.py();
    let terminal = held(buffer, intern!(py, "_terminal"))?;
    let observations = held(buffer, intern!(py, "observations"))?;
    let actions = held(buffer, intern!(py, "actions"))?;
    let (terminal, after) = match terminal.is_none() {
        true => (None, held(buffer, intern!(py, "next_observations"))?),
        false => (Some(terminal.cast_into().ok()?), observations.clone()),
    };
    let mut now = parts(&observations);
    now.push(actions.clone());
    let sampling = Sampling {
        ring: ring_of(buffer)?,
        n_envs: held(buffer, intern!(py, "n_envs"))?.extract().ok()?,
        now,
        next: parts(&after),
        terminal,
        dones: held(buffer, intern!(py, "dones"))?,
        timeouts: held(buffer, intern!(py, "timeouts"))?,
        rewards: held(buffer, intern!(py, "rewards"))?,
        n_batches,
        batch_size,
        flat,
    };
    Some((sampling, [observations, actions, after]))
}

/// Batches of transitions, as they are stored.
#[pyclass(frozen, get_all, module = "mlx_baselines3._native")]
pub(crate) struct SampledBatches {
    observations: Py<PyAny>,
    actions: Py<PyAny>,
    next_observations: Py<PyAny>,
    dones: Py<PyAny>,
    rewards: Py<PyAny>,
}

/// Draws batches from a replay buffer and copies them into new arrays, if all that takes is copies.
/// Draws nothing otherwise.
///
/// `buffer` is the `__dict__` of the buffer, as for `store_step`.
#[guarded]
#[pyfunction]
fn sample_batches(
    buffer: &Bound<'_, PyDict>,
    n_batches: usize,
    batch_size: usize,
    flat: bool,
) -> PyResult<Option<SampledBatches>> {
    let py = buffer.py();
    let size = (n_batches, batch_size, flat);
    let sampled = random::with_numbers(py, |numbers| {
        let (sampling, fields) = sampling_of(buffer, size)?;
        let taken = sampling.sample(numbers)?;
        Some(taken.map(|taken| (taken, fields)))
    })?;
    let Some((taken, fields)) = sampled.flatten().transpose()? else {
        return Ok(None);
    };
    let (mut now, mut next) = (taken.now.into_iter(), taken.next.into_iter());
    let [observations, actions, after] = fields;
    Ok(Some(SampledBatches {
        observations: joined(&observations, &mut now)?,
        actions: joined(&actions, &mut now)?,
        next_observations: joined(&after, &mut next)?,
        dones: taken.ended.unbind(),
        rewards: taken.rewards.unbind(),
    }))
}

/// Copies the transitions `(rows[i], envs[i])` of each column to its target, if every array is ready
/// and the batch is not large.
#[guarded]
#[pyfunction]
fn take_batch(
    columns: Many<Bound<'_, PyAny>>,
    targets: Many<Bound<'_, PyAny>>,
    rows: &Bound<'_, PyAny>,
    envs: &Bound<'_, PyAny>,
    capacity: i64,
    n_envs: i64,
) -> PyResult<bool> {
    let shape = (capacity, n_envs);
    Ok(take(&columns.0, &targets.0, (rows, envs), shape))
}

/// What `np.random.permutation` would draw, or None if only NumPy can.
#[guarded]
#[pyfunction]
fn permutation(py: Python<'_>, count: usize) -> PyResult<Option<Bound<'_, PyArray1<u32>>>> {
    let drawn = random::permutation(py, count)?;
    Ok(drawn.map(|drawn| PyArray1::from_vec(py, drawn)))
}

/// What `np.random.randint` would draw, or None if only NumPy can.
#[guarded]
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
