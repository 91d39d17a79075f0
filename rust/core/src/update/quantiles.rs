//! The quantile regression loss of QR-DQN (Dabney et al. 2017, <https://arxiv.org/abs/1710.10044>) and TQC
//! (Kuznetsov et al. 2020, <https://arxiv.org/abs/2005.04269>).

/// Estimates that are compared with a target at once.
const LANES: usize = 16;

/// About how long it takes to compare an estimate with a target, in picoseconds.
pub(super) const PAIR_PS: usize = 250;

/// Compares all estimates of a distribution's quantiles with all targets: the sum over the pairs of
/// `|tau_i - [d < 0]| h(d)`, where `d` is the target minus estimate `i`, `tau_i` is `(i + 1/2) / n`, and `h`
/// is the Huber loss. `slopes` gets minus the derivatives by the estimates.
pub(super) fn quantile_huber(estimates: &[f32], targets: &[f32], slopes: &mut [f32]) -> f64 {
    let share = 1.0 / estimates.len() as f32;
    let mut sum = 0.0;
    let blocks = estimates.chunks(LANES).zip(slopes.chunks_mut(LANES));
    for (block, (estimates, slopes)) in blocks.enumerate() {
        let (mut padded, mut tau) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        padded[..estimates.len()].copy_from_slice(estimates);
        for (lane, tau) in tau.iter_mut().enumerate() {
            *tau = ((block * LANES + lane) as f32 + 0.5) * share;
        }
        let (losses, by_lane) = compare(&padded, &tau, targets);
        slopes.copy_from_slice(&by_lane[..slopes.len()]);
        sum += losses[..estimates.len()]
            .iter()
            .map(|&loss| f64::from(loss))
            .sum::<f64>();
    }
    sum
}

/// The losses and slopes of a block of estimates.
#[inline(always)]
fn compare(
    estimates: &[f32; LANES],
    tau: &[f32; LANES],
    targets: &[f32],
) -> ([f32; LANES], [f32; LANES]) {
    let (mut losses, mut slopes) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    for &target in targets {
        for lane in 0..LANES {
            let gap = target - estimates[lane];
            let clipped = gap.clamp(-1.0, 1.0);
            let weight = if gap < 0.0 {
                1.0 - tau[lane]
            } else {
                tau[lane]
            };
            let slope = weight * clipped;
            slopes[lane] += slope;
            // The square's half within, and the line beyond: clipped * (gap - clipped / 2) is both.
            losses[lane] += slope * (gap - 0.5 * clipped);
        }
    }
    (losses, slopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count)
            .map(|i| 3.0 * ((i as f32 * step).sin() * 43.7).fract())
            .collect()
    }

    fn slow(estimates: &[f32], targets: &[f32]) -> f64 {
        let mut sum = 0.0;
        for (i, &estimate) in estimates.iter().enumerate() {
            let tau = (i as f64 + 0.5) / estimates.len() as f64;
            for &target in targets {
                let gap = f64::from(target) - f64::from(estimate);
                let below = if gap < 0.0 { 1.0 } else { 0.0 };
                let huber = if gap.abs() > 1.0 {
                    gap.abs() - 0.5
                } else {
                    gap * gap / 2.0
                };
                sum += (tau - below).abs() * huber;
            }
        }
        sum
    }

    #[test]
    fn losses_are_those_of_the_definition() {
        for (count, others) in [(1, 1), (7, 3), (16, 5), (25, 46), (200, 200)] {
            let (estimates, targets) = (numbers(count, 0.7), numbers(others, 1.9));
            let mut slopes = vec![9.0; count];
            let got = quantile_huber(&estimates, &targets, &mut slopes);
            let expected = slow(&estimates, &targets);
            assert!(
                (got - expected).abs() <= 1e-5 * expected,
                "{got} {expected}"
            );
            for i in 0..count {
                let moved = |by: f32| {
                    let mut moved = estimates.clone();
                    moved[i] += by;
                    slow(&moved, &targets)
                };
                let difference = (moved(5e-4) - moved(-5e-4)) / 1e-3;
                let error = f64::from(slopes[i]) + difference;
                assert!(error.abs() < 2e-2 + 1e-3 * difference.abs(), "{i} {error}");
            }
        }
    }

    #[test]
    fn a_target_that_is_met_costs_nothing_and_nan_is_seen() {
        let mut slopes = [9.0; 2];
        // By hand: gaps of 0, 1 and -1 with tau 1/4 and 3/4.
        let loss = quantile_huber(&[0.0, 1.0], &[0.0, 1.0], &mut slopes);
        assert!((loss - (0.25 * 0.5 + 0.25 * 0.5)).abs() < 1e-7);
        assert_eq!(slopes, [0.25, -0.25]);
        assert!(quantile_huber(&[0.0, 1.0], &[f32::NAN], &mut slopes).is_nan());
        assert!(slopes.iter().all(|slope| slope.is_nan()));
    }
}
