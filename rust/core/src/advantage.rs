//! Generalised advantage estimation on slices.

use thiserror::Error;

use crate::interrupt::{Interrupted, Watch};
use crate::memory::{OutOfMemory, filled};

/// Numbers between two questions whether to stop.
const CHUNK: usize = 1 << 16;

/// A column of the rollout does not have the length that its shape asks for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AdvantageError {
    /// The rollout has no environment, so it has no rows either.
    #[error("n_envs is 0, expected at least one environment")]
    NoEnvs,
    /// There is no memory for so many environments.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// The work was stopped from outside.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// `name` holds `found` numbers where `expected` belong.
    #[error("{name} has {found} elements, expected {expected}")]
    Length {
        /// The column that is wrong.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The length that fits the other columns.
        expected: usize,
    },
}

/// What was seen during a rollout: row-major `(n_steps, n_envs)` columns.
///
/// The flags are 0.0 or 1.0, as the buffer stores them.
#[derive(Debug, Clone, Copy)]
pub struct Trajectory<'a> {
    /// Reward of each step.
    pub rewards: &'a [f32],
    /// The critic's estimate at each step's observation.
    pub values: &'a [f32],
    /// 1.0 where the step's observation is the first of an episode.
    pub episode_starts: &'a [f32],
    /// The critic's estimate after the last step, one for each environment.
    pub last_values: &'a [f32],
    /// 1.0 where the last step ended an episode, one for each environment.
    pub dones: &'a [f32],
}

impl Trajectory<'_> {
    fn check(&self, advantages: &[f32], returns: &[f32]) -> Result<usize, AdvantageError> {
        let n_envs = self.last_values.len();
        if n_envs == 0 {
            return Err(AdvantageError::NoEnvs);
        }
        let rows = self.rewards.len();
        let whole = rows / n_envs * n_envs;
        for (name, found, expected) in [
            ("dones", self.dones.len(), n_envs),
            ("rewards", rows, whole),
            ("values", self.values.len(), rows),
            ("episode_starts", self.episode_starts.len(), rows),
            ("advantages", advantages.len(), rows),
            ("returns", returns.len(), rows),
        ] {
            if found != expected {
                return Err(AdvantageError::Length {
                    name,
                    found,
                    expected,
                });
            }
        }
        Ok(n_envs)
    }
}

