//! Several critics and a batch: each critic, with a piece of the rows, is work for one thread.

use std::ops::Range;

use super::actor::rows_of;
use super::pieces::{Pieces, WithGradient};
use super::views::View;
use crate::memory::OutOfMemory;
use crate::nn::{Tape, TrainableMlp, total};

/// What critics see of observations, and the actions that they evaluate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pairs<'a> {
    pub(super) view: View<'a>,
    pub(super) actions: &'a [f32],
    pub(super) action_dim: usize,
}

impl Pairs<'_> {
    pub(super) fn rows(&self) -> usize {
        self.actions.len() / self.action_dim
    }
}

/// Critics, and the memory of their passes over a batch.
#[derive(Debug, Clone)]
pub(super) struct Critics {
    pub(super) nets: Vec<TrainableMlp>,
    items: Pieces<Item>,
}

/// A critic and some rows, and what they give.
#[derive(Debug, Clone, Default)]
pub(super) struct Item {
    critic: usize,
    pub(super) rows: Range<usize>,
    pub(super) pairs: Vec<f32>,
    pub(super) tape: Tape,
    pub(super) by_values: Vec<f32>,
    // Rows where this critic's value is the smallest, and the gradient by their actions.
    chosen: Vec<usize>,
    pub(super) by_actions: Vec<f32>,
    pub(super) by_inputs: Vec<f32>,
    pub(super) gradient: Vec<f32>,
    pub(super) loss: f64,
}

/// For each row the smallest value of the critics, and the index of its critic.
#[derive(Debug, Clone, Default)]
pub(super) struct MinValues {
    pub(super) values: Vec<f32>,
    argmin: Vec<usize>,
}

/// Rows of an item: twice as many where there are several critics for the threads. Each item packs its
/// critic's weights for the products, so that more rows are cheaper.
fn item_rows(rows: usize, count: usize) -> usize {
    rows.div_ceil(8).max(if count > 1 { 256 } else { 128 })
}

impl WithGradient for Item {
    fn gradient(&mut self) -> &mut Vec<f32> {
        &mut self.gradient
    }
}

impl Item {
    /// Observations and actions side by side.
    pub(super) fn pair(&mut self, of: &Pairs<'_>, obs_dim: usize) {
        self.pairs.clear();
        let observations = rows_of(of.view.inputs, &self.rows, obs_dim).chunks_exact(obs_dim);
        let actions = rows_of(of.actions, &self.rows, of.action_dim).chunks_exact(of.action_dim);
        for (observation, action) in observations.zip(actions) {
            self.pairs.extend_from_slice(observation);
            self.pairs.extend_from_slice(action);
        }
    }
}

impl Critics {
    pub(super) fn new(nets: Vec<TrainableMlp>) -> Self {
        Self {
            nets,
            items: Pieces::default(),
        }
    }

    pub(super) fn parameters(&self) -> usize {
        self.nets
            .iter()
            .map(TrainableMlp::parameters)
            .max()
            .unwrap_or(0)
    }

    /// That there is memory for passes of as many rows.
    pub(super) fn expect_room(&mut self, rows: usize, size: usize) -> Result<(), OutOfMemory> {
        let numbers = total(self.nets.iter().map(TrainableMlp::row_numbers));
        self.items
            .expect_room(rows, numbers, size.saturating_mul(self.nets.len()))
    }

    /// Lets `work` visit the items of the first `count` critics; so many `passes` and nanoseconds `more` are
    /// what it costs.
    pub(super) fn visit(
        &mut self,
        rows: usize,
        count: usize,
        passes: usize,
        more: usize,
        work: impl Fn(&TrainableMlp, &mut Item) + Sync,
    ) {
        let size = item_rows(rows, count);
        let of_each = rows.div_ceil(size).max(1);
        let nets = &self.nets;
        let cost = passes * rows * count * nets[0].row_ns() + more;
        self.items.visit(count * of_each, cost, |index, item| {
            let first = index % of_each * size;
            item.critic = index / of_each;
            item.rows = first..rows.min(first + size);
            work(&nets[item.critic], item);
        });
    }

    /// A forward pass of all critics.
    pub(super) fn pass(&mut self, pairs: &Pairs<'_>) {
        self.visit(pairs.rows(), self.nets.len(), 1, 0, |net, item| {
            item.pair(pairs, net.inputs() - pairs.action_dim);
            net.forward(pairs.view.parameters, &item.pairs, &mut item.tape);
        });
    }

