//! Memory whose size a caller decides: too much of it is an error, where Rust would end the process.

use thiserror::Error;

/// Memory that cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{bytes} bytes of memory cannot be allocated")]
pub struct OutOfMemory {
    /// How much was wanted; `usize::MAX` for more than can be addressed.
    pub bytes: usize,
}

/// Less than this is not asked for ahead: whatever needs it may as well ask by itself.
const WORTH_ASKING: usize = 1 << 20;

/// `count` copies of `value`.
///
/// # Errors
/// [`OutOfMemory`].
pub fn filled<T: Clone>(value: T, count: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut all = with_capacity(count)?;
    all.resize(count, value);
    Ok(all)
}

/// An empty vector with space for `count` items.
///
/// # Errors
/// [`OutOfMemory`].
pub fn with_capacity<T>(count: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut all = Vec::new();
    all.try_reserve_exact(count).map_err(|_| OutOfMemory {
        bytes: count.saturating_mul(size_of::<T>()),
    })?;
    Ok(all)
}

/// That `count` items of a size could be had now. For vectors that grow deep inside a computation:
/// where they are wanted nobody could refuse any more.
///
/// # Errors
/// [`OutOfMemory`].
pub fn expect_room(count: usize, item_bytes: usize) -> Result<(), OutOfMemory> {
    let bytes = count.saturating_mul(item_bytes);
    if bytes >= WORTH_ASKING {
        std::hint::black_box(with_capacity::<u8>(bytes)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_an_error() {
        let error = filled(0.0_f32, 1 << 60).unwrap_err();
        assert_eq!(error.bytes, 1 << 62);
        assert_eq!(filled(0.0_f64, usize::MAX).unwrap_err().bytes, usize::MAX);
        assert!(expect_room(usize::MAX, 4).is_err());
        assert!(expect_room(1 << 45, 4).is_err());
    }

    #[test]
    fn what_there_is_can_be_had() {
        assert_eq!(filled(7, 3).unwrap(), [7, 7, 7]);
        assert!(expect_room(1 << 21, 1).is_ok() && expect_room(3, 4).is_ok());
    }
}
