//! The actor of an actor-critic update: its actions, and the gradient through them.

use std::ops::Range;

use super::UpdateError;
use super::actor_critic_data::ActorKind;
use super::pieces::{Pieces, WithGradient};
use super::squashed::{squash, squash_backward, squash_states, squash_states_backward};
use super::state_noise::{Spread, StateNoise, StateRows};
use super::views::View;
use crate::memory::OutOfMemory;
use crate::nn::{Tape, TrainableMlp};

/// Actions row after row, and their log-likelihoods: zeros if the actor is deterministic.
#[derive(Debug, Clone, Default)]
pub(super) struct SampledActions {
    pub(super) actions: Vec<f32>,
    pub(super) log_probs: Vec<f32>,
}

/// An actor, and the memory of its passes over a batch.
#[derive(Debug, Clone)]
pub(super) struct Actor {
    pub(super) net: TrainableMlp,
    pub(super) kind: ActorKind,
    pub(super) action_dim: usize,
    spread: Spread,
    pieces: Pieces<Piece>,
}

#[derive(Debug, Clone, Default)]
struct Piece {
    tape: Tape,
    sampled: SampledActions,
    by_outputs: Vec<f32>,
    by_inputs: Vec<f32>,
    states: StateRows,
    by_features: Vec<f32>,
    gradient: Vec<f32>,
}

impl WithGradient for Piece {
    fn gradient(&mut self) -> &mut Vec<f32> {
        &mut self.gradient
    }
}

impl Piece {
    /// From the gradient of the actions, and of `weight` times their log-likelihoods, to that of the means, of
    /// what the last layer takes, and of the deviations.
    fn through_states(
        &mut self,
        with: (&StateNoise, &Spread),
        view: &View<'_>,
        observations: &[f32],
        (by_actions, weight): (&[f32], f32),
    ) {
        let Self {
            tape,
            sampled,
            by_outputs,
            states,
            by_features,
            gradient,
            ..
        } = self;
        let features = tape.last_input(observations);
        let variances = &states.variances;
        let slices = [tape.output(), variances, &sampled.actions, by_actions];
        let answer = (&mut states.by_offsets, &mut states.by_variances);
        squash_states_backward(slices, weight, by_outputs, answer);
        states.add_gradient(with, view.parameters, features, gradient);
        states.by_features(with, features, by_features);
    }
}

/// Some rows of numbers, `width` in each.
pub(super) fn rows_of<'a>(numbers: &'a [f32], rows: &Range<usize>, width: usize) -> &'a [f32] {
    &numbers[rows.start * width..rows.end * width]
}

impl Actor {
    /// # Errors
    /// [`UpdateError::Width`] if the network does not fit the noise.
    pub(super) fn new(net: TrainableMlp, kind: ActorKind) -> Result<Self, UpdateError> {
        let action_dim = match kind {
            ActorKind::Squashed => net.outputs() / 2,
            _ => net.outputs(),
        };
        if let ActorKind::StateDependent(noise) = kind {
            let sides = [
                ("outputs", action_dim, noise.actions),
                ("features", net.features(), noise.features),
            ];
            for (side, got, expected) in sides {
                if got != expected {
                    let what = "actor";
                    return Err(UpdateError::Width {
                        what,
                        side,
                        got,
                        expected,
                    });
                }
            }
        }
        Ok(Self {
            net,
            kind,
            action_dim,
            spread: Spread::default(),
            pieces: Pieces::default(),
        })
    }

    /// How long the vector of parameters has to be.
    pub(super) fn parameters(&self) -> usize {
        let of_noise = match self.kind {
            ActorKind::StateDependent(noise) => noise.parameters().end,
            _ => 0,
        };
        self.net.parameters().max(of_noise)
    }

    /// That there is memory for passes of as many rows.
    pub(super) fn expect_room(&mut self, rows: usize, size: usize) -> Result<(), OutOfMemory> {
        self.pieces.expect_room(rows, self.net.row_numbers(), size)
    }

