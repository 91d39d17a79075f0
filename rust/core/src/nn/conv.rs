//! Convolutions as products: the patches of an image that a kernel sees, one in a row.
//!
//! Between layers the channels of a pixel lie side by side, so that a patch is a few long runs of an
//! image. The images that come from outside have their channels first.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use thiserror::Error;

use super::observations::ObservationColumn;

/// A convolution that does not fit its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a kernel of {kernel:?} with stride {stride:?} and padding {padding:?} cannot go over images \
     of {channels} x {height} x {width} to {out_channels} channels"
)]
pub struct ConvError {
    channels: usize,
    height: usize,
    width: usize,
    out_channels: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

/// The shapes of a two-dimensional convolution. Pairs are vertical, then horizontal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    input: [usize; 3],
    output: [usize; 3],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

impl Conv2d {
    /// A convolution of images of `input` channels, height and width.
    ///
    /// # Errors
    /// [`ConvError`] if there is no place for the kernel, or nothing to convolve.
    pub fn new(
        input: [usize; 3],
        out_channels: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> Result<Self, ConvError> {
        let [channels, height, width] = input;
        let error = ConvError {
            channels,
            height,
            width,
            out_channels,
            kernel,
            stride,
            padding,
        };
        let steps = |axis: usize| {
            let side = padding[axis].checked_mul(2)?.checked_add(input[axis + 1])?;
            let places = side.checked_sub(kernel[axis])?.checked_div(stride[axis])? + 1;
            (kernel[axis] > 0).then_some(places)
        };
        let (Some(out_height), Some(out_width)) = (steps(0), steps(1)) else {
            return Err(error);
        };
        let conv = Self {
            input,
            output: [out_channels, out_height, out_width],
            kernel,
            stride,
            padding,
        };
        let sizes = [
            channels
                .checked_mul(kernel[0])
                .and_then(|n| n.checked_mul(kernel[1])),
            product(conv.padded()),
            product(conv.output),
        ];
        let patches = conv.positions().checked_mul(sizes[0].unwrap_or(0));
        let fits = sizes.iter().all(|size| size.is_some_and(|size| size > 0));
        if !fits || patches.is_none() || height == 0 || width == 0 {
            return Err(error);
        }
        Ok(conv)
    }

    /// Channels, height and width of an input.
    #[must_use]
    pub fn input(&self) -> [usize; 3] {
        self.input
    }

    /// Channels, height and width of an output.
    #[must_use]
    pub fn output(&self) -> [usize; 3] {
        self.output
    }

    /// Numbers of an input image.
    #[must_use]
    pub fn input_size(&self) -> usize {
        self.input.iter().product()
    }

    /// Numbers of an output image.
    #[must_use]
    pub fn output_size(&self) -> usize {
        self.output.iter().product()
    }

    /// Number of weights, `(out, in, height, width)`.
    #[must_use]
    pub fn weights(&self) -> usize {
        self.output[0].saturating_mul(self.patch())
    }

    pub(super) fn out_channels(&self) -> usize {
        self.output[0]
    }

    /// How many patches there are.
    pub(super) fn positions(&self) -> usize {
        self.output[1].saturating_mul(self.output[2])
    }

    /// Numbers in a patch.
    pub(super) fn patch(&self) -> usize {
        self.input[0] * self.taps()
    }

    /// Pixels in a patch.
    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn padded(&self) -> [usize; 3] {
        let [channels, height, width] = self.input;
        let [vertical, horizontal] = self.padding;
        [channels, height + 2 * vertical, width + 2 * horizontal]
    }

    fn is_padded(&self) -> bool {
        self.padding != [0, 0]
    }

    /// Numbers of an image with its padding.
    pub(super) fn padded_size(&self) -> usize {
        self.padded().iter().product()
    }
}

/// The product, if it fits.
fn product(numbers: [usize; 3]) -> Option<usize> {
    let [a, b, c] = numbers;
    a.checked_mul(b)?.checked_mul(c)
}

/// Where the channels of an image are, and with that the order of a patch and of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    /// In planes, one after the other: the images from outside. A patch is in the order of the weights.
    First,
    /// Side by side in every pixel. A patch goes over its pixels, and over the channels of each.
    Last,
}

/// How the patches of a convolution lie in an image with its padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patches {
    conv: Conv2d,
    channels: Channels,
    // Numbers of a pixel that lie side by side.
    cell: usize,
    // Where the runs of a patch begin, from its first number on, and how long each is.
    runs: Vec<usize>,
    run: usize,
}

