//! Long short-term memory (Hochreiter and Schmidhuber 1997): one step for acting, and sequences for training.
//!
//! Gates lie in torch's order: input, forget, cell, output. The steps of sequences lie one after the other, the
//! longest sequence first: step t of all sequences that are that long. There is no padding.

use pulp::{Arch, Simd, WithSimd};

use super::product::{Matrix, multiply};
use super::training::{add_product, add_rows};
use super::{Activation, InferenceLayer, NnError, kernel, sigmoid, tanh};
use crate::memory::filled;

/// Where the parameters of a layer lie in a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LstmPlaces {
    /// The `(4 * hidden, inputs)` weights of the inputs, row after row.
    pub weight_ih: usize,
    /// The `(4 * hidden, hidden)` weights of the hidden state.
    pub weight_hh: usize,
    /// The two biases, if there are any.
    pub biases: Option<[usize; 2]>,
}

/// Layers of long short-term memory, whose weights are in a vector that the caller owns.
#[derive(Debug, Clone, PartialEq)]
pub struct Lstm {
    inputs: usize,
    hidden: usize,
    layers: Vec<LstmPlaces>,
}

/// The weights of a layer: of the inputs, of the hidden state, and the latter from the gates back to it.
#[derive(Debug, Clone)]
struct LayerWeights {
    ih: InferenceLayer,
    hh: InferenceLayer,
    back: InferenceLayer,
    bias: Vec<f32>,
}

impl LayerWeights {
    fn zeros(inputs: usize, hidden: usize) -> Result<Self, NnError> {
        let layer = |from, to| InferenceLayer::zeros(from, to, Activation::Identity);
        let ih = layer(inputs, 4 * hidden)?;
        // Takes the gates as they lie, with what pads them.
        let back = layer(ih.stride(), hidden)?;
        Ok(Self {
            ih,
            hh: layer(hidden, 4 * hidden)?,
            back,
            bias: filled(0.0, 4 * hidden)?,
        })
    }
}

/// The weights of an [`Lstm`] as its steps take them.
#[derive(Debug, Clone, Default)]
pub struct LstmWeights {
    layers: Vec<LayerWeights>,
}

/// How the steps of some sequences lie: at step t there are `counts[t]` rows, those of the longest
/// sequences, never more than before.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    /// Sequences that have each step.
    pub counts: Vec<usize>,
}

impl Steps {
    /// Steps of all sequences.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.counts.iter().sum()
    }
}

/// What a layer keeps of a forward pass, row after row; then the derivatives of what it gave.
#[derive(Debug, Clone, Default)]
struct LayerTape {
    gates: Vec<f32>,
    hidden: Vec<f32>,
    hidden_before: Vec<f32>,
    cell_before: Vec<f32>,
    tanh_cell: Vec<f32>,
}

/// The memory of the passes of an [`Lstm`] over some sequences.
#[derive(Debug, Clone, Default)]
pub struct LstmTape {
    layers: Vec<LayerTape>,
    cell: Vec<f32>,
    delta: Vec<f32>,
    of_hidden: Vec<f32>,
    of_cell: Vec<f32>,
}

impl LstmTape {
    /// `(rows, hidden)` what the last layer gave.
    #[must_use]
    pub fn output(&self) -> &[f32] {
        self.layers.last().map_or(&[], |layer| &layer.hidden)
    }
}

impl Lstm {
    /// Layers on top of each other.
    ///
    /// # Errors
    /// [`NnError::NoLayers`] or [`NnError::Empty`].
    pub fn new(inputs: usize, hidden: usize, layers: Vec<LstmPlaces>) -> Result<Self, NnError> {
        if layers.is_empty() {
            return Err(NnError::NoLayers);
        }
        if inputs == 0 || hidden == 0 {
            return Err(NnError::Empty {
                inputs,
                outputs: hidden,
            });
        }
        Ok(Self {
            inputs,
            hidden,
            layers,
        })
    }

