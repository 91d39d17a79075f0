//! Wide linear layers: each product is cut by outputs or inputs, since a gradient of their weights for
//! every piece of a batch would cost more than the products.

use std::ops::Range;

use pulp::Arch;

use super::Kept;
use crate::nn::Activation;
use crate::nn::conv::transpose;
use crate::nn::product::{Matrix, multiply};
use crate::nn::training::{add_product, add_rows};
use crate::threads::each;

/// `activation(W x + b)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearLayer {
    /// Numbers that it takes.
    pub inputs: usize,
    /// Numbers that it gives.
    pub outputs: usize,
    /// Where the `(outputs, inputs)` weights begin.
    pub weights: usize,
    /// Where the biases begin, if there are any.
    pub bias: Option<usize>,
    /// What follows.
    pub activation: Activation,
}

/// Rows of a batch that are multiplied at once.
const ROWS: usize = 128;

/// Outputs of a forward product: fewer, and the rows are packed too often.
const OUTPUTS: usize = 128;

/// Outputs of a product for the gradient of the weights.
const WEIGHT_ROWS: usize = 64;

/// Inputs of a product for their gradient.
const INPUTS: usize = 256;

/// Rows that are transposed at once.
const TRANSPOSED: usize = 16;

/// The memory of a pass: a batch in blocks of rows, in each of them the rows as columns.
#[derive(Debug, Clone, Default)]
pub(super) struct LinearScratch {
    outputs: Vec<f32>,
    inputs: Vec<f32>,
}

/// A block of rows and a range of lines of it, and the memory of these.
struct Item<'a> {
    // The first row and how many there are.
    rows: (usize, usize),
    line: usize,
    out: &'a mut [f32],
}

/// Cuts `out`, blocks of at most [`ROWS`] rows with `lines` lines each, into ranges of `size` lines.
fn items(out: &mut [f32], lines: usize, size: usize) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    for (index, block) in out.chunks_mut(lines * ROWS).enumerate() {
        let rows = (index * ROWS, block.len() / lines);
        for (range, out) in block.chunks_mut(size * rows.1).enumerate() {
            let line = range * size;
            items.push(Item { rows, line, out });
        }
    }
    items
}

/// From blocks of rows as columns, as [`items`] has them, to rows of `width` numbers.
fn as_rows(blocks: &[f32], width: usize, out: &mut [f32], then: impl Fn(&mut [f32]) + Sync) {
    let cost = out.len() / 2;
    let mut parts: Vec<_> = out.chunks_mut(width * TRANSPOSED).collect();
    each(&mut parts, cost, |index, out| {
        let first = index * TRANSPOSED;
        let block = &blocks[first / ROWS * ROWS * width..];
        let (columns, column) = ((block.len() / width).min(ROWS), first % ROWS);
        let count = out.len() / width;
        for (at, line) in block.chunks_exact(columns).take(width).enumerate() {
            let numbers = out[at..].iter_mut().step_by(width);
            numbers
                .zip(&line[column..column + count])
                .for_each(|(to, &from)| *to = from);
        }
        then(out);
    });
}

impl LinearLayer {
    /// How long the vector of parameters has to be.
    pub(super) fn parameters(&self) -> usize {
        let weights = self.inputs.saturating_mul(self.outputs);
        let bias = |at: usize| at.saturating_add(self.outputs);
        self.weights
            .saturating_add(weights)
            .max(self.bias.map_or(0, bias))
    }

    /// Where its parameters lie.
    pub(super) fn places(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (outputs, weights) = (self.outputs, self.inputs * self.outputs);
        let bias = self.bias.map(|at| at..at + outputs);
        std::iter::once(self.weights..self.weights + weights).chain(bias)
    }

    /// About how long a forward pass takes, in nanoseconds a row.
    pub(super) fn row_ns(&self) -> usize {
        self.inputs.saturating_mul(self.outputs) / 50
    }

    /// Numbers that the passes of a row keep.
    pub(super) fn row_numbers(&self) -> usize {
        let kept = 3 + usize::from(self.activation.needs_input());
        let inputs = self.inputs.saturating_mul(2);
        self.outputs.saturating_mul(kept).saturating_add(inputs)
    }

