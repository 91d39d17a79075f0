//! Lets MLX use NumPy's OpenBLAS on Linux; see `ffi::blas`.

use pyo3::prelude::*;

#[cfg(not(target_os = "linux"))]
pub(crate) fn register(_m: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(linux::blas_install, m)?)?;
    m.add_function(wrap_pyfunction!(linux::blas_calls, m)?)
}

#[cfg(target_os = "linux")]
mod linux {
    use mlx_baselines3_macros::guarded;
    use pyo3::prelude::*;

    use crate::error::bad;
    use crate::ffi;

    /// Answer MLX's matrix products with the functions at these addresses.
    #[guarded]
    #[pyfunction]
    pub(super) fn blas_install(
        sgemm: usize,
        dgemm: usize,
        wide: bool,
        get_threads: usize,
        set_threads: usize,
    ) -> PyResult<()> {
        if sgemm == 0 || dgemm == 0 {
            return Err(bad("the address of a function is 0"));
        }
        if ffi::install_blas(sgemm, dgemm, wide, (get_threads, set_threads)) {
            Ok(())
        } else {
            Err(bad("the library multiplies (1, 2) by (2, 1) wrongly"))
        }
    }

    /// How many matrix products were answered.
    #[guarded]
    #[pyfunction]
    pub(super) fn blas_calls() -> PyResult<u64> {
        Ok(ffi::blas::calls())
    }
}
