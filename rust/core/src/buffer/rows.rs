//! Moving rows of bytes: the flattening of a rollout and the gather of a replay batch.

use thiserror::Error;

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
    if let Some(&row) = indices.iter().find(|&&row| row >= rows) {
        return Err(RowError::NoSuchRow { row, rows });
    }
    copy_rows(from, to, row_bytes, indices.iter().copied());
    Ok(())
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
