//! NumPy arrays that Rust fills before Python sees them.

use numpy::ndarray::{Dimension, IntoDimension};
use numpy::npyffi::PY_ARRAY_API;
use numpy::{
    Element, PyArray, PyArray1, PyArrayDescrMethods, PyArrayMethods, PyUntypedArrayMethods,
};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

/// A NumPy array under construction: nothing else can reach its memory until `finish`,
/// so Rust may fill it even while the GIL is released.
pub(crate) struct NewArray<'py, T, D>(Bound<'py, PyArray<T, D>>);

impl<'py, T: Element + Copy, D: Dimension> NewArray<'py, T, D> {
    /// A C-contiguous array of zeros, or NumPy's `MemoryError`. (`PyArray::zeros` panics.)
    pub(crate) fn zeros<I: IntoDimension<Dim = D>>(py: Python<'py>, shape: I) -> PyResult<Self> {
        let shape = shape.into_dimension();
        let lengths = shape.slice().iter().map(|&length| isize::try_from(length));
        let lengths: Result<Vec<isize>, _> = lengths.collect();
        let Ok(mut lengths) = lengths else {
            let shape = shape.slice();
            let text = format!("an array of shape {shape:?} cannot be allocated");
            return Err(PyMemoryError::new_err(text));
        };
        // SAFETY: there are as many lengths as axes; the call takes over the reference to the dtype,
        // and gives a new array of it with that many axes, or null and an exception.
        let array = unsafe {
            let array = PY_ARRAY_API.PyArray_Zeros(
                py,
                lengths.len() as std::ffi::c_int,
                lengths.as_mut_ptr(),
                T::get_dtype(py).into_dtype_ptr(),
                0,
            );
            Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked()
        };
        Ok(Self(array))
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: the array is contiguous, owns its memory, and no other reference to it exists:
        // it was made here and leaves only through `finish`, which consumes `self`.
        unsafe { std::slice::from_raw_parts_mut(self.0.data(), self.0.len()) }
    }

    /// The array, for Python from here on.
    pub(crate) fn finish(self) -> Bound<'py, PyArray<T, D>> {
        self.0
    }
}

/// An array of these numbers.
pub(crate) fn array_of<'py, T: Element + Copy>(
    py: Python<'py>,
    numbers: &[T],
) -> PyResult<Bound<'py, PyArray1<T>>> {
    let mut array = NewArray::zeros(py, [numbers.len()])?;
    array.as_mut_slice().copy_from_slice(numbers);
    Ok(array.finish())
}
