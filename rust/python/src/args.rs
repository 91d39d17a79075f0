//! Arguments that a caller could make too large, or let overlap.

use std::ops::Range;

use mlx_baselines3_core::buffer::ring::Ring;
use mlx_baselines3_core::memory;
use numpy::ndarray::Dimension;
use numpy::{Element, PyArray, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::Borrowed;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::error::py_err;

/// The items of a sequence. PyO3's own `Vec` believes what the sequence says of its length, and ends the
/// process if there is no memory for as many.
pub(crate) struct Many<T>(pub(crate) Vec<T>);

impl<'py, T: for<'a> FromPyObject<'a, 'py>> FromPyObject<'_, 'py> for Many<T> {
    type Error = PyErr;

    fn extract(items: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if items.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err("got text, expected a sequence"));
        }
        let mut all = memory::with_capacity(items.len()?).map_err(py_err)?;
        for item in items.try_iter()? {
            if all.len() == all.capacity() {
                all.try_reserve(1)
                    .map_err(|_| PyValueError::new_err("a sequence has no end"))?;
            }
            all.push(item?.extract().map_err(Into::into)?);
        }
        Ok(Self(all))
    }
}

/// Where a buffer stands: its rows, the row that is written next, whether all rows hold data.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Cursor {
    capacity: usize,
    pos: usize,
    full: bool,
}

impl Cursor {
    pub(crate) fn ring(&self) -> PyResult<Ring> {
        Ring::new(self.capacity, self.pos, self.full).map_err(py_err)
    }
}

/// Where the numbers of a contiguous array lie.
pub(crate) fn place<T: Element, D: Dimension>(array: &Bound<'_, PyArray<T, D>>) -> Range<usize> {
    let start = array.data().addr();
    start..start + array.len() * size_of::<T>()
}

/// That nothing that is written has memory in common with anything else. NumPy's arrays are compared
/// by whom they belong to as they are borrowed; two views of one `memoryview` pass that.
pub(crate) fn apart(written: &[Range<usize>], read: &[Range<usize>]) -> PyResult<()> {
    let meets = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
    let all = written.iter().enumerate();
    let clash = all.into_iter().any(|(index, range)| {
        let others = written[index + 1..].iter().chain(read);
        !range.is_empty()
            && others
                .into_iter()
                .any(|other| !other.is_empty() && meets(range, other))
    });
    if clash {
        return Err(PyValueError::new_err(
            "an array that is written shares its memory with another argument; pass a copy",
        ));
    }
    Ok(())
}
