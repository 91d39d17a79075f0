//! Likelihoods and entropies of actions, and their derivatives.

use std::ops::Range;

use super::squashed::{draw_of, log_prob_of};
use super::{StateNoise, UpdateError, choice};
use crate::nn::total;

/// What the outputs of a policy network are, by their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distribution {
    /// Logits of independent categorical distributions, with this many categories each.
    Categorical(Vec<usize>),
    /// Logits of this many independent Bernoulli distributions.
    Bernoulli(usize),
    /// Means of normal distributions; the logarithms of their deviations are parameters.
    Gaussian {
        /// Numbers of an action.
        size: usize,
        /// Where the logarithms begin among the parameters.
        log_std: usize,
    },
    /// Means of normal distributions whose variances depend on the state, see [`StateNoise`].
    StateDependent {
        /// What gives the variances.
        noise: StateNoise,
        /// Whether tanh makes the actions of the draws.
        squash: bool,
    },
}

/// The logit of a choice that is not allowed: its probability is exactly 0, its logarithm finite.
const FORBIDDEN: f32 = -1e8;

/// Replaces the logits of the choices that are not allowed. The derivatives of what follows by them are 0.
pub(crate) fn forbid(logits: &mut [f32], mask: &[f32]) {
    for (logit, &allowed) in logits.iter_mut().zip(mask) {
        if allowed == 0.0 {
            *logit = FORBIDDEN;
        }
    }
}

/// Whether a logit, or a log-probability, can be that of a choice that is taken; also true of a nan.
///
/// The exponentials of the others are 0, and take ten times as long.
fn is_possible(logit: f32) -> bool {
    logit >= FORBIDDEN / 2.0 || logit.is_nan()
}

/// Half of the logarithm of 2 pi.
pub(super) const HALF_LOG_2_PI: f32 = 0.918_938_5;

/// The log-likelihood of a number by its mean and variance.
pub(super) fn normal_log_prob(number: f32, mean: f32, variance: f32) -> f32 {
    let distance = number - mean;
    -0.5 * distance * distance / variance - 0.5 * variance.ln() - HALF_LOG_2_PI
}

/// The log-likelihood and the entropy of an action whose variances depend on the state. The entropy of a squashed
/// one is estimated by its likelihood.
pub(crate) fn measure_states(
    means: &[f32],
    variances: &[f32],
    action: &[f32],
    squash: bool,
) -> (f32, f32) {
    let numbers = action.iter().zip(means).zip(variances);
    let (mut log_prob, mut entropy) = (0.0, 0.0);
    for ((&action, &mean), &variance) in numbers {
        if squash {
            log_prob += log_prob_of(action, mean, variance);
        } else {
            log_prob += normal_log_prob(action, mean, variance);
            entropy += 0.5 + HALF_LOG_2_PI + 0.5 * variance.ln();
        }
    }
    (log_prob, if squash { -log_prob } else { entropy })
}

/// Turns the means into the gradient of `by_log_prob * log-likelihood + by_entropy * entropy`, and adds that of
/// the variances to a list.
pub(super) fn differentiate_states(
    means: &mut [f32],
    variances: &[f32],
    action: &[f32],
    squash: bool,
    [by_log_prob, by_entropy]: [f32; 2],
    by_variances: &mut Vec<f32>,
) {
    let (by_log_prob, by_entropy) = if squash {
        (by_log_prob - by_entropy, 0.0)
    } else {
        (by_log_prob, by_entropy)
    };
    for ((x, &action), &variance) in means.iter_mut().zip(action).zip(variances) {
        let draw = if squash { draw_of(action) } else { action };
        let z = (draw - *x) / variance;
        let by_variance = by_log_prob * (z * z - 1.0 / variance) + by_entropy / variance;
        by_variances.push(0.5 * by_variance);
        *x = by_log_prob * z;
    }
}

impl Distribution {
    /// Outputs of the network.
    #[must_use]
    pub fn outputs(&self) -> usize {
        match self {
            Self::Categorical(options) => total(options.iter().copied()),
            Self::Bernoulli(size) | Self::Gaussian { size, .. } => *size,
            Self::StateDependent { noise, .. } => noise.actions,
        }
    }

    /// Numbers of an action.
    #[must_use]
    pub fn action_dim(&self) -> usize {
        match self {
            Self::Categorical(options) => options.len(),
            Self::Bernoulli(size) | Self::Gaussian { size, .. } => *size,
            Self::StateDependent { noise, .. } => noise.actions,
        }
    }