/// Fills `advantages` with GAE(lambda) and `returns` with `advantages + values`.
///
/// With `m = 1 - episode_starts[t + 1]` (for the last step `1 - dones`), Schulman et al. 2015
/// (<https://arxiv.org/abs/1506.02438>), equations 11 and 16:
///
/// `delta = r[t] + gamma * V[t + 1] * m - V[t]` and `A[t] = delta + gamma * lambda * m * A[t + 1]`.
///
/// Every operation is float32, in the order in which Stable-Baselines3 asks NumPy for it, so the
/// two agree to the last bit. Only `gamma * gae_lambda` is a product of two doubles.
///
/// # Errors
/// When a column's length does not fit `last_values.len()` environments. Nothing is written then. After
/// [`AdvantageError::Interrupted`] what was written is of no use.
pub fn gae(
    seen: &Trajectory<'_>,
    gamma: f64,
    gae_lambda: f64,
    advantages: &mut [f32],
    returns: &mut [f32],
    watch: &mut Watch<'_>,
) -> Result<(), AdvantageError> {
    let n_envs = seen.check(advantages, returns)?;
    let discount = gamma as f32;
    let decay = (gamma * gae_lambda) as f32;
    let steps = seen.rewards.len() / n_envs;
    let no_advantage = filled(0.0, n_envs)?;
    let chunk = (CHUNK / n_envs).max(1);
    for step in (0..steps).rev() {
        if step.is_multiple_of(chunk) {
            watch.check()?;
        }
        let row = step * n_envs..(step + 1) * n_envs;
        let next = row.end..row.end + n_envs;
        let (head, tail) = advantages.split_at_mut(row.end);
        let now = &mut head[row.start..];
        let (later, ended, next_values) = if step + 1 == steps {
            (&no_advantage[..], seen.dones, seen.last_values)
        } else {
            let ended = &seen.episode_starts[next.clone()];
            (&tail[..n_envs], ended, &seen.values[next])
        };
        let rewards = &seen.rewards[row.clone()];
        let values = &seen.values[row];
        for env in 0..n_envs {
            let goes_on = 1.0 - ended[env];
            let delta = rewards[env] + discount * next_values[env] * goes_on - values[env];
            now[env] = delta + decay * goes_on * later[env];
        }
    }
    for ((ret, advantage), value) in returns.iter_mut().zip(advantages.iter()).zip(seen.values) {
        *ret = advantage + value;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three steps of two environments, gamma 0.5 and lambda 0.5, worked out on paper.
    ///
    /// Environment 0 runs through: deltas 1 + 1 - 1 = 1, 1 + 0.5 - 2 = -0.5, 2 + 2 - 1 = 3, so
    /// A = 3, -0.5 + 0.75 = 0.25, 1 + 0.0625. Environment 1 starts anew at step 2 and ends with
    /// it: deltas 0 + 1 - 0 = 1, 4 - 2 = 2, 8 - 4 = 4, so A = 4, 2, 1 + 0.5.
    #[test]
    fn paper_example() {
        let seen = Trajectory {
            rewards: &[1.0, 0.0, 1.0, 4.0, 2.0, 8.0],
            values: &[1.0, 0.0, 2.0, 2.0, 1.0, 4.0],
            episode_starts: &[1.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            last_values: &[4.0, 100.0],
            dones: &[0.0, 1.0],
        };
        let (mut advantages, mut returns) = ([9.0; 6], [9.0; 6]);
        gae(
            &seen,
            0.5,
            0.5,
            &mut advantages,
            &mut returns,
            &mut Watch::never(),
        )
        .unwrap();
        assert_eq!(advantages, [1.0625, 1.5, 0.25, 2.0, 3.0, 4.0]);
        assert_eq!(returns, [2.0625, 1.5, 2.25, 4.0, 4.0, 8.0]);
    }

    /// With lambda 1 and no critic the advantage is the discounted sum of rewards.
    #[test]
    fn lambda_one_is_monte_carlo() {
        let zeros = [0.0; 4];
        let seen = Trajectory {
            rewards: &[1.0, 1.0, 1.0, 1.0],
            values: &zeros,
            episode_starts: &zeros,
            last_values: &[16.0],
            dones: &[0.0],
        };
        let (mut advantages, mut returns) = ([0.0; 4], [0.0; 4]);
        gae(
            &seen,
            0.5,
            1.0,
            &mut advantages,
            &mut returns,
            &mut Watch::never(),
        )
        .unwrap();
        assert_eq!(advantages, [2.875, 3.75, 5.5, 9.0]);
        assert_eq!(returns, advantages);
    }

    #[test]
    fn it_stops_when_it_is_asked_to() {
        let (rows, one) = (vec![0.0; 4 * CHUNK], [0.0]);
        let seen = Trajectory {
            rewards: &rows,
            values: &rows,
            episode_starts: &rows,
            last_values: &one,
            dones: &one,
        };
        let (mut advantages, mut returns) = (rows.clone(), rows.clone());
        let mut asked = 0;
        let mut ask = || {
            asked += 1;
            asked == 2
        };
        let mut watch = Watch::every(std::time::Duration::ZERO, &mut ask);
        let stopped = gae(&seen, 0.9, 0.9, &mut advantages, &mut returns, &mut watch);
        assert_eq!(stopped, Err(AdvantageError::Interrupted(Interrupted)));
        assert_eq!(asked, 2);
    }

    #[test]
    fn wrong_lengths_are_named_and_nothing_is_written() {
        let four = [0.0; 4];
        let mut seen = Trajectory {
            rewards: &four,
            values: &four,
            episode_starts: &four,
            last_values: &[0.0, 0.0],
            dones: &[0.0],
        };
        let (mut advantages, mut returns) = ([7.0; 4], [7.0; 4]);
        let error = gae(
            &seen,
            0.9,
            0.9,
            &mut advantages,
            &mut returns,
            &mut Watch::never(),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "dones has 1 elements, expected 2");
        seen.dones = &[0.0, 0.0];
        seen.values = &four[..3];
        let error = gae(
            &seen,
            0.9,
            0.9,
            &mut advantages,
            &mut returns,
            &mut Watch::never(),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "values has 3 elements, expected 4");
        seen.last_values = &[];
        let error = gae(
            &seen,
            0.9,
            0.9,
            &mut advantages,
            &mut returns,
            &mut Watch::never(),
        )
        .unwrap_err();
        assert_eq!(error, AdvantageError::NoEnvs);
        assert_eq!((advantages, returns), ([7.0; 4], [7.0; 4]));
    }
}
