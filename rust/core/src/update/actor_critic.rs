//! The gradient steps of TD3, DDPG and SAC.

use std::ops::Range;

use super::{Trained, UpdateError, add_up, check, each, follow, piece_rows};
use crate::nn::{Net, Tape, tanh};

/// How the actor's outputs become actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorKind {
    /// They are the actions (TD3, DDPG). A slow copy of the actor chooses in the targets.
    Deterministic,
    /// Means and logarithms of deviations of normal distributions, whose draws go through tanh (SAC).
    Squashed,
}

/// Transitions, row after row.
#[derive(Debug, Clone, Copy)]
pub struct ActorCriticBatch<'a> {
    /// Observations.
    pub observations: &'a [f32],
    /// Observations after the action.
    pub next_observations: &'a [f32],
    /// Actions.
    pub actions: &'a [f32],
    /// Rewards.
    pub rewards: &'a [f32],
    /// 1 where the episode ended.
    pub dones: &'a [f32],
    /// Discount factor of each row, or one for all.
    pub discounts: &'a [f32],
    /// Standard normals for the actions at the observations; empty if the actor is deterministic.
    pub noise: &'a [f32],
    /// The same for the actions at the next observations.
    pub next_noise: &'a [f32],
}

/// The numbers of the objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActorCriticSettings {
    /// How far slow copies follow.
    pub tau: f32,
    /// Deviation of the noise that smooths the target, and its bound (deterministic).
    pub smoothing: [f32; 2],
    /// Weight of the entropy, where it is not learned (squashed).
    pub ent_coef: f32,
    /// The entropy wanted, where the weight is learned.
    pub target_entropy: f32,
    /// Whether the actor learns in this step.
    pub actor_learns: bool,
    /// Whether slow copies follow in this step.
    pub copies_follow: bool,
}

/// Everything that a step changes.
#[derive(Debug)]
pub struct ActorCriticState<'a> {
    /// The actor.
    pub actor: Trained<'a>,
    /// All critics.
    pub critic: Trained<'a>,
    /// The actor's slow copy, empty if it has none.
    pub actor_target: &'a mut [f32],
    /// The slow copy of all critics.
    pub critic_target: &'a mut [f32],
    /// The logarithm of the entropy's weight, where it is learned.
    pub entropy: Option<Trained<'a>>,
}

/// What a step gives; nan where there is no such number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActorCriticMetrics {
    /// The loss of the critics.
    pub critic_loss: f64,
    /// The loss of the actor, if it learned.
    pub actor_loss: f64,
    /// The weight of the entropy.
    pub ent_coef: f64,
    /// Its loss, if it is learned.
    pub ent_coef_loss: f64,
}

/// An actor and critics that learn from transitions.
#[derive(Debug, Clone)]
pub struct ActorCriticUpdate {
    actor: Net,
    critics: Vec<Net>,
    kind: ActorKind,
    sizes: [usize; 2],
    action_dim: usize,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Default)]
struct Piece {
    actor: Tape,
    critics: Vec<Tape>,
    actions: Vec<f32>,
    log_probs: Vec<f32>,
    pairs: Vec<f32>,
    goals: Vec<f32>,
    by_values: Vec<f32>,
    by_actions: Vec<f32>,
    by_outputs: Vec<f32>,
    gradient: Vec<f32>,
    loss: f64,
    log_prob_sum: f64,
}

/// Rows of a batch.
struct Rows<'a> {
    batch: &'a ActorCriticBatch<'a>,
    rows: Range<usize>,
    obs_dim: usize,
    action_dim: usize,
}

impl<'a> Rows<'a> {
    fn of(&self, numbers: &'a [f32], width: usize) -> &'a [f32] {
        &numbers[self.rows.start * width..self.rows.end * width]
    }

    fn observations(&self) -> &'a [f32] {
        self.of(self.batch.observations, self.obs_dim)
    }

    fn next_observations(&self) -> &'a [f32] {
        self.of(self.batch.next_observations, self.obs_dim)
    }

    fn actions(&self, numbers: &'a [f32]) -> &'a [f32] {
        self.of(numbers, self.action_dim)
    }
}