    /// How many parameters it needs at least.
    pub(super) fn parameters(&self) -> usize {
        match self {
            Self::Gaussian { size, log_std } => log_std.saturating_add(*size),
            Self::StateDependent { noise, .. } => noise.parameters().end,
            _ => 0,
        }
    }

    /// Where the parameters that are not outputs of a network lie: the logarithms of the deviations, unless
    /// these depend on the state.
    pub(super) fn own_parameters(&self) -> Range<usize> {
        match self {
            Self::Gaussian { size, log_std } => *log_std..log_std + size,
            _ => 0..0,
        }
    }

    /// The same with its own parameters elsewhere, see [`crate::nn::TrainableMlp::moved`].
    pub(super) fn moved(&self, mut place: impl FnMut(usize, usize) -> usize) -> Self {
        match *self {
            Self::Gaussian { size, log_std } => Self::Gaussian {
                size,
                log_std: place(log_std, size),
            },
            Self::StateDependent { noise, squash } => Self::StateDependent {
                noise: noise.moved(place),
                squash,
            },
            _ => self.clone(),
        }
    }

    /// That an action can be taken.
    pub(crate) fn check(&self, action: &[f32]) -> Result<(), UpdateError> {
        if let Self::Categorical(options) = self {
            for (&action, &options) in action.iter().zip(options) {
                choice(action, options)?;
            }
        }
        Ok(())
    }

    /// The log-likelihood of an action, and the entropy. `outputs` are those of one row; logits of
    /// categorical distributions become log-probabilities.
    pub(crate) fn measure(
        &self,
        parameters: &[f32],
        outputs: &mut [f32],
        action: &[f32],
    ) -> (f32, f32) {
        let (mut log_prob, mut entropy) = (0.0, 0.0);
        match self {
            Self::Categorical(options) => {
                let mut rest = outputs;
                for (&options, &action) in options.iter().zip(action) {
                    let (logits, after) = rest.split_at_mut(options);
                    entropy += normalize(logits);
                    log_prob += logits[action as usize];
                    rest = after;
                }
            }
            Self::Bernoulli(_) => {
                for (&logit, &action) in outputs.iter().zip(action) {
                    // log(1 + e^x), and its derivative.
                    let softplus = logit.max(0.0) + (-logit.abs()).exp().ln_1p();
                    log_prob += action * logit - softplus;
                    entropy += softplus - logit * probability(logit);
                }
            }
            Self::Gaussian { size, log_std } => {
                let log_std = &parameters[*log_std..log_std + size];
                for ((&mean, &action), &log_std) in outputs.iter().zip(action).zip(log_std) {
                    let distance = (action - mean) * (-log_std).exp();
                    log_prob -= 0.5 * distance * distance + log_std + HALF_LOG_2_PI;
                    entropy += 0.5 + HALF_LOG_2_PI + log_std;
                }
            }
            // Needs the variances of the row: `measure_states`.
            Self::StateDependent { .. } => return (f32::NAN, f32::NAN),
        }
        (log_prob, entropy)
    }

    /// Turns the outputs, as [`measure`](Self::measure) left them, into the gradient of
    /// `by_log_prob * log-likelihood + by_entropy * entropy`, and adds to `gradient`, that of its
    /// [own parameters](Self::own_parameters).
    pub(super) fn differentiate(
        &self,
        parameters: &[f32],
        outputs: &mut [f32],
        action: &[f32],
        [by_log_prob, by_entropy]: [f32; 2],
        gradient: &mut [f32],
    ) {
        match self {
            Self::Categorical(options) => {
                let mut rest = outputs;
                for (&options, &action) in options.iter().zip(action) {
                    let (log_probs, after) = rest.split_at_mut(options);
                    let possible = log_probs.iter().filter(|&&l| is_possible(l));
                    let entropy: f32 = -possible.map(|&l| l.exp() * l).sum::<f32>();
                    for (index, x) in log_probs.iter_mut().enumerate() {
                        if !is_possible(*x) {
                            *x = 0.0;
                            continue;
                        }
                        let (log_p, p) = (*x, x.exp());
                        let taken = if index == action as usize { 1.0 } else { 0.0 };
                        *x = by_log_prob * (taken - p) - by_entropy * p * (log_p + entropy);
                    }
                    rest = after;
                }
            }
            Self::Bernoulli(_) => {
                for (x, &action) in outputs.iter_mut().zip(action) {
                    let p = probability(*x);
                    *x = by_log_prob * (action - p) - by_entropy * *x * p * (1.0 - p);
                }
            }
            Self::Gaussian { size, log_std } => {
                let deviations = parameters[*log_std..log_std + size].iter().zip(gradient);
                for ((x, &action), (&log_std, gradient)) in
                    outputs.iter_mut().zip(action).zip(deviations)
                {
                    let precision = (-log_std).exp();
                    let distance = (action - *x) * precision;
                    *gradient += by_log_prob * (distance * distance - 1.0) + by_entropy;
                    *x = by_log_prob * distance * precision;
                }
            }
            Self::StateDependent { .. } => {}
        }
    }
}

