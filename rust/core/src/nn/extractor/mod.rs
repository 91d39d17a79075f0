//! Features extractors: what comes before the layers of an actor or a critic. A branch for each array
//! of an observation (convolutions where it is an image, then linear layers), side by side.

mod convolutions;
mod inference;
mod linear;

use std::ops::Range;

use thiserror::Error;

use super::observations::{ObservationColumn, Rows};
use super::{Activation, NnError, total};
use crate::threads::each;
pub use convolutions::ConvLayer;
use convolutions::{ConvTape, Convolutions, Images};
pub use inference::{ExtractorWorkspace, InferenceExtractor};
pub use linear::LinearLayer;
use linear::LinearScratch;

/// What is wrong with an extractor, or with what it is given.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExtractorError {
    /// An extractor without branches, or one whose first layer takes nothing.
    #[error("a features extractor without numbers")]
    Empty,
    /// Weights that there is no memory for.
    #[error(transparent)]
    Network(#[from] NnError),
    /// A layer that does not take what the one before gives.
    #[error("layer {layer} of branch {branch} takes {got} numbers, expected {expected}")]
    Width {
        /// The branch.
        branch: usize,
        /// Its layer, convolutions first.
        layer: usize,
        /// What it takes.
        got: usize,
        /// What it is given.
        expected: usize,
    },
}

/// What makes features of one array of an observation.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch {
    /// Which column it takes.
    pub column: usize,
    /// Numbers of an observation in it.
    pub inputs: usize,
    /// What these are multiplied with first.
    pub scale: f32,
    /// Convolutions of images whose channels come first.
    pub convolutions: Vec<ConvLayer>,
    /// Linear layers after that; the last convolution's output is flattened, channels first.
    pub linears: Vec<LinearLayer>,
}

impl Branch {
    fn check(&self, branch: usize) -> Result<(), ExtractorError> {
        let convolutions = self.convolutions.iter();
        let convolutions =
            convolutions.map(|layer| (layer.conv.input_size(), layer.conv.output_size()));
        let linears = self
            .linears
            .iter()
            .map(|layer| (layer.inputs, layer.outputs));
        let mut expected = self.inputs;
        for (layer, (got, gives)) in convolutions.chain(linears).enumerate() {
            if got != expected {
                return Err(ExtractorError::Width {
                    branch,
                    layer,
                    got,
                    expected,
                });
            }
            expected = gives;
        }
        let mut pairs = self.convolutions.windows(2);
        // Of the same size and yet of another shape.
        let other = pairs.position(|pair| pair[0].conv.output() != pair[1].conv.input());
        if let Some(layer) = other {
            return Err(ExtractorError::Width {
                branch,
                layer: layer + 1,
                got: self.convolutions[layer + 1].conv.input()[0],
                expected: self.convolutions[layer].conv.output()[0],
            });
        }
        if self.inputs == 0 || expected == 0 {
            return Err(ExtractorError::Empty);
        }
        Ok(())
    }

    /// Numbers in a row of its features.
    fn outputs(&self) -> usize {
        match (self.linears.last(), self.convolutions.last()) {
            (Some(layer), _) => layer.outputs,
            (None, Some(layer)) => layer.conv.output_size(),
            (None, None) => self.inputs,
        }
    }
}

/// What a layer took (if its derivative goes by that) and gave.
#[derive(Debug, Clone, Default)]
struct Kept {
    input: Vec<f32>,
    output: Vec<f32>,
}

impl Kept {
    /// What the derivative of the activation goes by.
    fn seen(&self, activation: Activation) -> &[f32] {
        if activation.needs_input() {
            &self.input
        } else {
            &self.output
        }
    }
}

/// A branch, ready to compute.
#[derive(Debug, Clone, PartialEq)]
struct Computed {
    column: usize,
    inputs: usize,
    outputs: usize,
    scale: f32,
    convolutions: Convolutions,
    linears: Vec<LinearLayer>,
}

/// Branches side by side, whose weights are elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Extractor {
    branches: Vec<Computed>,
    outputs: usize,
}

