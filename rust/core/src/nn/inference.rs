//! MLPs for inference: layers, and the forward pass.
//!
//! A row of the batch gives the same bits whatever the batch around it: every output sums its
//! products in the order of the inputs, starting at the bias.

use super::conv::transpose;
use super::{Activation, NnError, kernel};
use crate::memory::{OutOfMemory, filled};
use crate::threads;

/// Outputs are padded to a multiple of this: the widest vector of floats that a CPU here has.
pub(super) const LANES: usize = 16;

/// `activation(W x + b)`. The weights are transposed and padded for the kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct InferenceLayer {
    inputs: usize,
    outputs: usize,
    stride: usize,
    // Panels of `LANES` outputs, padded with zeros. Row i of a panel holds what input i adds to each of its
    // outputs: what the kernel reads in turn lies together, which keeps wide layers in the caches.
    weights: Vec<f32>,
    bias: Vec<f32>,
    activation: Activation,
}

pub(super) fn check(what: &'static str, got: usize, expected: usize) -> Result<(), NnError> {
    if got == expected {
        return Ok(());
    }
    Err(NnError::Count {
        what,
        got,
        expected,
    })
}

impl InferenceLayer {
    /// A layer of zeros.
    ///
    /// # Errors
    /// [`NnError::Empty`] if either width is 0, [`NnError::Memory`] if there is not enough.
    pub fn zeros(inputs: usize, outputs: usize, activation: Activation) -> Result<Self, NnError> {
        if inputs == 0 || outputs == 0 {
            return Err(NnError::Empty { inputs, outputs });
        }
        let stride = outputs.checked_next_multiple_of(LANES);
        let stride = stride.ok_or(OutOfMemory { bytes: usize::MAX })?;
        Ok(Self {
            inputs,
            outputs,
            stride,
            weights: filled(0.0, inputs.saturating_mul(stride))?,
            bias: filled(0.0, stride)?,
            activation,
        })
    }

    /// Takes `(outputs, inputs)` weights, row after row, and biases; without any the biases are 0.
    ///
    /// # Errors
    /// [`NnError::Count`]; nothing has changed then.
    pub fn load(&mut self, weights: &[f32], bias: Option<&[f32]>) -> Result<(), NnError> {
        check("weights", weights.len(), self.inputs * self.outputs)?;
        if let Some(bias) = bias {
            check("biases", bias.len(), self.outputs)?;
        }
        self.load_rows(0, weights, bias);
        Ok(())
    }

    /// Takes the weights and biases of some outputs, from `first` on.
    pub(super) fn load_rows(&mut self, first: usize, weights: &[f32], bias: Option<&[f32]>) {
        let outputs = weights.len() / self.inputs;
        let biases = &mut self.bias[first..first + outputs];
        match bias {
            Some(bias) => biases.copy_from_slice(bias),
            None => biases.fill(0.0),
        }
        let panel_size = self.inputs * LANES;
        let mut done = 0;
        while done < outputs {
            let (panel, lane) = ((first + done) / LANES, (first + done) % LANES);
            let count = (LANES - lane).min(outputs - done);
            let weights = &weights[done * self.inputs..(done + count) * self.inputs];
            let panel = &mut self.weights[panel * panel_size..(panel + 1) * panel_size];
            if count == LANES {
                transpose(weights, [LANES, self.inputs], panel);
            } else {
                for (output, weights) in weights.chunks_exact(self.inputs).enumerate() {
                    let column = panel[lane + output..].iter_mut().step_by(LANES);
                    column.zip(weights).for_each(|(to, &from)| *to = from);
                }
            }
            done += count;
        }
    }

    /// Takes `(inputs, outputs)` weights, row after row, for the first inputs; those of the others, and the
    /// biases, stay as they are.
    ///
    /// # Errors
    /// [`NnError::Count`] if there are too many; nothing has changed then.
    pub(super) fn load_transposed(&mut self, weights: &[f32]) -> Result<(), NnError> {
        if weights.len() > self.inputs * self.outputs {
            check("weights", weights.len(), self.inputs * self.outputs)?;
        }
        for (panel, to) in self
            .weights
            .chunks_exact_mut(self.inputs * LANES)
            .enumerate()
        {
            let (first, last) = (panel * LANES, self.outputs.min((panel + 1) * LANES));
            let rows = weights.chunks_exact(self.outputs);
            for (to, from) in to.chunks_exact_mut(LANES).zip(rows) {
                to[..last - first].copy_from_slice(&from[first..last]);
            }
        }
        Ok(())
    }

    /// Numbers in an input row.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Numbers in an output row.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn weights(&self) -> &[f32] {
        &self.weights
    }

    pub(super) fn bias(&self) -> &[f32] {
        &self.bias
    }

    pub(super) fn activation(&self) -> Activation {
        self.activation
    }
}

/// Layers one after the other.
#[derive(Debug, Clone)]
pub struct InferenceMlp {
    layers: Vec<InferenceLayer>,
}

/// The memory of a forward pass, reused from call to call.
#[derive(Debug, Clone, Default)]
pub struct Workspace {
    buffers: [Vec<f32>; 2],
}

/// The outputs of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Outputs<'a> {
    data: &'a [f32],
    stride: usize,
    width: usize,
}