fn probability(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// Makes log-probabilities of logits, and gives their entropy.
fn normalize(logits: &mut [f32]) -> f32 {
    // `f32::max` would drop a nan.
    let most = logits
        .iter()
        .fold(f32::NEG_INFINITY, |a, &b| if b < a { a } else { b });
    let possible = logits.iter().filter(|&&logit| is_possible(logit));
    let total: f32 = possible.map(|&logit| (logit - most).exp()).sum();
    let log_total = most + total.ln();
    let mut entropy = 0.0;
    for logit in logits {
        let possible = is_possible(*logit);
        *logit -= log_total;
        if possible {
            entropy -= logit.exp() * *logit;
        }
    }
    entropy
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMETERS: [f32; 3] = [9.0, -0.3, 0.4];

    fn all() -> [(Distribution, Vec<f32>, Vec<f32>); 3] {
        [
            (
                Distribution::Categorical(vec![3, 2]),
                vec![0.2, -1.0, 0.7, 1.5, -0.5],
                vec![2.0, 0.0],
            ),
            (Distribution::Bernoulli(2), vec![0.3, -2.0], vec![1.0, 0.0]),
            (
                Distribution::Gaussian {
                    size: 2,
                    log_std: 1,
                },
                vec![0.1, -0.4],
                vec![0.5, 0.9],
            ),
        ]
    }

    // The numbers are NumPy's in float64, from the definitions.
    #[test]
    fn likelihoods_and_entropies() {
        let expected = [
            (-0.708_704_5, 1.290_181_3),
            (-0.681_283_3, 1.047_356_3),
            (-2.463_329_5, 2.937_877_1),
        ];
        for ((distribution, mut outputs, action), expected) in all().into_iter().zip(expected) {
            let got = distribution.measure(&PARAMETERS, &mut outputs, &action);
            let gap = (got.0 - expected.0).abs().max((got.1 - expected.1).abs());
            assert!(
                gap < 1e-6,
                "{distribution:?}: {got:?}, expected {expected:?}"
            );
        }
    }

    #[test]
    fn derivatives_are_differences() {
        const STEP: f32 = 5e-3;
        let weights = [0.8_f32, -1.3];
        for (distribution, outputs, action) in all() {
            let value = |parameters: &[f32], outputs: &[f32]| {
                let mut outputs = outputs.to_vec();
                let (log_prob, entropy) = distribution.measure(parameters, &mut outputs, &action);
                weights[0] * log_prob + weights[1] * entropy
            };
            let mut slopes = outputs.clone();
            let mut gradient = [0.0; 3];
            distribution.measure(&PARAMETERS, &mut slopes, &action);
            let of_own = &mut gradient[distribution.own_parameters()];
            distribution.differentiate(&PARAMETERS, &mut slopes, &action, weights, of_own);
            let check = |got: f32, up: f32, down: f32| {
                let expected = (up - down) / (2.0 * STEP);
                assert!(
                    (got - expected).abs() < 2e-3,
                    "{distribution:?}: {got}, expected {expected}"
                );
            };
            for i in 0..outputs.len() {
                let moved = |by: f32| {
                    let mut moved = outputs.clone();
                    moved[i] += by;
                    value(&PARAMETERS, &moved)
                };
                check(slopes[i], moved(STEP), moved(-STEP));
            }
            for i in 0..3 {
                let moved = |by: f32| {
                    let mut moved = PARAMETERS;
                    moved[i] += by;
                    value(&moved, &outputs)
                };
                check(gradient[i], moved(STEP), moved(-STEP));
            }
        }
    }

    #[test]
    fn actions_out_of_range_are_refused() {
        let distribution = Distribution::Categorical(vec![3, 2]);
        assert!(distribution.check(&[2.0, 1.0]).is_ok());
        for action in [[3.0, 0.0], [0.5, 0.0], [-1.0, 0.0], [0.0, f32::NAN]] {
            assert!(distribution.check(&action).is_err(), "{action:?}");
        }
    }
}
