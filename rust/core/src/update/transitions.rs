//! What the algorithms with a replay buffer learn from.

use super::features::{Trunk, vectors};
use super::{UpdateError, check, one_or_each};
use crate::nn::ObservationColumn;

/// Transitions, row after row.
#[derive(Debug, Clone, Copy)]
pub struct Transitions<'a> {
    /// Observations: one column of vectors, or those that the extractors take.
    pub observations: &'a [ObservationColumn<'a>],
    /// Observations after the action.
    pub next_observations: &'a [ObservationColumn<'a>],
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

    /// That all of it has as many rows, of these widths; that of an observation is the extractors'
    /// where there are any.
    pub(super) fn check(
        &self,
        trunk: Option<&Trunk>,
        obs_dim: usize,
        action_dim: usize,
    ) -> Result<(), UpdateError> {
        self.check_observations(trunk, obs_dim)?;
        let rows = self.rows();
        check("actions", self.actions.len(), rows * action_dim)?;
        check("dones", self.dones.len(), rows)?;
        if self.discounts.len() == 1 {
            return Ok(());
        }
        check("discounts", self.discounts.len(), rows)
    }

    /// That there are as many rows of observations.
    pub(super) fn check_observations(
        &self,
        trunk: Option<&Trunk>,
        obs_dim: usize,
    ) -> Result<(), UpdateError> {
        let rows = self.rows();
        let both = [
            ("observations", self.observations),
            ("next observations", self.next_observations),
        ];
        for (what, columns) in both {
            match trunk {
                Some(trunk) => trunk.check(columns, rows)?,
                None => check(what, vectors(columns)?.len(), rows * obs_dim)?,
            }
        }
        Ok(())
    }

    /// The reward of a row and, unless its episode ended, the discounted value of what comes next.
    pub(super) fn target(&self, row: usize, next_value: f32) -> f32 {
        let discount = one_or_each(self.discounts, row);
        self.rewards[row] + (1.0 - self.dones[row]) * discount * next_value
    }
}
