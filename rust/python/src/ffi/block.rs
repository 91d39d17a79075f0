//! One block of zeroed memory that NumPy arrays of any dtype look into.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;

use mlx_baselines3_core::buffer::layout::ALIGN;
use numpy::{PyArray1, ndarray::ArrayView1};
use pyo3::prelude::*;

/// What every allocator gives without being asked.
const USUAL_ALIGN: usize = 8;

/// More than any system's pages that are not large.
#[cfg(target_os = "linux")]
const PAGE: usize = 1 << 16;

/// A smaller block is read from nearer memory anyway.
#[cfg(target_os = "linux")]
const WORTH_LARGE_PAGES: usize = 1 << 23;

/// Memory owned by Rust for as long as the Python object around it, or any view of it, lives.
///
/// The zeros come from the allocator, which gets them from the system page by page when they are
/// first touched: a replay buffer of 30 GB costs nothing until it fills. Rust's allocator writes
/// them itself where more than its usual alignment is asked for, so the block starts inside of
/// what was allocated.
pub(crate) struct Block {
    ptr: NonNull<u8>,
    bytes: usize,
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Block` owns its memory; the pointer is never handed to another `Block`.
unsafe impl Send for Block {}
// SAFETY: `&Block` gives copies of bytes and NumPy views, both only with the GIL held.
unsafe impl Sync for Block {}

impl Block {
    /// `bytes` zeros on a cache line, or `None` when the memory cannot be had.
    pub(crate) fn zeroed(bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(bytes.checked_add(ALIGN)?, USUAL_ALIGN).ok()?;
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let before = start.align_offset(ALIGN);
        // SAFETY: less than `ALIGN` bytes, of which there are more than asked for.
        let ptr = unsafe { start.add(before) };
        prefer_large_pages(ptr, bytes);
        Some(Self {
            ptr,
            bytes,
            start,
            layout,
        })
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
        assert!(range.start <= range.end && range.end <= self.bytes);
        // SAFETY: the range is inside the block; `owner` keeps it alive and in place for as long
        // as the array lives.
        unsafe {
            let view = ArrayView1::from_shape_ptr(range.len(), self.ptr.as_ptr().add(range.start));
            PyArray1::borrow_from_array(&view, owner)
        }
    }

    /// Copies what Rust reads at `range` now. The GIL is needed because Python may write through a view.
    ///
    /// # Panics
    /// If the range is not inside the block, or not as long as `to`.
    pub(crate) fn read(&self, _py: Python<'_>, range: Range<usize>, to: &mut [u8]) {
        assert!(range.start <= range.end && range.end <= self.bytes && to.len() == range.len());
        // SAFETY: the range is inside the block. `to` could be in it only through a view of Python's
        // that somebody took for a slice; `copy_to` allows for that.
        unsafe {
            let from = self.ptr.as_ptr().add(range.start);
            from.copy_to(to.as_mut_ptr(), range.len());
        }
    }

    /// Where the block starts.
    pub(crate) fn address(&self) -> usize {
        self.ptr.as_ptr() as usize
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the pointer and layout that `alloc_zeroed` was called with.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Asks for pages of megabytes: a batch drawn from all over a large buffer waits for the addresses
/// of its pages as long as for their numbers. Where the system does not do that, all stays as it is.
#[cfg(target_os = "linux")]
fn prefer_large_pages(ptr: NonNull<u8>, bytes: usize) {
    use std::ffi::{c_int, c_void};
    unsafe extern "C" {
        fn madvise(address: *mut c_void, bytes: usize, advice: c_int) -> c_int;
    }
    const MADV_HUGEPAGE: c_int = 14;
    let before = ptr.as_ptr().align_offset(PAGE);
    if bytes < WORTH_LARGE_PAGES {
        return;
    }
    // SAFETY: the range starts on a page and ends inside the block; the advice changes no byte of it.
    unsafe {
        madvise(
            ptr.as_ptr().add(before).cast(),
            bytes - before,
            MADV_HUGEPAGE,
        )
    };
}

#[cfg(not(target_os = "linux"))]
fn prefer_large_pages(_: NonNull<u8>, _: usize) {}
