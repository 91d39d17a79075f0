//! Actions that are draws from normal distributions after tanh
//! (Haarnoja et al. 2018, appendix C, <https://arxiv.org/abs/1801.01290>).

use super::distribution::HALF_LOG_2_PI;
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
}