    /// Numbers in an input.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Numbers in a hidden state.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// How many layers there are.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    fn layer_inputs(&self, layer: usize) -> usize {
        if layer == 0 { self.inputs } else { self.hidden }
    }

    /// How long the vector of parameters has to be.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let gates = self.hidden.saturating_mul(4);
        let end = |(layer, places): (usize, &LstmPlaces)| {
            let ih = gates.saturating_mul(self.layer_inputs(layer));
            let hh = gates.saturating_mul(self.hidden);
            let biases = places
                .biases
                .map_or(0, |[ih, hh]| ih.max(hh).saturating_add(gates));
            let ih = places.weight_ih.saturating_add(ih);
            ih.max(places.weight_hh.saturating_add(hh)).max(biases)
        };
        self.layers.iter().enumerate().map(end).max().unwrap_or(0)
    }

    /// Numbers that the passes of a row keep, at most.
    #[must_use]
    pub fn row_numbers(&self) -> usize {
        self.hidden
            .saturating_mul(12)
            .saturating_mul(self.layers.len())
    }

    /// About how long a step takes, in nanoseconds a row.
    #[must_use]
    pub fn row_ns(&self) -> usize {
        let products = |layer| {
            let width = self.layer_inputs(layer).saturating_add(self.hidden);
            self.hidden.saturating_mul(width) / 5
        };
        (0..self.layers.len()).map(products).sum()
    }

    /// Takes the weights out of a vector of parameters; those for a backward pass if it is for `training`.
    ///
    /// # Errors
    /// [`NnError::Count`] if it is too short, [`NnError::Memory`] if there is not enough.
    pub fn load(
        &self,
        parameters: &[f32],
        weights: &mut LstmWeights,
        training: bool,
    ) -> Result<(), NnError> {
        if parameters.len() < self.parameters() {
            return Err(NnError::Count {
                what: "parameters of an LSTM",
                got: parameters.len(),
                expected: self.parameters(),
            });
        }
        let (gates, hidden) = (4 * self.hidden, self.hidden);
        if weights.layers.len() != self.layers.len() {
            let layers = (0..self.layers.len()).map(|layer| self.layer_inputs(layer));
            let layers: Result<_, _> = layers
                .map(|inputs| LayerWeights::zeros(inputs, hidden))
                .collect();
            weights.layers = layers?;
        }
        for (index, (places, to)) in self.layers.iter().zip(&mut weights.layers).enumerate() {
            let of = |start: usize, size| &parameters[start..start + gates * size];
            let (ih, hh) = (
                of(places.weight_ih, self.layer_inputs(index)),
                of(places.weight_hh, hidden),
            );
            to.bias.fill(0.0);
            for start in places.biases.into_iter().flatten() {
                let bias = of(start, 1);
                to.bias
                    .iter_mut()
                    .zip(bias)
                    .for_each(|(sum, &add)| *sum += add);
            }
            to.ih.load(ih, Some(&to.bias))?;
            to.hh.load(hh, None)?;
            if training {
                to.back.load_transposed(hh)?;
            }
        }
        Ok(())
    }

    /// One step of some rows. `hidden` and `cell` are the states of all layers, `(layers, rows, hidden)`, and
    /// become those after the step; the hidden state of the last layer is what it gives. A row gives the same
    /// bits in any batch.
    ///
    /// # Panics
    /// If a length does not fit, or no weights have been loaded.
    pub fn step(&self, weights: &LstmWeights, input: &[f32], hidden: &mut [f32], cell: &mut [f32]) {
        let rows = input.len() / self.inputs;
        let width = rows * self.hidden;
        assert!(hidden.len() == width * self.layers.len() && cell.len() == hidden.len());
        let size = self.hidden;
        let (mut gates, mut of_hidden) = (Vec::new(), Vec::new());
        let mut scratch = vec![0.0; width];
        for (layer, weights) in weights.layers.iter().enumerate() {
            let (below, own) = hidden.split_at_mut(layer * width);
            let own = &mut own[..width];
            let input = if layer == 0 {
                input
            } else {
                &below[(layer - 1) * width..]
            };
            products(&weights.ih, input, &mut gates);
            products(&weights.hh, own, &mut of_hidden);
            gates
                .iter_mut()
                .zip(&of_hidden)
                .for_each(|(sum, &add)| *sum += add);
            let cell = &mut cell[layer * width..(layer + 1) * width];
            let stride = weights.ih.stride();
            open((&mut gates, stride), cell, own, &mut scratch, size);
        }
    }

    /// What the last layer gives for the steps of some sequences, `(rows, hidden)`.
    ///
    /// `states` are the hidden and the cell states before the first steps, `(layers, sequences, hidden)`.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn forward<'t>(
        &self,
        weights: &LstmWeights,
        steps: &Steps,
        input: &[f32],
        states: [&[f32]; 2],
        tape: &'t mut LstmTape,
    ) -> &'t [f32] {
        tape.layers
            .resize_with(self.layers.len(), LayerTape::default);
        let sequences = steps.counts.first().copied().unwrap_or(0) * self.hidden;
        let LstmTape {
            layers,
            cell,
            of_hidden,
            ..
        } = tape;
        for index in 0..self.layers.len() {
            let (below, rest) = layers.split_at_mut(index);
            let input = below.last().map_or(input, |below| &below.hidden);
            let place = index * sequences..(index + 1) * sequences;
            let states = states.map(|states| &states[place.clone()]);
            let work = (&mut *cell, &mut *of_hidden);
            self.layer_forward(
                &weights.layers[index],
                steps,
                input,
                states,
                &mut rest[0],
                work,
            );
        }
        tape.output()
    }

    fn layer_forward(
        &self,
        weights: &LayerWeights,
        steps: &Steps,
        input: &[f32],
        [hidden, cell_state]: [&[f32]; 2],
        tape: &mut LayerTape,
        (cell, of_hidden): (&mut Vec<f32>, &mut Vec<f32>),
    ) {
        let (rows, size, stride) = (steps.rows(), self.hidden, weights.ih.stride());
        assert_eq!(input.len(), rows * weights.ih.inputs());
        for numbers in [
            &mut tape.hidden,
            &mut tape.hidden_before,
            &mut tape.cell_before,
            &mut tape.tanh_cell,
        ] {
            numbers.resize(rows * size, 0.0);
        }
        // What does not depend on the state, for all steps at once.
        products(&weights.ih, input, &mut tape.gates);
        cell.clear();
        cell.extend_from_slice(cell_state);
        let mut start = 0;
        for (step, &count) in steps.counts.iter().enumerate() {
            let (from, to) = (start * size, (start + count) * size);
            let before = if step == 0 {
                hidden
            } else {
                let last = (start - steps.counts[step - 1]) * size;
                &tape.hidden[last..last + count * size]
            };
            tape.hidden_before[from..to].copy_from_slice(&before[..count * size]);
            products(&weights.hh, &tape.hidden_before[from..to], of_hidden);
            let own = &mut tape.gates[start * stride..(start + count) * stride];
            own.iter_mut()
                .zip(&*of_hidden)
                .for_each(|(sum, &add)| *sum += add);
            let cell = &mut cell[..count * size];
            tape.cell_before[from..to].copy_from_slice(cell);
            let tanh_cell = &mut tape.tanh_cell[from..to];
            open(
                (own, stride),
                cell,
                &mut tape.hidden[from..to],
                tanh_cell,
                size,
            );
            start += count;
        }
    }

    /// Adds to `gradient` that of the parameters. `outputs` is the gradient of what [`Lstm::forward`] gave for
    /// `input`; `tape` is that pass's, whose gates become derivatives. The weights are loaded for training.
    ///
    /// # Panics
    /// If a length is not that of the forward pass.
    pub fn backward(
        &self,
        (parameters, weights): (&[f32], &LstmWeights),
        steps: &Steps,
        input: &[f32],
        outputs: &[f32],
        tape: &mut LstmTape,
        gradient: &mut [f32],
    ) {
        let LstmTape {
            layers,
            delta,
            of_hidden,
            of_cell,
            ..
        } = tape;
        delta.clear();
        delta.extend_from_slice(outputs);
        for index in (0..self.layers.len()).rev() {
            let (places, inputs) = (self.layers[index], self.layer_inputs(index));
            let (below, rest) = layers.split_at_mut(index);
            let own = &mut rest[0];
            let (gates, rows, stride) = (4 * self.hidden, steps.rows(), weights.stride(index));
            let layer = &weights.layers[index];
            self.through_time(layer, steps, own, delta, (of_hidden, of_cell));
            let input = below.last().map_or(input, |below| &below.hidden);
            let of_gates = Matrix::new(&own.gates, rows, gates, stride);
            for (place, from, width) in [
                (places.weight_ih, input, inputs),
                (places.weight_hh, &own.hidden_before, self.hidden),
            ] {
                let from = Matrix::new(from, rows, width, width);
                let sum = &mut gradient[place..place + gates * width];
                add_product(of_gates.transposed(), from, sum);
            }
            for start in places.biases.into_iter().flatten() {
                add_rows(&own.gates, stride, &mut gradient[start..start + gates]);
            }
            if index > 0 {
                let ih = &parameters[places.weight_ih..places.weight_ih + gates * inputs];
                let ih = Matrix::new(ih, gates, inputs, inputs);
                delta.resize(rows * inputs, 0.0);
                multiply(of_gates, ih, delta, inputs, false);
            }
        }
    }

    /// From the gradient of the hidden states to that of what the gates took, which takes the gates' place.
    fn through_time(
        &self,
        weights: &LayerWeights,
        steps: &Steps,
        tape: &mut LayerTape,
        delta: &[f32],
        (of_hidden, of_cell): (&mut Vec<f32>, &mut Vec<f32>),
    ) {
        let (size, stride) = (self.hidden, weights.ih.stride());
        let next = weights.back.stride();
        let sequences = steps.counts.first().copied().unwrap_or(0);
        of_cell.clear();
        of_cell.resize(sequences * size, 0.0);
        of_hidden.clear();
        let mut start = steps.rows();
        for &count in steps.counts.iter().rev() {
            start -= count;
            let (from, to) = (start * size, (start + count) * size);
            let of_gates = &mut tape.gates[start * stride..(start + count) * stride];
            // Sequences that end here have nothing behind them.
            of_hidden.resize(count * next, 0.0);
            close(Close {
                gates: (of_gates, stride),
                above: &delta[from..to],
                next: (of_hidden, next),
                cell_before: &tape.cell_before[from..to],
                tanh_cell: &tape.tanh_cell[from..to],
                of_cell: &mut of_cell[..count * size],
                size,
            });
            products(&weights.back, of_gates, of_hidden);
        }
    }
}

