//! `cblas_sgemm` and `cblas_dgemm` for whoever looks them up after this library was opened
//! globally, answered by another library's: MLX's wheel for Linux brings Netlib's reference BLAS,
//! which is twenty times slower than the OpenBLAS inside NumPy's wheel.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

static SGEMM: AtomicUsize = AtomicUsize::new(0);
static DGEMM: AtomicUsize = AtomicUsize::new(0);
static WIDE: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);
static GET_THREADS: AtomicUsize = AtomicUsize::new(0);
static SET_THREADS: AtomicUsize = AtomicUsize::new(0);

/// Products of fewer multiplications are computed by one thread. MLX runs its graph on a thread of
/// its own next to Python's; OpenBLAS's further threads wait for each other by spinning, and on busy
/// cores the products of a batch of 256 in layers of 256 then take three times as long.
const WORTH_THREADS: i64 = 1 << 26;

/// The C signature of `cblas_?gemm` for sizes of type `Size`.
type Gemm<Real, Size> = unsafe extern "C" fn(
    c_int, // order
    c_int, // transpose a
    c_int, // transpose b
    Size,  // m
    Size,  // n
    Size,  // k
    Real,  // alpha
    *const Real,
    Size, // lda
    *const Real,
    Size, // ldb
    Real, // beta
    *mut Real,
    Size, // ldc
);

/// While one lives, OpenBLAS uses one thread. Another Python thread that multiplies with NumPy at the
/// same moment may be slowed down; its results do not change.
struct OneThread;

/// How many live, and the number of threads from before the first: MLX multiplies on several streams
/// at once, and the last of them puts it back.
static ALIVE: Mutex<(u32, c_int)> = Mutex::new((0, 0));

impl OneThread {
    /// `None` where there is one thread anyway, or the library has no such setting.
    fn begin() -> Option<Self> {
        let get = GET_THREADS.load(Ordering::Relaxed);
        if get == 0 {
            return None;
        }
        // SAFETY: `install` was promised `int openblas_get_num_threads(void)`.
        let get = unsafe { std::mem::transmute::<usize, unsafe extern "C" fn() -> c_int>(get) };
        let mut alive = ALIVE.lock().unwrap_or_else(PoisonError::into_inner);
        if alive.0 == 0 {
            // SAFETY: it takes nothing and reads a number.
            alive.1 = unsafe { get() };
            if alive.1 <= 1 {
                return None;
            }
            set_threads(1);
        }
        alive.0 += 1;
        Some(Self)
    }
}

impl Drop for OneThread {
    fn drop(&mut self) {
        let mut alive = ALIVE.lock().unwrap_or_else(PoisonError::into_inner);
        alive.0 -= 1;
        if alive.0 == 0 {
            set_threads(alive.1);
        }
    }
}

fn set_threads(count: c_int) {
    let set = SET_THREADS.load(Ordering::Relaxed);
    // SAFETY: `install` was promised `void openblas_set_num_threads(int)`.
    let set = unsafe { std::mem::transmute::<usize, unsafe extern "C" fn(c_int)>(set) };
    // SAFETY: any count from 1 to the one that was set before is allowed.
    unsafe { set(count) };
}

macro_rules! forward {
    ($name:ident, $real:ty, $target:ident) => {
        /// # Safety
        /// As the function of this name in the BLAS standard.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(
            order: c_int,
            transpose_a: c_int,
            transpose_b: c_int,
            m: c_int,
            n: c_int,
            k: c_int,
            alpha: $real,
            a: *const $real,
            lda: c_int,
            b: *const $real,
            ldb: c_int,
            beta: $real,
            c: *mut $real,
            ldc: c_int,
        ) {
            let target = $target.load(Ordering::Acquire);
            if target == 0 {
                // Nobody sees this symbol before `install`, and C has no way to hear of an error.
                eprintln!(concat!(
                    stringify!($name),
                    " of mlx_baselines3 was called before its start"
                ));
                std::process::abort();
            }
            CALLS.fetch_add(1, Ordering::Relaxed);
            let work = i64::from(m) * i64::from(n) * i64::from(k);
            let _threads = (work < WORTH_THREADS).then(OneThread::begin).flatten();
            let (order, ta, tb) = (order, transpose_a, transpose_b);
            if WIDE.load(Ordering::Relaxed) {
                // SAFETY: `install` was promised a function of this name with 64-bit sizes.
                let gemm = unsafe { std::mem::transmute::<usize, Gemm<$real, i64>>(target) };
                let (m, n, k, lda) = (m.into(), n.into(), k.into(), lda.into());
                let (ldb, ldc) = (ldb.into(), ldc.into());
                // SAFETY: the caller's promises are passed on.
                unsafe { gemm(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) };
            } else {
                // SAFETY: `install` was promised a function of this name with 32-bit sizes.
                let gemm = unsafe { std::mem::transmute::<usize, Gemm<$real, c_int>>(target) };
                // SAFETY: the caller's promises are passed on.
                unsafe { gemm(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) };
            }
        }
    };
}

forward!(cblas_sgemm, f32, SGEMM);
forward!(cblas_dgemm, f64, DGEMM);

/// `[[1, 2]] . [[3, 4]]^T = [[11]]`, row-major.
macro_rules! is_right {
    ($gemm:ident, $real:ty) => {{
        let (a, b): ([$real; 2], [$real; 2]) = ([1.0, 2.0], [3.0, 4.0]);
        let mut c: [$real; 1] = [9.0];
        let (from, to) = ((a.as_ptr(), b.as_ptr()), c.as_mut_ptr());
        // SAFETY: the arrays have the sizes given: (1, 2), (1, 2) and (1, 1).
        unsafe {
            $gemm(
                101, 111, 112, 1, 1, 2, 1.0, from.0, 2, from.1, 2, 0.0, to, 1,
            )
        };
        c == [11.0]
    }};
}

/// From now on answer with the functions at these addresses. `false` when they multiply wrongly.
///
/// # Safety
/// `sgemm` and `dgemm` are the addresses of `cblas_sgemm` and `cblas_dgemm` of a library that stays
/// loaded, with 64-bit sizes if `wide` and 32-bit ones if not. `threads` are those of its
/// `openblas_get_num_threads` and `openblas_set_num_threads`, or zeros.
pub(crate) unsafe fn install(
    sgemm: usize,
    dgemm: usize,
    wide: bool,
    threads: (usize, usize),
) -> bool {
    SET_THREADS.store(threads.1, Ordering::Relaxed);
    GET_THREADS.store(
        if threads.1 == 0 { 0 } else { threads.0 },
        Ordering::Relaxed,
    );
    WIDE.store(wide, Ordering::Relaxed);
    DGEMM.store(dgemm, Ordering::Release);
    SGEMM.store(sgemm, Ordering::Release);
    let right = is_right!(cblas_sgemm, f32) && is_right!(cblas_dgemm, f64);
    CALLS.store(0, Ordering::Relaxed);
    right
}

/// How often either function was called.
pub(crate) fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}
