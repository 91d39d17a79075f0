//! The gradient steps of DQN.

use std::ops::Range;

use super::actor::rows_of;
use super::features::{Trunk, vectors};
use super::pieces::{Pieces, WithGradient};
use super::{Trained, Transitions, UpdateError, check, choice, optimizer::clip};
use crate::nn::{Extractor, Rows, Tape, TrainableMlp};

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
    // How many parameters there are, and how many of them are those of the network.
    size: usize,
    head_size: usize,
    trunk: Option<Trunk>,
    // What the target network has, and what it sees.
    target: Vec<f32>,
    next_features: Vec<f32>,
    pieces: Pieces<Piece>,
}

#[derive(Debug, Clone, Default)]
struct Piece {
    tape: Tape,
    target_tape: Tape,
    by_outputs: Vec<f32>,
    by_features: Vec<f32>,
    gradient: Vec<f32>,
    loss: f64,
}

/// The observations or features of a batch and of what follows, and the parameters for both.
struct Passes<'a> {
    inputs: [&'a [f32]; 2],
    parameters: [&'a [f32]; 2],
    // Whether the inputs are features, whose gradient is wanted.
    features: bool,
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
            head_size: size,
            trunk: None,
            target: Vec::new(),
            next_features: Vec::new(),
            pieces: Pieces::default(),
        })
    }

    /// Numbers in the vector of parameters.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The network, without what extracts its features.
    pub(crate) fn net(&self) -> &TrainableMlp {
        &self.net
    }

    /// The network sees the features of an extractor.
    ///
    /// # Errors
    /// [`UpdateError::Width`] or [`UpdateError::Count`] if it does not fit.
    pub fn with_extractor(mut self, extractor: Extractor) -> Result<Self, UpdateError> {
        let mut trunk = Trunk::new(vec![extractor], self.size)?;
        self.net = trunk.head(&self.net, "Q network", (0, 0))?;
        self.head_size = trunk.head_size();
        self.trunk = Some(trunk);
        Ok(self)
    }

    fn check(&self, batch: &Transitions<'_>) -> Result<(), UpdateError> {
        batch.check(self.trunk.as_ref(), self.net.inputs(), 1)?;
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
            .expect_room(rows, 2 * self.net.row_numbers(), self.head_size)?;
        let mut trunk = self.trunk.take();
        if let Some(trunk) = &mut trunk {
            trunk.expect_room(rows)?;
            trunk.see(target, batch.next_observations, Rows::From(0, rows));
            self.target.clear();
            self.target.extend_from_slice(trunk.parameters());
            self.next_features.clear();
            self.next_features.extend_from_slice(trunk.features()[0]);
            trunk.see(trained.parameters, batch.observations, Rows::From(0, rows));
        }
        let passes = match &trunk {
            Some(trunk) => Passes {
                inputs: [trunk.features()[0], &self.next_features],
                parameters: [trunk.parameters(), &self.target],
                features: true,
            },
            None => Passes {
                inputs: [
                    vectors(batch.observations)?,
                    vectors(batch.next_observations)?,
                ],
                parameters: [trained.parameters, target],
                features: false,
            },
        };
        let cost = 4 * rows * self.net.row_ns();
        let mut memory = std::mem::take(&mut self.pieces);
        memory.visit_rows(rows, cost, |rows, piece| {
            self.piece(piece, batch, rows, &passes);
        });
        let losses = memory.visited().iter().map(|piece| piece.loss);
        let loss = losses.sum::<f64>() / rows as f64;
        if let Some(trunk) = &mut trunk {
            let pieces = memory.visited().iter();
            trunk.take_back(pieces.map(|piece| [&piece.by_features[..], &[]]));
        }
        let gradient = match (&mut trunk, memory.gradient()) {
            (None, of_network) => of_network,
            (Some(trunk), of_head) => {
                let (columns, rows) = (batch.observations, Rows::From(0, rows));
                trunk.gradient(trained.parameters, columns, rows, of_head)
            }
        };
        trained.step(gradient, clip(gradient, settings.max_grad_norm));
        (self.pieces, self.trunk) = (memory, trunk);
        Ok(loss)
    }

    fn piece(
        &self,
        piece: &mut Piece,
        batch: &Transitions<'_>,
        rows: Range<usize>,
        passes: &Passes<'_>,
    ) {
        piece.clear_gradient(self.head_size);
        piece.loss = 0.0;
        let outputs = self.net.outputs();
        let [inputs, next] = passes
            .inputs
            .map(|inputs| rows_of(inputs, &rows, self.net.inputs()));
        let [parameters, target_parameters] = passes.parameters;
        let next_values = self
            .net
            .forward(target_parameters, next, &mut piece.target_tape);
        let values = self.net.forward(parameters, inputs, &mut piece.tape);
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
            by_features,
            gradient,
            ..
        } = piece;
        let gradient = Some(gradient.as_mut_slice());
        let wanted = passes.features;
        let by_inputs = self
            .net
            .backward(parameters, inputs, tape, by_outputs, gradient, wanted);
        by_features.clear();
        if wanted {
            by_features.extend_from_slice(by_inputs);
        }
    }
}