impl Patches {
    pub(super) fn new(conv: Conv2d, channels: Channels) -> Self {
        let [count, height, width] = conv.padded();
        let (planes, cell) = match channels {
            Channels::First => (count, 1),
            Channels::Last => (1, count),
        };
        let lines =
            |plane| (0..conv.kernel[0]).map(move |line| (plane * height + line) * width * cell);
        Self {
            conv,
            channels,
            cell,
            runs: (0..planes).flat_map(lines).collect(),
            run: conv.kernel[1] * cell,
        }
    }

    pub(super) fn conv(&self) -> &Conv2d {
        &self.conv
    }

    /// Where the patches of these lines of the output begin.
    fn starts(&self, lines: Range<usize>) -> impl Iterator<Item = usize> + use<> {
        let [_, _, width] = self.conv.padded();
        let ([_, _, across], [vertical, horizontal]) = (self.conv.output, self.conv.stride);
        let cell = self.cell;
        lines.flat_map(move |y| {
            (0..across).map(move |x| (y * vertical * width + x * horizontal) * cell)
        })
    }

    /// The lines of an image without its padding: where they begin with it, and how long they are.
    fn lines(&self) -> (impl Iterator<Item = usize> + use<>, usize) {
        let [count, height, width] = self.conv.padded();
        let [vertical, horizontal] = self.conv.padding;
        let (planes, cell) = (count / self.cell, self.cell);
        let inside = self.conv.input[1];
        let starts = (0..planes).flat_map(move |plane| {
            (0..inside).map(move |y| ((plane * height + vertical + y) * width + horizontal) * cell)
        });
        (starts, self.conv.input[2] * cell)
    }

    /// The image of a row from outside, its numbers times `scale`, with zeros around.
    pub(super) fn load(&self, image: ObservationColumn<'_>, scale: f32, padded: &mut Vec<f32>) {
        padded.resize(self.conv.padded_size(), 0.0);
        if !self.conv.is_padded() {
            return image.write(0..image.len(), scale, padded);
        }
        padded.fill(0.0);
        let (starts, length) = self.lines();
        for (line, start) in starts.enumerate() {
            let part = line * length..(line + 1) * length;
            image.write(part, scale, &mut padded[start..start + length]);
        }
    }

    /// The image of a layer before, with zeros around if there is a padding.
    pub(super) fn pad<'a>(&self, image: &'a [f32], padded: &'a mut Vec<f32>) -> &'a [f32] {
        if !self.conv.is_padded() {
            return image;
        }
        self.load(ObservationColumn::Floats(image), 1.0, padded);
        padded
    }

    /// Writes the patches of some lines of the output, one after the other. The image has its padding.
    pub(super) fn gather(&self, image: &[f32], lines: Range<usize>, out: &mut [f32]) {
        match self.run {
            1 => self.gather_short::<1>(image, lines, out),
            2 => self.gather_short::<2>(image, lines, out),
            3 => self.gather_short::<3>(image, lines, out),
            4 => self.gather_short::<4>(image, lines, out),
            5 => self.gather_short::<5>(image, lines, out),
            6 => self.gather_short::<6>(image, lines, out),
            7 => self.gather_short::<7>(image, lines, out),
            8 => self.gather_short::<8>(image, lines, out),
            run => {
                let patches = out.chunks_exact_mut(self.conv.patch());
                for (patch, start) in patches.zip(self.starts(lines)) {
                    let image = &image[start..];
                    for (to, &at) in patch.chunks_exact_mut(run).zip(&self.runs) {
                        to.copy_from_slice(&image[at..at + run]);
                    }
                }
            }
        }
    }

    fn gather_short<const RUN: usize>(&self, image: &[f32], lines: Range<usize>, out: &mut [f32]) {
        let patches = self;
        Arch::new().dispatch(GatherShort::<RUN> {
            patches,
            image,
            lines,
            out,
        });
    }

