//! The gradient steps of DQN and QR-DQN.

use std::ops::Range;

use super::actor::rows_of;
use super::features::{Trunk, vectors};
use super::pieces::{Pieces, WithGradient, piece_rows};
use super::quantiles::{PAIR_PS, quantile_huber};
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
    // Quantiles of the return that the network gives for each action; 0: it gives the mean.
    quantiles: usize,
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
    // Those of one action, and what they give.
    quantiles: [Vec<f32>; 3],
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

/// The action whose quantiles have the largest mean, the first one of several; also of nan, which the
/// loss shows.
fn best_mean(values: &[f32], options: usize) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for action in 0..options {
        let sum = values.iter().skip(action).step_by(options).sum::<f32>();
        if sum > best.1 || sum.is_nan() {
            best = (action, sum);
        }
    }
    best.0
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
            quantiles: 0,
            target: Vec::new(),
            next_features: Vec::new(),
            pieces: Pieces::default(),
        })
    }

    /// The outputs are `count` quantiles of the return, each with a number for every action.
    ///
    /// # Errors
    /// [`UpdateError::Width`] if the outputs are no whole number of actions.
    pub fn with_quantiles(mut self, count: usize) -> Result<Self, UpdateError> {
        let got = self.net.outputs();
        if count > 0 && !got.is_multiple_of(count) {
            return Err(UpdateError::Width {
                what: "quantile network",
                side: "outputs",
                got,
                expected: got.next_multiple_of(count),
            });
        }
        self.quantiles = count;
        Ok(self)
    }

    /// Number of actions.
    fn options(&self) -> usize {
        self.net.outputs() / self.quantiles.max(1)
    }

    /// Rows of a piece of a batch. Pairs of quantiles take much longer than the network.
    fn piece_rows(&self, rows: usize) -> usize {
        if self.quantiles == 0 {
            piece_rows(rows)
        } else {
            rows.div_ceil(8).max(8)
        }
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
        let options = self.options();
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
        let pairs = self.quantiles.saturating_mul(self.quantiles);
        let cost = rows * (4 * self.net.row_ns() + pairs.saturating_mul(PAIR_PS) / 1000);
        let mut memory = std::mem::take(&mut self.pieces);
        let size = self.piece_rows(rows);
        memory.visit_rows_of(size, rows, cost, |rows, piece| {
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
        let [inputs, next] = passes
            .inputs
            .map(|inputs| rows_of(inputs, &rows, self.net.inputs()));
        let [parameters, target_parameters] = passes.parameters;
        self.net
            .forward(target_parameters, next, &mut piece.target_tape);
        self.net.forward(parameters, inputs, &mut piece.tape);
        if self.quantiles == 0 {
            piece.compare_values(batch, rows, self.options());
        } else {
            pulp::Arch::new().dispatch(|| piece.compare_quantiles(batch, rows, self.options()));
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

impl Piece {
    /// The loss of the values of the actions that were taken, and its derivatives by the outputs.
    fn compare_values(&mut self, batch: &Transitions<'_>, rows: Range<usize>, options: usize) {
        let (values, next_values) = (self.tape.output(), self.target_tape.output());
        self.loss = 0.0;
        self.by_outputs.clear();
        self.by_outputs.resize(values.len(), 0.0);
        for (index, row) in rows.enumerate() {
            let of_row = index * options..(index + 1) * options;
            let target = batch.target(row, largest(&next_values[of_row.clone()]));
            let action = batch.actions[row] as usize;
            let error = values[of_row.start + action] - target;
            let (loss, slope) = huber(error);
            self.loss += f64::from(loss);
            self.by_outputs[of_row.start + action] = slope / batch.rows() as f32;
        }
    }

    /// The same for quantiles: each one of the action that was taken is compared with each of the action
    /// whose mean is the largest afterwards. The sum over the former, the mean over the latter.
    #[inline(always)]
    fn compare_quantiles(&mut self, batch: &Transitions<'_>, rows: Range<usize>, options: usize) {
        let (values, next_values) = (self.tape.output(), self.target_tape.output());
        let width = values.len() / rows.len();
        let count = width / options;
        let [estimates, targets, slopes] = &mut self.quantiles;
        slopes.resize(count, 0.0);
        self.loss = 0.0;
        self.by_outputs.clear();
        self.by_outputs.resize(values.len(), 0.0);
        for (index, row) in rows.enumerate() {
            let of_row = index * width..(index + 1) * width;
            let (values, next_values) = (&values[of_row.clone()], &next_values[of_row.clone()]);
            let best = best_mean(next_values, options);
            let action = batch.actions[row] as usize;
            let of_action = |values: &[f32], action, to: &mut Vec<f32>| {
                to.clear();
                to.extend(values.iter().skip(action).step_by(options));
            };
            of_action(values, action, estimates);
            of_action(next_values, best, targets);
            for target in targets.iter_mut() {
                *target = batch.target(row, *target);
            }
            self.loss += quantile_huber(estimates, targets, slopes) / count as f64;
            let scale = -1.0 / (count * batch.rows()) as f32;
            let by_action = self.by_outputs[of_row].iter_mut();
            for (to, slope) in by_action.skip(action).step_by(options).zip(&*slopes) {
                *to = scale * slope;
            }
        }
    }
}
