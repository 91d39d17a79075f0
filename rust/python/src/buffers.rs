//! Storage of the rollout and replay buffers, advantages and row moves.

use mlx_baselines3_core::advantage::{Trajectory, gae as core_gae};
use mlx_baselines3_core::buffer::layout::Layout;
use mlx_baselines3_core::buffer::rows::{self, RowError};
use mlx_baselines3_core::memory;
use mlx_baselines3_macros::guarded;
use numpy::{
    PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArrayDyn, PyReadwriteArray1,
    PyReadwriteArrayDyn,
};
use pyo3::exceptions::{PyIndexError, PyKeyError, PyMemoryError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::args::{Cursor, Many, apart, place};
use crate::error::{bad, py_err};
use crate::ffi::block::Block;
use crate::ffi::new_array::NewArray;
use crate::signals::{watched, watched_whole};

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Storage>()?;
    m.add_function(wrap_pyfunction!(gae, m)?)?;
    m.add_function(wrap_pyfunction!(flatten_env_major, m)?)?;
    m.add_function(wrap_pyfunction!(gather, m)?)?;
    m.add_function(wrap_pyfunction!(n_step_spans, m)?)
}

/// Zeroed columns in one block of memory owned by Rust; `column` gives NumPy's view of each.
#[pyclass(frozen, module = "mlx_baselines3._native")]
struct Storage {
    block: Block,
    layout: Layout,
    names: Vec<String>,
    rows: usize,
}

impl Storage {
    fn range(&self, name: &str) -> PyResult<std::ops::Range<usize>> {
        let index = self.names.iter().position(|known| known == name);
        index
            .and_then(|index| self.layout.column(index))
            .ok_or_else(|| {
                PyKeyError::new_err(format!("no column {name:?}, there are {:?}", self.names))
            })
    }
}

#[guarded]
#[pymethods]
impl Storage {
    /// `columns` has the bytes of a row, by name.
    #[new]
    fn new(rows: usize, columns: &Bound<'_, PyDict>) -> PyResult<Self> {
        let (mut names, mut widths) = (Vec::new(), Vec::new());
        for (name, width) in columns {
            names.push(name.extract()?);
            widths.push(width.extract()?);
        }
        let layout = Layout::new(rows, &widths).map_err(py_err)?;
        let block = Block::zeroed(layout.bytes()).ok_or_else(|| {
            PyMemoryError::new_err(format!("{} bytes cannot be allocated", layout.bytes()))
        })?;
        Ok(Self {
            block,
            layout,
            names,
            rows,
        })
    }

    /// The bytes of a column, shared with this object.
    fn column<'py>(slf: &Bound<'py, Self>, name: &str) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let this = slf.get();
        let range = this.range(name)?;
        Ok(this.block.view(slf.clone().into_any(), range))
    }

    /// Where a column starts, to compare with `array.ctypes.data`.
    fn address(&self, name: &str) -> PyResult<usize> {
        Ok(self.block.address() + self.range(name)?.start)
    }

    /// What Rust sees in one row of a column.
    fn row<'py>(&self, py: Python<'py>, name: &str, row: usize) -> PyResult<Bound<'py, PyBytes>> {
        let range = self.range(name)?;
        if row >= self.rows {
            let rows = self.rows;
            return Err(PyIndexError::new_err(format!(
                "row {row} of a column with {rows} rows"
            )));
        }
        let width = range.len() / self.rows;
        let start = range.start + row * width;
        PyBytes::new_with(py, width, |bytes| {
            self.block.read(py, start..start + width, bytes);
            Ok(())
        })
    }

    /// Size of the block in bytes.
    #[getter]
    fn nbytes(&self) -> PyResult<usize> {
        Ok(self.layout.bytes())
    }
}

fn slice<'a>(array: &'a PyReadonlyArrayDyn<'_, f32>, name: &str) -> PyResult<&'a [f32]> {
    array
        .as_slice()
        .map_err(|_| bad(format!("{name} is not C-contiguous")))
}

/// GAE(lambda) in place over `(n_steps, n_envs)` float32 columns.
#[guarded]
#[pyfunction]
#[pyo3(signature = (*, rewards, values, episode_starts, last_values, dones, gamma, gae_lambda, advantages, returns))]
#[allow(clippy::too_many_arguments)] // a keyword for each column is the clearest interface
fn gae(
    py: Python<'_>,
    rewards: PyReadonlyArrayDyn<'_, f32>,
    values: PyReadonlyArrayDyn<'_, f32>,
    episode_starts: PyReadonlyArrayDyn<'_, f32>,
    last_values: PyReadonlyArrayDyn<'_, f32>,
    dones: PyReadonlyArrayDyn<'_, f32>,
    gamma: f64,
    gae_lambda: f64,
    mut advantages: PyReadwriteArrayDyn<'_, f32>,
    mut returns: PyReadwriteArrayDyn<'_, f32>,
) -> PyResult<()> {
    let read = [&rewards, &values, &episode_starts, &last_values, &dones].map(|array| place(array));
    apart(&[place(&advantages), place(&returns)], &read)?;
    let seen = Trajectory {
        rewards: slice(&rewards, "rewards")?,
        values: slice(&values, "values")?,
        episode_starts: slice(&episode_starts, "episode_starts")?,
        last_values: slice(&last_values, "last_values")?,
        dones: slice(&dones, "dones")?,
    };
    let advantages = advantages.as_slice_mut().map_err(bad)?;
    let returns = returns.as_slice_mut().map_err(bad)?;
    watched_whole(py, |watch| {
        core_gae(&seen, gamma, gae_lambda, advantages, returns, watch)
    })
}

