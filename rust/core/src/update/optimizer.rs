//! Optimizers on vectors.

use pulp::Arch;

use super::{RANGE, UpdateError, check, each};

/// How a gradient moves the parameters. `g` is the gradient, `lr` the learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Kingma and Ba 2015, algorithm 1, <https://arxiv.org/abs/1412.6980>.
    Adam {
        /// Decay rates of the first and the second moment.
        betas: [f64; 2],
        /// Added to the root.
        eps: f64,
        /// Whether the moments are corrected for having begun at 0.
        bias_correction: bool,
    },
    /// `p -= lr g / (sqrt(v) + eps)`, where `v` is the running average of the squares of `g`
    /// (<https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf>).
    RmsProp {
        /// Decay rate of the second moment.
        alpha: f64,
        /// Added to the root.
        eps: f64,
    },
    /// The same with `p -= lr g / sqrt(v + eps)`, as TensorFlow has it.
    RmsPropTf {
        /// Decay rate of the second moment.
        alpha: f64,
        /// Added to the average.
        eps: f64,
    },
}

/// Moments of the gradient that are only read.
#[derive(Debug, Clone, Copy)]
pub struct Moments<'a> {
    /// The first moment, empty where the rule has none.
    pub exp_avg: &'a [f32],
    /// The second moment.
    pub exp_avg_sq: &'a [f32],
}

/// A vector of parameters and the state of its optimizer.
#[derive(Debug)]
pub struct Trained<'a> {
    /// The parameters.
    pub parameters: &'a mut [f32],
    /// First moment of the gradient, empty where the rule has none.
    pub exp_avg: &'a mut [f32],
    /// Second moment of the gradient.
    pub exp_avg_sq: &'a mut [f32],
    /// Both as they were before the first step, which computes the new ones from them. Afterwards, and
    /// with `None`, they are changed in place.
    pub previous: Option<Moments<'a>>,
    /// Gets the parameters before the first step.
    pub before: Option<&'a mut [f32]>,
    /// Steps made so far.
    pub steps: &'a mut u64,
    /// The rule.
    pub rule: Rule,
    /// The learning rate.
    pub learning_rate: f32,
}

/// A rule with everything worked out that is the same for all numbers.
#[derive(Clone, Copy)]
enum Formula {
    Adam {
        betas: [f32; 2],
        rest: [f32; 2],
        eps: f32,
        step: f32,
        root: f32,
    },
    RmsProp {
        alpha: f32,
        rest: f32,
        outside: f32,
        inside: f32,
        rate: f32,
    },
}

impl Trained<'_> {
    /// That all vectors have `size` numbers.
    pub(super) fn check(&self, what: &'static str, size: usize) -> Result<(), UpdateError> {
        check(what, self.parameters.len(), size)?;
        check("the second moment", self.exp_avg_sq.len(), size)?;
        let first = if matches!(self.rule, Rule::Adam { .. }) {
            size
        } else {
            0
        };
        check("the first moment", self.exp_avg.len(), first)?;
        if let Some(before) = &self.before {
            check("the earlier parameters", before.len(), size)?;
        }
        if let Some(previous) = self.previous {
            check("the previous first moment", previous.exp_avg.len(), first)?;
            check(
                "the previous second moment",
                previous.exp_avg_sq.len(),
                size,
            )?;
        }
        Ok(())
    }

    fn formula(&self) -> Formula {
        let lr = f64::from(self.learning_rate);
        match self.rule {
            Rule::Adam {
                betas,
                eps,
                bias_correction,
            } => {
                let corrections = betas.map(|beta| 1.0 - beta.powf(*self.steps as f64));
                let [first, second] = if bias_correction {
                    corrections
                } else {
                    [1.0, 1.0]
                };
                Formula::Adam {
                    betas: betas.map(|beta| beta as f32),
                    rest: betas.map(|beta| (1.0 - beta) as f32),
                    eps: eps as f32,
                    step: (lr / first) as f32,
                    root: (1.0 / second.sqrt()) as f32,
                }
            }
            Rule::RmsProp { alpha, eps } => Formula::RmsProp {
                alpha: alpha as f32,
                rest: (1.0 - alpha) as f32,
                outside: eps as f32,
                inside: 0.0,
                rate: self.learning_rate,
            },
            Rule::RmsPropTf { alpha, eps } => Formula::RmsProp {
                alpha: alpha as f32,
                rest: (1.0 - alpha) as f32,
                outside: 0.0,
                inside: eps as f32,
                rate: self.learning_rate,
            },
        }
    }

    /// One step along `gradient` times `scale`.
    pub(super) fn step(&mut self, gradient: &[f32], scale: f32) {
        *self.steps += 1;
        let formula = self.formula();
        let previous = self.previous.take();
        let mut before = self.before.take().map(|before| before.chunks_mut(RANGE));
        let mut exp_avg = self.exp_avg.chunks_mut(RANGE);
        let vectors = self.parameters.chunks_mut(RANGE);
        let mut ranges: Vec<_> = vectors
            .zip(self.exp_avg_sq.chunks_mut(RANGE))
            .map(|(parameters, exp_avg_sq)| {
                let kept = before.as_mut().and_then(Iterator::next);
                let exp_avg = exp_avg.next().unwrap_or_default();
                (parameters, exp_avg, exp_avg_sq, kept)
            })
            .collect();
        let cost = gradient.len() / 3;
        each(
            &mut ranges,
            cost,
            |index, (parameters, exp_avg, exp_avg_sq, kept)| {
                let start = index * RANGE;
                let gradient = &gradient[start..];
                // Here, while it is in the cache, it costs next to nothing.
                if let Some(kept) = kept {
                    kept.copy_from_slice(parameters);
                }
                if let Some(old) = previous {
                    exp_avg_sq.copy_from_slice(&old.exp_avg_sq[start..start + exp_avg_sq.len()]);
                    let old_exp_avg = &old.exp_avg[start.min(old.exp_avg.len())..];
                    exp_avg.copy_from_slice(&old_exp_avg[..exp_avg.len()]);
                }
                Arch::new()
                    .dispatch(|| formula.apply(parameters, exp_avg, exp_avg_sq, gradient, scale));
            },
        );
    }
}

