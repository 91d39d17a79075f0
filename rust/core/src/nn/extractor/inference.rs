//! Extractors that act: a row gives the same bits in any batch, see [`crate::nn::InferenceMlp`].

use super::{Branch, Extractor, ExtractorError};
use crate::memory::{OutOfMemory, filled};
use crate::nn::conv::{Channels, Patches, transpose};
use crate::nn::inference::InferenceLayer;
use crate::nn::observations::{ObservationColumn, Rows};
use crate::nn::{NnError, kernel};
use crate::threads::{self, each};

/// Numbers of the patches that are gathered at once: they stay in a core's own cache.
const BLOCK: usize = 1 << 16;

/// Outputs of a wide layer are computed in as many at least.
const OUTPUTS: usize = 64;

#[derive(Debug, Clone)]
struct Convolution {
    patches: Patches,
    layer: InferenceLayer,
}

#[derive(Debug, Clone)]
struct InferenceBranch {
    plan: Branch,
    convolutions: Vec<Convolution>,
    linears: Vec<InferenceLayer>,
    flat: usize,
}

/// Branches side by side, with weights of their own.
#[derive(Debug, Clone)]
pub struct InferenceExtractor {
    branches: Vec<InferenceBranch>,
    outputs: usize,
}

/// The memory of a pass, reused from call to call.
#[derive(Debug, Clone, Default)]
pub struct ExtractorWorkspace {
    parts: Vec<Part>,
    // What a layer takes and gives, and the latter by ranges of outputs.
    input: Vec<f32>,
    output: Vec<f32>,
    ranges: Vec<f32>,
    features: Vec<f32>,
}

/// The memory for one image.
#[derive(Debug, Clone, Default)]
struct Part {
    padded: Vec<f32>,
    patches: Vec<f32>,
    map: Vec<f32>,
    next_map: Vec<f32>,
}

/// Memory for as many numbers at least.
fn reserve(memory: &mut Vec<f32>, count: usize) -> Result<&mut [f32], OutOfMemory> {
    if memory.len() < count {
        *memory = Vec::new();
        *memory = filled(0.0, count)?;
    }
    Ok(&mut memory[..count])
}

impl InferenceExtractor {
    /// An extractor of zeros.
    ///
    /// # Errors
    /// [`ExtractorError`].
    pub fn zeros(branches: &[Branch]) -> Result<Self, ExtractorError> {
        let outputs = Extractor::new(branches)?.outputs();
        let of_branch = |plan: &Branch| {
            let convolution = |(index, layer): (usize, &super::ConvLayer)| {
                let channels = if index == 0 {
                    Channels::First
                } else {
                    Channels::Last
                };
                let patches = Patches::new(layer.conv, channels);
                let (patch, channels) = (layer.conv.patch(), layer.conv.out_channels());
                let layer = InferenceLayer::zeros(patch, channels, layer.activation)?;
                Ok::<_, NnError>(Convolution { patches, layer })
            };
            let linear = |layer: &super::LinearLayer| {
                InferenceLayer::zeros(layer.inputs, layer.outputs, layer.activation)
            };
            let convolutions: Result<Vec<_>, _> = plan
                .convolutions
                .iter()
                .enumerate()
                .map(convolution)
                .collect();
            let linears: Result<Vec<_>, _> = plan.linears.iter().map(linear).collect();
            let last = plan.convolutions.last();
            Ok::<_, NnError>(InferenceBranch {
                plan: plan.clone(),
                convolutions: convolutions?,
                linears: linears?,
                flat: last.map_or(plan.inputs, |layer| layer.conv.output_size()),
            })
        };
        let branches: Result<Vec<_>, _> = branches.iter().map(of_branch).collect();
        Ok(Self {
            branches: branches?,
            outputs,
        })
    }

