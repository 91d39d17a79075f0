//! The gradient steps of DQN.

use super::{Trained, UpdateError, add_up, check, choice, each, optimizer::clip, piece_rows};
use crate::nn::{Net, Tape};

/// Transitions, row after row.
#[derive(Debug, Clone, Copy)]
pub struct QBatch<'a> {
    /// Observations.
    pub observations: &'a [f32],
    /// Observations after the action.
    pub next_observations: &'a [f32],
    /// Choices, as whole numbers.
    pub actions: &'a [f32],
    /// Rewards.
    pub rewards: &'a [f32],
    /// 1 where the episode ended.
    pub dones: &'a [f32],
    /// Discount factor of each row, or one for all.
    pub discounts: &'a [f32],
}

/// The numbers of the objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QSettings {
    /// Largest 2-norm of the gradient.
    pub max_grad_norm: f32,
}

/// A Q network that learns from transitions.
#[derive(Debug, Clone)]
pub struct QUpdate {
    net: Net,
    size: usize,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Default)]
struct Piece {
    tape: Tape,
    target_tape: Tape,
    by_outputs: Vec<f32>,
    gradient: Vec<f32>,
    loss: f64,
}

/// The largest number, nan if one is.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(
        f32::NEG_INFINITY,
        |a, &b| if b < a || a.is_nan() { a } else { b },
    )
}

impl QUpdate {
    /// A network whose parameters lie in a vector of `size` numbers.
    ///
    /// # Errors
    /// [`UpdateError::Count`] if they do not fit.
    pub fn new(net: Net, size: usize) -> Result<Self, UpdateError> {
        if size < net.parameters() {
            check("the vector of parameters", size, net.parameters())?;
        }
        Ok(Self {
            net,
            size,
            pieces: Vec::new(),
        })
    }

    fn check(&self, batch: &QBatch<'_>) -> Result<(), UpdateError> {
        let rows = batch.rewards.len();
        let numbers = rows * self.net.inputs();
        check("observations", batch.observations.len(), numbers)?;
        check("next observations", batch.next_observations.len(), numbers)?;
        check("actions", batch.actions.len(), rows)?;
        check("dones", batch.dones.len(), rows)?;
        if batch.discounts.len() != 1 {
            check("discounts", batch.discounts.len(), rows)?;
        }
        let options = self.net.outputs();
        batch
            .actions
            .iter()
            .try_for_each(|&action| choice(action, options).map(|_| ()))
    }

    /// One gradient step; gives the loss before it.
    ///
    /// # Errors
    /// [`UpdateError`] if the data do not fit; nothing has changed then.
    pub fn step(
        &mut self,
        batch: &QBatch<'_>,
        settings: &QSettings,
        target: &[f32],
        trained: &mut Trained<'_>,
    ) -> Result<f64, UpdateError> {
        trained.check("the vector of parameters", self.size)?;
        check("the target's parameters", target.len(), self.size)?;
        self.check(batch)?;
        let rows = batch.rewards.len();
        let size = piece_rows(rows);
        let count = rows.div_ceil(size);
        let mut pieces = std::mem::take(&mut self.pieces);
        if pieces.len() < count {
            pieces.resize_with(count, Piece::default);
        }
        let cost = 4 * rows * self.net.row_ns();
        let parameters: &[f32] = trained.parameters;
        each(&mut pieces[..count], cost, |index, piece| {
            let range = index * size..rows.min((index + 1) * size);
            self.piece(piece, batch, range, [parameters, target]);
        });
        let mut gradients: Vec<&mut [f32]> = pieces[..count]
            .iter_mut()
            .map(|piece| piece.gradient.as_mut_slice())
            .collect();
        add_up(&mut gradients);
        let loss = pieces[..count].iter().map(|piece| piece.loss).sum::<f64>() / rows as f64;
        self.pieces = pieces;
        let gradient = &self.pieces[0].gradient;
        trained.step(gradient, clip(gradient, settings.max_grad_norm));
        Ok(loss)
    }

    fn piece(
        &self,
        piece: &mut Piece,
        batch: &QBatch<'_>,
        rows: std::ops::Range<usize>,
        [parameters, target]: [&[f32]; 2],
    ) {
        piece.gradient.clear();
        piece.gradient.resize(self.size, 0.0);
        piece.loss = 0.0;
        let (inputs, outputs) = (self.net.inputs(), self.net.outputs());
        let of_rows = rows.start * inputs..rows.end * inputs;
        let next = &batch.next_observations[of_rows.clone()];
        let next_values = self.net.forward(target, next, &mut piece.target_tape);
        let observations = &batch.observations[of_rows];
        let values = self.net.forward(parameters, observations, &mut piece.tape);
        piece.by_outputs.clear();
        piece.by_outputs.resize(values.len(), 0.0);
        for (index, row) in rows.enumerate() {
            let discount = batch.discounts[if batch.discounts.len() == 1 { 0 } else { row }];
            let best = largest(&next_values[index * outputs..(index + 1) * outputs]);
            let goal = batch.rewards[row] + discount * (1.0 - batch.dones[row]) * best;
            let place = index * outputs + batch.actions[row] as usize;
            let error = values[place] - goal;
            let distance = error.abs();
            let close = distance < 1.0;
            // The Huber loss.
            piece.loss += f64::from(if close {
                0.5 * error * error
            } else {
                distance - 0.5
            });
            let slope = if close { error } else { error.signum() };
            piece.by_outputs[place] = slope / batch.rewards.len() as f32;
        }
        let Piece {
            tape,
            by_outputs,
            gradient,
            ..
        } = piece;
        self.net.backward(
            parameters,
            observations,
            tape,
            by_outputs,
            Some(gradient),
            false,
        );
    }
}