/// Bounds of the logarithm of a deviation, and what keeps the logarithm of `1 - tanh^2` finite.
const LOG_STD: [f32; 2] = [-20.0, 2.0];
const MARGIN: f32 = 1e-6;
const HALF_LOG_2_PI: f32 = 0.918_938_5;

/// Actions and their log-likelihoods from rows of means and log-deviations.
fn squash(outputs: &[f32], noise: &[f32], dim: usize, piece: (&mut Vec<f32>, &mut Vec<f32>)) {
    let (actions, log_probs) = piece;
    actions.clear();
    log_probs.clear();
    let rows = outputs.chunks_exact(2 * dim).zip(noise.chunks_exact(dim));
    for (row, noise) in rows {
        let (means, log_stds) = row.split_at(dim);
        let mut log_prob = 0.0;
        for ((&mean, &log_std), &noise) in means.iter().zip(log_stds).zip(noise) {
            let log_std = log_std.clamp(LOG_STD[0], LOG_STD[1]);
            let action = tanh(mean + log_std.exp() * noise);
            log_prob -= 0.5 * noise * noise + log_std + HALF_LOG_2_PI;
            log_prob -= (1.0 - action * action + MARGIN).ln();
            actions.push(action);
        }
        log_probs.push(log_prob);
    }
}

/// The gradient of the outputs of a squashed actor, from that of its actions.
fn through_squash(rows: &Rows<'_>, weight: f32, outputs: &[f32], piece: &mut Piece) {
    let dim = rows.action_dim;
    piece.by_outputs.clear();
    piece.by_outputs.resize(outputs.len(), 0.0);
    let noise = rows.actions(rows.batch.noise);
    let numbers = piece.actions.chunks_exact(dim).zip(noise.chunks_exact(dim));
    let gradients = piece.by_actions.chunks_exact(dim);
    let places = outputs
        .chunks_exact(2 * dim)
        .zip(piece.by_outputs.chunks_exact_mut(2 * dim));
    for (((actions, noise), by_actions), (outputs, by_outputs)) in
        numbers.zip(gradients).zip(places)
    {
        for i in 0..dim {
            let slope = 1.0 - actions[i] * actions[i];
            let by_draw =
                weight * 2.0 * actions[i] * slope / (slope + MARGIN) + by_actions[i] * slope;
            let log_std = outputs[dim + i];
            by_outputs[i] = by_draw;
            if (LOG_STD[0]..=LOG_STD[1]).contains(&log_std) {
                by_outputs[dim + i] = by_draw * noise[i] * log_std.exp() - weight;
            }
        }
    }
}

/// Observations and actions side by side.
fn pair(pairs: &mut Vec<f32>, observations: &[f32], actions: &[f32], widths: [usize; 2]) {
    pairs.clear();
    let rows = observations.chunks_exact(widths[0]);
    for (observation, action) in rows.zip(actions.chunks_exact(widths[1])) {
        pairs.extend_from_slice(observation);
        pairs.extend_from_slice(action);
    }
}

/// The smaller of both, nan if one is.
fn smaller(a: f32, b: f32) -> f32 {
    if b < a || b.is_nan() { b } else { a }
}

impl ActorCriticUpdate {
    /// Networks whose parameters lie in a vector for the actor and one for all critics, of these sizes.
    ///
    /// # Errors
    /// [`UpdateError::Width`] or [`UpdateError::Count`] if they do not fit.
    pub fn new(
        actor: Net,
        critics: Vec<Net>,
        kind: ActorKind,
        sizes: [usize; 2],
    ) -> Result<Self, UpdateError> {
        let action_dim = match kind {
            ActorKind::Deterministic => actor.outputs(),
            ActorKind::Squashed => actor.outputs() / 2,
        };
        check("the list of critics", critics.len(), critics.len().max(1))?;
        for critic in &critics {
            let widths = [
                ("inputs", critic.inputs(), actor.inputs() + action_dim),
                ("outputs", critic.outputs(), 1),
            ];
            for (side, got, expected) in widths {
                if got != expected {
                    return Err(UpdateError::Width {
                        what: "critic",
                        side,
                        got,
                        expected,
                    });
                }
            }
        }
        let of_critics = critics.iter().map(Net::parameters).max().unwrap_or(0);
        for (size, needed) in sizes.into_iter().zip([actor.parameters(), of_critics]) {
            if size < needed {
                check("the vector of parameters", size, needed)?;
            }
        }
        Ok(Self {
            actor,
            critics,
            kind,
            sizes,
            action_dim,
            pieces: Vec::new(),
        })
    }

