//! MLPs for training: the forward pass keeps what the backward pass needs.
//!
//! An MLP holds no numbers here. Its weights and biases lie in a vector that the caller owns, at offsets
//! that the MLP knows, and a gradient has the same layout.

use pulp::Arch;

use super::inference::check;
use super::product::{Matrix, multiply};
use super::{Activation, InferenceMlp, NnError};

/// How many rows one `f32` sum takes up: one that takes up tens of thousands of them loses their last digits.
pub(crate) const SUM_ROWS: usize = 256;

/// Outputs of a layer with weights of their own: most layers have one such part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerPart {
    /// Number of outputs.
    pub outputs: usize,
    /// Where the `(outputs, inputs)` weights begin, row after row.
    pub weights: usize,
    /// Where the biases begin, if there are any.
    pub bias: Option<usize>,
}

/// `activation(W x + b)`, with weights in a vector that the caller owns.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainableLayer {
    inputs: usize,
    outputs: usize,
    parts: Vec<LayerPart>,
    activation: Activation,
}

impl TrainableLayer {
    /// A layer whose parts' outputs lie side by side.
    #[must_use]
    pub fn new(inputs: usize, parts: Vec<LayerPart>, activation: Activation) -> Self {
        Self {
            inputs,
            outputs: total(parts.iter().map(|part| part.outputs)),
            parts,
            activation,
        }
    }

    fn weights<'a>(&self, part: &LayerPart, parameters: &'a [f32]) -> Matrix<'a> {
        let weights = &parameters[part.weights..part.weights + part.outputs * self.inputs];
        Matrix::new(weights, part.outputs, self.inputs, self.inputs)
    }

    fn forward(&self, parameters: &[f32], input: &[f32], kept: &mut Kept) {
        let rows = input.len() / self.inputs;
        let x = Matrix::new(input, rows, self.inputs, self.inputs);
        kept.output.resize(rows * self.outputs, 0.0);
        let mut column = 0;
        for part in &self.parts {
            let weights = self.weights(part, parameters).transposed();
            let out = &mut kept.output[column.min(rows * self.outputs)..];
            multiply(x, weights, out, self.outputs, false);
            if let Some(bias) = part.bias {
                let bias = &parameters[bias..bias + part.outputs];
                add_to_rows(out, self.outputs, bias);
            }
            column += part.outputs;
        }
        if self.activation.needs_input() {
            kept.input.clone_from(&kept.output);
        }
        let output = &mut kept.output;
        Arch::new().dispatch(|| self.activation.apply(output));
    }

    /// From the gradient of the outputs to that of the parameters, which is added to `gradient`.
    fn backward(
        &self,
        input: &[f32],
        kept: &Kept,
        delta: &mut [f32],
        gradient: Option<&mut [f32]>,
    ) {
        let seen = if self.activation.needs_input() {
            &kept.input
        } else {
            &kept.output
        };
        Arch::new().dispatch(|| self.activation.scale_gradient(seen, delta));
        let Some(gradient) = gradient else {
            return;
        };
        let rows = delta.len() / self.outputs;
        let x = Matrix::new(input, rows, self.inputs, self.inputs);
        let mut column = 0;
        for part in &self.parts {
            let of_part = &delta[column.min(delta.len())..];
            let transposed = Matrix::new(of_part, rows, part.outputs, self.outputs).transposed();
            let size = part.outputs * self.inputs;
            let weights = &mut gradient[part.weights..part.weights + size];
            add_product(transposed, x, weights);
            if let Some(bias) = part.bias {
                let bias = &mut gradient[bias..bias + part.outputs];
                add_rows(of_part, self.outputs, bias);
            }
            column += part.outputs;
        }
    }

    /// The gradient of the inputs, from that of what the activation took.
    fn to_input(&self, parameters: &[f32], delta: &[f32], out: &mut Vec<f32>) {
        let rows = delta.len() / self.outputs;
        out.resize(rows * self.inputs, 0.0);
        let mut column = 0;
        for (index, part) in self.parts.iter().enumerate() {
            let of_part = &delta[column.min(delta.len())..];
            let of_part = Matrix::new(of_part, rows, part.outputs, self.outputs);
            let weights = self.weights(part, parameters);
            multiply(of_part, weights, out, self.inputs, index > 0);
            column += part.outputs;
        }
    }
}

/// The sum; `usize::MAX` stands for more.
pub(crate) fn total(numbers: impl Iterator<Item = usize>) -> usize {
    numbers.fold(0, usize::saturating_add)
}