    /// For each critic of the last visit its items' rows and outputs.
    pub(super) fn by_critic(&self) -> impl Iterator<Item = Vec<(Range<usize>, &[f32])>> {
        self.items
            .visited()
            .chunk_by(|a, b| a.critic == b.critic)
            .map(|items| {
                let parts = items.iter();
                parts
                    .map(|item| (item.rows.clone(), item.tape.output()))
                    .collect()
            })
    }

    /// The sum of the losses of the last visit.
    pub(super) fn losses(&self) -> f64 {
        self.items.visited().iter().map(|item| item.loss).sum()
    }

    /// The sum of the gradients of the last visit; that of what the critics saw goes to `by_inputs`.
    pub(super) fn sum_of_gradients(&mut self, by_inputs: &mut Vec<f32>) -> &[f32] {
        add_up_inputs(self.items.visited(), by_inputs);
        self.items.gradient()
    }

    /// Adds what all critics of the last visit say of the actions of all rows.
    pub(super) fn add_by_actions(&self, dim: usize, gradient: &mut [f32]) {
        for item in self.items.visited() {
            let to = &mut gradient[item.rows.start * dim..item.rows.end * dim];
            to.iter_mut()
                .zip(&item.by_actions)
                .for_each(|(to, add)| *to += add);
        }
    }

    /// The smallest value of the first `count` critics, for each action.
    pub(super) fn evaluate(&mut self, pairs: &Pairs<'_>, count: usize, min_values: &mut MinValues) {
        let (parameters, rows) = (
            pairs.view.parameters,
            pairs.actions.len() / pairs.action_dim,
        );
        self.visit(rows, count, 1, 0, |net, item| {
            item.pair(pairs, net.inputs() - pairs.action_dim);
            net.forward(parameters, &item.pairs, &mut item.tape);
        });
        min_values.values.clear();
        min_values.values.resize(rows, f32::INFINITY);
        min_values.argmin.clear();
        min_values.argmin.resize(rows, 0);
        for item in self.items.visited() {
            for (row, &value) in item.rows.clone().zip(item.tape.output()) {
                // Of nan, which no number is smaller than, the last one is taken.
                if item.critic == 0 || value < min_values.values[row] || value.is_nan() {
                    (min_values.values[row], min_values.argmin[row]) = (value, item.critic);
                }
            }
        }
    }

    /// The gradient, by the actions of the last [`Self::evaluate`], of minus the mean of the smallest values.
    pub(super) fn by_actions(
        &mut self,
        pairs: &Pairs<'_>,
        count: usize,
        min_values: &MinValues,
        gradient: &mut Vec<f32>,
    ) {
        let (parameters, dim) = (pairs.view.parameters, pairs.action_dim);
        let rows = pairs.actions.len() / dim;
        self.visit(rows, count, 1, 0, |net, item| {
            let argmin = &min_values.argmin[item.rows.clone()];
            item.chosen.clear();
            item.chosen
                .extend((0..argmin.len()).filter(|&row| argmin[row] == item.critic));
            if item.chosen.len() < argmin.len() {
                item.tape.keep_rows(argmin.len(), &item.chosen);
            }
            item.by_values.clear();
            item.by_values.resize(item.chosen.len(), -1.0 / rows as f32);
            let (tape, values) = (&mut item.tape, &item.by_values);
            let by_pairs = net.backward(parameters, &item.pairs, tape, values, None, true);
            item.by_actions.clear();
            for row in by_pairs.chunks_exact(net.inputs()) {
                item.by_actions
                    .extend_from_slice(&row[net.inputs() - dim..]);
            }
        });
        gradient.clear();
        gradient.resize(rows * dim, 0.0);
        for item in self.items.visited() {
            for (&row, by_action) in item.chosen.iter().zip(item.by_actions.chunks_exact(dim)) {
                let place = (item.rows.start + row) * dim;
                gradient[place..place + dim].copy_from_slice(by_action);
            }
        }
    }

