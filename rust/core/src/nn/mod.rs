//! MLPs on slices: one for inference and one for training.
//!
//! The two have opposite aims. `inference` gives a row the same bits in any batch, so that collecting in Rust and
//! stepping one by one agree; `training` multiplies whole matrices and keeps what the backward pass needs.

mod activation;
mod conv;
mod extractor;
mod inference;
mod kernel;
mod lstm;
mod observations;
mod product;
mod training;

use thiserror::Error;

use crate::memory::OutOfMemory;

pub use activation::{Activation, exp, sigmoid, tanh};
pub use conv::{Conv2d, ConvError};
pub use extractor::{
    Branch, ConvLayer, Extractor, ExtractorError, ExtractorTape, ExtractorWorkspace,
    InferenceExtractor, LinearLayer,
};
pub use inference::{InferenceLayer, InferenceMlp, Outputs, Workspace};
pub use lstm::{Lstm, LstmPlaces, LstmTape, LstmWeights, Steps};
pub use observations::{ObservationColumn, Rows};
pub use product::{Matrix, multiply};
pub use training::{LayerPart, Tape, TrainableLayer, TrainableMlp};
pub(crate) use training::{SUM_ROWS, add_product, total};

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
