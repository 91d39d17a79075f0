//! The actor of an actor-critic update: its actions, and the gradient through them.

use std::ops::Range;

use super::actor_critic_data::ActorKind;
use super::pieces::{Pieces, WithGradient};
use super::squashed::{squash, squash_backward};
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
    pieces: Pieces<Piece>,
}

#[derive(Debug, Clone, Default)]
struct Piece {
    tape: Tape,
    sampled: SampledActions,
    by_outputs: Vec<f32>,
    by_inputs: Vec<f32>,
    gradient: Vec<f32>,
}

impl WithGradient for Piece {
    fn gradient(&mut self) -> &mut Vec<f32> {
        &mut self.gradient
    }
}

/// Some rows of numbers, `width` in each.
pub(super) fn rows_of<'a>(numbers: &'a [f32], rows: &Range<usize>, width: usize) -> &'a [f32] {
    &numbers[rows.start * width..rows.end * width]
}

impl Actor {
    pub(super) fn new(net: TrainableMlp, kind: ActorKind) -> Self {
        let action_dim = match kind {
            ActorKind::Deterministic => net.outputs(),
            ActorKind::Squashed => net.outputs() / 2,
        };
        Self {
            net,
            kind,
            action_dim,
            pieces: Pieces::default(),
        }
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
        self.pieces.visit_rows(rows, cost, |rows, piece| {
            piece.clear_gradient(size);
            let by_actions = rows_of(by_actions, &rows, dim);
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
            }
            let Piece {
                tape,
                by_outputs,
                by_inputs,
                gradient,
                ..
            } = piece;
            let observations = rows_of(observations, &rows, net.inputs());
            let (gradient, learns) = (Some(gradient.as_mut_slice()), view.learns);
            let by = net.backward(parameters, observations, tape, by_outputs, gradient, learns);
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
