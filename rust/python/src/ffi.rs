//! The only place of this crate with `unsafe` in it: this file and its `ffi/` folder.

#[cfg(target_os = "linux")]
pub(crate) mod blas;
pub(crate) mod block;
pub(crate) mod new_array;

use std::ptr::NonNull;

use numpy::{Element, IxDyn, PyArrayDyn, ndarray::ArrayViewD};
use pyo3::prelude::*;

/// A fixed block of memory owned by Rust that NumPy arrays look into without a copy.
///
/// Both sides reach the memory through the one raw pointer, so that a NumPy array made earlier
/// stays valid after Rust wrote through a slice made later. The block never moves and never
/// changes its length; it is freed when the Python object that owns it is collected, and every
/// view keeps that object alive.
pub(crate) struct SharedArray<T> {
    ptr: NonNull<T>,
    len: usize,
}

// SAFETY: `SharedArray` owns its memory as a `Box<[T]>` does; it hands out slices only under the
// usual borrow rules.
unsafe impl<T: Send> Send for SharedArray<T> {}
// SAFETY: as above; `&SharedArray` gives only `&[T]`.
unsafe impl<T: Sync> Sync for SharedArray<T> {}

impl<T: Element + Copy + Default> SharedArray<T> {
    /// `len` zeros (the default of `T`), or `None` when the memory cannot be had.
    pub(crate) fn zeros(len: usize) -> Option<Self> {
        let mut data = Vec::new();
        data.try_reserve_exact(len).ok()?;
        data.resize(len, T::default());
        let data: Box<[T]> = data.into_boxed_slice();
        let ptr = NonNull::from(Box::leak(data)).cast();
        Some(Self { ptr, len })
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        // SAFETY: `ptr` came from a leaked box of `len` elements, freed only in `drop`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and `&mut self` makes this the only Rust slice.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }

    /// A NumPy array over this memory; `owner` is the Python object that holds `self`.
    ///
    /// # Panics
    /// If `shape` does not have exactly `len` elements.
    pub(crate) fn view<'py>(
        &self,
        owner: Bound<'py, PyAny>,
        shape: &[usize],
    ) -> Bound<'py, PyArrayDyn<T>> {
        assert_eq!(shape.iter().product::<usize>(), self.len);
        // SAFETY: the shape covers exactly the block; `owner` keeps it alive and in place for as
        // long as the array lives.
        unsafe {
            let array = ArrayViewD::from_shape_ptr(IxDyn(shape), self.ptr.as_ptr());
            PyArrayDyn::borrow_from_array(&array, owner)
        }
    }
}

impl<T> Drop for SharedArray<T> {
    fn drop(&mut self) {
        let slice = std::ptr::slice_from_raw_parts_mut(self.ptr.as_ptr(), self.len);
        // SAFETY: the same pointer and length that `Box::leak` gave in `zeros`.
        drop(unsafe { Box::from_raw(slice) });
    }
}

/// Hands `blas::install` the addresses that `_backend.py` found by name.
#[cfg(target_os = "linux")]
pub(crate) fn install_blas(sgemm: usize, dgemm: usize, wide: bool) -> bool {
    // SAFETY: `_backend.py` is the only caller; it takes the addresses from the symbols
    // `cblas_sgemm` and `cblas_dgemm` of the OpenBLAS that NumPy keeps loaded, and the width from
    // that library's own description.
    unsafe { blas::install(sgemm, dgemm, wide) }
}
