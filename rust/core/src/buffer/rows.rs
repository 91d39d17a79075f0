//! Moving rows of bytes: the flattening of a rollout and the gather of a replay batch.

use thiserror::Error;

use crate::interrupt::{Interrupted, Watch};

/// Bytes between two questions whether to stop.
const PART_BYTES: usize = 1 << 22;

/// A block's length or an index does not fit the shape it was said to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RowError {
    /// A block is longer or shorter than its shape says.
    #[error("a block has {found} bytes, expected {expected}")]
    Length {
        /// Bytes that it has.
        found: usize,
        /// Bytes that its shape asks for.
        expected: usize,
    },
    /// The work was stopped from outside.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A row was asked for that the block does not have.
    #[error("row {row} does not exist, the block has {rows} rows")]
    NoSuchRow {
        /// The row asked for.
        row: usize,
        /// How many there are.
        rows: usize,
    },
}

fn expect_len(block: &[u8], expected: usize) -> Result<(), RowError> {
    let found = block.len();
    if found == expected {
        Ok(())
    } else {
        Err(RowError::Length { found, expected })
    }
}

/// Copies `(n_steps, n_envs)` rows into `(n_envs, n_steps)` order, as SB3's `swap_and_flatten`.
///
/// # Errors
/// When a block does not have `n_steps * n_envs * row_bytes` bytes.
pub fn flatten_env_major(
    from: &[u8],
    to: &mut [u8],
    n_steps: usize,
    n_envs: usize,
    row_bytes: usize,
) -> Result<(), RowError> {
    let rows = n_steps.saturating_mul(n_envs);
    expect_len(from, rows.saturating_mul(row_bytes))?;
    expect_len(to, from.len())?;
    let order = (0..n_envs).flat_map(|env| (0..n_steps).map(move |step| step * n_envs + env));
    copy_rows(from, to, row_bytes, order);
    Ok(())
}

/// Copies row `indices[i]` of `from` to row `i` of `to`.
///
/// # Errors
/// When an index is out of range or a block is not a whole number of rows. Nothing is written then.
pub fn gather(
    from: &[u8],
    to: &mut [u8],
    row_bytes: usize,
    indices: &[usize],
) -> Result<(), RowError> {
    expect_len(to, indices.len().saturating_mul(row_bytes))?;
    let rows = from.len().checked_div(row_bytes).unwrap_or(usize::MAX);
    expect_inside(indices, rows)?;
    copy_rows(from, to, row_bytes, indices.iter().copied());
    Ok(())
}

/// As [`gather`], and `watch` may stop it on the way.
///
/// # Errors
/// As [`gather`]; or [`RowError::Interrupted`], and some rows are written then.
pub fn gather_watched(
    from: &[u8],
    to: &mut [u8],
    row_bytes: usize,
    indices: &[usize],
    watch: &mut Watch<'_>,
) -> Result<(), RowError> {
    expect_len(to, indices.len().saturating_mul(row_bytes))?;
    let rows = from.len().checked_div(row_bytes).unwrap_or(usize::MAX);
    expect_inside(indices, rows)?;
    if row_bytes == 0 {
        return Ok(());
    }
    let part = (PART_BYTES / row_bytes).max(1);
    for (to, indices) in to.chunks_mut(part * row_bytes).zip(indices.chunks(part)) {
        watch.check()?;
        copy_rows(from, to, row_bytes, indices.iter().copied());
    }
    Ok(())
}

/// Writes `done * (1 - timeout)` of the transitions `indices` to `to`: which episodes ended, and were
/// not cut. All are float32 in the machine's byte order. Few episodes end: the timeouts of the others
/// are not read, for each would be one more cache line to wait for.
///
/// # Errors
/// When an index is out of range, or `to` has another length than the indices. Nothing is written then.
pub fn gather_ended(
    dones: &[u8],
    timeouts: &[u8],
    to: &mut [u8],
    indices: &[usize],
) -> Result<(), RowError> {
    let (dones, _) = dones.as_chunks::<4>();
    let (timeouts, _) = timeouts.as_chunks::<4>();
    expect_len(to, indices.len().saturating_mul(4))?;
    let rows = dones.len().min(timeouts.len());
    expect_inside(indices, rows)?;
    let (to, _) = to.as_chunks_mut::<4>();
    for (target, &row) in to.iter_mut().zip(indices) {
        let mut ended = f32::from_ne_bytes(dones[row]);
        if ended != 0.0 {
            ended *= 1.0 - f32::from_ne_bytes(timeouts[row]);
        }
        *target = ended.to_ne_bytes();
    }
    Ok(())
}