    /// Takes the parameters from their places in a vector.
    ///
    /// # Errors
    /// [`NnError::Count`] if there are too few; nothing has changed then.
    pub fn load(&mut self, parameters: &[f32]) -> Result<(), NnError> {
        let ends = self.branches.iter().flat_map(|branch| {
            let convolutions = branch
                .plan
                .convolutions
                .iter()
                .map(super::ConvLayer::parameters);
            convolutions.chain(
                branch
                    .plan
                    .linears
                    .iter()
                    .map(super::LinearLayer::parameters),
            )
        });
        let expected = ends.max().unwrap_or(0);
        if parameters.len() < expected {
            return Err(NnError::Count {
                what: "parameters",
                got: parameters.len(),
                expected,
            });
        }
        for branch in &mut self.branches {
            let plans = branch.plan.convolutions.iter();
            for (plan, convolution) in plans.zip(&mut branch.convolutions) {
                let weights = &parameters[plan.weights..plan.weights + plan.conv.weights()];
                let mut ordered = filled(0.0, weights.len())?;
                convolution.patches.order(weights, &mut ordered);
                let bias = plan
                    .bias
                    .map(|at| &parameters[at..at + plan.conv.out_channels()]);
                convolution.layer.load(&ordered, bias)?;
            }
            for (plan, layer) in branch.plan.linears.iter().zip(&mut branch.linears) {
                let weights = &parameters[plan.weights..plan.weights + plan.inputs * plan.outputs];
                let bias = plan.bias.map(|at| &parameters[at..at + plan.outputs]);
                layer.load(weights, bias)?;
            }
        }
        Ok(())
    }

    /// Numbers in a row of features.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The columns that it takes, and the numbers of an observation in each.
    pub fn columns(&self) -> impl Iterator<Item = (usize, usize)> {
        let plans = self.branches.iter().map(|branch| &branch.plan);
        plans.map(|plan| (plan.column, plan.inputs))
    }

    /// The features of some rows of the columns, row after row.
    ///
    /// # Errors
    /// [`NnError::Memory`] if the batch is too large.
    ///
    /// # Panics
    /// If there are too few columns or rows.
    pub fn forward<'w>(
        &self,
        columns: &[ObservationColumn<'_>],
        rows: Rows<'_>,
        work: &'w mut ExtractorWorkspace,
    ) -> Result<&'w [f32], NnError> {
        reserve(&mut work.features, rows.len().saturating_mul(self.outputs))?;
        let mut at = 0;
        for branch in &self.branches {
            let column = columns[branch.plan.column];
            let width = branch.forward(column, rows, work)?;
            let from = work.input.chunks_exact(width).take(rows.len());
            for (to, from) in work.features.chunks_exact_mut(self.outputs).zip(from) {
                to[at..at + width].copy_from_slice(from);
            }
            at += width;
        }
        Ok(&work.features[..rows.len() * self.outputs])
    }
}

impl InferenceBranch {
    /// Leaves what the branch gives in `work.input`, rows of as many numbers as are returned.
    fn forward(
        &self,
        column: ObservationColumn<'_>,
        rows: Rows<'_>,
        work: &mut ExtractorWorkspace,
    ) -> Result<usize, NnError> {
        let (count, inputs) = (rows.len(), self.plan.inputs);
        let flat = reserve(&mut work.input, count.saturating_mul(self.flat))?;
        let parts = threads::parts(count, self.row_ns());
        let size = count.div_ceil(parts).max(1);
        work.parts
            .resize_with(parts.max(work.parts.len()), Part::default);
        let chunks = flat.chunks_mut(size * self.flat).zip(&mut work.parts);
        threads::for_each(chunks.enumerate(), |(index, (flat, part))| {
            for (at, out) in flat.chunks_exact_mut(self.flat).enumerate() {
                let row = column.row(rows.get(index * size + at), inputs);
                self.flatten(row, part, out);
            }
        });
        let mut width = self.flat;
        for layer in &self.linears {
            apply(layer, count, work)?;
            width = layer.outputs();
        }
        Ok(width)
    }

