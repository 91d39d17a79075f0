//! Convolutions one after the other, forward and backward over a batch of images.

use std::ops::Range;

use pulp::Arch;

use super::Kept;
use crate::nn::conv::{Channels, Conv2d, Patches, transpose};
use crate::nn::observations::{ObservationColumn, Rows};
use crate::nn::product::{Matrix, multiply};
use crate::nn::training::{add_rows, add_to_rows};
use crate::nn::{Activation, total};
use crate::threads::each;

/// `activation(W * x + b)`, where `*` is a convolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConvLayer {
    /// The shapes.
    pub conv: Conv2d,
    /// Where the `(out, in, height, width)` weights begin.
    pub weights: usize,
    /// Where the biases begin, if there are any.
    pub bias: Option<usize>,
    /// What follows.
    pub activation: Activation,
}

impl ConvLayer {
    /// How long the vector of parameters has to be.
    pub(super) fn parameters(&self) -> usize {
        let weights = self.weights.saturating_add(self.conv.weights());
        let bias = |at: usize| at.saturating_add(self.conv.out_channels());
        weights.max(self.bias.map_or(0, bias))
    }

    /// Where its parameters lie.
    pub(super) fn places(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let weights = self.weights..self.weights + self.conv.weights();
        let channels = self.conv.out_channels();
        let bias = self.bias.map(|at| at..at + channels);
        std::iter::once(weights).chain(bias)
    }
}

/// Into how many pieces a batch is cut at most: each has a gradient of its own.
const MOST_PIECES: usize = 8;

/// Images of a piece, if there are as many.
const PIECE_IMAGES: usize = 4;

/// Numbers of the patches that are multiplied at once: they stay in a core's own cache.
const BLOCK: usize = 100_000;

/// The first numbers of memory that grows where it has to: zeros between two calls would cost time.
fn at_least(memory: &mut Vec<f32>, count: usize) -> &mut [f32] {
    if memory.len() < count {
        memory.resize(count, 0.0);
    }
    &mut memory[..count]
}

fn piece_images(images: usize) -> usize {
    images.div_ceil(MOST_PIECES).max(PIECE_IMAGES)
}

#[derive(Debug, Clone, PartialEq)]
struct Layer {
    layer: ConvLayer,
    patches: Patches,
    // Where its gradient is in the sums of a piece: the weights, and the biases behind them.
    sums: usize,
}

impl Layer {
    fn shape(&self) -> &Conv2d {
        &self.layer.conv
    }

    /// With few outputs the product is faster if the gradient of the weights has its columns as rows.
    fn is_transposed(&self) -> bool {
        self.shape().out_channels() <= 32
    }

    fn sums_of_weights(&self) -> Range<usize> {
        self.sums..self.sums + self.shape().weights()
    }

    fn sums_of_bias(&self) -> Range<usize> {
        let start = self.sums + self.shape().weights();
        start..start + self.shape().out_channels()
    }

    /// How many images, or how many lines of an image's output, are worth one product.
    fn block(&self) -> (usize, usize) {
        let conv = self.shape();
        let [_, height, width] = conv.output();
        let line = width.saturating_mul(conv.patch());
        match BLOCK / line.saturating_mul(height) {
            0 => (1, (BLOCK / line).max(1)),
            images => (images, height),
        }
    }

    /// Numbers of the patches that are multiplied at once, at most.
    fn block_size(&self) -> usize {
        let (images, lines) = self.block();
        let [_, _, width] = self.shape().output();
        (images * lines).saturating_mul(width * self.shape().patch())
    }

    /// Calls `work` for each block of images and of lines of their outputs.
    fn blocks(&self, images: usize, mut work: impl FnMut(Range<usize>, Range<usize>)) {
        let (most, lines) = self.block();
        let [_, height, _] = self.shape().output();
        // As many in each as there are.
        let at_once = images.div_ceil(images.div_ceil(most).max(1)).max(1);
        for first in (0..images).step_by(at_once) {
            for line in (0..height).step_by(lines) {
                let images = first..images.min(first + at_once);
                work(images, line..height.min(line + lines));
            }
        }
    }