impl Formula {
    #[inline(always)]
    fn apply(
        self,
        parameters: &mut [f32],
        exp_avg: &mut [f32],
        exp_avg_sq: &mut [f32],
        gradient: &[f32],
        scale: f32,
    ) {
        let numbers = parameters.iter_mut().zip(exp_avg_sq).zip(gradient);
        match self {
            Self::Adam {
                betas: [b1, b2],
                rest: [r1, r2],
                eps,
                step,
                root,
            } => {
                for (((p, v), &g), m) in numbers.zip(exp_avg) {
                    let g = g * scale;
                    *m = b1 * *m + r1 * g;
                    *v = b2 * *v + r2 * (g * g);
                    *p -= step * *m / (v.sqrt() * root + eps);
                }
            }
            Self::RmsProp {
                alpha,
                rest,
                outside,
                inside,
                rate,
            } => {
                for ((p, v), &g) in numbers {
                    let g = g * scale;
                    *v = alpha * *v + rest * (g * g);
                    *p -= rate * g / ((*v + inside).sqrt() + outside);
                }
            }
        }
    }
}

/// The sum of the squares of all numbers.
pub(super) fn sum_of_squares(numbers: &[f32]) -> f32 {
    const LANES: usize = 16;
    Arch::new().dispatch(|| {
        let mut sums = [0.0_f32; LANES];
        let (blocks, rest) = numbers.as_chunks::<LANES>();
        for block in blocks {
            for (sum, &x) in sums.iter_mut().zip(block) {
                *sum += x * x;
            }
        }
        sums.iter().sum::<f32>() + rest.iter().map(|&x| x * x).sum::<f32>()
    })
}

