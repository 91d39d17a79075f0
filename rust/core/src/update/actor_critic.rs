//! The gradient steps of TD3, DDPG and SAC.

use super::actor_critic_data::{
    ActorCriticBatch, ActorCriticMetrics, ActorCriticSettings, ActorCriticState, ActorKind, Piece,
    Rows, pair, smaller,
};
use super::pieces::Pieces;
use super::squashed::{squash, through_squash};
use super::{UpdateError, check, follow};
use crate::nn::{Net, Tape};

/// An actor and critics that learn from transitions.
#[derive(Debug, Clone)]
pub struct ActorCriticUpdate {
    actor: Net,
    critics: Vec<Net>,
    kind: ActorKind,
    sizes: [usize; 2],
    action_dim: usize,
    pieces: Pieces<Piece>,
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
            pieces: Pieces::default(),
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
        (metrics.critic_loss, _) = self.on_pieces(batch, self.sizes[1], |this, piece, rows| {
            this.critic_piece(piece, &rows, settings, weight, vectors);
        });
        state.critic.step(self.pieces.gradient(), 1.0);
        if settings.actor_learns {
            self.actor_step(batch, settings, weight, state, &mut metrics);
        }
        if settings.copies_follow {
            let tau = settings.tau;
            follow(state.critic.parameters, state.critic_target, tau);
            follow(state.actor.parameters, state.actor_target, tau);
        }
        Ok(metrics)
    }

    fn actor_step(
        &mut self,
        batch: &ActorCriticBatch<'_>,
        settings: &ActorCriticSettings,
        weight: f32,
        state: &mut ActorCriticState<'_>,
        metrics: &mut ActorCriticMetrics,
    ) {
        let vectors = [&*state.actor.parameters, &*state.critic.parameters];
        let log_prob;
        (metrics.actor_loss, log_prob) =
            self.on_pieces(batch, self.sizes[0], |this, piece, rows| {
                this.actor_piece(piece, &rows, weight, vectors);
            });
        state.actor.step(self.pieces.gradient(), 1.0);
        if let Some(entropy) = &mut state.entropy {
            let gap = log_prob + f64::from(settings.target_entropy);
            metrics.ent_coef_loss = -f64::from(entropy.parameters[0]) * gap;
            let mut gradient = vec![0.0; entropy.parameters.len()];
            gradient[0] = -gap as f32;
            entropy.step(&gradient, 1.0);
        }
    }

    /// Lets `work` fill every piece, with a gradient of `parameters` numbers. Gives the mean loss and
    /// the mean log-likelihood.
    fn on_pieces(
        &mut self,
        batch: &ActorCriticBatch<'_>,
        parameters: usize,
        work: impl Fn(&Self, &mut Piece, Rows<'_>) + Sync,
    ) -> (f64, f64) {
        let count = batch.rewards.len();
        let row_ns = self.critics.iter().map(Net::row_ns).sum::<usize>() + self.actor.row_ns();
        let mut memory = std::mem::take(&mut self.pieces);
        let pieces = memory.fill(count, parameters, 3 * count * row_ns, |rows, piece| {
            piece.loss = 0.0;
            piece.log_prob_sum = 0.0;
            let rows = Rows {
                batch,
                rows,
                obs_dim: self.actor.inputs(),
                action_dim: self.action_dim,
            };
            work(self, piece, rows);
        });
        let mean = |of: fn(&Piece) -> f64| pieces.iter().map(of).sum::<f64>() / count as f64;
        let means = (mean(|piece| piece.loss), mean(|piece| piece.log_prob_sum));
        self.pieces = memory;
        means
    }

    /// The actions after these rows, with their log-likelihoods.
    fn next_actions(
        &self,
        piece: &mut Piece,
        rows: &Rows<'_>,
        settings: &ActorCriticSettings,
        chooser: &[f32],
    ) {
        let noise = rows.actions(rows.batch.next_noise);
        let outputs = self
            .actor
            .forward(chooser, rows.next_observations(), &mut piece.actor);
        if self.kind == ActorKind::Squashed {
            let to = (&mut piece.actions, &mut piece.log_probs);
            return squash(outputs, noise, rows.action_dim, to);
        }
        let [deviation, bound] = settings.smoothing;
        let smoothed = |(&action, &noise): (&f32, &f32)| {
            let noise = (noise * deviation).max(-bound).min(bound);
            (action + noise).clamp(-1.0, 1.0)
        };
        piece.actions.clear();
        piece
            .actions
            .extend(outputs.iter().zip(noise).map(smoothed));
        piece.log_probs.clear();
        piece.log_probs.resize(rows.rows.len(), 0.0);
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
        self.next_actions(piece, rows, settings, chooser);
        let (next, widths) = (rows.next_observations(), [rows.obs_dim, rows.action_dim]);
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
            let value = *goal - weight * log_prob;
            *goal = batch.rewards[row] + (1.0 - batch.dones[row]) * batch.discount(row) * value;
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
            ActorKind::Squashed => {
                let noise = rows.actions(rows.batch.noise);
                let slices = [&outputs[..], noise, &piece.actions, &piece.by_actions];
                let weight = weight / count;
                through_squash(slices, rows.action_dim, weight, &mut piece.by_outputs);
            }
            ActorKind::Deterministic => piece.by_outputs.clone_from(&piece.by_actions),
        }
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
