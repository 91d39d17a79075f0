//! Where the rows of a ring buffer are in time. Cursor arithmetic only: no data.

use thiserror::Error;

/// A cursor that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("cursor {pos} is not inside a ring of {capacity} rows")]
pub struct BadCursor {
    /// The row that would be written next.
    pub pos: usize,
    /// Rows of the ring.
    pub capacity: usize,
}

/// A ring of `capacity` rows, the next of which is written at `pos`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    capacity: usize,
    pos: usize,
    full: bool,
}

impl Ring {
    /// The ring with this cursor; `full` once every row was written.
    ///
    /// # Errors
    /// When `pos` is not one of the rows.
    pub fn new(capacity: usize, pos: usize, full: bool) -> Result<Self, BadCursor> {
        if pos < capacity {
            Ok(Self {
                capacity,
                pos,
                full,
            })
        } else {
            Err(BadCursor { pos, capacity })
        }
    }

    /// How many rows there are.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The row that is written next.
    #[must_use]
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// Whether every row was written.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The row that was written last, if any.
    #[must_use]
    pub fn newest(&self) -> Option<usize> {
        (!self.is_empty()).then(|| self.after(self.pos, self.capacity - 1))
    }

    /// Moves on after a row was written.
    pub fn advance(&mut self) {
        self.pos = self.after(self.pos, 1);
        self.full |= self.pos == 0;
    }

    /// How many rows hold data: rows `0..len()`.
    #[must_use]
    pub fn len(&self) -> usize {
        if self.full { self.capacity } else { self.pos }
    }

    /// Whether no row holds data.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows from `row` to the newest, both counted. `None` if `row` holds no data.
    #[must_use]
    pub fn until_newest(&self, row: usize) -> Option<usize> {
        if row >= self.len() {
            return None;
        }
        let ahead = if row < self.pos { 0 } else { self.capacity };
        Some(self.pos + ahead - row)
    }

    /// The row `steps` after `row`.
    #[must_use]
    pub fn after(&self, row: usize, steps: usize) -> usize {
        (row + steps) % self.capacity
    }

    /// How many rows from `row` on belong to one n-step return: at most `n_steps`, not past the
    /// first row that `ends` its episode, and never past the newest row, because what lies behind
    /// it is the oldest. `None` if `row` holds no data.
    pub fn span(&self, row: usize, n_steps: usize, ends: impl Fn(usize) -> bool) -> Option<usize> {
        let longest = n_steps.min(self.until_newest(row)?);
        let end = (0..longest).find(|&steps| ends(self.after(row, steps)));
        Some(end.map_or(longest, |steps| steps + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_is_not_full_ends_at_the_cursor() {
        let ring = Ring::new(5, 3, false).unwrap();
        assert_eq!(ring.len(), 3);
        assert_eq!(ring.until_newest(0), Some(3));
        assert_eq!(ring.until_newest(2), Some(1));
        assert_eq!(ring.until_newest(3), None);
        assert!(Ring::new(5, 0, false).unwrap().is_empty());
    }

    #[test]
    fn a_full_ring_starts_at_the_cursor() {
        let ring = Ring::new(5, 2, true).unwrap();
        assert_eq!(ring.until_newest(2), Some(5));
        assert_eq!(ring.until_newest(4), Some(3));
        assert_eq!(ring.until_newest(1), Some(1));
        assert_eq!(Ring::new(5, 0, true).unwrap().until_newest(4), Some(1));
    }

    #[test]
    fn a_span_stops_at_an_end_and_counts_it() {
        let ring = Ring::new(6, 5, false).unwrap();
        assert_eq!(ring.span(0, 4, |row| row == 2), Some(3));
        assert_eq!(ring.span(2, 4, |row| row == 2), Some(1));
        assert_eq!(ring.span(3, 4, |row| row == 2), Some(2));
        assert_eq!(ring.span(5, 4, |_| false), None);
    }

    #[test]
    fn a_ring_fills_and_starts_again() {
        let mut ring = Ring::new(3, 0, false).unwrap();
        let mut seen = vec![];
        for _ in 0..4 {
            seen.push((ring.pos(), ring.newest(), ring.is_full()));
            ring.advance();
        }
        let expected = [
            (0, None, false),
            (1, Some(0), false),
            (2, Some(1), false),
            (0, Some(2), true),
        ];
        assert_eq!(seen, expected);
        assert_eq!(Ring::new(1, 0, true).unwrap().newest(), Some(0));
    }

    #[test]
    fn a_cursor_outside_is_refused() {
        let error = Ring::new(4, 4, true).unwrap_err();
        assert_eq!(error.to_string(), "cursor 4 is not inside a ring of 4 rows");
    }
}
