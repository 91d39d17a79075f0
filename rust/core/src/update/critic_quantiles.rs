//! Critics whose outputs are quantiles of the return, as TQC has them (Kuznetsov et al. 2020,
//! <https://arxiv.org/abs/2005.04269>).

use super::critics::{Critics, Pairs, keep_inputs};
use super::pieces::WithGradient;
use super::quantiles::{PAIR_PS, quantile_huber};

/// How many quantiles there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantiles {
    /// Those that each critic gives.
    pub of_each: usize,
    /// Those of all target critics together that targets are made of: the smallest ones.
    pub kept: usize,
}

impl Critics {
    /// For each row the smallest quantiles of all critics together, in no particular order.
    pub(super) fn pool(&mut self, pairs: &Pairs<'_>, quantiles: Quantiles, pooled: &mut Vec<f32>) {
        self.pass(pairs);
        let (count, width) = (self.nets.len(), quantiles.of_each);
        let all = count * width;
        let of_critics: Vec<_> = self.by_critic().collect();
        pooled.clear();
        let mut row = Vec::with_capacity(all);
        for index in 0..pairs.rows() {
            row.clear();
            for items in &of_critics {
                let (rows, values) = items
                    .iter()
                    .find(|(rows, _)| rows.contains(&index))
                    .expect("every row has its item");
                let start = (index - rows.start) * width;
                row.extend_from_slice(&values[start..start + width]);
            }
            if quantiles.kept < all {
                row.select_nth_unstable_by(quantiles.kept, f32::total_cmp);
            }
            pooled.extend_from_slice(&row[..quantiles.kept]);
        }
    }

    /// The gradient of `size` parameters, that of what the critics saw to `by_inputs` if it is wanted, and the
    /// loss: the mean over all pairs of a critic's quantile and a
    /// target of its row.
    pub(super) fn quantile_gradient(
        &mut self,
        pairs: &Pairs<'_>,
        targets: &[f32],
        quantiles: Quantiles,
        (size, by_inputs): (usize, &mut Vec<f32>),
    ) -> (&[f32], f64) {
        let (parameters, rows) = (pairs.view.parameters, pairs.rows());
        let Quantiles { of_each, kept } = quantiles;
        let compared = (rows * self.nets.len()).saturating_mul(of_each.saturating_mul(kept));
        let share = 1.0 / compared as f64;
        let cost = compared.saturating_mul(PAIR_PS) / 1000;
        self.visit(rows, self.nets.len(), 3, cost, |net, item| {
            item.pair(pairs, net.inputs() - pairs.action_dim);
            item.clear_gradient(size);
            let values = net.forward(parameters, &item.pairs, &mut item.tape);
            item.by_values.clear();
            item.by_values.resize(values.len(), 0.0);
            let targets = &targets[item.rows.start * kept..item.rows.end * kept];
            let by_values = &mut item.by_values;
            item.loss = pulp::Arch::new().dispatch(|| {
                let rows = values.chunks_exact(of_each).zip(targets.chunks_exact(kept));
                rows.zip(by_values.chunks_exact_mut(of_each))
                    .map(|((values, targets), slopes)| quantile_huber(values, targets, slopes))
                    .sum::<f64>()
            });
            let scale = -share as f32;
            item.by_values.iter_mut().for_each(|slope| *slope *= scale);
            let (tape, by_values) = (&mut item.tape, &item.by_values);
            let gradient = Some(item.gradient.as_mut_slice());
            let learns = pairs.view.learns;
            let by_pairs = net.backward(parameters, &item.pairs, tape, by_values, gradient, learns);
            keep_inputs(by_pairs, net.inputs(), pairs, &mut item.by_inputs);
        });
        let loss = self.losses() * share;
        (self.sum_of_gradients(by_inputs), loss)
    }

    /// For each row the mean of all quantiles of all critics.
    pub(super) fn mean_values(&mut self, pairs: &Pairs<'_>, means: &mut Vec<f32>) {
        self.pass(pairs);
        means.clear();
        means.resize(pairs.rows(), 0.0);
        let share = 1.0 / self.nets.len() as f32;
        for items in self.by_critic() {
            for (rows, values) in items {
                let width = values.len() / rows.len();
                for (mean, row) in means[rows].iter_mut().zip(values.chunks_exact(width)) {
                    *mean += share * (row.iter().sum::<f32>() / width as f32);
                }
            }
        }
    }

    /// The gradient, by the actions of the last [`Self::mean_values`], of minus the mean of the means.
    pub(super) fn mean_by_actions(&mut self, pairs: &Pairs<'_>, gradient: &mut Vec<f32>) {
        let (rows, dim, count) = (pairs.rows(), pairs.action_dim, self.nets.len());
        let parameters = pairs.view.parameters;
        self.visit(rows, count, 1, 0, |net, item| {
            let slope = -1.0 / (rows * count * net.outputs()) as f32;
            item.by_values.clear();
            item.by_values
                .resize(item.rows.len() * net.outputs(), slope);
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
        self.add_by_actions(dim, gradient);
    }
}
