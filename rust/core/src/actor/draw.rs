//! From the outputs of the network to actions.

use super::{Head, LOG_STD, sampling};
use crate::nn::{Outputs, tanh};
use crate::rng::Pcg64;
use crate::update::forbid;

/// Turns outputs into actions. The answers are the first row that is no distribution, if any.
pub(super) struct Draw<'a> {
    pub(super) rng: &'a mut Pcg64,
    pub(super) scratch: &'a mut [f32],
    /// Which choices are allowed, and memory for the logits of a row without the others.
    pub(super) masks: Option<&'a [f32]>,
    pub(super) masked: &'a mut Vec<f32>,
    pub(super) deterministic: bool,
}

impl Draw<'_> {
    pub(super) fn categorical(
        &mut self,
        outputs: Outputs<'_>,
        options: &[usize],
        out: &mut [i64],
    ) -> Option<usize> {
        for (row, (logits, out)) in outputs
            .rows()
            .zip(out.chunks_exact_mut(options.len()))
            .enumerate()
        {
            let mut rest = logits;
            if let Some(masks) = self.masks {
                self.masked.clear();
                self.masked.extend_from_slice(logits);
                forbid(self.masked, &masks[row * logits.len()..]);
                rest = self.masked;
            }
            for (&n, out) in options.iter().zip(out) {
                let (logits, others) = rest.split_at(n);
                rest = others;
                let choice = if self.deterministic {
                    sampling::argmax(logits)
                } else {
                    sampling::categorical(self.rng, logits, &mut self.scratch[..n])
                };
                match choice {
                    Some(choice) => *out = choice as i64,
                    None => return Some(row),
                }
            }
        }
        None
    }

    pub(super) fn epsilon_greedy(
        &mut self,
        outputs: Outputs<'_>,
        epsilon: f64,
        out: &mut [i64],
    ) -> Option<usize> {
        // One draw for the whole batch, as in Stable-Baselines3.
        let explore = !self.deterministic && self.rng.random() < epsilon;
        for (row, (values, out)) in outputs.rows().zip(out).enumerate() {
            *out = if explore {
                (self.rng.random() * values.len() as f64) as i64
            } else if let Some(best) = sampling::argmax(values) {
                best as i64
            } else {
                return Some(row);
            };
        }
        None
    }

    pub(super) fn greedy_quantiles(
        &mut self,
        outputs: Outputs<'_>,
        options: usize,
        out: &mut [i64],
    ) -> Option<usize> {
        for (row, (quantiles, out)) in outputs.rows().zip(out).enumerate() {
            let sums = &mut self.scratch[..options];
            sums.fill(0.0);
            for of_actions in quantiles.chunks_exact(options) {
                sums.iter_mut()
                    .zip(of_actions)
                    .for_each(|(sum, add)| *sum += add);
            }
            match sampling::argmax(sums) {
                Some(best) => *out = best as i64,
                None => return Some(row),
            }
        }
        None
    }

    pub(super) fn bernoulli(
        &mut self,
        outputs: Outputs<'_>,
        dim: usize,
        out: &mut [f32],
    ) -> Option<usize> {
        for (row, (logits, out)) in outputs.rows().zip(out.chunks_exact_mut(dim)).enumerate() {
            for (&logit, out) in logits.iter().zip(out) {
                if logit.is_nan() {
                    return Some(row);
                }
                let one = if self.deterministic {
                    logit > 0.0
                } else {
                    sampling::bernoulli(self.rng, logit)
                };
                *out = f32::from(u8::from(one));
            }
        }
        None
    }

    // NaN goes through: the environment or the caller names the action that holds it.
    pub(super) fn continuous(
        &mut self,
        outputs: Outputs<'_>,
        head: &Head,
        dim: usize,
        out: &mut [f32],
    ) {
        if self.deterministic || matches!(head, Head::Deterministic) {
            out.fill(0.0);
        } else {
            sampling::fill_normal(self.rng, out);
        }
        for (values, out) in outputs.rows().zip(out.chunks_exact_mut(dim)) {
            let (mean, log_std) = values.split_at(dim);
            match head {
                Head::Gaussian(std) => {
                    for ((out, mean), std) in out.iter_mut().zip(mean).zip(std) {
                        *out = mean + std * *out;
                    }
                }
                Head::SquashedGaussian => {
                    for ((out, mean), log_std) in out.iter_mut().zip(mean).zip(log_std) {
                        let std = log_std.clamp(LOG_STD.0, LOG_STD.1).exp();
                        *out = tanh(mean + std * *out);
                    }
                }
                _ => out.copy_from_slice(mean),
            }
        }
    }
}
