//! Observations as the buffers hold them: a column for each array of an observation, images as bytes.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

/// All rows of one array of observations: vectors, or images with their channels first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ObservationColumn<'a> {
    /// Numbers.
    Floats(&'a [f32]),
    /// The bytes of images.
    Bytes(&'a [u8]),
}

impl<'a> ObservationColumn<'a> {
    /// How many numbers it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(column) => column.len(),
            Self::Bytes(column) => column.len(),
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row of `width` numbers.
    pub(super) fn row(&self, row: usize, width: usize) -> ObservationColumn<'a> {
        let place = row * width..(row + 1) * width;
        match self {
            Self::Floats(column) => Self::Floats(&column[place]),
            Self::Bytes(column) => Self::Bytes(&column[place]),
        }
    }

    /// Writes a part of it to `out`, each number times `scale`.
    pub(super) fn write(&self, part: Range<usize>, scale: f32, out: &mut [f32]) {
        match self {
            Self::Floats(column) => Arch::new().dispatch(Scaled {
                from: &column[part],
                scale,
                out,
            }),
            Self::Bytes(column) => Arch::new().dispatch(Scaled {
                from: &column[part],
                scale,
                out,
            }),
        }
    }
}

struct Scaled<'a, T> {
    from: &'a [T],
    scale: f32,
    out: &'a mut [f32],
}

impl<T: Copy + Into<f32>> WithSimd for Scaled<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let numbers = self.out.iter_mut().zip(self.from);
        numbers.for_each(|(out, &x)| *out = x.into() * self.scale);
    }
}

/// Some rows of the columns, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows<'a> {
    /// As many from this one on.
    From(usize, usize),
    /// These.
    Listed(&'a [u32]),
}

impl Rows<'_> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::From(_, count) => *count,
            Self::Listed(rows) => rows.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which row of the columns the `index`th is.
    pub(super) fn get(&self, index: usize) -> usize {
        match self {
            Self::From(first, _) => first + index,
            Self::Listed(rows) => rows[index] as usize,
        }
    }
}
