//! The only place of this crate with `unsafe` in it: this file and its `ffi/` folder.

#[cfg(target_os = "linux")]
pub(crate) mod blas;
pub(crate) mod block;
pub(crate) mod new_array;
pub(crate) mod plain;
pub(crate) mod random;
pub(crate) mod replay;
pub(crate) mod sample;

/// Hands `blas::install` the addresses that `_backend.py` found by name.
#[cfg(target_os = "linux")]
pub(crate) fn install_blas(
    sgemm: usize,
    dgemm: usize,
    wide: bool,
    threads: (usize, usize),
) -> bool {
    // SAFETY: `_backend.py` is the only caller; it takes the addresses from the symbols of these
    // names in the OpenBLAS that NumPy keeps loaded, and the width from that library's own
    // description.
    unsafe { blas::install(sgemm, dgemm, wide, threads) }
}