fn expect_inside(indices: &[usize], rows: usize) -> Result<(), RowError> {
    match indices.iter().find(|&&row| row >= rows) {
        Some(&row) => Err(RowError::NoSuchRow { row, rows }),
        None => Ok(()),
    }
}

/// Short rows of a known width become plain moves; a call to `memcpy` for 4 bytes costs ten times
/// that.
fn copy_rows(from: &[u8], to: &mut [u8], row_bytes: usize, order: impl Iterator<Item = usize>) {
    match row_bytes {
        0 => {}
        1 => copy_fixed::<1>(from, to, order),
        4 => copy_fixed::<4>(from, to, order),
        8 => copy_fixed::<8>(from, to, order),
        12 => copy_fixed::<12>(from, to, order),
        16 => copy_fixed::<16>(from, to, order),
        24 => copy_fixed::<24>(from, to, order),
        32 => copy_fixed::<32>(from, to, order),
        _ => {
            for (target, row) in to.chunks_exact_mut(row_bytes).zip(order) {
                target.copy_from_slice(&from[row * row_bytes..(row + 1) * row_bytes]);
            }
        }
    }
}

fn copy_fixed<const N: usize>(from: &[u8], to: &mut [u8], order: impl Iterator<Item = usize>) {
    let (from, _) = from.as_chunks::<N>();
    let (to, _) = to.as_chunks_mut::<N>();
    for (target, row) in to.iter_mut().zip(order) {
        *target = from[row];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flatten_puts_each_environment_in_one_run() {
        // Two steps of three environments; each row says 10 * step + env.
        for width in [1, 3, 4, 8, 12, 16, 24, 32] {
            let rows = |values: [u8; 6]| values.iter().flat_map(|&v| vec![v; width]).collect();
            let from: Vec<u8> = rows([0, 1, 2, 10, 11, 12]);
            let expected: Vec<u8> = rows([0, 10, 1, 11, 2, 12]);
            let mut to = vec![0; from.len()];
            flatten_env_major(&from, &mut to, 2, 3, width).unwrap();
            assert_eq!(to, expected);
        }
    }

    #[test]
    fn gather_takes_rows_in_the_order_asked() {
        let from = [0, 0, 1, 1, 2, 2];
        let mut to = [9; 8];
        gather(&from, &mut to, 2, &[2, 0, 2, 1]).unwrap();
        assert_eq!(to, [2, 2, 0, 0, 2, 2, 1, 1]);
    }

    #[test]
    fn an_episode_that_was_cut_has_not_ended() {
        let bytes = |numbers: [f32; 4]| numbers.map(f32::to_ne_bytes).concat();
        let (dones, timeouts) = (bytes([0.0, 1.0, 1.0, 0.0]), bytes([0.0, 0.0, 1.0, 1.0]));
        let mut to = [9; 20];
        gather_ended(&dones, &timeouts, &mut to, &[1, 2, 3, 0, 1]).unwrap();
        assert_eq!(
            to.as_slice(),
            [1.0, 0.0, 0.0, 0.0, 1.0].map(f32::to_ne_bytes).concat()
        );
        let untouched = to;
        assert!(gather_ended(&dones, &timeouts[..4], &mut to[..4], &[1]).is_err());
        assert!(gather_ended(&dones, &timeouts, &mut to, &[1]).is_err());
        assert_eq!(to, untouched);
    }

    #[test]
    fn bad_shapes_write_nothing() {
        let mut to = [9; 4];
        let error = gather(&[0; 6], &mut to, 2, &[0, 3]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row 3 does not exist, the block has 3 rows"
        );
        let error = gather(&[0; 6], &mut to, 2, &[0]).unwrap_err();
        assert_eq!(error.to_string(), "a block has 4 bytes, expected 2");
        assert!(flatten_env_major(&[0; 6], &mut to, 2, 3, 1).is_err());
        assert!(flatten_env_major(&[0; 4], &mut to, usize::MAX, 3, 1).is_err());
        assert_eq!(to, [9; 4]);
    }
}