/// The memory of a forward and a backward pass, reused from call to call.
#[derive(Debug, Clone, Default)]
pub struct ExtractorTape {
    branches: Vec<BranchTape>,
    features: Vec<f32>,
}

#[derive(Debug, Clone, Default)]
struct BranchTape {
    convolutions: ConvTape,
    // What the linear layers take.
    flat: Vec<f32>,
    linears: Vec<Kept>,
    scratch: LinearScratch,
    delta: Vec<f32>,
    next_delta: Vec<f32>,
}

impl BranchTape {
    /// The features of the branch.
    fn output(&self) -> &[f32] {
        self.linears.last().map_or(&self.flat, |last| &last.output)
    }
}

impl ExtractorTape {
    /// The features of the last forward pass.
    #[must_use]
    pub fn features(&self) -> &[f32] {
        match &self.branches[..] {
            [one] => one.output(),
            _ => &self.features,
        }
    }
}

impl Extractor {
    /// An extractor of at least one branch.
    ///
    /// # Errors
    /// [`ExtractorError`].
    pub fn new(branches: &[Branch]) -> Result<Self, ExtractorError> {
        if branches.is_empty() {
            return Err(ExtractorError::Empty);
        }
        for (index, branch) in branches.iter().enumerate() {
            branch.check(index)?;
        }
        let computed = branches.iter().map(|branch| Computed {
            column: branch.column,
            inputs: branch.inputs,
            outputs: branch.outputs(),
            scale: branch.scale,
            convolutions: Convolutions::new(&branch.convolutions, branch.scale),
            linears: branch.linears.clone(),
        });
        Ok(Self {
            branches: computed.collect(),
            outputs: total(branches.iter().map(Branch::outputs)),
        })
    }

    /// Numbers in a row of features.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// How long the vector of parameters has to be.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let of_branch = |branch: &Computed| {
            let convolutions = branch.convolutions.layers().map(ConvLayer::parameters);
            let linears = branch.linears.iter().map(LinearLayer::parameters);
            convolutions.chain(linears).max().unwrap_or(0)
        };
        self.branches.iter().map(of_branch).max().unwrap_or(0)
    }

    /// Where its parameters lie in the vector.
    pub fn places(&self) -> impl Iterator<Item = Range<usize>> {
        self.branches.iter().flat_map(|branch| {
            let convolutions = branch.convolutions.layers().flat_map(ConvLayer::places);
            convolutions.chain(branch.linears.iter().flat_map(LinearLayer::places))
        })
    }

    /// The columns that it takes, and the numbers of an observation in each.
    pub fn columns(&self) -> impl Iterator<Item = (usize, usize)> {
        self.branches
            .iter()
            .map(|branch| (branch.column, branch.inputs))
    }

    /// About how long a forward pass takes, in nanoseconds a row.
    #[must_use]
    pub fn row_ns(&self) -> usize {
        total(self.branches.iter().map(|branch| {
            let linears = total(branch.linears.iter().map(LinearLayer::row_ns));
            branch.convolutions.row_ns().saturating_add(linears)
        }))
    }

    /// Numbers that the passes of `rows` rows keep, at most.
    #[must_use]
    pub fn numbers(&self, rows: usize) -> usize {
        let of_branch = |branch: &Computed| {
            let (of_image, of_all) = branch.convolutions.numbers();
            let linears = total(branch.linears.iter().map(LinearLayer::row_numbers));
            let flat = branch.flat().saturating_mul(3);
            let of_row = of_image.saturating_add(linears).saturating_add(flat);
            of_row.saturating_mul(rows).saturating_add(of_all)
        };
        let features = self.outputs.saturating_mul(rows);
        total(self.branches.iter().map(of_branch)).saturating_add(features)
    }

    /// The features of some rows of the columns, row after row.
    ///
    /// # Panics
    /// If there are too few columns, rows or parameters.
    pub fn forward<'t>(
        &self,
        parameters: &[f32],
        columns: &[ObservationColumn<'_>],
        rows: Rows<'_>,
        tape: &'t mut ExtractorTape,
    ) -> &'t [f32] {
        let count = rows.len();
        tape.branches
            .resize_with(self.branches.len(), BranchTape::default);
        for (branch, tape) in self.branches.iter().zip(&mut tape.branches) {
            let column = columns[branch.column];
            branch.forward(parameters, &Images { column, rows }, tape);
        }
        if self.branches.len() > 1 {
            tape.features.resize(count * self.outputs, 0.0);
            let mut at = 0;
            for (branch, kept) in self.branches.iter().zip(&tape.branches) {
                let from = kept.output().chunks_exact(branch.outputs);
                let to = tape.features.chunks_exact_mut(self.outputs);
                for (to, from) in to.zip(from) {
                    to[at..at + branch.outputs].copy_from_slice(from);
                }
                at += branch.outputs;
            }
        }
        tape.features()
    }

    /// Writes the gradient of the parameters, each to its place in `gradient`, from that of the features.
    ///
    /// `columns`, `rows` and `tape` are those of the forward pass.
    ///
    /// # Panics
    /// If a length is not that of the forward pass.
    pub fn backward(
        &self,
        parameters: &[f32],
        columns: &[ObservationColumn<'_>],
        rows: Rows<'_>,
        tape: &mut ExtractorTape,
        by_features: &[f32],
        gradient: &mut [f32],
    ) {
        assert_eq!(by_features.len(), rows.len() * self.outputs);
        let mut at = 0;
        for (branch, tape) in self.branches.iter().zip(&mut tape.branches) {
            tape.delta.clear();
            for row in by_features.chunks_exact(self.outputs) {
                tape.delta.extend_from_slice(&row[at..at + branch.outputs]);
            }
            at += branch.outputs;
            let column = columns[branch.column];
            branch.backward(parameters, &Images { column, rows }, tape, gradient);
        }
    }
}