    /// The place of a block's outputs, counted in positions.
    fn positions(&self, images: &Range<usize>, lines: &Range<usize>) -> Range<usize> {
        let [_, height, width] = self.shape().output();
        let first = (images.start * height + lines.start) * width;
        first..first + images.len() * lines.len() * width
    }

    /// Gathers the patches of a block.
    fn gather(
        &self,
        source: &Source<'_>,
        images: &Range<usize>,
        lines: &Range<usize>,
        scratch: &mut Scratch,
    ) {
        let (
            conv,
            Scratch {
                padded, patches, ..
            },
        ) = (self.shape(), scratch);
        let [_, _, width] = conv.output();
        let of_image = lines.len() * width * conv.patch();
        let patches = at_least(patches, images.len() * of_image);
        for (index, out) in images.clone().zip(patches.chunks_exact_mut(of_image)) {
            let image = match source {
                Source::Rows {
                    column,
                    rows,
                    first,
                    scale,
                } => {
                    // Other lines of the same image need it only once.
                    if lines.start == 0 {
                        let row = rows.get(first + index);
                        let image = column.row(row, conv.input_size());
                        self.patches.load(image, *scale, padded);
                    }
                    padded.as_slice()
                }
                Source::Maps(maps) => {
                    let size = conv.input_size();
                    let image = &maps[index * size..(index + 1) * size];
                    self.patches.pad(image, padded)
                }
            };
            self.patches.gather(image, lines.clone(), out);
        }
    }

    fn forward(
        &self,
        ordered: &Ordered,
        bias: Option<&[f32]>,
        source: &Source<'_>,
        images: usize,
        (kept, scratch): (&mut Kept, &mut Scratch),
    ) {
        let (patch, channels) = (self.shape().patch(), self.shape().out_channels());
        let (activation, keeps) = (self.layer.activation, self.layer.activation.needs_input());
        let size = images * self.shape().output_size();
        kept.output.resize(size, 0.0);
        kept.input.resize(if keeps { size } else { 0 }, 0.0);
        let weights = Matrix::new(&ordered.forward, patch, channels, channels);
        self.blocks(images, |images, lines| {
            self.gather(source, &images, &lines, scratch);
            let place = self.positions(&images, &lines);
            let patches = Matrix::new(&scratch.patches, place.len(), patch, patch);
            let place = place.start * channels..place.end * channels;
            let out = &mut kept.output[place.clone()];
            multiply(patches, weights, out, channels, false);
            if let Some(bias) = bias {
                add_to_rows(out, channels, bias);
            }
            if keeps {
                kept.input[place].copy_from_slice(out);
            }
            Arch::new().dispatch(|| activation.apply(out));
        });
    }

    /// Adds the gradient of the parameters to `sums`; `delta` is that of what the activation took.
    fn backward(
        &self,
        delta: &[f32],
        source: &Source<'_>,
        images: usize,
        sums: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (patch, channels) = (self.shape().patch(), self.shape().out_channels());
        self.blocks(images, |images, lines| {
            self.gather(source, &images, &lines, scratch);
            let place = self.positions(&images, &lines);
            let patches = Matrix::new(&scratch.patches, place.len(), patch, patch);
            let delta = &delta[place.start * channels..place.end * channels];
            let by_outputs = Matrix::new(delta, place.len(), channels, channels);
            let out = &mut sums[self.sums_of_weights()];
            if self.is_transposed() {
                multiply(patches.transposed(), by_outputs, out, channels, true);
            } else {
                multiply(by_outputs.transposed(), patches, out, patch, true);
            }
            if self.layer.bias.is_some() {
                add_rows(delta, channels, &mut sums[self.sums_of_bias()]);
            }
        });
    }