    /// Adds the gradients of the patches of some lines to that of the image, which is zeros at the
    /// first of them. `padded` is memory for an image with its padding, from the first lines to the last.
    pub(super) fn scatter(
        &self,
        patches: &[f32],
        lines: Range<usize>,
        image: &mut [f32],
        padded: &mut Vec<f32>,
    ) {
        if !self.conv.is_padded() {
            return self.add(patches, lines, image);
        }
        if lines.start == 0 {
            padded.clear();
            padded.resize(self.conv.padded_size(), 0.0);
        }
        self.add(patches, lines.clone(), padded);
        if lines.end == self.conv.output[1] {
            let (starts, length) = self.lines();
            for (line, start) in image.chunks_exact_mut(length).zip(starts) {
                line.copy_from_slice(&padded[start..start + length]);
            }
        }
    }

    fn add(&self, by_patches: &[f32], lines: Range<usize>, image: &mut [f32]) {
        let patches = self;
        Arch::new().dispatch(Add {
            patches,
            by_patches,
            lines,
            image,
        });
    }

    /// `(out, in, height, width)` weights with the inputs of each output in the order of a patch.
    pub(super) fn order(&self, weights: &[f32], out: &mut [f32]) {
        self.transpose_each(weights, out, [self.conv.input[0], self.conv.taps()]);
    }

    /// The other way round.
    pub(super) fn restore(&self, ordered: &[f32], out: &mut [f32]) {
        self.transpose_each(ordered, out, [self.conv.taps(), self.conv.input[0]]);
    }

    fn transpose_each(&self, from: &[f32], to: &mut [f32], [rows, columns]: [usize; 2]) {
        if self.channels == Channels::First {
            return to.copy_from_slice(from);
        }
        let patch = self.conv.patch();
        for (from, to) in from.chunks_exact(patch).zip(to.chunks_exact_mut(patch)) {
            transpose(from, [rows, columns], to);
        }
    }
}

// Closures for `dispatch` are compiled for the vector unit only where they are so small that they are inlined.

/// A call to `memcpy` for a few numbers costs several times what plain moves do.
struct GatherShort<'a, const RUN: usize> {
    patches: &'a Patches,
    image: &'a [f32],
    lines: Range<usize>,
    out: &'a mut [f32],
}

impl<const RUN: usize> WithSimd for GatherShort<'_, RUN> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let patches = self.out.chunks_exact_mut(self.patches.conv.patch());
        for (patch, start) in patches.zip(self.patches.starts(self.lines)) {
            let image = &self.image[start..];
            let (patch, _) = patch.as_chunks_mut::<RUN>();
            for (to, &at) in patch.iter_mut().zip(&self.patches.runs) {
                to.copy_from_slice(&image[at..at + RUN]);
            }
        }
    }
}

struct Add<'a> {
    patches: &'a Patches,
    by_patches: &'a [f32],
    lines: Range<usize>,
    image: &'a mut [f32],
}

impl WithSimd for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Patches {
            conv, runs, run, ..
        } = self.patches;
        let patches = self.by_patches.chunks_exact(conv.patch());
        for (patch, start) in patches.zip(self.patches.starts(self.lines)) {
            let image = &mut self.image[start..];
            for (from, &at) in patch.chunks_exact(*run).zip(runs) {
                let to = image[at..at + run].iter_mut();
                to.zip(from).for_each(|(to, &add)| *to += add);
            }
        }
    }
}

/// Writes a `[rows, columns]` matrix with its columns as rows.
pub(super) fn transpose(from: &[f32], [rows, columns]: [usize; 2], to: &mut [f32]) {
    // So many rows of either share their cache lines.
    const BLOCK: usize = 16;
    for (block, from) in from.chunks(BLOCK * columns).enumerate() {
        let first = block * BLOCK;
        for (column, to) in to.chunks_exact_mut(rows).enumerate() {
            let numbers = from[column..].iter().step_by(columns);
            to[first..]
                .iter_mut()
                .zip(numbers)
                .for_each(|(to, &from)| *to = from);
        }
    }
}
