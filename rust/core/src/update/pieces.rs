//! A batch in pieces that threads work at.

use std::ops::Range;

use super::{add_up, each};

/// What a piece of a batch gives.
pub(super) trait WithGradient: Default + Send {
    /// The gradient by all parameters.
    fn gradient(&mut self) -> &mut Vec<f32>;
}

/// The memory of all pieces, kept from one step to the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces<P>(Vec<P>);

/// Rows of a piece of a batch: enough for products at full speed, and no more than 8 pieces.
fn piece_rows(rows: usize) -> usize {
    rows.div_ceil(8).max(128)
}

impl<P: WithGradient> Pieces<P> {
    /// The sum of the gradients that the last [`Self::fill`] left in the first piece.
    pub(super) fn gradient(&mut self) -> &[f32] {
        self.0.first_mut().map_or(&[], |piece| piece.gradient())
    }

    /// Lets `work` visit a piece for each range of rows; `total_ns` is about how long all of it takes.
    /// The same number of rows is cut the same way always. Gives the pieces.
    pub(super) fn visit(
        &mut self,
        rows: usize,
        total_ns: usize,
        work: impl Fn(Range<usize>, &mut P) + Sync,
    ) -> &mut [P] {
        let size = piece_rows(rows);
        let count = rows.div_ceil(size).max(1);
        if self.0.len() < count {
            self.0.resize_with(count, P::default);
        }
        let pieces = &mut self.0[..count];
        each(pieces, total_ns, |index, piece| {
            work(index * size..rows.min((index + 1) * size), piece);
        });
        pieces
    }

    /// Lets `work` add to the gradient of a piece for each range of rows; it begins with `parameters`
    /// zeros. The rest is as with [`Self::visit`].
    pub(super) fn fill(
        &mut self,
        rows: usize,
        parameters: usize,
        total_ns: usize,
        work: impl Fn(Range<usize>, &mut P) + Sync,
    ) -> &[P] {
        let pieces = self.visit(rows, total_ns, |rows, piece| {
            piece.gradient().clear();
            piece.gradient().resize(parameters, 0.0);
            work(rows, piece);
        });
        let mut gradients: Vec<&mut [f32]> = pieces
            .iter_mut()
            .map(|piece| piece.gradient().as_mut_slice())
            .collect();
        add_up(&mut gradients);
        pieces
    }
}
