//! One block of zeroed memory that NumPy arrays of any dtype look into.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;

use mlx_baselines3_core::buffer::layout::ALIGN;
use numpy::{PyArray1, ndarray::ArrayView1};
use pyo3::prelude::*;

/// Memory owned by Rust for as long as the Python object around it, or any view of it, lives.
///
/// The zeros come from the allocator, which gets them from the system page by page when they are
/// first touched: a replay buffer of 30 GB costs nothing until it fills.
pub(crate) struct Block {
    ptr: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Block` owns its memory; the pointer is never handed to another `Block`.
unsafe impl Send for Block {}
// SAFETY: `&Block` gives copies of bytes and NumPy views, both only with the GIL held.
unsafe impl Sync for Block {}

impl Block {
    /// `bytes` zeros on a cache line, or `None` when the memory cannot be had.
    pub(crate) fn zeroed(bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(bytes.max(ALIGN), ALIGN).ok()?;
        // SAFETY: the size is not zero.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { ptr, layout })
    }

    /// A writable uint8 array over `range`; `owner` is the Python object that holds `self`.
    ///
    /// # Panics
    /// If the range is not inside the block.
    pub(crate) fn view<'py>(
        &self,
        owner: Bound<'py, PyAny>,
        range: Range<usize>,
    ) -> Bound<'py, PyArray1<u8>> {
        assert!(range.start <= range.end && range.end <= self.layout.size());
        // SAFETY: the range is inside the block; `owner` keeps it alive and in place for as long
        // as the array lives.
        unsafe {
            let view = ArrayView1::from_shape_ptr(range.len(), self.ptr.as_ptr().add(range.start));
            PyArray1::borrow_from_array(&view, owner)
        }
    }

    /// What Rust reads at `range` now. The GIL is needed because Python may write through a view.
    ///
    /// # Panics
    /// If the range is not inside the block.
    pub(crate) fn read(&self, _py: Python<'_>, range: Range<usize>) -> Vec<u8> {
        assert!(range.start <= range.end && range.end <= self.layout.size());
        let mut bytes = vec![0; range.len()];
        // SAFETY: the range is inside the block, and the fresh vector overlaps nothing.
        unsafe {
            let from = self.ptr.as_ptr().add(range.start);
            from.copy_to_nonoverlapping(bytes.as_mut_ptr(), range.len());
        }
        bytes
    }

    /// Where the block starts.
    pub(crate) fn address(&self) -> usize {
        self.ptr.as_ptr() as usize
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the pointer and layout that `alloc_zeroed` was called with.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) };
    }
}
