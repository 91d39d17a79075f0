//! Long short-term memory (Hochreiter and Schmidhuber 1997): one step for acting, and sequences for training.
//!
//! Gates lie in torch's order: input, forget, cell, output. The steps of sequences lie one after the other, the
//! longest sequence first: step t of all sequences that are that long. There is no padding.

use pulp::Arch;

use super::product::{Matrix, multiply};
use super::training::{add_product, add_rows, add_to_rows};
use super::{NnError, sigmoid, tanh};
use crate::memory::{OutOfMemory, filled};

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

/// The weights of a layer, transposed, so that each input adds a row to the gates.
#[derive(Debug, Clone, Default)]
struct LayerWeights {
    ih: Vec<f32>,
    hh: Vec<f32>,
    bias: Vec<f32>,
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

    /// Takes the weights out of a vector of parameters.
    ///
    /// # Errors
    /// [`NnError::Count`] if it is too short, [`NnError::Memory`] if there is not enough.
    pub fn load(&self, parameters: &[f32], weights: &mut LstmWeights) -> Result<(), NnError> {
        if parameters.len() < self.parameters() {
            return Err(NnError::Count {
                what: "parameters of an LSTM",
                got: parameters.len(),
                expected: self.parameters(),
            });
        }
        let (gates, hidden) = (4 * self.hidden, self.hidden);
        weights
            .layers
            .resize_with(self.layers.len(), LayerWeights::default);
        for (index, (places, to)) in self.layers.iter().zip(&mut weights.layers).enumerate() {
            let inputs = self.layer_inputs(index);
            transposed(&parameters[places.weight_ih..], gates, inputs, &mut to.ih)?;
            transposed(&parameters[places.weight_hh..], gates, hidden, &mut to.hh)?;
            to.bias.clear();
            to.bias.resize(gates, 0.0);
            for start in places.biases.into_iter().flatten() {
                let bias = &parameters[start..start + gates];
                to.bias
                    .iter_mut()
                    .zip(bias)
                    .for_each(|(sum, &add)| *sum += add);
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
        let mut gates = vec![0.0; rows * 4 * self.hidden];
        let mut scratch = vec![0.0; width];
        for (layer, weights) in weights.layers.iter().enumerate() {
            let (below, own) = hidden.split_at_mut(layer * width);
            let own = &mut own[..width];
            let input = if layer == 0 {
                input
            } else {
                &below[(layer - 1) * width..]
            };
            for row in gates.chunks_exact_mut(4 * self.hidden) {
                row.copy_from_slice(&weights.bias);
            }
            add_products(input, self.layer_inputs(layer), &weights.ih, &mut gates);
            add_products(own, self.hidden, &weights.hh, &mut gates);
            let cell = &mut cell[layer * width..(layer + 1) * width];
            open(&mut gates, cell, own, &mut scratch, self.hidden);
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
        let LstmTape { layers, cell, .. } = tape;
        for index in 0..self.layers.len() {
            let (below, rest) = layers.split_at_mut(index);
            let input = below.last().map_or(input, |below| &below.hidden);
            let place = index * sequences..(index + 1) * sequences;
            let states = states.map(|states| &states[place.clone()]);
            let inputs = self.layer_inputs(index);
            let layer = &weights.layers[index];
            self.layer_forward(layer, steps, (input, inputs), states, &mut rest[0], cell);
        }
        tape.output()
    }

    fn layer_forward(
        &self,
        weights: &LayerWeights,
        steps: &Steps,
        (input, inputs): (&[f32], usize),
        [hidden, cell_state]: [&[f32]; 2],
        tape: &mut LayerTape,
        cell: &mut Vec<f32>,
    ) {
        let (rows, hidden_size, gates) = (steps.rows(), self.hidden, 4 * self.hidden);
        assert_eq!(input.len(), rows * inputs);
        for numbers in [
            &mut tape.hidden,
            &mut tape.hidden_before,
            &mut tape.cell_before,
            &mut tape.tanh_cell,
        ] {
            numbers.resize(rows * hidden_size, 0.0);
        }
        tape.gates.resize(rows * gates, 0.0);
        let x = Matrix::new(input, rows, inputs, inputs);
        let w = Matrix::new(&weights.ih, inputs, gates, gates);
        multiply(x, w, &mut tape.gates, gates, false);
        add_to_rows(&mut tape.gates, gates, &weights.bias);
        cell.clear();
        cell.extend_from_slice(cell_state);
        let mut start = 0;
        for (step, &count) in steps.counts.iter().enumerate() {
            let (from, to) = (start * hidden_size, (start + count) * hidden_size);
            let before = if step == 0 {
                hidden
            } else {
                let last = (start - steps.counts[step - 1]) * hidden_size;
                &tape.hidden[last..last + count * hidden_size]
            };
            tape.hidden_before[from..to].copy_from_slice(&before[..count * hidden_size]);
            let own = &mut tape.gates[start * gates..(start + count) * gates];
            add_products(&tape.hidden_before[from..to], hidden_size, &weights.hh, own);
            let cell = &mut cell[..count * hidden_size];
            tape.cell_before[from..to].copy_from_slice(cell);
            let tanh_cell = &mut tape.tanh_cell[from..to];
            open(
                own,
                cell,
                &mut tape.hidden[from..to],
                tanh_cell,
                hidden_size,
            );
            start += count;
        }
    }

    /// Adds to `gradient` that of the parameters. `outputs` is the gradient of what [`Lstm::forward`] gave for
    /// `input`; `tape` is that pass's, whose gates become derivatives.
    ///
    /// # Panics
    /// If a length is not that of the forward pass.
    pub fn backward(
        &self,
        parameters: &[f32],
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
            let (gates, rows) = (4 * self.hidden, steps.rows());
            let hh = &parameters[places.weight_hh..places.weight_hh + gates * self.hidden];
            self.through_time(hh, steps, own, delta, (of_hidden, of_cell));
            let input = below.last().map_or(input, |below| &below.hidden);
            let of_gates = Matrix::new(&own.gates, rows, gates, gates);
            for (place, from, width) in [
                (places.weight_ih, input, inputs),
                (places.weight_hh, &own.hidden_before, self.hidden),
            ] {
                let from = Matrix::new(from, rows, width, width);
                let sum = &mut gradient[place..place + gates * width];
                add_product(of_gates.transposed(), from, sum);
            }
            for start in places.biases.into_iter().flatten() {
                add_rows(&own.gates, gates, &mut gradient[start..start + gates]);
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
        hh: &[f32],
        steps: &Steps,
        tape: &mut LayerTape,
        delta: &[f32],
        (of_hidden, of_cell): (&mut Vec<f32>, &mut Vec<f32>),
    ) {
        let (hidden, gates) = (self.hidden, 4 * self.hidden);
        let sequences = steps.counts.first().copied().unwrap_or(0);
        for numbers in [&mut *of_hidden, &mut *of_cell] {
            numbers.clear();
            numbers.resize(sequences * hidden, 0.0);
        }
        let mut start = steps.rows();
        for &count in steps.counts.iter().rev() {
            start -= count;
            let (from, to) = (start * hidden, (start + count) * hidden);
            let of_gates = &mut tape.gates[start * gates..(start + count) * gates];
            // Sequences that end here have nothing behind them: zeros.
            close(
                of_gates,
                [&delta[from..to], &of_hidden[..count * hidden]],
                [&tape.cell_before[from..to], &tape.tanh_cell[from..to]],
                &mut of_cell[..count * hidden],
                hidden,
            );
            let of_hidden = &mut of_hidden[..count * hidden];
            of_hidden.fill(0.0);
            add_products(of_gates, gates, hh, of_hidden);
        }
    }
}

/// `to <- weights^T`, for `(rows, columns)` weights at the start of a slice.
fn transposed(
    weights: &[f32],
    rows: usize,
    columns: usize,
    to: &mut Vec<f32>,
) -> Result<(), OutOfMemory> {
    const BLOCK: usize = 16;
    if to.len() != rows * columns {
        *to = filled(0.0, rows.saturating_mul(columns))?;
    }
    for first in (0..rows).step_by(BLOCK) {
        for column in 0..columns {
            let last = rows.min(first + BLOCK);
            for row in first..last {
                to[column * rows + row] = weights[row * columns + column];
            }
        }
    }
    Ok(())
}

/// Adds to each row of `out` the products of a row of `x`, of `inputs` numbers, with the rows of `weights`, in
/// their order.
fn add_products(x: &[f32], inputs: usize, weights: &[f32], out: &mut [f32]) {
    let outputs = weights.len() / inputs;
    Arch::new().dispatch(|| {
        let mut x = x.chunks_exact(4 * inputs);
        let mut out = out.chunks_exact_mut(4 * outputs);
        for (x, out) in x.by_ref().zip(out.by_ref()) {
            add_block::<4>(x, inputs, weights, out, outputs);
        }
        let rest = x.remainder().chunks_exact(inputs);
        for (x, out) in rest.zip(out.into_remainder().chunks_exact_mut(outputs)) {
            add_block::<1>(x, inputs, weights, out, outputs);
        }
    });
}

/// The same for `R` rows, which share the loads of the weights. The sums stay in registers.
#[inline(always)]
fn add_block<const R: usize>(
    x: &[f32],
    inputs: usize,
    weights: &[f32],
    out: &mut [f32],
    outputs: usize,
) {
    const LANES: usize = 64;
    let whole = outputs - outputs % LANES;
    for at in (0..whole).step_by(LANES) {
        let mut sums = [[0.0_f32; LANES]; R];
        for (row, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(&out[row * outputs + at..row * outputs + at + LANES]);
        }
        for (input, weights) in weights.chunks_exact(outputs).enumerate() {
            let weights = &weights[at..at + LANES];
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = x[row * inputs + input];
                for (sum, &weight) in sums.iter_mut().zip(weights) {
                    *sum += factor * weight;
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            out[row * outputs + at..row * outputs + at + LANES].copy_from_slice(sums);
        }
    }
    for (input, weights) in weights.chunks_exact(outputs).enumerate() {
        for row in 0..R {
            let factor = x[row * inputs + input];
            let out = &mut out[row * outputs + whole..(row + 1) * outputs];
            for (sum, &weight) in out.iter_mut().zip(&weights[whole..]) {
                *sum += factor * weight;
            }
        }
    }
}

/// Opens the gates: `c <- f c + i g`, `h <- o tanh(c)`. The gates become what they let through.
fn open(
    gates: &mut [f32],
    cell: &mut [f32],
    hidden: &mut [f32],
    tanh_cell: &mut [f32],
    size: usize,
) {
    Arch::new().dispatch(|| {
        let states = cell
            .chunks_exact_mut(size)
            .zip(hidden.chunks_exact_mut(size));
        let rows = gates
            .chunks_exact_mut(4 * size)
            .zip(tanh_cell.chunks_exact_mut(size));
        for ((gates, tanh_cell), (cell, hidden)) in rows.zip(states) {
            let (both, rest) = gates.split_at_mut(2 * size);
            let (new, shown) = rest.split_at_mut(size);
            both.iter_mut().for_each(|x| *x = sigmoid(*x));
            new.iter_mut().for_each(|x| *x = tanh(*x));
            shown.iter_mut().for_each(|x| *x = sigmoid(*x));
            let (taken, kept) = both.split_at(size);
            for (((cell, &kept), &taken), &new) in cell.iter_mut().zip(kept).zip(taken).zip(&*new) {
                *cell = kept * *cell + taken * new;
            }
            for (((hidden, tanh_cell), &cell), &shown) in
                hidden.iter_mut().zip(tanh_cell).zip(&*cell).zip(&*shown)
            {
                *tanh_cell = tanh(cell);
                *hidden = shown * *tanh_cell;
            }
        }
    });
}

/// The derivatives of a step: from those of the hidden state, as the layer above and as the next step have them,
/// and of the cell, which becomes that of the cell before, to those of what the gates took.
fn close(
    gates: &mut [f32],
    of_hidden: [&[f32]; 2],
    [cell_before, tanh_cell]: [&[f32]; 2],
    of_cell: &mut [f32],
    size: usize,
) {
    Arch::new().dispatch(|| {
        for (row, (gates, of_cell)) in gates
            .chunks_exact_mut(4 * size)
            .zip(of_cell.chunks_exact_mut(size))
            .enumerate()
        {
            let place = row * size..(row + 1) * size;
            let [above, next] = of_hidden.map(|numbers| &numbers[place.clone()]);
            let (before, tanh_cell) = (&cell_before[place.clone()], &tanh_cell[place]);
            let (taken, rest) = gates.split_at_mut(size);
            let (kept, rest) = rest.split_at_mut(size);
            let (new, shown) = rest.split_at_mut(size);
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
    });
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

    fn output(lstm: &Lstm, parameters: &[f32], input: &[f32], tape: &mut LstmTape) -> Vec<f32> {
        let states = [numbers(2 * 3 * HIDDEN, 5), numbers(2 * 3 * HIDDEN, 9)];
        let mut weights = LstmWeights::default();
        lstm.load(parameters, &mut weights).unwrap();
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
        lstm.load(&parameters, &mut weights).unwrap();
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
        lstm.load(&parameters, &mut weights).unwrap();
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
            &parameters,
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
    fn products_of_several_rows_are_those_of_each() {
        let (inputs, outputs) = (5, 70);
        let (x, weights) = (numbers(7 * inputs, 1), numbers(inputs * outputs, 2));
        let mut together = numbers(7 * outputs, 4);
        let mut each = together.clone();
        add_products(&x, inputs, &weights, &mut together);
        for (x, out) in x.chunks(inputs).zip(each.chunks_mut(outputs)) {
            add_products(x, inputs, &weights, out);
        }
        assert_eq!(together, each);
        let sum: f32 = (0..inputs).map(|i| x[i] * weights[i * outputs + 69]).sum();
        assert!((together[69] - numbers(7 * outputs, 4)[69] - sum).abs() < 1e-5);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        assert_eq!(Lstm::new(1, 1, Vec::new()), Err(NnError::NoLayers));
        let (lstm, parameters) = lstm();
        let error = lstm.load(&parameters[1..], &mut LstmWeights::default());
        assert!(matches!(error, Err(NnError::Count { .. })));
    }
}