impl<'a> Outputs<'a> {
    /// The outputs of each row of the batch.
    pub fn rows(&self) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        let width = self.width;
        self.data
            .chunks_exact(self.stride)
            .map(move |row| &row[..width])
    }

    /// Numbers in all rows together.
    pub(crate) fn len(&self) -> usize {
        self.data.len() / self.stride * self.width
    }

    /// Copies the rows, one after the other, to as much space.
    pub(crate) fn copy_to(&self, out: &mut [f32]) {
        for (to, from) in out.chunks_exact_mut(self.width).zip(self.rows()) {
            to.copy_from_slice(from);
        }
    }
}

impl InferenceMlp {
    /// A network of at least one layer, each as wide as the next one's input.
    ///
    /// # Errors
    /// [`NnError::NoLayers`] or [`NnError::Width`].
    pub fn new(layers: Vec<InferenceLayer>) -> Result<Self, NnError> {
        if layers.is_empty() {
            return Err(NnError::NoLayers);
        }
        for (index, pair) in layers.windows(2).enumerate() {
            if pair[0].outputs() != pair[1].inputs() {
                return Err(NnError::Width {
                    layer: index + 1,
                    got: pair[1].inputs(),
                    expected: pair[0].outputs(),
                });
            }
        }
        Ok(Self { layers })
    }

    /// Numbers in an input row.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.layers[0].inputs()
    }

    /// Numbers in an output row.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.layers[self.layers.len() - 1].outputs()
    }

    /// Numbers that the last layer takes.
    #[must_use]
    pub fn features(&self) -> usize {
        self.layers[self.layers.len() - 1].inputs()
    }

    /// The layers, first to last.
    #[must_use]
    pub fn layers(&self) -> &[InferenceLayer] {
        &self.layers
    }

    /// The layers, to give them other weights. Their widths cannot change.
    pub fn layers_mut(&mut self) -> &mut [InferenceLayer] {
        &mut self.layers
    }

    /// About how long a row takes, in nanoseconds.
    fn row_ns(&self) -> usize {
        // 10 to 20 products a nanosecond with AVX2, and one activation of tanh or exp.
        let cost =
            |layer: &InferenceLayer| layer.inputs() * layer.stride() / 16 + layer.stride() / 2;
        self.layers.iter().map(cost).sum()
    }

    /// The outputs of `input`, whole rows of [`inputs`](Self::inputs) numbers.
    ///
    /// # Errors
    /// [`NnError::Batch`] if the last row is not whole.
    pub fn forward<'a>(
        &self,
        input: &'a [f32],
        work: &'a mut Workspace,
    ) -> Result<Outputs<'a>, NnError> {
        Ok(self.forward_from_features(input, work)?.1)
    }

    /// What the last layer takes and what it gives: the features and the outputs of `input`.
    ///
    /// # Errors
    /// [`NnError::Batch`] if the last row is not whole, [`NnError::Memory`] if the batch is too large.
    pub fn forward_from_features<'a>(
        &self,
        input: &'a [f32],
        work: &'a mut Workspace,
    ) -> Result<(Outputs<'a>, Outputs<'a>), NnError> {
        let width = self.inputs();
        if !input.len().is_multiple_of(width) {
            return Err(NnError::Batch {
                got: input.len(),
                width,
            });
        }
        let rows = input.len() / width;
        let stride = self
            .layers
            .iter()
            .map(InferenceLayer::stride)
            .max()
            .unwrap_or(0);
        let needed = rows.saturating_mul(stride);
        for buffer in &mut work.buffers {
            if buffer.len() < needed {
                *buffer = Vec::new();
                *buffer = filled(0.0, needed)?;
            }
        }
        let size = rows.div_ceil(threads::parts(rows, self.row_ns())).max(1);
        let [front, back] = &mut work.buffers;
        let buffers = front
            .chunks_mut(size * stride)
            .zip(back.chunks_mut(size * stride));
        threads::for_each(
            input.chunks(size * width).zip(buffers),
            |(input, (front, back))| {
                kernel::forward(&self.layers, input.len() / width, input, front, back);
            },
        );
        let shift = Shift { rows, size, stride };
        // The first layer writes to the front, every next one to the other buffer.
        let count = self.layers.len();
        let [front, back] = &mut work.buffers;
        let (last, before) = if count % 2 == 1 {
            (front, back)
        } else {
            (back, front)
        };
        let outputs = shift.outputs(last, &self.layers[count - 1]);
        let features = match count.checked_sub(2) {
            Some(layer) => shift.outputs(before, &self.layers[layer]),
            None => Outputs {
                data: input,
                stride: width,
                width,
            },
        };
        Ok((features, outputs))
    }
}

/// How the parts of a batch lie in a buffer: `size` rows each, at the same place for all layers.
struct Shift {
    rows: usize,
    size: usize,
    stride: usize,
}

impl Shift {
    /// Moves the rows that `layer` wrote next to each other.
    fn outputs<'a>(&self, buffer: &'a mut [f32], layer: &InferenceLayer) -> Outputs<'a> {
        for (part, row) in (0..self.rows).step_by(self.size).enumerate().skip(1) {
            let length = self.size.min(self.rows - row) * layer.stride();
            let start = part * self.size * self.stride;
            buffer.copy_within(start..start + length, row * layer.stride());
        }
        Outputs {
            data: &buffer[..self.rows * layer.stride()],
            stride: layer.stride(),
            width: layer.outputs(),
        }
    }
}