    fn check(
        &self,
        batch: &ActorCriticBatch<'_>,
        state: &ActorCriticState<'_>,
    ) -> Result<(), UpdateError> {
        let rows = batch.rewards.len();
        let (numbers, actions) = (rows * self.actor.inputs(), rows * self.action_dim);
        let squashed = self.kind == ActorKind::Squashed;
        check("observations", batch.observations.len(), numbers)?;
        check("next observations", batch.next_observations.len(), numbers)?;
        check("actions", batch.actions.len(), actions)?;
        check("dones", batch.dones.len(), rows)?;
        check(
            "noise",
            batch.noise.len(),
            if squashed { actions } else { 0 },
        )?;
        check("noise", batch.next_noise.len(), actions)?;
        if batch.discounts.len() != 1 {
            check("discounts", batch.discounts.len(), rows)?;
        }
        let [actor, critic] = self.sizes;
        state.actor.check("the actor's vector", actor)?;
        state.critic.check("the critics' vector", critic)?;
        check("the critics' slow copy", state.critic_target.len(), critic)?;
        let copy = if squashed { 0 } else { actor };
        check("the actor's slow copy", state.actor_target.len(), copy)?;
        match &state.entropy {
            // A vector may have some room behind its only number.
            Some(entropy) => {
                let size = entropy.parameters.len().max(1);
                entropy.check("the weight of the entropy", size)
            }
            None => Ok(()),
        }
    }

    /// One gradient step.
    ///
    /// # Errors
    /// [`UpdateError`] if the data do not fit; nothing has changed then.
    pub fn step(
        &mut self,
        batch: &ActorCriticBatch<'_>,
        settings: &ActorCriticSettings,
        state: &mut ActorCriticState<'_>,
    ) -> Result<ActorCriticMetrics, UpdateError> {
        self.check(batch, state)?;
        let weight = match (&state.entropy, self.kind) {
            (Some(entropy), ActorKind::Squashed) => entropy.parameters[0].exp(),
            (None, ActorKind::Squashed) => settings.ent_coef,
            (_, ActorKind::Deterministic) => 0.0,
        };
        let mut metrics = ActorCriticMetrics {
            critic_loss: 0.0,
            actor_loss: f64::NAN,
            ent_coef: f64::from(weight),
            ent_coef_loss: f64::NAN,
        };
        let (actor, critic): (&[f32], &[f32]) = (state.actor.parameters, state.critic.parameters);
        let chooser = match self.kind {
            ActorKind::Deterministic => &*state.actor_target,
            ActorKind::Squashed => actor,
        };
        let vectors = [chooser, &*state.critic_target, critic];
        (metrics.critic_loss, _) = self.on_pieces(batch, |this, piece, rows| {
            this.critic_piece(piece, &rows, settings, weight, vectors);
        });
        state.critic.step(&self.pieces[0].gradient, 1.0);
        if settings.actor_learns {
            let vectors = [&*state.actor.parameters, &*state.critic.parameters];
            let log_prob;
            (metrics.actor_loss, log_prob) = self.on_pieces(batch, |this, piece, rows| {
                this.actor_piece(piece, &rows, weight, vectors);
            });
            state.actor.step(&self.pieces[0].gradient, 1.0);
            if let Some(entropy) = &mut state.entropy {
                let gap = log_prob + f64::from(settings.target_entropy);
                metrics.ent_coef_loss = -f64::from(entropy.parameters[0]) * gap;
                let mut gradient = vec![0.0; entropy.parameters.len()];
                gradient[0] = -gap as f32;
                entropy.step(&gradient, 1.0);
            }
        }
        if settings.copies_follow {
            let tau = settings.tau;
            follow(state.critic.parameters, state.critic_target, tau);
            follow(state.actor.parameters, state.actor_target, tau);
        }
        Ok(metrics)
    }

