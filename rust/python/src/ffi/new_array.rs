//! NumPy arrays that Rust fills before Python sees them.

use numpy::ndarray::{Dimension, IntoDimension};
use numpy::{Element, PyArray, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;

/// A NumPy array under construction: nothing else can reach its memory until it is handed over,
/// so Rust may fill it even while the GIL is released.
pub(crate) struct NewArray<'py, T, D>(Bound<'py, PyArray<T, D>>);

impl<'py, T: Element + Copy, D: Dimension> NewArray<'py, T, D> {
    /// A C-contiguous array of zeros.
    pub(crate) fn zeros<I: IntoDimension<Dim = D>>(py: Python<'py>, shape: I) -> Self {
        Self(PyArray::zeros(py, shape, false))
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