    /// What it does at what it sees. `noise` are the standard normals of a squashed actor's draws.
    pub(super) fn sample(&mut self, view: &View<'_>, noise: &[f32], sampled: &mut SampledActions) {
        let (net, dim, kind) = (&self.net, self.action_dim, self.kind);
        let (observations, parameters) = (view.inputs, view.parameters);
        let rows = observations.len() / net.inputs();
        if let ActorKind::StateDependent(state_noise) = &kind {
            self.spread.load(state_noise, parameters, noise);
        }
        let spread = &self.spread;
        let work = |rows: Range<usize>, piece: &mut Piece| {
            let observations = rows_of(observations, &rows, net.inputs());
            let outputs = net.forward(parameters, observations, &mut piece.tape);
            let SampledActions { actions, log_probs } = &mut piece.sampled;
            match kind {
                ActorKind::Deterministic => {
                    actions.clear();
                    actions.extend_from_slice(outputs);
                    log_probs.clear();
                    log_probs.resize(rows.len(), 0.0);
                }
                ActorKind::Squashed => {
                    squash(
                        outputs,
                        rows_of(noise, &rows, dim),
                        dim,
                        (actions, log_probs),
                    );
                }
                ActorKind::StateDependent(noise) => {
                    let features = piece.tape.last_input(observations);
                    piece.states.see(&noise, spread, features);
                    let StateRows {
                        offsets, variances, ..
                    } = &piece.states;
                    let numbers = [piece.tape.output(), offsets, variances];
                    squash_states(numbers, dim, (actions, log_probs));
                }
            }
        };
        self.pieces.visit_rows(rows, rows * net.row_ns(), work);
        sampled.actions.clear();
        sampled.log_probs.clear();
        for piece in self.pieces.visited() {
            sampled.actions.extend_from_slice(&piece.sampled.actions);
            sampled
                .log_probs
                .extend_from_slice(&piece.sampled.log_probs);
        }
    }

    /// The gradient of `size` parameters, and of what the actor saw to `by_inputs` if that is wanted, from that of the actions that it has sampled last, with the same
    /// arguments, and from `weight` times their log-likelihoods.
    pub(super) fn gradient(
        &mut self,
        view: &View<'_>,
        noise: &[f32],
        (by_actions, weight): (&[f32], f32),
        (size, all_by_inputs): (usize, &mut Vec<f32>),
    ) -> &[f32] {
        let (net, dim, kind) = (&self.net, self.action_dim, self.kind);
        let (observations, parameters) = (view.inputs, view.parameters);
        let rows = observations.len() / net.inputs();
        let cost = 2 * rows * net.row_ns();
        let spread = &self.spread;
        self.pieces.visit_rows(rows, cost, |rows, piece| {
            piece.clear_gradient(size);
            let by_actions = rows_of(by_actions, &rows, dim);
            let observations = rows_of(observations, &rows, net.inputs());
            piece.by_features.clear();
            match kind {
                ActorKind::Deterministic => {
                    piece.by_outputs.clear();
                    piece.by_outputs.extend_from_slice(by_actions);
                }
                ActorKind::Squashed => {
                    let (outputs, noise) = (piece.tape.output(), rows_of(noise, &rows, dim));
                    let slices = [outputs, noise, &piece.sampled.actions, by_actions];
                    squash_backward(slices, dim, weight, &mut piece.by_outputs);
                }
                ActorKind::StateDependent(noise) => {
                    piece.through_states(
                        (&noise, spread),
                        view,
                        observations,
                        (by_actions, weight),
                    );
                }
            }
            let Piece {
                tape,
                by_outputs,
                by_inputs,
                by_features,
                gradient,
                ..
            } = piece;
            let (gradient, learns) = (Some(gradient.as_mut_slice()), view.learns);
            let by_what = (&by_outputs[..], &by_features[..]);
            let by = net.backward_from(parameters, observations, tape, by_what, gradient, learns);
            by_inputs.clear();
            if learns {
                by_inputs.extend_from_slice(by);
            }
        });
        all_by_inputs.clear();
        for piece in self.pieces.visited() {
            all_by_inputs.extend_from_slice(&piece.by_inputs);
        }
        self.pieces.gradient()
    }
}
