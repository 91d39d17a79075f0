//! Actions that are draws from normal distributions after tanh
//! (Haarnoja et al. 2018, appendix C, <https://arxiv.org/abs/1801.01290>).

use super::distribution::{HALF_LOG_2_PI, normal_log_prob};
use crate::actor::LOG_STD;

/// Keeps the logarithm of `1 - tanh^2` finite.
const MARGIN: f32 = 1e-6;

/// Actions and their log-likelihoods from rows of means and log-deviations.
pub(super) fn squash(
    outputs: &[f32],
    noise: &[f32],
    dim: usize,
    piece: (&mut Vec<f32>, &mut Vec<f32>),
) {
    let (actions, log_probs) = piece;
    actions.clear();
    log_probs.clear();
    let rows = outputs.chunks_exact(2 * dim).zip(noise.chunks_exact(dim));
    for (row, noise) in rows {
        let (means, log_stds) = row.split_at(dim);
        let mut log_prob = 0.0;
        for ((&mean, &log_std), &noise) in means.iter().zip(log_stds).zip(noise) {
            let log_std = log_std.clamp(LOG_STD.0, LOG_STD.1);
            // Not the fast one of `nn`: where it is a bit below 1, the slope is not 0.
            let action = (mean + log_std.exp() * noise).tanh();
            log_prob -= 0.5 * noise * noise + log_std + HALF_LOG_2_PI;
            log_prob -= (1.0 - action * action + MARGIN).ln();
            actions.push(action);
        }
        log_probs.push(log_prob);
    }
}

/// The gradient of the outputs, from that of the actions and `weight` times the log-likelihood. The
/// slices are those of [`squash`], the actions it gave, and the gradient of the actions.
pub(super) fn squash_backward(
    [outputs, noise, actions, by_actions]: [&[f32]; 4],
    dim: usize,
    weight: f32,
    by_outputs: &mut Vec<f32>,
) {
    by_outputs.clear();
    by_outputs.resize(outputs.len(), 0.0);
    let rows = outputs
        .chunks_exact(2 * dim)
        .zip(by_outputs.chunks_exact_mut(2 * dim));
    for (row, (outputs, by_outputs)) in rows.enumerate() {
        let (by_means, by_log_stds) = by_outputs.split_at_mut(dim);
        for i in 0..dim {
            let (action, place) = (actions[row * dim + i], row * dim + i);
            let slope = 1.0 - action * action;
            let by_draw =
                weight * 2.0 * action * slope / (slope + MARGIN) + by_actions[place] * slope;
            by_means[i] = by_draw;
            let log_std = outputs[dim + i];
            if (LOG_STD.0..=LOG_STD.1).contains(&log_std) {
                by_log_stds[i] = by_draw * noise[place] * log_std.exp() - weight;
            }
        }
    }
}

/// The largest action whose draw is finite.
const BOUND: f32 = 1.0 - f32::EPSILON;

/// What tanh has made the action of.
pub(super) fn draw_of(action: f32) -> f32 {
    let action = action.clamp(-BOUND, BOUND);
    0.5 * (action.ln_1p() - (-action).ln_1p())
}

/// The log-likelihood of an action that is the tanh of a draw, by the mean and the variance of the draws.
pub(super) fn log_prob_of(action: f32, mean: f32, variance: f32) -> f32 {
    let draw = draw_of(action);
    let tanh = draw.tanh();
    normal_log_prob(draw, mean, variance) - (1.0 - tanh * tanh + MARGIN).ln()
}

/// Actions whose noise depends on the state, and their log-likelihoods, by rows of means, of offsets from
/// them, and of variances.
pub(super) fn squash_states(
    [means, offsets, variances]: [&[f32]; 3],
    dim: usize,
    (actions, log_probs): (&mut Vec<f32>, &mut Vec<f32>),
) {
    actions.clear();
    actions.extend(
        means
            .iter()
            .zip(offsets)
            .map(|(mean, offset)| (mean + offset).tanh()),
    );
    log_probs.clear();
    let rows = actions.chunks_exact(dim).zip(means.chunks_exact(dim));
    for ((actions, means), variances) in rows.zip(variances.chunks_exact(dim)) {
        let numbers = actions.iter().zip(means).zip(variances);
        let of_each =
            numbers.map(|((&action, &mean), &variance)| log_prob_of(action, mean, variance));
        log_probs.push(of_each.sum());
    }
}

