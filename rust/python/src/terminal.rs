//! The observations that a memory-saving replay buffer keeps apart from its rows.

use mlx_baselines3_core::buffer::terminal::TerminalObs as CoreTerminalObs;
use mlx_baselines3_macros::guarded;
use numpy::{PyArray1, PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::PyIndexError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::args::{Cursor, apart, place};
use crate::error::{bad, py_err};

/// Indices of transitions, and the bytes that followed each.
type Arrays<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<u8>>);

fn indices(array: &PyReadonlyArray1<'_, i64>) -> PyResult<Vec<usize>> {
    let indices = array
        .as_slice()?
        .iter()
        .map(|&index| usize::try_from(index));
    indices
        .collect::<Result<_, _>>()
        .map_err(|_| PyIndexError::new_err("the index of a transition is negative"))
}

/// Next observations that the next row of a replay buffer does not hold.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct TerminalObs {
    pub(crate) core: CoreTerminalObs,
}

#[guarded]
#[pymethods]
impl TerminalObs {
    /// Empty, or with what `export` gave.
    #[new]
    #[pyo3(signature = (transitions=None, observations=None))]
    fn new(
        transitions: Option<PyReadonlyArray1<'_, i64>>,
        observations: Option<PyReadonlyArray1<'_, u8>>,
    ) -> PyResult<Self> {
        let transitions = transitions.as_ref().map(indices).transpose()?;
        let bytes = observations
            .as_ref()
            .map(|bytes| bytes.as_slice())
            .transpose()?;
        let (transitions, bytes) = (transitions.unwrap_or_default(), bytes.unwrap_or_default());
        let core = CoreTerminalObs::import(&transitions, bytes).map_err(py_err)?;
        Ok(Self { core })
    }

    /// To be called before the bytes `seen` of `n_envs` observations are written at the cursor of `column`.
    fn before_write(
        &mut self,
        cursor: Cursor,
        column: PyReadonlyArray1<'_, u8>,
        seen: PyReadonlyArray1<'_, u8>,
        n_envs: usize,
    ) -> PyResult<()> {
        let ring = cursor.ring()?;
        self.core
            .before_write(&ring, column.as_slice()?, seen.as_slice()?, n_envs)
            .map_err(py_err)
    }

    /// Puts what is kept in its place among the bytes of gathered next observations.
    fn patch(
        &self,
        transitions: PyReadonlyArray1<'_, i64>,
        mut gathered: PyReadwriteArray1<'_, u8>,
    ) -> PyResult<()> {
        apart(&[place(&gathered)], &[place(&transitions)])?;
        self.core
            .patch(&indices(&transitions)?, gathered.as_slice_mut()?)
            .map_err(py_err)
    }

    /// Forgets all.
    fn clear(&mut self) -> PyResult<()> {
        self.core.clear();
        Ok(())
    }

    fn __len__(&self) -> PyResult<usize> {
        Ok(self.core.len())
    }

    /// Indices `row * n_envs + env` of the transitions, rising, and the bytes that followed each.
    fn export<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (transitions, observations) = self.arrays(py)?;
        let arrays = PyDict::new(py);
        arrays.set_item(intern!(py, "transitions"), transitions)?;
        arrays.set_item(intern!(py, "observations"), observations)?;
        Ok(arrays)
    }

    /// Pickles and copies hold everything.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let parts = slf
            .try_borrow()?
            .arrays(slf.py())?
            .into_pyobject(slf.py())?;
        Ok((slf.get_type().into_any(), parts.into_any()))
    }
}

impl TerminalObs {
    fn arrays<'py>(&self, py: Python<'py>) -> PyResult<Arrays<'py>> {
        let (transitions, bytes) = self.core.export();
        let transitions: Result<Vec<i64>, _> = transitions.into_iter().map(i64::try_from).collect();
        let transitions = transitions.map_err(bad)?;
        Ok((
            PyArray1::from_vec(py, transitions),
            PyArray1::from_vec(py, bytes),
        ))
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<TerminalObs>()
}