impl LstmWeights {
    /// Numbers from one row of gates to the next.
    fn stride(&self, layer: usize) -> usize {
        self.layers[layer].ih.stride()
    }
}

/// What a layer gives for each row of `x`, rows of its stride.
fn products(layer: &InferenceLayer, x: &[f32], out: &mut Vec<f32>) {
    let rows = x.len() / layer.inputs();
    out.resize(rows * layer.stride(), 0.0);
    kernel::outputs(layer, 0, x, out, layer.stride());
}

/// Opens the gates: `c <- f c + i g`, `h <- o tanh(c)`. The gates become what they let through.
fn open(
    (gates, stride): (&mut [f32], usize),
    cell: &mut [f32],
    hidden: &mut [f32],
    tanh_cell: &mut [f32],
    size: usize,
) {
    Arch::new().dispatch(Open {
        gates,
        stride,
        cell,
        hidden,
        tanh_cell,
        size,
    });
}

struct Open<'a> {
    gates: &'a mut [f32],
    stride: usize,
    cell: &'a mut [f32],
    hidden: &'a mut [f32],
    tanh_cell: &'a mut [f32],
    size: usize,
}

impl WithSimd for Open<'_> {
    type Output = ();

    // The compiler's own vectors, of the width that the unit has.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let size = self.size;
        let states = self.cell.chunks_exact_mut(size);
        let states = states.zip(self.hidden.chunks_exact_mut(size));
        let rows = self.gates.chunks_exact_mut(self.stride);
        let rows = rows.zip(self.tanh_cell.chunks_exact_mut(size));
        for ((gates, tanh_cell), (cell, hidden)) in rows.zip(states) {
            let (taken, rest) = gates.split_at_mut(size);
            let (kept, rest) = rest.split_at_mut(size);
            let (new, shown) = rest.split_at_mut(size);
            let shown = &mut shown[..size];
            for i in 0..size {
                taken[i] = sigmoid(taken[i]);
                kept[i] = sigmoid(kept[i]);
                new[i] = tanh(new[i]);
                shown[i] = sigmoid(shown[i]);
                cell[i] = kept[i] * cell[i] + taken[i] * new[i];
                tanh_cell[i] = tanh(cell[i]);
                hidden[i] = shown[i] * tanh_cell[i];
            }
        }
    }
}