/// The gradients of means, offsets and variances, from that of the actions and `weight` times the
/// log-likelihood. The slices are those of [`squash_states`], the actions that it gave, and their gradient.
pub(super) fn squash_states_backward(
    [means, variances, actions, by_actions]: [&[f32]; 4],
    weight: f32,
    by_means: &mut Vec<f32>,
    (by_offsets, by_variances): (&mut Vec<f32>, &mut Vec<f32>),
) {
    [&mut *by_means, &mut *by_offsets, &mut *by_variances]
        .into_iter()
        .for_each(Vec::clear);
    let numbers = means.iter().zip(variances).zip(actions).zip(by_actions);
    for (((&mean, &variance), &action), &by_action) in numbers {
        let draw = draw_of(action);
        let (z, tanh) = ((draw - mean) / variance, draw.tanh());
        let slope = 1.0 - tanh * tanh;
        // The draw goes by the action where it is not clipped.
        let is_inside = (-BOUND..=BOUND).contains(&action);
        let of_draw = if is_inside {
            1.0 / (1.0 - action * action)
        } else {
            0.0
        };
        let by_draw = weight * (2.0 * tanh * slope / (slope + MARGIN) - z);
        let by_sum = (by_action + by_draw * of_draw) * (1.0 - action * action);
        by_offsets.push(by_sum);
        by_means.push(by_sum + weight * z);
        by_variances.push(0.5 * weight * (z * z - 1.0 / variance));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Two rows of two actions; the last deviation is out of bounds.
    const OUTPUTS: [f32; 8] = [0.3, -0.4, -1.0, 0.2, 0.8, 0.1, -0.5, 2.5];
    const NOISE: [f32; 4] = [0.4, -1.1, 0.6, -0.05];
    const BY_ACTIONS: [f32; 4] = [0.7, -0.2, 1.3, 0.9];

    fn draw(outputs: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (mut actions, mut log_probs) = (Vec::new(), Vec::new());
        squash(outputs, &NOISE, 2, (&mut actions, &mut log_probs));
        (actions, log_probs)
    }

    #[test]
    fn log_likelihoods_are_those_of_the_definition() {
        let (actions, log_probs) = draw(&OUTPUTS);
        for row in 0..2 {
            let mut expected = 0.0;
            for i in 0..2 {
                let mean = f64::from(OUTPUTS[4 * row + i]);
                let std = f64::from(OUTPUTS[4 * row + 2 + i].min(2.0)).exp();
                let u = mean + std * f64::from(NOISE[2 * row + i]);
                let z = (u - mean) / std;
                expected += -0.5 * z * z - std.ln() - 0.5 * (2.0 * std::f64::consts::PI).ln();
                expected -= (1.0 - u.tanh().powi(2) + 1e-6).ln();
                assert!((f64::from(actions[2 * row + i]) - u.tanh()).abs() < 1e-6);
            }
            assert!((f64::from(log_probs[row]) - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn slopes_are_those_of_the_definition_where_tanh_saturates() {
        for mean in [-12.0_f32, -8.0, 7.0, 8.5, 9.1, 25.0] {
            let (mut actions, mut log_probs, mut gradient) = (Vec::new(), Vec::new(), Vec::new());
            let outputs = [mean, -20.0];
            squash(&outputs, &[0.0], 1, (&mut actions, &mut log_probs));
            squash_backward([&outputs, &[0.0], &actions, &[0.0]], 1, 1.0, &mut gradient);
            // As float32 sees it: beyond 9.02 tanh is 1.
            let action = f64::from(f64::from(mean).tanh() as f32);
            let slope = 1.0 - action * action;
            let expected = 2.0 * action * slope / (slope + 1e-6);
            let error = f64::from(gradient[0]) - expected;
            assert!(error.abs() < 1e-3, "{mean}: {gradient:?}, {expected}");
        }
    }

    #[test]
    fn gradients_are_differences() {
        const STEP: f32 = 1e-2;
        let weight = 0.6;
        let loss = |outputs: &[f32]| {
            let (actions, log_probs) = draw(outputs);
            let of_actions: f32 = actions.iter().zip(BY_ACTIONS).map(|(a, b)| a * b).sum();
            weight * log_probs.iter().sum::<f32>() + of_actions
        };
        let (actions, _) = draw(&OUTPUTS);
        let mut gradient = Vec::new();
        let slices = [&OUTPUTS[..], &NOISE, &actions, &BY_ACTIONS];
        squash_backward(slices, 2, weight, &mut gradient);
        assert_eq!(gradient[7], 0.0);
        for i in 0..8 {
            let moved = |by: f32| {
                let mut moved = OUTPUTS;
                moved[i] += by;
                loss(&moved)
            };
            let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            assert!(
                (gradient[i] - expected).abs() < 2e-3,
                "{i}: {gradient:?}, {expected}"
            );
        }
    }

    const MEANS: [f32; 4] = [0.3, -0.4, 1.1, -0.2];
    const OFFSETS: [f32; 4] = [0.2, 0.5, -0.3, 0.1];
    const VARIANCES: [f32; 4] = [0.5, 0.9, 0.3, 1.4];

    fn states(means: &[f32], offsets: &[f32], variances: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (mut actions, mut log_probs) = (Vec::new(), Vec::new());
        let answer = (&mut actions, &mut log_probs);
        squash_states([means, offsets, variances], 2, answer);
        (actions, log_probs)
    }

    #[test]
    fn likelihoods_of_states_are_those_of_the_definition() {
        let (actions, log_probs) = states(&MEANS, &OFFSETS, &VARIANCES);
        for (row, log_prob) in log_probs.iter().enumerate() {
            let mut expected = 0.0;
            for i in 2 * row..2 * row + 2 {
                let [offset, variance] = [OFFSETS[i], VARIANCES[i]].map(f64::from);
                let u = f64::from(MEANS[i]) + offset;
                assert!((f64::from(actions[i]) - u.tanh()).abs() < 1e-6);
                expected -= 0.5 * offset * offset / variance + 0.5 * variance.ln();
                expected -= 0.5 * (2.0 * std::f64::consts::PI).ln();
                expected -= (1.0 - u.tanh().powi(2) + 1e-6).ln();
            }
            assert!((f64::from(*log_prob) - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn gradients_of_states_are_differences() {
        const STEP: f32 = 1e-2;
        let weight = 0.6;
        let loss = |all: &[Vec<f32>; 3]| {
            let (actions, log_probs) = states(&all[0], &all[1], &all[2]);
            let of_actions: f32 = actions.iter().zip(BY_ACTIONS).map(|(a, b)| a * b).sum();
            weight * log_probs.iter().sum::<f32>() + of_actions
        };
        let (actions, _) = states(&MEANS, &OFFSETS, &VARIANCES);
        let [mut by_means, mut by_offsets, mut by_variances] = [const { Vec::new() }; 3];
        let slices = [&MEANS[..], &VARIANCES, &actions, &BY_ACTIONS];
        let answer = (&mut by_offsets, &mut by_variances);
        squash_states_backward(slices, weight, &mut by_means, answer);
        let all = [MEANS.to_vec(), OFFSETS.to_vec(), VARIANCES.to_vec()];
        for (kind, gradient) in [by_means, by_offsets, by_variances].iter().enumerate() {
            for at in 0..4 {
                let moved = |by: f32| {
                    let mut moved = all.clone();
                    moved[kind][at] += by;
                    loss(&moved)
                };
                let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                assert!(
                    (gradient[at] - expected).abs() < 2e-3,
                    "{kind} {at}: {gradient:?} {expected}"
                );
            }
        }
    }

    #[test]
    fn saturated_states_have_finite_likelihoods() {
        let (_, log_probs) = states(&[0.5, -0.5], &[30.0, -30.0], &[0.5, 0.5]);
        assert!(log_probs[0].is_finite());
    }
}