    /// The gradient of the inputs, from that of what the activation took.
    fn input_gradient(
        &self,
        ordered: &Ordered,
        delta: &[f32],
        images: usize,
        out: &mut Vec<f32>,
        scratch: &mut Scratch,
    ) {
        let conv = self.shape();
        let (patch, channels) = (conv.patch(), conv.out_channels());
        let [_, _, width] = conv.output();
        out.clear();
        out.resize(images * conv.input_size(), 0.0);
        let weights = Matrix::new(&ordered.backward, channels, patch, patch);
        let Scratch {
            padded, patches, ..
        } = scratch;
        self.blocks(images, |images, lines| {
            let place = self.positions(&images, &lines);
            let delta = &delta[place.start * channels..place.end * channels];
            let delta = Matrix::new(delta, place.len(), channels, channels);
            let patches = at_least(patches, place.len() * patch);
            multiply(delta, weights, patches, patch, false);
            let of_image = patches.chunks_exact(lines.len() * width * patch);
            let out = out[images.start * conv.input_size()..].chunks_exact_mut(conv.input_size());
            for (patches, image) in of_image.zip(out) {
                self.patches.scatter(patches, lines.clone(), image, padded);
            }
        });
    }
}

/// Where the images of a layer come from.
enum Source<'a> {
    /// From outside: these rows of a column, from `first` on, each number times `scale`.
    Rows {
        column: ObservationColumn<'a>,
        rows: &'a Rows<'a>,
        first: usize,
        scale: f32,
    },
    /// From the layer before.
    Maps(&'a [f32]),
}

/// The weights of a layer as the products take them.
#[derive(Debug, Clone, Default)]
struct Ordered {
    // The numbers of a patch as rows.
    forward: Vec<f32>,
    // The outputs as rows; nothing in the first layer, whose input needs no gradient.
    backward: Vec<f32>,
}

#[derive(Debug, Clone, Default)]
struct Scratch {
    padded: Vec<f32>,
    patches: Vec<f32>,
}

/// What some images of a batch keep and give.
#[derive(Debug, Clone, Default)]
struct Piece {
    maps: Vec<Kept>,
    sums: Vec<f32>,
    delta: Vec<f32>,
    next_delta: Vec<f32>,
    scratch: Scratch,
}

/// The memory of a forward and a backward pass.
#[derive(Debug, Clone, Default)]
pub(super) struct ConvTape {
    ordered: Vec<Ordered>,
    pieces: Vec<Piece>,
}

/// A column of images and the rows of it that are meant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Images<'a> {
    pub(super) column: ObservationColumn<'a>,
    pub(super) rows: Rows<'a>,
}

/// Convolutions one after the other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Convolutions {
    layers: Vec<Layer>,
    scale: f32,
    sums: usize,
}

impl Convolutions {
    /// Each layer takes what the one before gives. The numbers of the images are multiplied with `scale`.
    pub(super) fn new(layers: &[ConvLayer], scale: f32) -> Self {
        let (mut of_layers, mut sums) = (Vec::with_capacity(layers.len()), 0);
        for (index, &layer) in layers.iter().enumerate() {
            let channels = if index == 0 {
                Channels::First
            } else {
                Channels::Last
            };
            of_layers.push(Layer {
                layer,
                patches: Patches::new(layer.conv, channels),
                sums,
            });
            sums += layer.conv.weights() + layer.conv.out_channels();
        }
        Self {
            layers: of_layers,
            scale,
            sums,
        }
    }

    pub(super) fn layers(&self) -> impl Iterator<Item = &ConvLayer> {
        self.layers.iter().map(|layer| &layer.layer)
    }

    /// Numbers of an image, and of what the last layer gives.
    pub(super) fn sizes(&self) -> (usize, usize) {
        let first = self
            .layers
            .first()
            .map_or(0, |layer| layer.shape().input_size());
        let last = self
            .layers
            .last()
            .map_or(0, |layer| layer.shape().output_size());
        (first, last)
    }

