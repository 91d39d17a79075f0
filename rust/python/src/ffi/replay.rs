//! One step into the columns of a replay buffer and a batch out of them, arrays as they come.
//!
//! Both check all arguments before they write anything, and return `false` for whatever is not ready to
//! be copied. They hold the GIL and run no Python code while they use arrays.

use mlx_baselines3_core::buffer::ring::Ring;
use mlx_baselines3_core::buffer::rows::gather;
use mlx_baselines3_core::buffer::terminal::TerminalObs;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::plain::Plain;
use crate::error::py_err;
use crate::vec_env::infos::Infos;
use crate::vec_env::news::truncation_of;

/// Above this many bytes other threads may rather run than wait for a batch.
pub(super) const LARGE: usize = 1 << 20;

/// Where a step goes.
pub(crate) struct Columns<'py> {
    /// Observations (or a dict of them), actions, rewards, dones and next observations.
    pub(crate) arrays: [Bound<'py, PyAny>; 5],
    /// The timeouts, if they count.
    pub(crate) timeouts: Option<Bound<'py, PyAny>>,
}

/// A column and what goes into one of its rows.
type Pair<'a> = (Plain<'a>, Plain<'a>);

/// The pair, if these are arrays that fit.
fn pair<'a>(
    column: &'a Bound<'_, PyAny>,
    row: &'a Bound<'_, PyAny>,
    ring: &Ring,
) -> Option<Pair<'a>> {
    let (column, row) = (column_of(column, ring)?, Plain::of(row)?);
    column.takes(&row).then_some((column, row))
}

fn column_of<'a>(array: &'a Bound<'_, PyAny>, ring: &Ring) -> Option<Plain<'a>> {
    Plain::of(array).filter(|column| column.len() == ring.capacity())
}

type Arrays<'py> = Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>;

/// Every column and its row where observations are dicts, and how many come before the next
/// observations. `None` if they do not match.
fn flattened<'py>(
    columns: &Columns<'py>,
    rows: [&Bound<'py, PyAny>; 5],
) -> Option<(Arrays<'py>, usize)> {
    let matched = |at: usize| {
        let columns = columns.arrays[at].cast_exact::<PyDict>().ok()?;
        let rows = rows[at].cast_exact::<PyDict>().ok()?;
        let row_of = |(key, column)| Some((column, rows.get_item(key).ok()??));
        columns.iter().map(row_of).collect::<Option<Arrays<'_>>>()
    };
    let (mut pairs, next) = (matched(0)?, matched(4)?);
    pairs.extend((1..4).map(|at| (columns.arrays[at].clone(), rows[at].clone())));
    let after = pairs.len();
    pairs.extend(next);
    Some((pairs, after))
}

/// 1 for each info of a truncated episode, 0 for the others. `None` if one has no plain bool there.
fn truncations_of(infos: &Bound<'_, PyAny>) -> Option<Vec<f32>> {
    if let Ok(infos) = infos.cast_exact::<Infos>() {
        return infos.try_borrow().ok()?.truncations(infos.py());
    }
    let infos = infos.cast_exact::<PyList>().ok()?;
    let mut truncations = Vec::with_capacity(infos.len());
    // Asked each time: keys of a user's own class can run code when they are compared.
    while truncations.len() < infos.len() {
        let at = truncations.len();
        // SAFETY: the list has that item, and nothing runs before a reference of our own is taken.
        let info = unsafe {
            let info = ffi::PyList_GetItem(infos.as_ptr(), at.cast_signed());
            if ffi::PyDict_CheckExact(info) != 0 && ffi::PyDict_Size(info) == 0 {
                truncations.push(0.0);
                continue;
            }
            Bound::from_borrowed_ptr(infos.py(), info)
        };
        truncations.push(truncation_of(&info)?);
    }
    Some(truncations)
}