    /// The gradient of `size` parameters, that of what the critics saw to `by_inputs` if it is wanted, and the
    /// loss: for each critic the mean of `half` times the
    /// squares of how far it is from the targets.
    pub(super) fn gradient(
        &mut self,
        pairs: &Pairs<'_>,
        targets: &[f32],
        half: f32,
        (size, by_inputs): (usize, &mut Vec<f32>),
    ) -> (&[f32], f64) {
        let (parameters, rows) = (pairs.view.parameters, targets.len());
        let slope = 2.0 * half / rows as f32;
        self.visit(rows, self.nets.len(), 3, 0, |net, item| {
            item.pair(pairs, net.inputs() - pairs.action_dim);
            item.clear_gradient(size);
            item.by_values.clear();
            item.loss = 0.0;
            let values = net.forward(parameters, &item.pairs, &mut item.tape);
            for (&value, &target) in values.iter().zip(&targets[item.rows.clone()]) {
                let error = value - target;
                item.loss += f64::from(half * error * error);
                item.by_values.push(slope * error);
            }
            let (tape, by_values) = (&mut item.tape, &item.by_values);
            let gradient = Some(item.gradient.as_mut_slice());
            let learns = pairs.view.learns;
            let by_pairs = net.backward(parameters, &item.pairs, tape, by_values, gradient, learns);
            keep_inputs(by_pairs, net.inputs(), pairs, &mut item.by_inputs);
        });
        let loss = self.losses() / rows as f64;
        (self.sum_of_gradients(by_inputs), loss)
    }
}

/// Keeps the gradient of what a critic saw, without that of the actions, if it is wanted.
pub(super) fn keep_inputs(by_pairs: &[f32], width: usize, of: &Pairs<'_>, out: &mut Vec<f32>) {
    out.clear();
    if of.view.learns {
        for row in by_pairs.chunks_exact(width) {
            out.extend_from_slice(&row[..width - of.action_dim]);
        }
    }
}

/// Adds up over the critics the gradient of what they saw, row after row.
fn add_up_inputs(items: &[Item], out: &mut Vec<f32>) {
    out.clear();
    for item in items {
        if item.critic == 0 {
            out.extend_from_slice(&item.by_inputs);
            continue;
        }
        let width = item.by_inputs.len() / item.rows.len().max(1);
        let sums = out[item.rows.start * width..].iter_mut();
        sums.zip(&item.by_inputs)
            .for_each(|(sum, &add)| *sum += add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Activation, LayerPart, TrainableLayer};

    const ROWS: usize = 300;
    const SIZE: usize = 2 * (4 * 5 + 5 + 5 + 1);

    fn critic(start: usize) -> TrainableMlp {
        let part = |outputs, weights, bias| {
            let bias = Some(bias);
            vec![LayerPart {
                outputs,
                weights,
                bias,
            }]
        };
        let hidden = TrainableLayer::new(4, part(5, start, start + 20), Activation::Tanh);
        let last = TrainableLayer::new(5, part(1, start + 25, start + 30), Activation::Identity);
        TrainableMlp::new(vec![hidden, last]).unwrap()
    }

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count)
            .map(|i| ((i as f32 * step).sin() * 43.7).fract())
            .collect()
    }

    /// Minus the mean of the smallest values, and its gradient by the actions.
    fn answer(parameters: &[f32], actions: &[f32], count: usize) -> (f64, Vec<f32>) {
        let observations = numbers(3 * ROWS, 0.3);
        let pairs = Pairs {
            view: View {
                inputs: &observations,
                parameters,
                learns: false,
            },
            actions,
            action_dim: 1,
        };
        let mut critics = Critics::new(vec![critic(0), critic(31)]);
        let (mut min_values, mut gradient) = (MinValues::default(), vec![9.0]);
        // What was in the memory before does not matter.
        for _ in 0..2 {
            critics.evaluate(&pairs, count, &mut min_values);
            critics.by_actions(&pairs, count, &min_values, &mut gradient);
        }
        let sum: f64 = min_values
            .values
            .iter()
            .map(|&value| f64::from(value))
            .sum();
        (-sum / ROWS as f64, gradient)
    }

    #[test]
    fn gradients_by_actions_are_differences() {
        const STEP: f32 = 1e-2;
        let actions = numbers(ROWS, 0.9);
        // The second critic's last bias: sometimes, never and always its value is the smallest.
        for (bias, count) in [(0.1, 2), (50.0, 2), (-50.0, 2), (0.0, 1)] {
            let mut parameters = numbers(SIZE, 0.7);
            parameters[SIZE - 1] = bias;
            let (_, gradient) = answer(&parameters, &actions, count);
            assert_eq!(gradient.len(), ROWS);
            for row in (0..ROWS).step_by(7) {
                let loss = |by: f32| {
                    let mut moved = actions.clone();
                    moved[row] += by;
                    answer(&parameters, &moved, count).0
                };
                let expected = (loss(STEP) - loss(-STEP)) / f64::from(2.0 * STEP);
                let error = (f64::from(gradient[row]) - expected).abs() * ROWS as f64;
                assert!(error < 2e-2, "{bias} {row}: {} {expected}", gradient[row]);
            }
        }
    }
}