/// The derivatives of a step: from those of the hidden state, as the layer above and as the next step have them,
/// and of the cell, which becomes that of the cell before, to those of what the gates took.
struct Close<'a> {
    gates: (&'a mut [f32], usize),
    above: &'a [f32],
    next: (&'a [f32], usize),
    cell_before: &'a [f32],
    tanh_cell: &'a [f32],
    of_cell: &'a mut [f32],
    size: usize,
}

fn close(work: Close<'_>) {
    Arch::new().dispatch(work);
}

impl WithSimd for Close<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let size = self.size;
        let rows = self.gates.0.chunks_exact_mut(self.gates.1);
        let rows = rows.zip(self.of_cell.chunks_exact_mut(size));
        for (row, (gates, of_cell)) in rows.enumerate() {
            let place = row * size..(row + 1) * size;
            let (above, before) = (&self.above[place.clone()], &self.cell_before[place.clone()]);
            let next = &self.next.0[row * self.next.1..row * self.next.1 + size];
            let tanh_cell = &self.tanh_cell[place];
            let (taken, rest) = gates.split_at_mut(size);
            let (kept, rest) = rest.split_at_mut(size);
            let (new, shown) = rest.split_at_mut(size);
            let shown = &mut shown[..size];
            for i in 0..size {
                let (a, f, g, o) = (taken[i], kept[i], new[i], shown[i]);
                let (of_hidden, t) = (above[i] + next[i], tanh_cell[i]);
                let by_cell = of_cell[i] + of_hidden * o * (1.0 - t * t);
                taken[i] = by_cell * g * a * (1.0 - a);
                kept[i] = by_cell * before[i] * f * (1.0 - f);
                new[i] = by_cell * a * (1.0 - g * g);
                shown[i] = of_hidden * t * o * (1.0 - o);
                of_cell[i] = by_cell * f;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUTS: usize = 3;
    const HIDDEN: usize = 2;

    fn lstm() -> (Lstm, Vec<f32>) {
        let (gates, mut end) = (4 * HIDDEN, 0);
        let mut place = |size| {
            end += size;
            end - size
        };
        let layers = [INPUTS, HIDDEN].map(|inputs| LstmPlaces {
            weight_ih: place(gates * inputs),
            weight_hh: place(gates * HIDDEN),
            biases: Some([place(gates), place(gates)]),
        });
        let lstm = Lstm::new(INPUTS, HIDDEN, layers.to_vec()).unwrap();
        let parameters = (0..lstm.parameters()).map(|i| ((i * 37 % 41) as f32 - 20.0) / 25.0);
        let parameters = parameters.collect();
        (lstm, parameters)
    }

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|i| (((i + seed) * 29 % 31) as f32 - 15.0) / 10.0)
            .collect()
    }

    /// Three sequences, of 3, 2 and 1 steps.
    fn steps() -> Steps {
        Steps {
            counts: vec![3, 2, 1],
        }
    }

    fn weights_of(lstm: &Lstm, parameters: &[f32]) -> LstmWeights {
        let mut weights = LstmWeights::default();
        lstm.load(parameters, &mut weights, true).unwrap();
        weights
    }

    fn output(lstm: &Lstm, parameters: &[f32], input: &[f32], tape: &mut LstmTape) -> Vec<f32> {
        let states = [numbers(2 * 3 * HIDDEN, 5), numbers(2 * 3 * HIDDEN, 9)];
        let mut weights = LstmWeights::default();
        lstm.load(parameters, &mut weights, true).unwrap();
        let states = states.each_ref().map(Vec::as_slice);
        lstm.forward(&weights, &steps(), input, states, tape)
            .to_vec()
    }

    // By hand: weights 0, so that the gates are the biases alone.
    #[test]
    fn gates_in_torchs_order() {
        let places = LstmPlaces {
            weight_ih: 8,
            weight_hh: 8,
            biases: Some([0, 4]),
        };
        let lstm = Lstm::new(1, 1, vec![places]).unwrap();
        // Input, forget, cell, output.
        let mut parameters = vec![100.0, -100.0, 0.25, 0.0, 0.0, 0.0, 0.25, 0.0];
        parameters.resize(12, 0.0);
        let mut weights = LstmWeights::default();
        lstm.load(&parameters, &mut weights, true).unwrap();
        let (mut hidden, mut cell) = ([9.0], [7.0]);
        lstm.step(&weights, &[3.0], &mut hidden, &mut cell);
        // c = 0 * 7 + 1 * tanh(0.5), h = 0.5 tanh(c)
        assert!((cell[0] - 0.462_117_2).abs() < 1e-6);
        assert!((hidden[0] - 0.5 * 0.431_808_2).abs() < 1e-6);
    }

    #[test]
    fn sequences_are_steps_one_after_the_other() {
        let (lstm, parameters) = lstm();
        let input = numbers(6 * INPUTS, 0);
        let together = output(&lstm, &parameters, &input, &mut LstmTape::default());
        let mut weights = LstmWeights::default();
        lstm.load(&parameters, &mut weights, true).unwrap();
        let pick = |states: &[f32], sequence: usize| -> Vec<f32> {
            let row = |layer: usize| (layer * 3 + sequence) * HIDDEN;
            (0..2)
                .flat_map(|layer| states[row(layer)..row(layer) + HIDDEN].to_vec())
                .collect()
        };
        let (hidden, cell) = (numbers(12, 5), numbers(12, 9));
        // The rows of each sequence.
        for (sequence, rows) in [vec![0, 3, 5], vec![1, 4], vec![2]].iter().enumerate() {
            let (mut hidden, mut cell) = (pick(&hidden, sequence), pick(&cell, sequence));
            for &row in rows {
                lstm.step(
                    &weights,
                    &input[row * INPUTS..][..INPUTS],
                    &mut hidden,
                    &mut cell,
                );
                for (got, expected) in hidden[HIDDEN..].iter().zip(&together[row * HIDDEN..]) {
                    assert!((got - expected).abs() < 1e-6, "{got}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn derivatives_are_differences() {
        const STEP: f32 = 1e-2;
        let (lstm, parameters) = lstm();
        let (input, weights) = (numbers(6 * INPUTS, 0), numbers(6 * HIDDEN, 3));
        let value = |parameters: &[f32]| -> f32 {
            let out = output(&lstm, parameters, &input, &mut LstmTape::default());
            out.iter().zip(&weights).map(|(x, w)| x * w).sum()
        };
        let mut tape = LstmTape::default();
        output(&lstm, &parameters, &input, &mut tape);
        let mut gradient = vec![0.0; parameters.len()];
        lstm.backward(
            (&parameters, &weights_of(&lstm, &parameters)),
            &steps(),
            &input,
            &weights,
            &mut tape,
            &mut gradient,
        );
        for (i, &got) in gradient.iter().enumerate() {
            let moved = |by: f32| {
                let mut moved = parameters.clone();
                moved[i] += by;
                value(&moved)
            };
            let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            assert!(
                (got - expected).abs() < 3e-3,
                "{i}: {got}, expected {expected}"
            );
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_batch() {
        let (lstm, parameters) = lstm();
        let mut weights = LstmWeights::default();
        lstm.load(&parameters, &mut weights, false).unwrap();
        for rows in 2..8 {
            let (input, states) = (numbers(rows * INPUTS, 0), numbers(2 * rows * HIDDEN, 5));
            let (mut hidden, mut cell) = (states.clone(), states.clone());
            lstm.step(&weights, &input, &mut hidden, &mut cell);
            for row in 0..rows {
                let of_row = |states: &[f32]| -> Vec<f32> {
                    let start = |layer: usize| (layer * rows + row) * HIDDEN;
                    (0..2)
                        .flat_map(|layer| states[start(layer)..start(layer) + HIDDEN].to_vec())
                        .collect()
                };
                let (mut one, mut one_cell) = (of_row(&states), of_row(&states));
                let input = &input[row * INPUTS..(row + 1) * INPUTS];
                lstm.step(&weights, input, &mut one, &mut one_cell);
                assert_eq!((one, one_cell), (of_row(&hidden), of_row(&cell)));
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        assert_eq!(Lstm::new(1, 1, Vec::new()), Err(NnError::NoLayers));
        let (lstm, parameters) = lstm();
        let error = lstm.load(&parameters[1..], &mut LstmWeights::default(), true);
        assert!(matches!(error, Err(NnError::Count { .. })));
    }
}
