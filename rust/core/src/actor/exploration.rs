//! The noise of state-dependent exploration (gSDE), <https://arxiv.org/abs/2005.05719>.

use super::sampling::fill_normal;
use crate::memory::{OutOfMemory, with_capacity};
use crate::nn::Outputs;
use crate::rng::Pcg64;

/// Exploration matrices, `(features, actions)` each: one for all rows, then one for each
/// environment.
#[derive(Debug, Clone, Default)]
pub(super) struct Exploration {
    matrices: Vec<f32>,
    n_envs: usize,
    /// New matrices after this many batches; 0 for never.
    every: usize,
    batches: usize,
    draws: u64,
}

impl Exploration {
    /// New matrices for `n_envs` environments now, and after every `every` batches of them.
    pub(super) fn start(
        &mut self,
        n_envs: usize,
        every: usize,
        std: &[f32],
        rng: &mut Pcg64,
    ) -> Result<(), OutOfMemory> {
        let size = n_envs.saturating_add(1).saturating_mul(std.len());
        if size > self.matrices.capacity() {
            self.matrices = with_capacity(size)?;
        }
        (self.n_envs, self.every, self.batches) = (n_envs, every, 0);
        self.draw(std, rng);
        Ok(())
    }

    /// All matrices, and how often they were drawn so far.
    pub(super) fn matrices(&self) -> (&[f32], u64) {
        (&self.matrices, self.draws)
    }

    /// Takes these matrices: one for all rows, then one for each environment.
    pub(super) fn take(&mut self, matrices: &[f32], n_envs: usize) -> Result<(), OutOfMemory> {
        if matrices.len() > self.matrices.capacity() {
            self.matrices = with_capacity(matrices.len())?;
        }
        self.matrices.clear();
        self.matrices.extend_from_slice(matrices);
        (self.n_envs, self.every, self.batches) = (n_envs, 0, 0);
        Ok(())
    }

    fn draw(&mut self, std: &[f32], rng: &mut Pcg64) {
        self.draws += 1;
        self.matrices.resize((1 + self.n_envs) * std.len(), 0.0);
        fill_normal(rng, &mut self.matrices);
        for matrix in self.matrices.chunks_exact_mut(std.len()) {
            matrix.iter_mut().zip(std).for_each(|(x, std)| *x *= std);
        }
    }

    /// Adds its noise to each row of `actions`. A batch with a row for every environment has a
    /// matrix for every row; others share one.
    pub(super) fn add(
        &mut self,
        features: Outputs<'_>,
        std: &[f32],
        rng: &mut Pcg64,
        actions: &mut [f32],
    ) {
        let (rows, size) = (features.rows().count(), std.len());
        self.prepare(rows, std, rng);
        let own = rows > 1 && rows == self.n_envs;
        let dim = actions.len() / rows.max(1);
        for (row, features) in features.rows().enumerate() {
            let actions = &mut actions[row * dim..(row + 1) * dim];
            let at = if own { (1 + row) * size } else { 0 };
            let matrix = self.matrices[at..at + size].chunks_exact(dim);
            for (feature, weights) in features.iter().zip(matrix) {
                for (action, weight) in actions.iter_mut().zip(weights) {
                    *action += feature * weight;
                }
            }
        }
    }

    /// Draws new matrices where a batch is due for them.
    fn prepare(&mut self, rows: usize, std: &[f32], rng: &mut Pcg64) {
        let due = self.every > 0 && self.batches == self.every;
        if due || self.matrices.len() != (1 + self.n_envs) * std.len() {
            self.draw(std, rng);
            self.batches = 0;
        }
        self.batches += usize::from(rows == self.n_envs);
    }
}
