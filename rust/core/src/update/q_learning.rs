//! The gradient steps of DQN.

use super::pieces::{Pieces, WithGradient};
use super::{Trained, Transitions, UpdateError, check, choice, optimizer::clip};
use crate::nn::{Tape, TrainableMlp};

/// The numbers of the objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QSettings {
    /// Largest 2-norm of the gradient.
    pub max_grad_norm: f32,
}

/// A Q network that learns from transitions.
#[derive(Debug, Clone)]
pub struct QUpdate {
    net: TrainableMlp,
    size: usize,
    pieces: Pieces<Piece>,
}

#[derive(Debug, Clone, Default)]
struct Piece {
    tape: Tape,
    target_tape: Tape,
    by_outputs: Vec<f32>,
    gradient: Vec<f32>,
    loss: f64,
}

impl WithGradient for Piece {
    fn gradient(&mut self) -> &mut Vec<f32> {
        &mut self.gradient
    }
}

/// The largest number, nan if one is.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(
        f32::NEG_INFINITY,
        |a, &b| if b < a || a.is_nan() { a } else { b },
    )
}

/// The Huber loss of an error, and its derivative.
fn huber(error: f32) -> (f32, f32) {
    if error.abs() < 1.0 {
        return (0.5 * error * error, error);
    }
    (error.abs() - 0.5, error.signum())
}

impl QUpdate {
    /// A network whose parameters lie in a vector of `size` numbers.
    ///
    /// # Errors
    /// [`UpdateError::Count`] if they do not fit.
    pub fn new(net: TrainableMlp, size: usize) -> Result<Self, UpdateError> {
        if size < net.parameters() {
            check("the vector of parameters", size, net.parameters())?;
        }
        Ok(Self {
            net,
            size,
            pieces: Pieces::default(),
        })
    }

    fn check(&self, batch: &Transitions<'_>) -> Result<(), UpdateError> {
        batch.check(self.net.inputs(), 1)?;
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
        batch: &Transitions<'_>,
        settings: &QSettings,
        target: &[f32],
        trained: &mut Trained<'_>,
    ) -> Result<f64, UpdateError> {
        trained.check("the vector of parameters", self.size)?;
        check("the target's parameters", target.len(), self.size)?;
        self.check(batch)?;
        let rows = batch.rows();
        self.pieces
            .expect_room(rows, 2 * self.net.row_numbers(), self.size)?;
        let cost = 4 * rows * self.net.row_ns();
        let parameters: &[f32] = trained.parameters;
        let mut memory = std::mem::take(&mut self.pieces);
        memory.visit_rows(rows, cost, |rows, piece| {
            self.piece(piece, batch, rows, [parameters, target]);
        });
        let losses = memory.visited().iter().map(|piece| piece.loss);
        let loss = losses.sum::<f64>() / rows as f64;
        let gradient = memory.gradient();
        trained.step(gradient, clip(gradient, settings.max_grad_norm));
        self.pieces = memory;
        Ok(loss)
    }

    fn piece(
        &self,
        piece: &mut Piece,
        batch: &Transitions<'_>,
        rows: std::ops::Range<usize>,
        [parameters, target_parameters]: [&[f32]; 2],
    ) {
        piece.clear_gradient(self.size);
        piece.loss = 0.0;
        let (inputs, outputs) = (self.net.inputs(), self.net.outputs());
        let of_rows = rows.start * inputs..rows.end * inputs;
        let next = &batch.next_observations[of_rows.clone()];
        let next_values = self
            .net
            .forward(target_parameters, next, &mut piece.target_tape);
        let observations = &batch.observations[of_rows];
        let values = self.net.forward(parameters, observations, &mut piece.tape);
        piece.by_outputs.clear();
        piece.by_outputs.resize(values.len(), 0.0);
        for (index, row) in rows.enumerate() {
            let of_row = index * outputs..(index + 1) * outputs;
            let target = batch.target(row, largest(&next_values[of_row.clone()]));
            let action = batch.actions[row] as usize;
            let error = values[of_row.start + action] - target;
            let (loss, slope) = huber(error);
            piece.loss += f64::from(loss);
            piece.by_outputs[of_row.start + action] = slope / batch.rows() as f32;
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
