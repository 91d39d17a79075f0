//! Where the columns of a buffer lie in one block of memory.

use std::ops::Range;

use thiserror::Error;

/// Columns start at a multiple of this: a cache line, and enough for any SIMD load.
pub const ALIGN: usize = 64;

/// The block would be larger than an address can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{rows} rows of {row_bytes} bytes are more than this machine can address")]
pub struct TooLarge {
    /// Rows of the column that went over.
    pub rows: usize,
    /// Bytes of each of its rows.
    pub row_bytes: usize,
}

/// The byte ranges of columns laid one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    columns: Vec<Range<usize>>,
    bytes: usize,
}

impl Layout {
    /// Columns of `rows` rows, the i-th with `row_bytes[i]` bytes a row.
    ///
    /// # Errors
    /// When the block would pass `isize::MAX` bytes, the largest that an allocation may be.
    pub fn new(rows: usize, row_bytes: &[usize]) -> Result<Self, TooLarge> {
        let mut columns = Vec::with_capacity(row_bytes.len());
        let mut bytes = 0_usize;
        for &width in row_bytes {
            let end = rows
                .checked_mul(width)
                .and_then(|len| bytes.checked_add(len));
            let next = end.and_then(|end| end.checked_next_multiple_of(ALIGN));
            match (end, next) {
                (Some(end), Some(next)) if isize::try_from(next).is_ok() => {
                    columns.push(bytes..end);
                    bytes = next;
                }
                _ => {
                    return Err(TooLarge {
                        rows,
                        row_bytes: width,
                    });
                }
            }
        }
        Ok(Self { columns, bytes })
    }

    /// The byte range of column `index`, in the order given to `new`.
    #[must_use]
    pub fn column(&self, index: usize) -> Option<Range<usize>> {
        self.columns.get(index).cloned()
    }

    /// The size of the whole block, a multiple of [`ALIGN`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_follow_each_other_on_cache_lines() {
        let layout = Layout::new(10, &[4, 1, 8]).unwrap();
        assert_eq!(layout.column(0), Some(0..40));
        assert_eq!(layout.column(1), Some(64..74));
        assert_eq!(layout.column(2), Some(128..208));
        assert_eq!(layout.column(3), None);
        assert_eq!(layout.bytes(), 256);
    }

    #[test]
    fn too_large_says_which_column() {
        let error = Layout::new(usize::MAX / 4, &[1, 8]).unwrap_err();
        assert_eq!(error.row_bytes, 8);
        assert!(Layout::new(1, &[isize::MAX as usize - 62]).is_err());
        assert!(Layout::new(1, &[isize::MAX as usize - 63]).is_ok());
    }
}
