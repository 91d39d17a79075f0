//! Draws from the distributions of a policy.

use crate::nn::{exp, sigmoid};
use crate::rng::Pcg64;

/// Fills `out` with standard normals (Box and Muller 1958), two at a time.
pub(super) fn fill_normal(rng: &mut Pcg64, out: &mut [f32]) {
    for pair in out.chunks_mut(2) {
        let radius = (-2.0 * (1.0 - rng.random()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * rng.random()).sin_cos();
        pair[0] = (radius * cos) as f32;
        if let Some(second) = pair.get_mut(1) {
            *second = (radius * sin) as f32;
        }
    }
}

/// The first of the largest logits, or `None` if there is a NaN or all are `-inf`.
pub(super) fn argmax(logits: &[f32]) -> Option<usize> {
    let (mut best, mut at) = (f32::NEG_INFINITY, None);
    for (i, &logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return None;
        }
        if logit > best {
            (best, at) = (logit, Some(i));
        }
    }
    at
}

/// A choice with the probabilities `softmax(logits)`, or `None` where those are not numbers.
///
/// `weights` is overwritten; it is as long as `logits`.
pub(super) fn categorical(rng: &mut Pcg64, logits: &[f32], weights: &mut [f32]) -> Option<usize> {
    let likeliest = argmax(logits)?;
    let best = logits[likeliest];
    if best == f32::INFINITY {
        return None;
    }
    for (weight, logit) in weights.iter_mut().zip(logits) {
        *weight = exp(logit - best);
    }
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let mut left = rng.random() * total;
    for (i, &weight) in weights.iter().enumerate() {
        left -= f64::from(weight);
        if left < 0.0 {
            return Some(i);
        }
    }
    // Rounding left a crumb above the last weight.
    Some(likeliest)
}

/// True with the probability `sigmoid(logit)`.
pub(super) fn bernoulli(rng: &mut Pcg64, logit: f32) -> bool {
    rng.random() < f64::from(sigmoid(logit))
}
