//! The gradient steps of TD3, DDPG, SAC and TQC.

use super::actor::{Actor, SampledActions};
use super::actor_critic_data::{
    ActorCriticBatch, ActorCriticMetrics, ActorCriticSettings, ActorCriticSizes, ActorCriticState,
    ActorKind,
};
use super::critic_quantiles::Quantiles;
use super::critics::{Critics, MinValues, Pairs};
use super::features::vectors;
use super::{UpdateError, check, polyak_update};
use crate::nn::{InferenceMlp, TrainableMlp};

/// The update of an actor and critics.
#[derive(Debug, Clone)]
pub struct ActorCriticUpdate {
    actor: Actor,
    critics: Critics,
    sizes: ActorCriticSizes,
    // What the critics give, unless that is values.
    quantiles: Option<Quantiles>,
    targets: Vec<f32>,
    sampled: SampledActions,
    min_values: MinValues,
    by_actions: Vec<f32>,
}

impl ActorCriticUpdate {
    /// Networks whose parameters lie in a vector for the actor and one for all critics, of these sizes. The
    /// critics give values, or quantiles of the return.
    ///
    /// # Errors
    /// [`UpdateError::Width`] or [`UpdateError::Count`] if they do not fit.
    pub fn new(
        actor: TrainableMlp,
        critics: Vec<TrainableMlp>,
        kind: ActorKind,
        sizes: ActorCriticSizes,
        quantiles: Option<Quantiles>,
    ) -> Result<Self, UpdateError> {
        let actor = Actor::new(actor, kind);
        let critics = Critics::new(critics);
        let count = critics.nets.len();
        check("the list of critics", count, count.max(1))?;
        let pair = actor.net.inputs() + actor.action_dim;
        let outputs = quantiles.map_or(1, |quantiles| quantiles.of_each);
        if let Some(quantiles) = quantiles {
            let most = quantiles.of_each.saturating_mul(count);
            let kept = quantiles.kept;
            check(
                "the list of kept quantiles",
                kept,
                kept.clamp(1, most.max(1)),
            )?;
        }
        for critic in &critics.nets {
            let widths = [
                ("inputs", critic.inputs(), pair),
                ("outputs", critic.outputs(), outputs),
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
        let needed = [
            (sizes.actor, actor.net.parameters()),
            (sizes.critic, critics.parameters()),
        ];
        for (size, needed) in needed {
            if size < needed {
                check("the vector of parameters", size, needed)?;
            }
        }
        Ok(Self {
            actor,
            critics,
            sizes,
            quantiles,
            targets: Vec::new(),
            sampled: SampledActions::default(),
            min_values: MinValues::default(),
            by_actions: Vec::new(),
        })
    }

    /// Gives the layers of the same actor for inference the weights in `parameters`.
    ///
    /// # Errors
    /// [`UpdateError::Count`] or [`UpdateError::Layers`] if they do not fit.
    pub fn load_actor(
        &self,
        parameters: &[f32],
        net: &mut InferenceMlp,
    ) -> Result<(), UpdateError> {
        check("the actor's vector", parameters.len(), self.sizes.actor)?;
        Ok(self.actor.net.load_into(parameters, net)?)
    }

    fn check(
        &self,
        batch: &ActorCriticBatch<'_>,
        state: &ActorCriticState<'_>,
    ) -> Result<(), UpdateError> {
        let (obs_dim, action_dim) = (self.actor.net.inputs(), self.actor.action_dim);
        batch.transitions.check(None, obs_dim, action_dim)?;
        let squashed = self.actor.kind == ActorKind::Squashed;
        let actions = batch.transitions.actions.len();
        let draws = if squashed { actions } else { 0 };
        check("noise", batch.noise.len(), draws)?;
        check("noise of the next actions", batch.next_noise.len(), actions)?;
        let ActorCriticSizes { actor, critic } = self.sizes;
        state.actor.check("the actor's vector", actor)?;
        state.critic.check("the critics' vector", critic)?;
        check(
            "the critics' target network",
            state.critic_target.len(),
            critic,
        )?;
        let target = if squashed { 0 } else { actor };
        check(
            "the actor's target network",
            state.actor_target.len(),
            target,
        )?;
        match &state.log_ent_coef {
            // One number and padding: its vectors are as long as each other.
            Some(log_ent_coef) => {
                let size = log_ent_coef.parameters.len().max(1);
                log_ent_coef.check("the entropy coefficient", size)
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
        let rows = batch.transitions.rows();
        let observations = vectors(batch.transitions.observations)?;
        let next_observations = vectors(batch.transitions.next_observations)?;
        self.actor.expect_room(rows, self.sizes.actor)?;
        self.critics.expect_room(rows, self.sizes.critic)?;
        let weight = match (&state.log_ent_coef, self.actor.kind) {
            (Some(log_ent_coef), ActorKind::Squashed) => log_ent_coef.parameters[0].exp(),
            (None, ActorKind::Squashed) => settings.ent_coef,
            (_, ActorKind::Deterministic) => 0.0,
        };
        let mut metrics = ActorCriticMetrics {
            critic_loss: self.critic_step(
                batch,
                [observations, next_observations],
                settings,
                weight,
                state,
            ),
            actor_loss: f64::NAN,
            ent_coef: f64::from(weight),
            ent_coef_loss: f64::NAN,
        };
        if settings.update_actor {
            let log_prob;
            (metrics.actor_loss, log_prob) = self.actor_step(batch, observations, weight, state);
            if let Some(log_ent_coef) = &mut state.log_ent_coef {
                let gap = log_prob + f64::from(settings.target_entropy);
                metrics.ent_coef_loss = -f64::from(log_ent_coef.parameters[0]) * gap;
                let mut gradient = vec![0.0; log_ent_coef.parameters.len()];
                gradient[0] = -gap as f32;
                log_ent_coef.step(&gradient, 1.0);
            }
        }
        if settings.update_targets {
            let tau = settings.tau;
            polyak_update(state.critic.parameters, state.critic_target, tau);
            polyak_update(state.actor.parameters, state.actor_target, tau);
        }
        Ok(metrics)
    }

    /// A step of the critics towards the values that their target networks give the next actions.
    /// Returns their loss.
    fn critic_step(
        &mut self,
        batch: &ActorCriticBatch<'_>,
        [observations, next]: [&[f32]; 2],
        settings: &ActorCriticSettings,
        weight: f32,
        state: &mut ActorCriticState<'_>,
    ) -> f64 {
        let (policy, half): (&[f32], f32) = match self.actor.kind {
            ActorKind::Deterministic => (state.actor_target, 1.0),
            // SAC halves the squares.
            ActorKind::Squashed => (state.actor.parameters, 0.5),
        };
        let transitions = &batch.transitions;
        let noise = batch.next_noise;
        self.actor.sample(policy, next, noise, &mut self.sampled);
        if self.actor.kind == ActorKind::Deterministic {
            add_target_noise(&mut self.sampled.actions, noise, settings);
        }
        let action_dim = self.actor.action_dim;
        let next = Pairs {
            observations: next,
            actions: &self.sampled.actions,
            action_dim,
        };
        let targets = match self.quantiles {
            None => {
                let (count, min_values) = (self.critics.nets.len(), &mut self.min_values);
                self.critics
                    .evaluate(state.critic_target, &next, count, min_values);
                &mut min_values.values
            }
            Some(quantiles) => {
                let targets = &mut self.targets;
                self.critics
                    .pool(state.critic_target, &next, quantiles, targets);
                targets
            }
        };
        let of_row = self.quantiles.map_or(1, |quantiles| quantiles.kept);
        let rows = targets.chunks_exact_mut(of_row).enumerate();
        for ((row, targets), log_prob) in rows.zip(&self.sampled.log_probs) {
            for target in targets {
                *target = transitions.target(row, *target - weight * log_prob);
            }
        }
        let pairs = Pairs {
            observations,
            actions: transitions.actions,
            action_dim,
        };
        let (parameters, size) = (&*state.critic.parameters, self.sizes.critic);
        let critics = &mut self.critics;
        let (gradient, loss) = match self.quantiles {
            None => critics.gradient(parameters, &pairs, targets, half, size),
            Some(quantiles) => {
                critics.quantile_gradient(parameters, &pairs, targets, quantiles, size)
            }
        };
        state.critic.step(gradient, 1.0);
        loss
    }

    /// A step of the actor towards actions that the critics value. TD3 takes the first critic, SAC the
    /// smallest value, TQC the mean of all quantiles. Returns the loss and the mean log-likelihood.
    fn actor_step(
        &mut self,
        batch: &ActorCriticBatch<'_>,
        observations: &[f32],
        weight: f32,
        state: &mut ActorCriticState<'_>,
    ) -> (f64, f64) {
        let count = match self.actor.kind {
            ActorKind::Deterministic => 1,
            ActorKind::Squashed => self.critics.nets.len(),
        };
        let noise = batch.noise;
        let (parameters, critic) = (&*state.actor.parameters, &*state.critic.parameters);
        self.actor
            .sample(parameters, observations, noise, &mut self.sampled);
        let (sampled, min_values) = (&self.sampled, &mut self.min_values);
        let pairs = Pairs {
            observations,
            actions: &sampled.actions,
            action_dim: self.actor.action_dim,
        };
        let (critics, by_actions) = (&mut self.critics, &mut self.by_actions);
        if self.quantiles.is_none() {
            critics.evaluate(critic, &pairs, count, min_values);
            critics.by_actions(critic, &pairs, count, min_values, by_actions);
        } else {
            critics.mean_values(critic, &pairs, &mut min_values.values);
            critics.mean_by_actions(critic, &pairs, by_actions);
        }
        let rows = batch.transitions.rows() as f64;
        let losses = sampled.log_probs.iter().zip(&min_values.values);
        let loss: f64 = losses.map(|(&l, &q)| f64::from(weight * l - q)).sum();
        let log_prob: f64 = sampled.log_probs.iter().map(|&l| f64::from(l)).sum();
        let slopes = (&by_actions[..], weight / rows as f32);
        let size = self.sizes.actor;
        let gradient = self
            .actor
            .gradient(parameters, observations, noise, slopes, size);
        state.actor.step(gradient, 1.0);
        (loss / rows, log_prob / rows)
    }
}

/// Adds bounded noise to actions, which stay in [-1, 1] (Fujimoto et al. 2018,
/// <https://arxiv.org/abs/1802.09477>).
fn add_target_noise(actions: &mut [f32], noise: &[f32], settings: &ActorCriticSettings) {
    let (deviation, bound) = (settings.target_policy_noise, settings.target_noise_clip);
    for (action, &noise) in actions.iter_mut().zip(noise) {
        let noise = (noise * deviation).max(-bound).min(bound);
        *action = (*action + noise).clamp(-1.0, 1.0);
    }
}
