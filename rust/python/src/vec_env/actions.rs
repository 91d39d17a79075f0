//! From what Python calls actions to slices that core can read.

use mlx_baselines3_core::env::{ActionSpace, Actions};
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::bad;
use crate::ffi::plain::copy_numbers;

/// The actions of one step, copied: Python may write into its array while the GIL is released.
#[derive(Debug, Default)]
pub(super) struct ActionBuffer {
    ints: Vec<i64>,
    singles: Vec<f32>,
    doubles: Vec<f64>,
    single: bool,
}

impl ActionBuffer {
    pub(super) fn fill(
        &mut self,
        actions: &Bound<'_, PyAny>,
        space: ActionSpace,
        n_envs: usize,
    ) -> PyResult<()> {
        match space {
            ActionSpace::Discrete(_) => self.fill_ints(actions, n_envs),
            ActionSpace::Box(width) => self.fill_floats(actions, n_envs, width),
        }
    }

    fn fill_ints(&mut self, actions: &Bound<'_, PyAny>, n_envs: usize) -> PyResult<()> {
        if copy_numbers(actions, &[n_envs], &mut self.ints) {
            return Ok(());
        }
        let array = checked(actions, &[n_envs], "bhilqBHILQ", "integers")?;
        let array = array.call_method1("astype", ("int64",))?;
        self.ints = array.cast::<PyArray1<i64>>()?.to_vec()?;
        Ok(())
    }

    fn fill_floats(
        &mut self,
        actions: &Bound<'_, PyAny>,
        n_envs: usize,
        width: usize,
    ) -> PyResult<()> {
        if copy_numbers(actions, &[n_envs, width], &mut self.singles) {
            self.single = true;
            return Ok(());
        }
        let array = checked(
            actions,
            &[n_envs, width],
            "fdbhilqBHILQ",
            "float32 or float64 numbers",
        )?;
        self.single = array.getattr("dtype")?.getattr("char")?.eq("f")?;
        let array = array.call_method0("ravel")?;
        if self.single {
            let array = array.call_method1("astype", ("float32",))?;
            self.singles = array.cast::<PyArray1<f32>>()?.to_vec()?;
        } else {
            let array = array.call_method1("astype", ("float64",))?;
            self.doubles = array.cast::<PyArray1<f64>>()?.to_vec()?;
        }
        Ok(())
    }

    pub(super) fn get(&self, space: ActionSpace) -> Actions<'_> {
        match space {
            ActionSpace::Discrete(_) => Actions::Discrete(&self.ints),
            ActionSpace::Box(_) if self.single => Actions::Single(&self.singles),
            ActionSpace::Box(_) => Actions::Double(&self.doubles),
        }
    }
}

/// `actions` as an array of one of the dtypes (NumPy's letters) and of the shape, or a `ValueError` that says
/// what it is instead.
fn checked<'py>(
    actions: &Bound<'py, PyAny>,
    shape: &[usize],
    dtypes: &str,
    wanted: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let array = actions
        .py()
        .import("numpy")?
        .call_method1("asarray", (actions,))?;
    let dtype = array.getattr("dtype")?;
    let letter: String = dtype.getattr("char")?.extract()?;
    let got: Vec<usize> = array.getattr("shape")?.extract()?;
    if dtypes.contains(&letter) && got == shape {
        return Ok(array);
    }
    let got = array.getattr("shape")?.str()?;
    let shape = PyTuple::new(actions.py(), shape)?.str()?;
    Err(bad(format!(
        "actions {} have dtype {} and shape {got}, expected {wanted} of shape {shape}",
        actions.repr()?,
        dtype.str()?,
    )))
}
