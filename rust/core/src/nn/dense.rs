//! A dense layer: its weights, turned and padded for the kernel.

use thiserror::Error;

use super::Activation;
use crate::memory::{OutOfMemory, filled};

/// Outputs are padded to a multiple of this: the widest vector of floats that a CPU here has.
pub(super) const LANES: usize = 16;

/// What can be wrong with a network or its input.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NnError {
    /// A network without layers.
    #[error("the network has no layers, expected at least one")]
    NoLayers,
    /// A layer without inputs or outputs.
    #[error("a layer has {inputs} inputs and {outputs} outputs, expected at least 1 of each")]
    Empty {
        /// Its inputs.
        inputs: usize,
        /// Its outputs.
        outputs: usize,
    },
    /// Two layers that do not fit each other.
    #[error("layer {layer} takes {got} inputs, the layer before it gives {expected}")]
    Width {
        /// The second of the two, counted from 0.
        layer: usize,
        /// What it takes.
        got: usize,
        /// What the first one gives.
        expected: usize,
    },
    /// Weights or biases of the wrong number.
    #[error("got {got} {what}, expected {expected}")]
    Count {
        /// "weights" or "biases".
        what: &'static str,
        /// Numbers given.
        got: usize,
        /// Numbers wanted.
        expected: usize,
    },
    /// Weights, or what a batch gives, that there is no memory for.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// An input that is not made of whole rows.
    #[error("the input has {got} numbers, expected a multiple of {width}")]
    Batch {
        /// Numbers given.
        got: usize,
        /// Numbers in a row.
        width: usize,
    },
}

/// `activation(W x + b)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    inputs: usize,
    outputs: usize,
    stride: usize,
    // Row i holds what input i adds to every output, padded with zeros to `stride`.
    weights: Vec<f32>,
    bias: Vec<f32>,
    activation: Activation,
}

fn check(what: &'static str, got: usize, expected: usize) -> Result<(), NnError> {
    if got == expected {
        return Ok(());
    }
    Err(NnError::Count {
        what,
        got,
        expected,
    })
}

impl Dense {
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
        match bias {
            Some(bias) => self.bias[..self.outputs].copy_from_slice(bias),
            None => self.bias.fill(0.0),
        }
        for (input, row) in self.weights.chunks_exact_mut(self.stride).enumerate() {
            let column = weights[input..].iter().step_by(self.inputs);
            row.iter_mut()
                .zip(column)
                .for_each(|(to, &from)| *to = from);
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