/// Copies the bytes of `(n_steps, n_envs)` rows into `(n_envs, n_steps)` order.
#[guarded]
#[pyfunction]
fn flatten_env_major(
    py: Python<'_>,
    source: PyReadonlyArray1<'_, u8>,
    mut target: PyReadwriteArray1<'_, u8>,
    n_steps: usize,
    n_envs: usize,
) -> PyResult<()> {
    apart(&[place(&target)], &[place(&source)])?;
    let from = source.as_slice()?;
    let to = target.as_slice_mut()?;
    let width = from
        .len()
        .checked_div(n_steps.saturating_mul(n_envs))
        .unwrap_or(0);
    py.detach(|| rows::flatten_env_major(from, to, n_steps, n_envs, width))
        .map_err(py_err)
}

/// Copies the bytes of the rows named by `indices` from each source to its target.
#[guarded]
#[pyfunction]
fn gather(
    py: Python<'_>,
    sources: Many<PyReadonlyArray1<'_, u8>>,
    targets: Many<PyReadwriteArray1<'_, u8>>,
    indices: PyReadonlyArray1<'_, i64>,
) -> PyResult<()> {
    let (Many(sources), Many(mut targets)) = (sources, targets);
    if sources.len() != targets.len() {
        let (from, to) = (sources.len(), targets.len());
        return Err(bad(format!("got {from} sources and {to} targets")));
    }
    let written: Vec<_> = targets.iter().map(|to| place(to)).collect();
    let mut read = vec![place(&indices)];
    read.extend(sources.iter().map(|from| place(from)));
    apart(&written, &read)?;
    let indices = rows_of(indices.as_slice()?)?;
    let mut slices = Vec::with_capacity(sources.len());
    for (from, to) in sources.iter().zip(&mut targets) {
        slices.push((from.as_slice()?, to.as_slice_mut()?));
    }
    let (outcome, raised) = watched(py, |watch| {
        slices.into_iter().try_for_each(|(from, to)| {
            let width = to.len().checked_div(indices.len()).unwrap_or(0);
            rows::gather_watched(from, to, width, &indices, watch)
        })
    });
    match raised {
        Some(raised) => Err(raised),
        None => outcome.map_err(|error| PyIndexError::new_err(error.to_string())),
    }
}

/// The row numbers as Rust counts.
fn rows_of(indices: &[i64]) -> PyResult<Vec<usize>> {
    let mut rows = memory::with_capacity(indices.len()).map_err(py_err)?;
    for &row in indices {
        let row = usize::try_from(row);
        rows.push(row.map_err(|_| PyIndexError::new_err("a row index is negative"))?);
    }
    Ok(rows)
}

/// How many steps each n-step return sums, from row `steps[i]` of environment `envs[i]` on.
#[guarded]
#[pyfunction]
fn n_step_spans<'py>(
    py: Python<'py>,
    dones: PyReadonlyArray2<'py, f32>,
    timeouts: PyReadonlyArray2<'py, f32>,
    cursor: Cursor,
    n_steps: usize,
    steps: PyReadonlyArray1<'py, i64>,
    envs: PyReadonlyArray1<'py, i64>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let (dones, timeouts) = (dones.as_array(), timeouts.as_array());
    if dones.dim() != timeouts.dim() || steps.len()? != envs.len()? {
        return Err(bad(
            "dones and timeouts, or steps and envs, differ in shape",
        ));
    }
    let ring = cursor.ring()?;
    if ring.capacity() != dones.nrows() {
        let (rows, capacity) = (dones.nrows(), ring.capacity());
        return Err(bad(format!(
            "{rows} rows of dones for a cursor of {capacity}"
        )));
    }
    let (steps, envs) = (steps.as_slice()?, envs.as_slice()?);
    let span = |(&step, &env): (&i64, &i64)| {
        let row = usize::try_from(step).ok()?;
        let env = usize::try_from(env)
            .ok()
            .filter(|&env| env < dones.ncols())?;
        i64::try_from(ring.span(row, n_steps, |row| {
            dones[(row, env)] != 0.0 || timeouts[(row, env)] != 0.0
        })?)
        .ok()
    };
    let mut spans = NewArray::zeros(py, [steps.len()])?;
    let to = spans.as_mut_slice();
    let all_known = watched_whole(py, |watch| {
        for (to, from) in to.iter_mut().zip(steps.iter().zip(envs)) {
            watch.check()?;
            match span(from) {
                Some(span) => *to = span,
                None => return Ok(false),
            }
        }
        Ok::<_, RowError>(true)
    })?;
    if !all_known {
        return Err(PyIndexError::new_err("a row holds no transition"));
    }
    Ok(spans.finish())
}
