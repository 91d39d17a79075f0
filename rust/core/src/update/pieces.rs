//! A batch in pieces that threads work at.

use std::ops::Range;

use super::{add_up, each};
use crate::memory::{OutOfMemory, expect_room};

/// What a piece of a batch gives.
pub(super) trait WithGradient: Default + Send {
    /// The gradient by all parameters.
    fn gradient(&mut self) -> &mut Vec<f32>;

    /// Begins a gradient of `parameters` numbers with zeros.
    fn clear_gradient(&mut self, parameters: usize) {
        self.gradient().clear();
        self.gradient().resize(parameters, 0.0);
    }
}

/// The memory of all pieces, kept from one step to the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces<P> {
    memory: Vec<P>,
    // How many of them the last visit has been to.
    count: usize,
    // Rows that there is known to be memory for.
    rows: usize,
}

/// Into how many pieces a batch is cut at most.
const MOST_PIECES: usize = 8;

/// Rows of a piece of a batch: enough for products at full speed.
pub(super) fn piece_rows(rows: usize) -> usize {
    rows.div_ceil(MOST_PIECES).max(128)
}

impl<P: WithGradient> Pieces<P> {
    /// That there is memory for `rows` rows that keep `row_numbers` numbers each, and for gradients by
    /// `parameters` parameters. Once there was, the pieces have it.
    pub(super) fn expect_room(
        &mut self,
        rows: usize,
        row_numbers: usize,
        parameters: usize,
    ) -> Result<(), OutOfMemory> {
        if rows > self.rows {
            let gradients = parameters.saturating_mul(MOST_PIECES);
            let numbers = rows.saturating_mul(row_numbers).saturating_add(gradients);
            expect_room(numbers, size_of::<f32>())?;
            self.rows = rows;
        }
        Ok(())
    }

    /// The pieces of the last visit.
    pub(super) fn visited(&self) -> &[P] {
        &self.memory[..self.count]
    }

    /// Lets `work` visit `count` pieces; `total_ns` is about how long all of it takes.
    pub(super) fn visit(
        &mut self,
        count: usize,
        total_ns: usize,
        work: impl Fn(usize, &mut P) + Sync,
    ) {
        self.count = count;
        if self.memory.len() < count {
            self.memory.resize_with(count, P::default);
        }
        each(&mut self.memory[..count], total_ns, work);
    }

    /// Lets `work` visit a piece for each range of rows. The same number of rows is cut the same way
    /// always.
    pub(super) fn visit_rows(
        &mut self,
        rows: usize,
        total_ns: usize,
        work: impl Fn(Range<usize>, &mut P) + Sync,
    ) {
        self.visit_rows_of(piece_rows(rows), rows, total_ns, work);
    }

    /// The same with pieces of `size` rows, which depends on the number of rows alone.
    pub(super) fn visit_rows_of(
        &mut self,
        size: usize,
        rows: usize,
        total_ns: usize,
        work: impl Fn(Range<usize>, &mut P) + Sync,
    ) {
        self.visit(rows.div_ceil(size).max(1), total_ns, |index, piece| {
            work(index * size..rows.min((index + 1) * size), piece);
        });
    }

    /// The sum of the gradients of the last visit, in the order of the pieces; it is in the first one
    /// then.
    pub(super) fn gradient(&mut self) -> &[f32] {
        let pieces = self.memory[..self.count].iter_mut();
        let mut gradients: Vec<&mut [f32]> = pieces
            .map(|piece| piece.gradient().as_mut_slice())
            .collect();
        add_up(&mut gradients);
        gradients.swap_remove(0)
    }
}