impl Computed {
    /// Numbers in a row that the linear layers take.
    fn flat(&self) -> usize {
        match self.convolutions.sizes() {
            (0, _) => self.inputs,
            (_, last) => last,
        }
    }

    fn has_convolutions(&self) -> bool {
        self.convolutions.layers().next().is_some()
    }

    fn forward(&self, parameters: &[f32], images: &Images<'_>, tape: &mut BranchTape) {
        let BranchTape {
            convolutions,
            flat,
            linears,
            scratch,
            ..
        } = tape;
        flat.resize(images.rows.len() * self.flat(), 0.0);
        if self.has_convolutions() {
            self.convolutions
                .forward(parameters, images, convolutions, flat);
        } else {
            let mut rows: Vec<_> = flat.chunks_exact_mut(self.inputs).collect();
            let cost = images.rows.len() * self.inputs;
            each(&mut rows, cost, |index, out| {
                let row = images.column.row(images.rows.get(index), self.inputs);
                row.write(0..self.inputs, self.scale, out);
            });
        }
        linears.resize_with(self.linears.len(), Kept::default);
        for (at, layer) in self.linears.iter().enumerate() {
            let (before, kept) = linears.split_at_mut(at);
            let x = before.last().map_or(&*flat, |before| &before.output);
            layer.forward(parameters, x, &mut kept[0], scratch);
        }
    }

    fn backward(
        &self,
        parameters: &[f32],
        images: &Images<'_>,
        tape: &mut BranchTape,
        gradient: &mut [f32],
    ) {
        let BranchTape {
            convolutions,
            flat,
            linears,
            scratch,
            delta,
            next_delta,
        } = tape;
        for (at, layer) in self.linears.iter().enumerate().rev() {
            let wanted = at > 0 || self.has_convolutions();
            let x = at
                .checked_sub(1)
                .map_or(&*flat, |before| &linears[before].output);
            let by_inputs = (wanted.then_some(&mut *next_delta), &mut *scratch);
            layer.backward(parameters, x, &linears[at], delta, gradient, by_inputs);
            std::mem::swap(delta, next_delta);
        }
        if self.has_convolutions() {
            self.convolutions
                .backward(images, convolutions, delta, gradient);
        }
    }
}