    fn weights<'a>(&self, parameters: &'a [f32]) -> &'a [f32] {
        &parameters[self.weights..self.weights + self.inputs * self.outputs]
    }

    pub(super) fn forward(
        &self,
        parameters: &[f32],
        x: &[f32],
        kept: &mut Kept,
        scratch: &mut LinearScratch,
    ) {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let rows = x.len() / inputs;
        let weights = self.weights(parameters);
        scratch.outputs.resize(rows * outputs, 0.0);
        let mut parts = items(&mut scratch.outputs, outputs, OUTPUTS);
        each(&mut parts, rows * self.row_ns(), |_, item| {
            let (first, count) = item.rows;
            let lines = item.out.len() / count;
            let weights = Matrix::new(&weights[item.line * inputs..], lines, inputs, inputs);
            let x = Matrix::new(&x[first * inputs..], count, inputs, inputs);
            multiply(weights, x.transposed(), item.out, count, false);
        });
        let bias = self.bias.map(|at| &parameters[at..at + outputs]);
        kept.output.resize(rows * outputs, 0.0);
        let (activation, keeps) = (self.activation, self.activation.needs_input());
        let finish = |out: &mut [f32]| {
            Arch::new().dispatch(|| {
                if let Some(bias) = bias {
                    for row in out.chunks_exact_mut(outputs) {
                        row.iter_mut().zip(bias).for_each(|(out, &add)| *out += add);
                    }
                }
                if !keeps {
                    activation.apply(out);
                }
            });
        };
        as_rows(&scratch.outputs, outputs, &mut kept.output, finish);
        if keeps {
            kept.input.clone_from(&kept.output);
            let output = &mut kept.output;
            Arch::new().dispatch(|| activation.apply(output));
        }
    }

    /// Writes the gradient of the parameters, and that of the inputs to `by_inputs` if it is wanted.
    /// `delta` is the gradient of the outputs; it becomes that of what the activation took.
    pub(super) fn backward(
        &self,
        parameters: &[f32],
        x: &[f32],
        kept: &Kept,
        delta: &mut [f32],
        gradient: &mut [f32],
        (by_inputs, scratch): (Option<&mut Vec<f32>>, &mut LinearScratch),
    ) {
        let seen = kept.seen(self.activation);
        Arch::new().dispatch(|| self.activation.scale_gradient(seen, delta));
        let delta = &*delta;
        let (inputs, outputs) = (self.inputs, self.outputs);
        let rows = x.len() / inputs;
        let of_weights = &mut gradient[self.weights..self.weights + inputs * outputs];
        let mut parts: Vec<_> = of_weights.chunks_mut(WEIGHT_ROWS * inputs).collect();
        let x = Matrix::new(x, rows, inputs, inputs);
        each(&mut parts, rows * self.row_ns(), |index, out| {
            let delta = &delta[(index * WEIGHT_ROWS).min(delta.len())..];
            let lines = out.len() / inputs;
            let delta = Matrix::new(delta, rows, lines, outputs).transposed();
            if lines > 1 && inputs > 1 {
                return multiply(delta, x, out, inputs, false);
            }
            out.fill(0.0);
            add_product(delta, x, out);
        });
        if let Some(at) = self.bias {
            let bias = &mut gradient[at..at + outputs];
            bias.fill(0.0);
            add_rows(delta, outputs, bias);
        }
        if let Some(by_inputs) = by_inputs {
            by_inputs.resize(rows * inputs, 0.0);
            self.input_gradient(parameters, delta, by_inputs, scratch);
        }
    }

    fn input_gradient(
        &self,
        parameters: &[f32],
        delta: &[f32],
        by_inputs: &mut [f32],
        scratch: &mut LinearScratch,
    ) {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let weights = self.weights(parameters);
        let rows = delta.len() / outputs;
        let LinearScratch {
            outputs: by_outputs,
            inputs: blocks,
        } = scratch;
        by_outputs.resize(delta.len(), 0.0);
        let of_block = delta.chunks(ROWS * outputs);
        for (from, to) in of_block.zip(by_outputs.chunks_mut(ROWS * outputs)) {
            transpose(from, [from.len() / outputs, outputs], to);
        }
        blocks.resize(rows * inputs, 0.0);
        let mut parts = items(blocks, inputs, INPUTS);
        each(&mut parts, rows * self.row_ns(), |_, item| {
            let (first, count) = item.rows;
            let lines = item.out.len() / count;
            let weights = Matrix::new(&weights[item.line..], outputs, lines, inputs);
            let delta = Matrix::new(&by_outputs[first * outputs..], outputs, count, count);
            multiply(weights.transposed(), delta, item.out, count, false);
        });
        as_rows(blocks, inputs, by_inputs, |_| ());
    }
}
