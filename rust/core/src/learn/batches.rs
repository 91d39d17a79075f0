//! Batches out of the columns of a replay buffer, in memory that is kept.

use super::{LearnError, SharedNumbers};
use crate::buffer::ring::Ring;
use crate::collect::{ActionColumn, NextObs, ReplayColumns};
use crate::memory::filled;
use crate::nn::ObservationColumn;
use crate::update::Transitions;

/// Returns of several steps, as `NStepReplayBuffer` sums them.
#[derive(Debug, Clone, Copy)]
pub struct MultiStep<'a> {
    /// What the reward of each step counts: powers of the discount factor from 0 on.
    pub discounts: &'a [f32],
    /// What the value after so many steps counts: the same, one more of them.
    pub bootstraps: &'a [f32],
}

/// The memory of a batch.
#[derive(Debug)]
pub(super) struct Batch {
    rows: Vec<usize>,
    envs: Vec<usize>,
    observations: Vec<f32>,
    next_observations: Vec<f32>,
    actions: Vec<f32>,
    rewards: Vec<f32>,
    dones: Vec<f32>,
    discounts: Vec<f32>,
}

/// What a batch is drawn from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) n_envs: usize,
    pub(super) obs_dim: usize,
    pub(super) action_dim: usize,
    pub(super) multi_step: Option<MultiStep<'a>>,
}

impl Batch {
    /// Memory for `size` transitions. Without returns of several steps all have the same `discount`.
    pub(super) fn new(size: usize, source: &Source<'_>, discount: f32) -> Result<Self, LearnError> {
        let discounts = if source.multi_step.is_some() { size } else { 1 };
        let numbers = |width: usize| filled(0.0, size.saturating_mul(width));
        Ok(Self {
            rows: filled(0, size)?,
            envs: filled(0, size)?,
            observations: numbers(source.obs_dim)?,
            next_observations: numbers(source.obs_dim)?,
            actions: numbers(source.action_dim)?,
            rewards: numbers(1)?,
            dones: numbers(1)?,
            discounts: filled(discount, discounts)?,
        })
    }

    /// Draws the transitions, and copies them from the columns.
    pub(super) fn sample(
        &mut self,
        replay: &ReplayColumns<'_>,
        source: &Source<'_>,
        numbers: &mut dyn SharedNumbers,
    ) -> Result<(), LearnError> {
        let ring = &replay.ring;
        // The row at the cursor holds the newest next observation, which no transition was seen in.
        let spared = matches!(replay.next, NextObs::NextRow(_)) && ring.is_full();
        let rows = usize::from(spared)..ring.len();
        numbers.draw_ints([(rows, &mut self.rows), (0..source.n_envs, &mut self.envs)])?;
        if spared {
            let later = |row: &mut usize| *row = ring.after(*row, ring.pos());
            self.rows.iter_mut().for_each(later);
        }
        self.take(replay, source);
        Ok(())
    }

    fn take(&mut self, replay: &ReplayColumns<'_>, source: &Source<'_>) {
        let (ring, n_envs) = (&replay.ring, source.n_envs);
        for index in 0..self.rows.len() {
            let (row, env) = (self.rows[index], self.envs[index]);
            let place = row * n_envs + env;
            let last = match source.multi_step {
                None => place,
                Some(multi_step) => {
                    let (span, sum) = sum_up(replay, multi_step, (row, env), n_envs);
                    self.rewards[index] = sum;
                    self.discounts[index] = multi_step.bootstraps[span];
                    ring.after(row, span - 1) * n_envs + env
                }
            };
            if source.multi_step.is_none() {
                self.rewards[index] = replay.rewards[place];
            }
            copy(
                replay.observations,
                place,
                &mut self.observations,
                index,
                source.obs_dim,
            );
            let to = &mut self.next_observations;
            match &replay.next {
                NextObs::Column(column) => copy(column, last, to, index, source.obs_dim),
                NextObs::NextRow(terminal) => {
                    let later = (last + n_envs) % (ring.capacity() * n_envs);
                    copy(replay.observations, later, to, index, source.obs_dim);
                    let at = index * source.obs_dim..(index + 1) * source.obs_dim;
                    terminal.copy_to(last, &mut to[at]);
                }
            }
            match &replay.actions {
                ActionColumn::Ints(column) => self.actions[index] = column[place] as f32,
                ActionColumn::Floats(column) => {
                    copy(column, place, &mut self.actions, index, source.action_dim);
                }
            }
            self.dones[index] = ended(replay, last);
        }
    }

    /// Observations, and those after the action.
    pub(super) fn observations(&self) -> [ObservationColumn<'_>; 2] {
        [&self.observations, &self.next_observations].map(|all| ObservationColumn::Floats(all))
    }

    /// All of it, around the [`observations`](Self::observations).
    pub(super) fn transitions<'a>(
        &'a self,
        [now, next]: &'a [ObservationColumn<'a>; 2],
    ) -> Transitions<'a> {
        Transitions {
            observations: std::slice::from_ref(now),
            next_observations: std::slice::from_ref(next),
            actions: &self.actions,
            rewards: &self.rewards,
            dones: &self.dones,
            discounts: &self.discounts,
        }
    }
}

/// Copies row `from_row` of `from`. The rows are short: a call to `memcpy` for each would take longer.
#[inline]
fn copy(from: &[f32], from_row: usize, to: &mut [f32], to_row: usize, width: usize) {
    let from = &from[from_row * width..(from_row + 1) * width];
    let to = &mut to[to_row * width..(to_row + 1) * width];
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from;
    }
}

/// 1 where an episode ended and was not cut, as `done * (1 - timeout)` gives it.
fn ended(replay: &ReplayColumns<'_>, place: usize) -> f32 {
    let done = replay.dones[place];
    match &replay.timeouts {
        Some(timeouts) if done != 0.0 => done * (1.0 - timeouts[place]),
        _ => done,
    }
}

/// How many steps from `(row, env)` on belong to one return, and the sum of their rewards as NumPy adds
/// fewer than eight numbers: one after the other, those behind the last step times 0.
fn sum_up(
    replay: &ReplayColumns<'_>,
    multi_step: MultiStep<'_>,
    (row, env): (usize, usize),
    n_envs: usize,
) -> (usize, f32) {
    let ring: &Ring = &replay.ring;
    let at = |row: usize| row * n_envs + env;
    let timed_out = |place: usize| {
        replay
            .timeouts
            .as_ref()
            .is_some_and(|all| all[place] != 0.0)
    };
    let ends = |row: usize| replay.dones[at(row)] != 0.0 || timed_out(at(row));
    let steps = multi_step.discounts.len();
    let span = ring.span(row, steps, ends).unwrap_or(1);
    let rewards = multi_step
        .discounts
        .iter()
        .enumerate()
        .map(|(step, &discount)| {
            let counted = if step < span {
                discount
            } else {
                discount * 0.0
            };
            replay.rewards[at(ring.after(row, step))] * counted
        });
    (span, rewards.fold(0.0, |sum, reward| sum + reward))
}