/// Stores a step at the cursor of `ring`. With `terminal`, the last column holds the next
/// observations one row later.
///
/// Returns whether all of it was stored; nothing was if not.
pub(crate) fn store(
    columns: &Columns<'_>,
    rows: [&Bound<'_, PyAny>; 5],
    infos: &Bound<'_, PyAny>,
    ring: &Ring,
    terminal: Option<&mut TerminalObs>,
) -> PyResult<bool> {
    let truncations = match columns.timeouts {
        None => Vec::new(),
        Some(_) => match truncations_of(infos) {
            Some(truncations) => truncations,
            None => return Ok(false),
        },
    };
    let flat = match columns.arrays[0].is_exact_instance_of::<PyDict>() {
        false => None,
        true => match flattened(columns, rows) {
            None => return Ok(false),
            flat => flat,
        },
    };
    // No Python code runs from here on.
    let (ready, after): (Option<Vec<_>>, _) = match &flat {
        Some((pairs, after)) => {
            let pairs = pairs.iter().map(|(column, row)| pair(column, row, ring));
            (pairs.collect(), *after)
        }
        None => {
            let pairs = columns.arrays.iter().zip(rows);
            let pairs = pairs.map(|(column, row)| pair(column, row, ring));
            (pairs.collect(), columns.arrays.len() - 1)
        }
    };
    let timeouts = columns.timeouts.as_ref().map(|column| {
        let column = column_of(column, ring)?;
        column
            .takes_f32(truncations.len())
            .then_some((column, truncations))
    });
    match (ready, timeouts) {
        (None, _) | (_, Some(None)) => Ok(false),
        (Some(ready), timeouts) => write(&ready, after, timeouts.flatten(), ring, terminal),
    }
}

/// The part that cannot fail halfway. The pairs from `after` on are next observations.
fn write(
    ready: &[Pair<'_>],
    after: usize,
    truncations: Option<(Plain<'_>, Vec<f32>)>,
    ring: &Ring,
    terminal: Option<&mut TerminalObs>,
) -> PyResult<bool> {
    let now = ring.pos();
    let next = ring.after(now, usize::from(terminal.is_some()));
    if let (Some(terminal), Some((column, seen))) = (terminal, ready.first()) {
        // SAFETY: core reads them and is done with them before anything is written.
        let (held, new) = unsafe { (column.bytes(), seen.bytes()) };
        terminal
            .before_write(ring, held, new, column.row_len())
            .map_err(py_err)?;
    }
    let (seen, after) = ready.split_at(after);
    seen.iter().for_each(|(column, row)| column.store(now, row));
    if let Some((column, truncations)) = truncations {
        column.store_f32(now, &truncations);
    }
    after
        .iter()
        .for_each(|(column, row)| column.store(next, row));
    Ok(true)
}

/// Where the transitions `(rows[i], envs[i])` are among the `shape.0 * shape.1` of a buffer; rows
/// are counted on past the end. `None` if these are no int64 arrays of one length, or if a
/// transition is before the first.
fn places(rows: &Plain<'_>, envs: &Plain<'_>, shape: (i64, i64)) -> Option<Vec<usize>> {
    // SAFETY: nothing is written before this returns.
    let (rows, envs) = unsafe { (rows.numbers()?, envs.numbers()?) };
    if rows.len() != envs.len() || shape.0 < 1 {
        return None;
    }
    let place = |(&row, &env): (&i64, &i64)| {
        let first = row.rem_euclid(shape.0).checked_mul(shape.1)?;
        usize::try_from(first.checked_add(env)?).ok()
    };
    rows.iter().zip(envs).map(place).collect()
}

/// Copies what each of `columns` holds of the transitions at `rows` and `envs` into the target at
/// the same place of `targets`.
///
/// Returns whether all of it was copied. If not, anything may be in the targets.
pub(crate) fn take(
    columns: &[Bound<'_, PyAny>],
    targets: &[Bound<'_, PyAny>],
    (rows, envs): (&Bound<'_, PyAny>, &Bound<'_, PyAny>),
    shape: (i64, i64),
) -> bool {
    let places = match (Plain::of(rows), Plain::of(envs)) {
        (Some(rows), Some(envs)) => places(&rows, &envs, shape),
        _ => None,
    };
    let Some(places) = places else { return false };
    columns.len() == targets.len()
        && columns.iter().zip(targets).all(|(column, target)| {
            let (Some(column), Some(target)) = (Plain::of(column), Plain::of(target)) else {
                return false;
            };
            if !target.is_like(&column) || target.overlaps(&column) || target.size() > LARGE {
                return false;
            }
            // SAFETY: the two have no byte in common, and nobody else uses them while the GIL is held.
            let (from, to) = unsafe { (column.bytes(), target.bytes_mut()) };
            to.is_some_and(|to| {
                let width = to.len().checked_div(places.len()).unwrap_or(0);
                gather(from, to, width, &places).is_ok()
            })
        })
}