/// Adds `row` to the first numbers of each row of `stride` numbers.
pub(super) fn add_to_rows(rows: &mut [f32], stride: usize, row: &[f32]) {
    Arch::new().dispatch(|| {
        for out in rows.chunks_mut(stride) {
            out.iter_mut().zip(row).for_each(|(out, &add)| *out += add);
        }
    });
}

/// Adds `a b` to `out`, row after row, in two levels, see [`SUM_ROWS`].
pub(crate) fn add_product(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
    // `gemm` multiplies blocks and adds these up, but a vector and a matrix in one level.
    let vector = a.rows() == 1 || b.columns() == 1;
    if !vector || b.rows() <= SUM_ROWS {
        return multiply(a, b, out, b.columns(), true);
    }
    let mut of_block = vec![0.0; out.len()];
    for (a, b) in a.blocks(b, SUM_ROWS) {
        multiply(a, b, &mut of_block, b.columns(), false);
        out.iter_mut()
            .zip(&of_block)
            .for_each(|(out, &add)| *out += add);
    }
}

/// Adds the first numbers of each row of `stride` numbers to `sum`.
///
/// In two levels, see [`SUM_ROWS`].
pub(super) fn add_rows(rows: &[f32], stride: usize, sum: &mut [f32]) {
    const LANES: usize = 64;
    Arch::new().dispatch(|| {
        for block in rows.chunks(SUM_ROWS * stride) {
            for (index, sum) in sum.chunks_mut(LANES).enumerate() {
                let mut of_block = [0.0_f32; LANES];
                for row in block.chunks(stride) {
                    let row = &row[index * LANES..];
                    let lanes = of_block[..sum.len()].iter_mut().zip(row);
                    lanes.for_each(|(sum, &add)| *sum += add);
                }
                sum.iter_mut()
                    .zip(&of_block)
                    .for_each(|(sum, &add)| *sum += add);
            }
        }
    });
}

/// What a layer took (if its derivative goes by that) and gave.
#[derive(Debug, Clone, Default)]
struct Kept {
    input: Vec<f32>,
    output: Vec<f32>,
}

/// The memory of a forward and a backward pass, reused from call to call.
#[derive(Debug, Clone, Default)]
pub struct Tape {
    layers: Vec<Kept>,
    delta: Vec<f32>,
    next_delta: Vec<f32>,
}

impl Tape {
    /// What the last forward pass has given; nothing if there was none.
    #[must_use]
    pub fn output(&self) -> &[f32] {
        self.layers.last().map_or(&[], |last| &last.output)
    }

    /// What the last layer has taken in the last forward pass, which took `input`.
    pub(crate) fn last_input<'a>(&'a self, input: &'a [f32]) -> &'a [f32] {
        match self.layers.len().checked_sub(2) {
            Some(before) => &self.layers[before].output,
            None => input,
        }
    }

    /// Forgets all rows of the last forward pass, of `rows` rows, but those at `kept`, in rising order.
    /// A backward pass for the gradient of the inputs goes through these alone.
    pub fn keep_rows(&mut self, rows: usize, kept: &[usize]) {
        for layer in &mut self.layers {
            for numbers in [&mut layer.input, &mut layer.output] {
                let width = numbers.len() / rows.max(1);
                for (to, &from) in kept.iter().enumerate() {
                    numbers.copy_within(from * width..(from + 1) * width, to * width);
                }
                numbers.truncate(kept.len() * width);
            }
        }
    }
}

/// Layers one after the other, whose weights are elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainableMlp {
    layers: Vec<TrainableLayer>,
}

impl TrainableMlp {
    /// A network of at least one layer, each as wide as the next one's input.
    ///
    /// # Errors
    /// [`NnError::NoLayers`], [`NnError::Empty`] or [`NnError::Width`].
    pub fn new(layers: Vec<TrainableLayer>) -> Result<Self, NnError> {
        if layers.is_empty() {
            return Err(NnError::NoLayers);
        }
        for layer in &layers {
            let (inputs, outputs) = (layer.inputs, layer.outputs);
            if inputs == 0 || layer.parts.iter().any(|part| part.outputs == 0) || outputs == 0 {
                return Err(NnError::Empty { inputs, outputs });
            }
        }
        for (index, pair) in layers.windows(2).enumerate() {
            if pair[0].outputs != pair[1].inputs {
                return Err(NnError::Width {
                    layer: index + 1,
                    got: pair[1].inputs,
                    expected: pair[0].outputs,
                });
            }
        }
        Ok(Self { layers })
    }