    /// About how long a forward pass takes, in nanoseconds an image.
    pub(super) fn row_ns(&self) -> usize {
        let of_layer = |layer: &Layer| {
            let products = layer
                .shape()
                .output_size()
                .saturating_mul(layer.shape().patch());
            products / 50
        };
        total(self.layers.iter().map(of_layer))
    }

    /// Numbers that the passes of a batch keep: those of an image, and those of all pieces together.
    pub(super) fn numbers(&self) -> (usize, usize) {
        let of_image = |layer: &Layer| {
            let kept = 1 + usize::from(layer.layer.activation.needs_input());
            layer.shape().output_size().saturating_mul(kept)
        };
        let sizes = |layer: &Layer| [layer.shape().output_size(), layer.shape().input_size()];
        let widest = self.layers.iter().flat_map(sizes).max().unwrap_or(0);
        let maps = total(self.layers.iter().map(of_image));
        let block = |layer: &Layer| {
            let padded = layer.shape().padded_size();
            layer.block_size().saturating_add(padded)
        };
        let blocks = self.layers.iter().map(block).max().unwrap_or(0);
        let of_piece = blocks.saturating_add(self.sums);
        (
            maps.saturating_add(widest.saturating_mul(2)),
            of_piece
                .saturating_mul(MOST_PIECES)
                .saturating_add(self.sums * 3),
        )
    }

    fn order(&self, parameters: &[f32], tape: &mut ConvTape) {
        tape.ordered
            .resize_with(self.layers.len(), Ordered::default);
        for (index, (layer, ordered)) in self.layers.iter().zip(&mut tape.ordered).enumerate() {
            let (conv, start) = (layer.shape(), layer.layer.weights);
            let weights = &parameters[start..start + conv.weights()];
            let Ordered { forward, backward } = ordered;
            forward.resize(conv.weights(), 0.0);
            let shape = [conv.out_channels(), conv.patch()];
            if index == 0 {
                transpose(weights, shape, forward);
                continue;
            }
            backward.resize(conv.weights(), 0.0);
            layer.patches.order(weights, backward);
            transpose(backward, shape, forward);
        }
    }

    /// Writes what the last layer gives for each image, channels first.
    pub(super) fn forward(
        &self,
        parameters: &[f32],
        images: &Images<'_>,
        tape: &mut ConvTape,
        flat: &mut [f32],
    ) {
        self.order(parameters, tape);
        let (count, (_, width)) = (images.rows.len(), self.sizes());
        let size = piece_images(count);
        let pieces = count.div_ceil(size);
        if tape.pieces.len() < pieces {
            tape.pieces.resize_with(pieces, Piece::default);
        }
        let ordered = &tape.ordered;
        let flat = flat.chunks_mut(size * width);
        let mut items: Vec<_> = tape.pieces.iter_mut().zip(flat).collect();
        each(&mut items, count * self.row_ns(), |index, (piece, flat)| {
            let count = flat.len() / width;
            piece.maps.resize_with(self.layers.len(), Kept::default);
            for (at, (layer, ordered)) in self.layers.iter().zip(ordered).enumerate() {
                let (before, kept) = piece.maps.split_at_mut(at);
                let source = self.source(images, index * size, before);
                let bias = layer.layer.bias;
                let bias = bias.map(|at| &parameters[at..at + layer.shape().out_channels()]);
                let memory = (&mut kept[0], &mut piece.scratch);
                layer.forward(ordered, bias, &source, count, memory);
            }
            let last = &piece.maps[self.layers.len() - 1].output;
            self.flatten(last, flat);
        });
    }