    /// About how long it takes to flatten a row, in nanoseconds.
    fn row_ns(&self) -> usize {
        let of_layer = |Convolution { patches, layer }: &Convolution| {
            patches.conv().positions() * layer.inputs() * layer.stride() / 32
        };
        self.convolutions.iter().map(of_layer).sum::<usize>() + self.plan.inputs
    }

    /// What the linear layers take of a row: the row itself, or what the last convolution gives.
    fn flatten(&self, row: ObservationColumn<'_>, part: &mut Part, out: &mut [f32]) {
        if self.convolutions.is_empty() {
            return row.write(0..row.len(), self.plan.scale, out);
        }
        let Part {
            padded,
            patches,
            map,
            next_map,
        } = part;
        for (index, convolution) in self.convolutions.iter().enumerate() {
            let image = if index == 0 {
                convolution.patches.load(row, self.plan.scale, padded);
                &**padded
            } else {
                convolution.patches.pad(map, padded)
            };
            convolution.forward(image, patches, next_map);
            std::mem::swap(map, next_map);
        }
        let conv = self.convolutions[self.convolutions.len() - 1]
            .patches
            .conv();
        transpose(map, [conv.positions(), conv.out_channels()], out);
    }
}

impl Convolution {
    /// The channels of all positions of an image with its padding.
    fn forward(&self, image: &[f32], patches: &mut Vec<f32>, out: &mut Vec<f32>) {
        let (conv, stride) = (self.patches.conv(), self.layer.stride());
        let [channels, height, width] = conv.output();
        out.resize(conv.positions() * stride, 0.0);
        let lines = (BLOCK / (width * conv.patch()).max(1)).max(1);
        for (block, out) in out.chunks_mut(lines * width * stride).enumerate() {
            let lines = block * lines..height.min((block + 1) * lines);
            let size = lines.len() * width * conv.patch();
            if patches.len() < size {
                patches.resize(size, 0.0);
            }
            self.patches.gather(image, lines, &mut patches[..size]);
            kernel::outputs(&self.layer, 0, &patches[..size], out, stride);
        }
        if channels < stride {
            for position in 1..conv.positions() {
                let from = position * stride;
                out.copy_within(from..from + channels, position * channels);
            }
        }
        out.truncate(conv.positions() * channels);
    }
}

/// A linear layer on all rows of `work.input`, which are those of what it gives then.
///
/// Its weights may be larger than any cache: each thread goes over some of them once for all rows.
fn apply(
    layer: &InferenceLayer,
    rows: usize,
    work: &mut ExtractorWorkspace,
) -> Result<(), NnError> {
    let ExtractorWorkspace {
        input,
        output,
        ranges,
        ..
    } = work;
    let (stride, outputs) = (layer.stride(), layer.outputs());
    let input = &input[..rows * layer.inputs()];
    let ranges = reserve(ranges, rows.saturating_mul(stride))?;
    let mut parts: Vec<_> = ranges.chunks_mut((rows * OUTPUTS).max(1)).collect();
    // Of the weights 5 numbers a nanosecond come from memory, where rows do not share them.
    let products = layer.inputs() * stride;
    each(
        &mut parts,
        products / 5 + rows * products / 32,
        |index, out| {
            let width = out.len() / rows;
            kernel::outputs(layer, index * OUTPUTS, input, out, width);
        },
    );
    let out = reserve(output, rows.saturating_mul(outputs))?;
    for (index, part) in parts.iter().enumerate() {
        let (first, width) = (index * OUTPUTS, part.len() / rows);
        let count = width.min(outputs - first);
        for (to, from) in out.chunks_exact_mut(outputs).zip(part.chunks_exact(width)) {
            to[first..first + count].copy_from_slice(&from[..count]);
        }
    }
    std::mem::swap(&mut work.input, &mut work.output);
    Ok(())
}
