//! Work spread over the cores, where it is long enough to be worth waking them.
//!
//! What is computed never depends on the number of threads: each part has its own memory and its
//! own random generators, and the parts are put together in their order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::available_parallelism;

use rayon::{ThreadPool, ThreadPoolBuilder};
use thiserror::Error;

/// The environment variable that says how many threads to use.
pub const VARIABLE: &str = "MLX_BASELINES3_THREADS";

/// A thread is given no less work than this on a machine with few cores.
///
/// Measured on two cores that other work kept busy, the worst case: cutting 512 `CartPole`s
/// (14 us) in two cost 12 to 35 us more than stepping them on one thread, 2048 (55 us) 12 to 50,
/// 4096 (110 us) 14 to 16, 16384 (440 us) 13. Parts of this length lose little even then.
pub const WORTH_NS: usize = 100_000;

/// The same on a machine with more than [`FEW`] cores: that all of them are busy with other work is rare,
/// and a helper that sleeps is awake after some 10 us.
pub const WORTH_NS_OF_MANY: usize = 25_000;

/// Cores that are few.
pub const FEW: usize = 4;

/// More threads than this are a mistake: systems refuse them, some by ending the process.
pub const MOST: usize = 1024;

/// A number of threads that is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{VARIABLE} is {0:?}, expected a number of threads from 1 to {MOST}")]
pub struct ThreadsError(pub String);

/// The number of threads, 0 until it is known.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The helpers of the process with this id. After a fork the child still sees its parent's, whose
/// threads it does not have.
static POOL: Mutex<Option<Pool>> = Mutex::new(None);

struct Pool {
    process: u32,
    /// As many were wanted; there are fewer, or none, if the system gave no more.
    helpers: usize,
    threads: Option<Arc<ThreadPool>>,
}

/// How many threads work at most: what [`set`] said, else [`VARIABLE`], else one for each core.
///
/// # Errors
/// [`ThreadsError`] if the variable holds no such number.
pub fn count() -> Result<usize, ThreadsError> {
    let known = COUNT.load(Ordering::Relaxed);
    if known > 0 {
        return Ok(known);
    }
    let count = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => match text.trim().parse() {
            Ok(count) if (1..=MOST).contains(&count) => count,
            _ => return Err(ThreadsError(text)),
        },
        _ => available_parallelism().map_or(1, usize::from).min(MOST),
    };
    set(Some(count));
    Ok(count)
}

/// Sets the number of threads for all that follows; `None` asks the environment again.
pub fn set(count: Option<usize>) {
    COUNT.store(count.unwrap_or(0), Ordering::Relaxed);
}

/// Into how many parts to cut `items` that take `item_ns` nanoseconds each.
#[must_use]
pub fn parts(items: usize, item_ns: usize) -> usize {
    let total_ns = items.saturating_mul(item_ns);
    if total_ns < 2 * WORTH_NS_OF_MANY {
        return 1;
    }
    // A wrong variable is an error where environments and policies are made.
    let threads = count().unwrap_or(1);
    let least = if threads > FEW {
        WORTH_NS_OF_MANY
    } else {
        WORTH_NS
    };
    (total_ns / least).min(items).min(threads).max(1)
}

/// Runs `work` on every part, the first on this thread.
pub fn for_each<T: Send>(parts: impl ExactSizeIterator<Item = T>, work: impl Fn(T) + Sync) {
    let (mut parts, work) = (parts, &work);
    let pool = match parts.len() {
        0 | 1 => None,
        n => helpers(n - 1),
    };
    let Some(pool) = pool else {
        return parts.for_each(work);
    };
    let first = parts.next();
    pool.in_place_scope(|scope| {
        for part in parts {
            scope.spawn(move |_| work(part));
        }
        first.into_iter().for_each(work);
    });
}

/// Numbers of each element of a vector for one thread.
pub(crate) const RANGE: usize = 1 << 14;

/// Calls `work` on every item; `total_ns` is about how long all of it takes.
pub(crate) fn each<T: Send>(items: &mut [T], total_ns: usize, work: impl Fn(usize, &mut T) + Sync) {
    let threads = parts(items.len(), total_ns / items.len().max(1));
    let size = items.len().div_ceil(threads).max(1);
    for_each(items.chunks_mut(size).enumerate(), |(group, items)| {
        for (index, item) in items.iter_mut().enumerate() {
            work(group * size + index, item);
        }
    });
}

/// Adds all vectors to the first, in their order.
pub(crate) fn add_up(vectors: &mut [&mut [f32]]) {
    let Some((first, rest)) = vectors.split_first_mut() else {
        return;
    };
    if rest.is_empty() {
        return;
    }
    let cost = first.len() * rest.len() / 8;
    let rest: &[&mut [f32]] = rest;
    let mut ranges: Vec<_> = first.chunks_mut(RANGE).collect();
    each(&mut ranges, cost, |index, sum| {
        let start = index * RANGE;
        for vector in rest {
            let part = &vector[start..start + sum.len()];
            pulp::Arch::new().dispatch(|| {
                sum.iter_mut().zip(part).for_each(|(sum, &add)| *sum += add);
            });
        }
    });
}

/// A pool of at least `wanted` helpers; `None` if none can be created now, which slows the
/// work and changes nothing else.
fn helpers(wanted: usize) -> Option<Arc<ThreadPool>> {
    // Not `lock`: a fork may have copied the lock while another thread held it.
    let mut slot = match POOL.try_lock() {
        Ok(slot) => slot,
        Err(TryLockError::Poisoned(slot)) => slot.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    let process = std::process::id();
    if let Some(pool) = &*slot
        && pool.process == process
        && pool.helpers >= wanted
    {
        return pool.threads.clone();
    }
    let helpers = wanted.max(count().unwrap_or(1).saturating_sub(1));
    let threads = started(helpers);
    let new = Pool {
        process,
        helpers,
        threads: threads.clone(),
    };
    if let Some(old) = slot.replace(new)
        && old.process != process
    {
        // Its threads are the parent's: joining them could wait forever.
        std::mem::forget(old);
    }
    threads
}

/// A pool of that many threads, or of as many as the system gives.
fn started(helpers: usize) -> Option<Arc<ThreadPool>> {
    let fewer = std::iter::successors(Some(helpers), |&count| Some(count / 2));
    fewer.take_while(|&count| count > 0).find_map(|count| {
        let pool = ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|i| format!("mlx_baselines3 {i}"))
            .build();
        pool.ok().map(Arc::new)
    })
}
