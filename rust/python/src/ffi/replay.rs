//! One step into the columns of a replay buffer and a batch out of them, arrays as they come.
//!
//! Both look at all that they were given before they write anything, and say `false` of whatever is
//! not ready to be copied. They hold the GIL and run no Python code while they use arrays.

use mlx_baselines3_core::buffer::ring::Ring;
use mlx_baselines3_core::buffer::rows::gather;
use mlx_baselines3_core::buffer::terminal::TerminalObs;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::plain::Plain;
use crate::vec_env::infos::Infos;
use crate::vec_env::news::cut_of;

/// Above this many bytes other threads may rather run than wait for a batch.
const LARGE: usize = 1 << 20;

/// The columns of a step, and what goes into each of them.
pub(crate) struct Step<'a, 'py> {
    /// Observations (or a dict of them), actions, rewards, dones and next observations.
    pub(crate) columns: &'a Bound<'py, PyTuple>,
    /// The arrays that belong there.
    pub(crate) rows: &'a Bound<'py, PyTuple>,
    /// The column of timeouts and the infos that tell them, if they count.
    pub(crate) cuts: Option<(&'a Bound<'py, PyAny>, &'a Bound<'py, PyAny>)>,
}

type Pair<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

/// A column and its row, or those of every key of a dict. `None` if they do not match.
fn push_pairs<'py>(
    column: Bound<'py, PyAny>,
    row: Bound<'py, PyAny>,
    pairs: &mut Vec<Pair<'py>>,
) -> Option<()> {
    let Ok(columns) = column.cast_exact::<PyDict>() else {
        pairs.push((column, row));
        return Some(());
    };
    let rows = row.cast_exact::<PyDict>().ok()?;
    for (key, column) in columns {
        pairs.push((column, rows.get_item(key).ok()??));
    }
    Some(())
}

/// 1 for each info that says that its episode was cut, 0 for the others. `None` if one does not say
/// so in plain words.
fn cuts_of(infos: &Bound<'_, PyAny>) -> Option<Vec<f32>> {
    if let Ok(infos) = infos.cast_exact::<Infos>() {
        return infos.try_borrow().ok()?.cuts(infos.py());
    }
    let infos = infos.cast_exact::<PyList>().ok()?;
    infos.iter().map(|info| cut_of(&info)).collect()
}

/// Stores a step at the cursor of `ring`. With `terminal`, the last column holds the next
/// observations one row later.
///
/// Says whether all of it was stored; nothing was if not.
pub(crate) fn store(
    step: &Step<'_, '_>,
    ring: &Ring,
    terminal: Option<&mut TerminalObs>,
) -> PyResult<bool> {
    let mut pairs = Vec::with_capacity(8);
    let (mut seen, count) = (0, step.columns.len().min(step.rows.len()));
    for at in 0..count {
        seen = pairs.len();
        let (column, row) = (step.columns.get_item(at)?, step.rows.get_item(at)?);
        if push_pairs(column, row, &mut pairs).is_none() {
            return Ok(false);
        }
    }
    let cuts = match step.cuts {
        None => None,
        Some((column, infos)) => match cuts_of(infos) {
            None => return Ok(false),
            Some(cuts) => Some((column, cuts)),
        },
    };
    store_ready(&pairs, seen, cuts, ring, terminal)
}

/// The part that runs no Python code. The pairs from `following` on are next observations.
fn store_ready(
    pairs: &[Pair<'_>],
    following: usize,
    cuts: Option<(&Bound<'_, PyAny>, Vec<f32>)>,
    ring: &Ring,
    terminal: Option<&mut TerminalObs>,
) -> PyResult<bool> {
    let column_of = |array| Plain::of(array).filter(|column| column.len() == ring.capacity());
    let mut ready = Vec::with_capacity(pairs.len());
    for (column, row) in pairs {
        match (column_of(column), Plain::of(row)) {
            (Some(column), Some(row)) if column.takes(&row) => ready.push((column, row)),
            _ => return Ok(false),
        }
    }
    let cuts = match &cuts {
        None => None,
        Some((column, cuts)) => match column_of(column) {
            Some(column) if column.takes_f32(cuts.len()) => Some((column, cuts)),
            _ => return Ok(false),
        },
    };
    let now = ring.pos();
    let next = ring.after(now, usize::from(terminal.is_some()));
    if let (Some(terminal), Some((column, seen))) = (terminal, ready.first()) {
        // SAFETY: core reads them and is done with them before anything is written.
        let (held, new) = unsafe { (column.bytes(), seen.bytes()) };
        terminal
            .before_write(ring, held, new, column.row_len())
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
    }
    let (seen, after) = ready.split_at(following);
    seen.iter().for_each(|(column, row)| column.store(now, row));
    if let Some((column, cuts)) = cuts {
        column.store_f32(now, cuts);
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
    let (rows, envs) = unsafe { (rows.ints()?, envs.ints()?) };
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
/// Says whether all of it was copied. If not, anything may be in the targets.
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
