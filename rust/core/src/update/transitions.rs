//! What the algorithms with a replay buffer learn from.

use super::{UpdateError, check, one_or_each};

/// Transitions, row after row.
#[derive(Debug, Clone, Copy)]
pub struct Transitions<'a> {
    /// Observations.
    pub observations: &'a [f32],
    /// Observations after the action.
    pub next_observations: &'a [f32],
    /// Actions; choices as whole numbers.
    pub actions: &'a [f32],
    /// Rewards.
    pub rewards: &'a [f32],
    /// 1 where the episode ended.
    pub dones: &'a [f32],
    /// Discount factor of each row, or one for all.
    pub discounts: &'a [f32],
}

impl Transitions<'_> {
    /// How many there are.
    pub(super) fn rows(&self) -> usize {
        self.rewards.len()
    }

    /// That all of it has as many rows, of these widths.
    pub(super) fn check(&self, obs_dim: usize, action_dim: usize) -> Result<(), UpdateError> {
        let rows = self.rows();
        let numbers = rows * obs_dim;
        check("observations", self.observations.len(), numbers)?;
        check("next observations", self.next_observations.len(), numbers)?;
        check("actions", self.actions.len(), rows * action_dim)?;
        check("dones", self.dones.len(), rows)?;
        if self.discounts.len() == 1 {
            return Ok(());
        }
        check("discounts", self.discounts.len(), rows)
    }

    /// The reward of a row and, unless its episode ended, the discounted value of what comes next.
    pub(super) fn target(&self, row: usize, next_value: f32) -> f32 {
        let discount = one_or_each(self.discounts, row);
        self.rewards[row] + (1.0 - self.dones[row]) * discount * next_value
    }
}