/// What to multiply a gradient with for its 2-norm to be at most `most`
/// (Pascanu et al. 2013, <https://arxiv.org/abs/1211.5063>).
pub(super) fn clip(gradient: &[f32], most: f32) -> f32 {
    if most == f32::INFINITY {
        return 1.0;
    }
    let mut ranges: Vec<_> = gradient.chunks(RANGE).map(|range| (range, 0.0)).collect();
    let cost = gradient.len() / 8;
    each(&mut ranges, cost, |_, (range, sum)| {
        *sum = sum_of_squares(range)
    });
    let squares = ranges.iter().map(|&(_, sum)| f64::from(sum)).sum::<f64>() as f32;
    let scale = most / (squares.sqrt() + 1e-6);
    // Not `min`, which would hide a nan.
    if scale > 1.0 { 1.0 } else { scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_steps(rule: Rule, adam: bool, start: f32) -> (f32, u64) {
        let (mut parameters, mut exp_avg_sq) = ([1.0_f32], [start]);
        let mut exp_avg = [0.0_f32];
        let mut steps = 0;
        let mut trained = Trained {
            parameters: &mut parameters,
            exp_avg: if adam { &mut exp_avg } else { &mut [] },
            exp_avg_sq: &mut exp_avg_sq,
            previous: None,
            before: None,
            steps: &mut steps,
            rule,
            learning_rate: 0.1,
        };
        trained.check("the vector", 1).unwrap();
        trained.step(&[2.0], 0.5);
        trained.step(&[-3.0], 1.0);
        (parameters[0], steps)
    }

    // Worked out by hand for the gradients 1 and -3.
    #[test]
    fn two_steps_of_each_rule() {
        let adam = Rule::Adam {
            betas: [0.9, 0.99],
            eps: 0.5,
            bias_correction: true,
        };
        // m 0.1, v 0.01: 1 / (1 + 0.5); then m -0.21, v 0.0999: -0.21 / 0.19, root of 0.0999 / 0.0199.
        let first = 1.0 - 0.1 / 1.5;
        let second = first + 0.1 * (0.21 / 0.19) / ((0.0999_f32 / 0.0199).sqrt() + 0.5);
        let (got, steps) = two_steps(adam, true, 0.0);
        assert!((got - second).abs() < 1e-6 && steps == 2, "{got} {second}");
        let (alpha, eps) = (0.9, 0.5);
        // v 0.1, then 0.99.
        let first = 1.0 - 0.1 / (0.1_f32.sqrt() + 0.5);
        let second = first + 0.3 / (0.99_f32.sqrt() + 0.5);
        let (got, _) = two_steps(Rule::RmsProp { alpha, eps }, false, 0.0);
        assert!((got - second).abs() < 1e-6, "{got} {second}");
        // v starts at 1: 1, then 1.8.
        let first = 1.0 - 0.1 / 1.5_f32.sqrt();
        let second = first + 0.3 / 2.3_f32.sqrt();
        let (got, _) = two_steps(Rule::RmsPropTf { alpha, eps }, false, 1.0);
        assert!((got - second).abs() < 1e-6, "{got} {second}");
    }

    #[test]
    fn moments_are_read_from_the_previous_ones() {
        let rule = Rule::Adam {
            betas: [0.5, 0.5],
            eps: 1.0,
            bias_correction: false,
        };
        // More than one range.
        let size = RANGE + 3;
        let (old_exp_avg, old_exp_avg_sq) = (vec![2.0; size], vec![4.0; size]);
        let (mut exp_avg, mut exp_avg_sq) = (vec![f32::NAN; size], vec![f32::NAN; size]);
        let (mut parameters, mut before, mut steps) = (vec![0.0; size], vec![1.0; size], 0);
        let mut trained = Trained {
            parameters: &mut parameters,
            exp_avg: &mut exp_avg,
            exp_avg_sq: &mut exp_avg_sq,
            previous: Some(Moments {
                exp_avg: &old_exp_avg,
                exp_avg_sq: &old_exp_avg_sq,
            }),
            before: Some(&mut before),
            steps: &mut steps,
            rule,
            learning_rate: 1.0,
        };
        trained.check("the vector", size).unwrap();
        let gradient = vec![4.0; size];
        trained.step(&gradient, 1.0);
        // First moments 3 and then 3.5, second moments 10 and then 13.
        trained.step(&gradient, 1.0);
        assert!(exp_avg.iter().all(|&m| m == 3.5));
        assert!(exp_avg_sq.iter().all(|&v| v == 13.0));
        assert_eq!(old_exp_avg, vec![2.0; size]);
        assert_eq!(before, vec![0.0; size]);
    }

    #[test]
    fn clipping_leaves_short_gradients_alone_and_shows_nan() {
        assert_eq!(clip(&[0.3; 4], 1.0), 1.0);
        // 20 numbers of 0.5 have the norm sqrt(5).
        assert!((clip(&[0.5; 20], 1.0) - 1.0 / 5.0_f32.sqrt()).abs() < 1e-6);
        assert!(clip(&[f32::NAN], 1.0).is_nan());
        // Over several ranges: the norm is 300.
        let long = vec![300.0 / 200.0; 200 * 200];
        assert!((clip(&long, 3.0) - 0.01).abs() < 1e-7);
    }
}