    /// Lets `work` fill every piece; the sum of the gradients lies in the first one then. Gives the
    /// mean loss and the mean log-likelihood.
    fn on_pieces(
        &mut self,
        batch: &ActorCriticBatch<'_>,
        work: impl Fn(&Self, &mut Piece, Rows<'_>) + Sync,
    ) -> (f64, f64) {
        let rows = batch.rewards.len();
        let size = piece_rows(rows);
        let count = rows.div_ceil(size);
        let mut pieces = std::mem::take(&mut self.pieces);
        if pieces.len() < count {
            pieces.resize_with(count, Piece::default);
        }
        let row_ns = self.critics.iter().map(Net::row_ns).sum::<usize>() + self.actor.row_ns();
        each(&mut pieces[..count], 3 * rows * row_ns, |index, piece| {
            piece.loss = 0.0;
            piece.log_prob_sum = 0.0;
            let rows = Rows {
                batch,
                rows: index * size..rows.min((index + 1) * size),
                obs_dim: self.actor.inputs(),
                action_dim: self.action_dim,
            };
            work(self, piece, rows);
        });
        let mut gradients: Vec<&mut [f32]> = pieces[..count]
            .iter_mut()
            .map(|piece| piece.gradient.as_mut_slice())
            .collect();
        add_up(&mut gradients);
        let mean =
            |of: fn(&Piece) -> f64| pieces[..count].iter().map(of).sum::<f64>() / rows as f64;
        let means = (mean(|piece| piece.loss), mean(|piece| piece.log_prob_sum));
        self.pieces = pieces;
        means
    }

    /// What the critics should say of the actions of these rows.
    fn goals(
        &self,
        piece: &mut Piece,
        rows: &Rows<'_>,
        settings: &ActorCriticSettings,
        weight: f32,
        [chooser, target]: [&[f32]; 2],
    ) {
        let next = rows.next_observations();
        let noise = rows.actions(rows.batch.next_noise);
        let outputs = self.actor.forward(chooser, next, &mut piece.actor);
        match self.kind {
            ActorKind::Squashed => squash(
                outputs,
                noise,
                rows.action_dim,
                (&mut piece.actions, &mut piece.log_probs),
            ),
            ActorKind::Deterministic => {
                let [deviation, bound] = settings.smoothing;
                let smoothed = |(&action, &noise): (&f32, &f32)| {
                    let noise = (noise * deviation).max(-bound).min(bound);
                    let action = action + noise;
                    if action.is_nan() {
                        action
                    } else {
                        action.clamp(-1.0, 1.0)
                    }
                };
                piece.actions.clear();
                piece
                    .actions
                    .extend(outputs.iter().zip(noise).map(smoothed));
                piece.log_probs.clear();
                piece.log_probs.resize(rows.rows.len(), 0.0);
            }
        }
        let widths = [rows.obs_dim, rows.action_dim];
        pair(&mut piece.pairs, next, &piece.actions, widths);
        piece.goals.clear();
        piece.goals.resize(rows.rows.len(), f32::INFINITY);
        for (critic, tape) in self.critics.iter().zip(&mut piece.critics) {
            let values = critic.forward(target, &piece.pairs, tape);
            for (goal, &value) in piece.goals.iter_mut().zip(values.iter()) {
                *goal = smaller(*goal, value);
            }
        }
        let batch = rows.batch;
        let lines = piece.goals.iter_mut().zip(&piece.log_probs);
        for ((goal, &log_prob), row) in lines.zip(rows.rows.clone()) {
            let discount = batch.discounts[if batch.discounts.len() == 1 { 0 } else { row }];
            let value = *goal - weight * log_prob;
            *goal = batch.rewards[row] + (1.0 - batch.dones[row]) * discount * value;
        }
    }

    fn critic_piece(
        &self,
        piece: &mut Piece,
        rows: &Rows<'_>,
        settings: &ActorCriticSettings,
        weight: f32,
        [chooser, target, parameters]: [&[f32]; 3],
    ) {
        piece.critics.resize_with(self.critics.len(), Tape::default);
        self.goals(piece, rows, settings, weight, [chooser, target]);
        let widths = [rows.obs_dim, rows.action_dim];
        let actions = rows.actions(rows.batch.actions);
        pair(&mut piece.pairs, rows.observations(), actions, widths);
        piece.gradient.clear();
        piece.gradient.resize(self.sizes[1], 0.0);
        // SAC halves the squares.
        let half = if self.kind == ActorKind::Squashed {
            0.5
        } else {
            1.0
        };
        let slope = 2.0 * half / rows.batch.rewards.len() as f32;
        for (critic, tape) in self.critics.iter().zip(&mut piece.critics) {
            let values = critic.forward(parameters, &piece.pairs, tape);
            piece.by_values.clear();
            for (&value, &goal) in values.iter().zip(&piece.goals) {
                let error = value - goal;
                piece.loss += f64::from(half * error * error);
                piece.by_values.push(slope * error);
            }
            let gradient = Some(piece.gradient.as_mut_slice());
            critic.backward(
                parameters,
                &piece.pairs,
                tape,
                &piece.by_values,
                gradient,
                false,
            );
        }
    }

    fn actor_piece(
        &self,
        piece: &mut Piece,
        rows: &Rows<'_>,
        weight: f32,
        [parameters, critic]: [&[f32]; 2],
    ) {
        let observations = rows.observations();
        let count = rows.batch.rewards.len() as f32;
        let outputs = self
            .actor
            .forward(parameters, observations, &mut piece.actor);
        let outputs = outputs.to_vec();
        if self.kind == ActorKind::Squashed {
            let noise = rows.actions(rows.batch.noise);
            let to = (&mut piece.actions, &mut piece.log_probs);
            squash(&outputs, noise, rows.action_dim, to);
        } else {
            piece.actions.clone_from(&outputs);
            piece.log_probs.clear();
            piece.log_probs.resize(rows.rows.len(), 0.0);
        }
        self.by_actions(piece, rows, critic);
        let losses = piece.log_probs.iter().zip(&piece.goals);
        piece.loss = losses.map(|(&l, &q)| f64::from(weight * l - q)).sum();
        piece.log_prob_sum = piece.log_probs.iter().map(|&l| f64::from(l)).sum();
        match self.kind {
            ActorKind::Squashed => through_squash(rows, weight / count, &outputs, piece),
            ActorKind::Deterministic => piece.by_outputs.clone_from(&piece.by_actions),
        }
        piece.gradient.clear();
        piece.gradient.resize(self.sizes[0], 0.0);
        let gradient = Some(piece.gradient.as_mut_slice());
        self.actor.backward(
            parameters,
            observations,
            &mut piece.actor,
            &piece.by_outputs,
            gradient,
            false,
        );
    }

    /// The critics' values of the actor's actions in `goals`, and the gradient of minus their mean by
    /// the actions. TD3 asks the first critic, SAC the one that says least.
    fn by_actions(&self, piece: &mut Piece, rows: &Rows<'_>, parameters: &[f32]) {
        let asked = match self.kind {
            ActorKind::Deterministic => 1,
            ActorKind::Squashed => self.critics.len(),
        };
        let widths = [rows.obs_dim, rows.action_dim];
        pair(
            &mut piece.pairs,
            rows.observations(),
            &piece.actions,
            widths,
        );
        let (count, size) = (rows.rows.len(), rows.batch.rewards.len() as f32);
        piece.goals.clear();
        piece.goals.resize(count, f32::INFINITY);
        let mut least = vec![0; count];
        for (index, critic) in self.critics[..asked].iter().enumerate() {
            let values = critic.forward(parameters, &piece.pairs, &mut piece.critics[index]);
            let lines = values.iter().zip(&mut piece.goals).zip(&mut least);
            for ((&value, goal), least) in lines {
                if index == 0 || value < *goal || value.is_nan() {
                    (*goal, *least) = (value, index);
                }
            }
        }
        piece.by_actions.clear();
        piece.by_actions.resize(count * rows.action_dim, 0.0);
        for (index, critic) in self.critics[..asked].iter().enumerate() {
            piece.by_values.clear();
            let slopes = least
                .iter()
                .map(|&l| if l == index { -1.0 / size } else { 0.0 });
            piece.by_values.extend(slopes);
            let tape = &mut piece.critics[index];
            let by_pairs =
                critic.backward(parameters, &piece.pairs, tape, &piece.by_values, None, true);
            let places = piece.by_actions.chunks_exact_mut(rows.action_dim);
            for (to, from) in places.zip(by_pairs.chunks_exact(widths[0] + widths[1])) {
                let from = &from[rows.obs_dim..];
                to.iter_mut().zip(from).for_each(|(to, &add)| *to += add);
            }
        }
    }
}