    /// What a layer takes, `before` which there are these.
    fn source<'a>(&self, images: &'a Images<'a>, first: usize, before: &'a [Kept]) -> Source<'a> {
        match before.last() {
            None => Source::Rows {
                column: images.column,
                rows: &images.rows,
                first,
                scale: self.scale,
            },
            Some(kept) => Source::Maps(&kept.output),
        }
    }

    /// Channels and positions of the last layer's outputs.
    fn last(&self) -> [usize; 2] {
        let conv = self.layers[self.layers.len() - 1].shape();
        [conv.out_channels(), conv.positions()]
    }

    /// From channels side by side to channels first.
    fn flatten(&self, maps: &[f32], flat: &mut [f32]) {
        let [channels, positions] = self.last();
        let size = channels * positions;
        for (from, to) in maps.chunks_exact(size).zip(flat.chunks_exact_mut(size)) {
            transpose(from, [positions, channels], to);
        }
    }

    /// Writes the gradient of the parameters, from that of what [`forward`](Self::forward) has written.
    pub(super) fn backward(
        &self,
        images: &Images<'_>,
        tape: &mut ConvTape,
        by_flat: &[f32],
        gradient: &mut [f32],
    ) {
        let (count, (_, width)) = (images.rows.len(), self.sizes());
        let size = piece_images(count);
        let ConvTape { ordered, pieces } = tape;
        let by_flat = by_flat.chunks(size * width);
        let mut items: Vec<_> = pieces.iter_mut().zip(by_flat).collect();
        let cost = 2 * count * self.row_ns();
        each(&mut items, cost, |index, (piece, by_flat)| {
            self.piece_backward(images, index * size, ordered, piece, by_flat);
        });
        let (pieces, _) = pieces.split_at_mut(count.div_ceil(size));
        let mut sums: Vec<_> = pieces.iter_mut().map(|piece| &mut piece.sums[..]).collect();
        crate::threads::add_up(&mut sums);
        if let Some(sums) = sums.first() {
            self.restore(sums, gradient);
        }
    }

    fn piece_backward(
        &self,
        images: &Images<'_>,
        first: usize,
        ordered: &[Ordered],
        piece: &mut Piece,
        by_flat: &[f32],
    ) {
        let [channels, positions] = self.last();
        let count = by_flat.len() / (channels * positions);
        let Piece {
            maps,
            sums,
            delta,
            next_delta,
            scratch,
        } = piece;
        sums.clear();
        sums.resize(self.sums, 0.0);
        delta.resize(by_flat.len(), 0.0);
        let size = channels * positions;
        for (from, to) in by_flat.chunks_exact(size).zip(delta.chunks_exact_mut(size)) {
            transpose(from, [channels, positions], to);
        }
        for (at, layer) in self.layers.iter().enumerate().rev() {
            let activation = layer.layer.activation;
            let seen = maps[at].seen(activation);
            Arch::new().dispatch(|| activation.scale_gradient(seen, delta));
            let source = self.source(images, first, &maps[..at]);
            layer.backward(delta, &source, count, sums, scratch);
            if at > 0 {
                layer.input_gradient(&ordered[at], delta, count, next_delta, scratch);
                std::mem::swap(delta, next_delta);
            }
        }
    }

    /// From the sums of a piece to the places of the parameters.
    fn restore(&self, sums: &[f32], gradient: &mut [f32]) {
        let mut outputs_as_rows = Vec::new();
        for layer in &self.layers {
            let (conv, start) = (layer.shape(), layer.layer.weights);
            let mut weights = &sums[layer.sums_of_weights()];
            if layer.is_transposed() {
                outputs_as_rows.resize(weights.len(), 0.0);
                let shape = [conv.patch(), conv.out_channels()];
                transpose(weights, shape, &mut outputs_as_rows);
                weights = &outputs_as_rows;
            }
            let out = &mut gradient[start..start + weights.len()];
            layer.patches.restore(weights, out);
            if let Some(start) = layer.layer.bias {
                let bias = &sums[layer.sums_of_bias()];
                gradient[start..start + bias.len()].copy_from_slice(bias);
            }
        }
    }
}