    /// Numbers in an input row.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.layers[0].inputs
    }

    /// Numbers in an output row.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.layers[self.layers.len() - 1].outputs
    }

    /// Gives the layers of a network of the same shape the weights in `parameters`.
    ///
    /// # Errors
    /// [`NnError::Count`] if it has another number of layers or a layer another shape.
    pub(crate) fn load_into(
        &self,
        parameters: &[f32],
        net: &mut InferenceMlp,
    ) -> Result<(), NnError> {
        check("layers", net.layers().len(), self.layers.len())?;
        for (layer, to) in self.layers.iter().zip(net.layers_mut()) {
            check("outputs", to.outputs(), layer.outputs)?;
            check("inputs", to.inputs(), layer.inputs)?;
            let mut first = 0;
            for part in &layer.parts {
                let size = part.outputs * layer.inputs;
                let weights = &parameters[part.weights..part.weights + size];
                let bias = part.bias.map(|bias| &parameters[bias..bias + part.outputs]);
                to.load_rows(first, weights, bias);
                first += part.outputs;
            }
        }
        Ok(())
    }

    /// How long the vector of parameters has to be.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let parts = self.layers.iter().flat_map(|layer| {
            layer.parts.iter().map(|part| {
                let weights = part.outputs.saturating_mul(layer.inputs);
                let bias = part
                    .bias
                    .map_or(0, |bias| bias.saturating_add(part.outputs));
                part.weights.saturating_add(weights).max(bias)
            })
        });
        parts.max().unwrap_or(0)
    }

    /// The same network with its parameters elsewhere. `place` is asked where those go that lie at its
    /// first argument; the second one is how many they are.
    pub(crate) fn moved(&self, mut place: impl FnMut(usize, usize) -> usize) -> Self {
        let mut moved = self.clone();
        for layer in &mut moved.layers {
            for part in &mut layer.parts {
                part.weights = place(part.weights, part.outputs * layer.inputs);
                part.bias = part.bias.map(|bias| place(bias, part.outputs));
            }
        }
        moved
    }

    /// Numbers that the passes of a row keep, at most.
    #[must_use]
    pub fn row_numbers(&self) -> usize {
        let widths = self
            .layers
            .iter()
            .map(|layer| layer.inputs.max(layer.outputs));
        total(widths).saturating_mul(4)
    }

    /// About how long a forward pass takes, in nanoseconds a row.
    #[must_use]
    pub fn row_ns(&self) -> usize {
        // 50 products a nanosecond, one or two operations on each output.
        let cost = |layer: &TrainableLayer| {
            layer.inputs.saturating_mul(layer.outputs) / 50 + layer.outputs
        };
        total(self.layers.iter().map(cost))
    }

    /// The outputs of `input`, row after row.
    ///
    /// # Panics
    /// If the last row is not whole or the parameters are too few.
    pub fn forward<'t>(
        &self,
        parameters: &[f32],
        input: &[f32],
        tape: &'t mut Tape,
    ) -> &'t mut [f32] {
        assert!(input.len().is_multiple_of(self.inputs()));
        tape.layers.resize_with(self.layers.len(), Kept::default);
        let mut input = input;
        for (layer, kept) in self.layers.iter().zip(&mut tape.layers) {
            layer.forward(parameters, input, kept);
            input = &kept.output;
        }
        &mut tape.layers[self.layers.len() - 1].output
    }

    /// Adds to `gradient` that of the parameters, and gives that of the inputs if it is `wanted`.
    ///
    /// `tape` is that of the forward pass of this input, and `outputs` the gradient of its outputs.
    ///
    /// # Panics
    /// If a length is not that of the forward pass.
    pub fn backward<'t>(
        &self,
        parameters: &[f32],
        input: &[f32],
        tape: &'t mut Tape,
        outputs: &[f32],
        gradient: Option<&mut [f32]>,
        wanted: bool,
    ) -> &'t [f32] {
        self.backward_from(parameters, input, tape, (outputs, &[]), gradient, wanted)
    }

    /// The same where what the last layer takes goes elsewhere, too: also from the gradient that it has there.
    pub(crate) fn backward_from<'t>(
        &self,
        parameters: &[f32],
        input: &[f32],
        tape: &'t mut Tape,
        (outputs, last_input): (&[f32], &[f32]),
        mut gradient: Option<&mut [f32]>,
        wanted: bool,
    ) -> &'t [f32] {
        let Tape {
            layers: kept,
            delta,
            next_delta,
        } = tape;
        delta.clear();
        delta.extend_from_slice(outputs);
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let input = match index.checked_sub(1) {
                Some(before) => &kept[before].output,
                None => input,
            };
            assert_eq!(delta.len(), kept[index].output.len());
            layer.backward(input, &kept[index], delta, gradient.as_deref_mut());
            if index > 0 || wanted {
                layer.to_input(parameters, delta, next_delta);
                std::mem::swap(delta, next_delta);
                if index + 1 == self.layers.len() {
                    let sums = delta.iter_mut().zip(last_input);
                    sums.for_each(|(sum, &add)| *sum += add);
                }
            }
        }
        delta
    }

    /// Numbers that the last layer takes.
    pub(crate) fn features(&self) -> usize {
        self.layers[self.layers.len() - 1].inputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIVATIONS: [Activation; 8] = [
        Activation::HardTanh(0.4),
        Activation::Identity,
        Activation::Tanh,
        Activation::Relu,
        Activation::Elu(0.7),
        Activation::LeakyRelu(0.1),
        Activation::Silu,
        Activation::Gelu,
    ];

    /// Two layers, the second in two parts, one of them without a bias.
    fn net(activation: Activation) -> TrainableMlp {
        let hidden = LayerPart {
            outputs: 5,
            weights: 1,
            bias: Some(16),
        };
        let (left, right) = (
            LayerPart {
                outputs: 2,
                weights: 21,
                bias: None,
            },
            LayerPart {
                outputs: 1,
                weights: 31,
                bias: Some(36),
            },
        );
        TrainableMlp::new(vec![
            TrainableLayer::new(3, vec![hidden], activation),
            TrainableLayer::new(5, vec![left, right], Activation::Identity),
        ])
        .unwrap()
    }

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count)
            .map(|i| ((i as f32 * step).sin() * 43.7).fract())
            .collect()
    }

    /// The sum of the outputs, each times its weight: a loss whose gradient is the weights.
    fn loss(net: &TrainableMlp, parameters: &[f32], input: &[f32], weights: &[f32]) -> f64 {
        let mut tape = Tape::default();
        let outputs = net.forward(parameters, input, &mut tape);
        let product = outputs
            .iter()
            .zip(weights)
            .map(|(&a, &b)| f64::from(a) * f64::from(b));
        product.sum()
    }

    #[test]
    fn gradients_are_differences() {
        const STEP: f32 = 1e-2;
        for activation in ACTIVATIONS {
            let net = net(activation);
            assert_eq!(net.parameters(), 37);
            let (parameters, input) = (numbers(37, 0.9), numbers(12, 1.7));
            let weights = numbers(12, 2.3);
            let (mut tape, mut gradient) = (Tape::default(), vec![0.0; 37]);
            net.forward(&parameters, &input, &mut tape);
            let inputs = net.backward(
                &parameters,
                &input,
                &mut tape,
                &weights,
                Some(&mut gradient),
                true,
            );
            let check = |got: f32, up: f64, down: f64, what: &str| {
                let expected = (up - down) / f64::from(2.0 * STEP);
                let gap = (f64::from(got) - expected).abs();
                assert!(
                    gap < 2e-3,
                    "{activation:?} {what}: {got}, expected {expected}"
                );
            };
            for i in 1..37 {
                let moved = |by: f32| {
                    let mut moved = parameters.clone();
                    moved[i] += by;
                    loss(&net, &moved, &input, &weights)
                };
                check(gradient[i], moved(STEP), moved(-STEP), "parameter");
            }
            assert_eq!(gradient[0], 0.0);
            for i in 0..12 {
                let moved = |by: f32| {
                    let mut moved = input.clone();
                    moved[i] += by;
                    loss(&net, &parameters, &moved, &weights)
                };
                check(inputs[i], moved(STEP), moved(-STEP), "input");
            }
        }
    }

    #[test]
    fn layers_that_do_not_fit_are_refused() {
        let part = |outputs| LayerPart {
            outputs,
            weights: 0,
            bias: None,
        };
        let layer = |inputs, outputs| {
            TrainableLayer::new(inputs, vec![part(outputs)], Activation::Identity)
        };
        assert_eq!(TrainableMlp::new(vec![]).unwrap_err(), NnError::NoLayers);
        assert!(matches!(
            TrainableMlp::new(vec![layer(2, 0)]).unwrap_err(),
            NnError::Empty { .. }
        ));
        let error = TrainableMlp::new(vec![layer(2, 3), layer(4, 1)]).unwrap_err();
        assert!(matches!(
            error,
            NnError::Width {
                layer: 1,
                got: 4,
                expected: 3
            }
        ));
    }
}
