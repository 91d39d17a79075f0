//! The gradient steps of TD3, DDPG, SAC and TQC.

use super::actor::{Actor, SampledActions};
use super::actor_critic_data::{
    ActorCriticBatch, ActorCriticMetrics, ActorCriticSettings, ActorCriticSizes, ActorCriticState,
    ActorKind,
};
use super::critic_quantiles::Quantiles;
use super::critics::{Critics, MinValues, Pairs};
use super::views::{Sight, Views};
use super::{UpdateError, check, polyak_update};
use crate::nn::{Extractor, InferenceMlp, TrainableMlp};

/// The update of an actor and critics.
#[derive(Debug, Clone)]
pub struct ActorCriticUpdate {
    actor: Actor,
    critics: Critics,
    views: Views,
    sizes: ActorCriticSizes,
    // The actor's layers in its whole vector, and the numbers of a gradient without extractors.
    whole_actor: TrainableMlp,
    head_sizes: [usize; 2],
    // What the critics give, unless that is values.
    quantiles: Option<Quantiles>,
    // What they are to say: one number for each row, or several.
    targets: Vec<f32>,
    sampled: SampledActions,
    min_values: MinValues,
    by_actions: Vec<f32>,
    by_inputs: Vec<f32>,
}

/// That a critic takes what the actor takes, and its actions, and gives so many `outputs`.
fn check_critic(critic: &TrainableMlp, pair: usize, outputs: usize) -> Result<(), UpdateError> {
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
    Ok(())
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
        let actor = Actor::new(actor, kind)?;
        let critics = Critics::new(critics);
        let count = critics.nets.len();
        check("the list of critics", count, count.max(1))?;
        let pair = actor.net.inputs() + actor.action_dim;
        let outputs = quantiles.map_or(1, |quantiles| quantiles.of_each);
        if let Some(Quantiles { of_each, kept }) = quantiles {
            let most = of_each.saturating_mul(count).max(1);
            check("the list of kept quantiles", kept, kept.clamp(1, most))?;
        }
        critics
            .nets
            .iter()
            .try_for_each(|critic| check_critic(critic, pair, outputs))?;
        let needed = [
            (sizes.actor, actor.parameters()),
            (sizes.critic, critics.parameters()),
        ];
        for (size, needed) in needed {
            if size < needed {
                check("the vector of parameters", size, needed)?;
            }
        }
        Ok(Self {
            whole_actor: actor.net.clone(),
            head_sizes: [sizes.actor, sizes.critic],
            actor,
            critics,
            views: Views::default(),
            sizes,
            quantiles,
            targets: Vec::new(),
            sampled: SampledActions::default(),
            min_values: MinValues::default(),
            by_actions: Vec::new(),
            by_inputs: Vec::new(),
        })
    }

    /// The networks see the features of an extractor in the actor's vector, and the critics those of their own
    /// if there is one. One that they share is trained by the actor's loss alone, and its target network lies in
    /// the vector of the actor's target network, in the same places.
    ///
    /// # Errors
    /// [`UpdateError::Width`] or [`UpdateError::Count`] if they do not fit.
    pub fn with_extractors(
        mut self,
        actor: Extractor,
        critics: Option<Extractor>,
    ) -> Result<Self, UpdateError> {
        let sizes = [self.sizes.actor, self.sizes.critic];
        let mut views = Views::new(actor, critics, sizes)?;
        self.actor.net = views.actor_head(&self.actor.net)?;
        if let ActorKind::StateDependent(noise) = &mut self.actor.kind {
            *noise = noise.moved(|from, count| views.pack_of_actor(from, count));
        }
        let action_dim = self.actor.action_dim;
        for critic in &mut self.critics.nets {
            *critic = views.critic_head(critic, action_dim)?;
        }
        self.head_sizes = views.head_sizes(sizes);
        self.views = views;
        Ok(self)
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
        Ok(self.whole_actor.load_into(parameters, net)?)
    }

    fn check(
        &self,
        batch: &ActorCriticBatch<'_>,
        state: &ActorCriticState<'_>,
    ) -> Result<(), UpdateError> {
        let (obs_dim, action_dim) = (self.actor.net.inputs(), self.actor.action_dim);
        let [of_actor, of_critics] = self.views.trunks();
        batch.transitions.check(of_actor, obs_dim, action_dim)?;
        let seen_by_critics = self.critics.nets[0].inputs() - action_dim;
        batch
            .transitions
            .check_observations(of_critics, seen_by_critics)?;
        let is_random = self.actor.kind.is_random();
        let draws = self.actor.kind.noise(batch.transitions.rows(), action_dim);
        let now = if is_random { draws } else { 0 };
        check("noise", batch.noise.len(), now)?;
        check("noise of the next actions", batch.next_noise.len(), draws)?;
        let ActorCriticSizes { actor, critic } = self.sizes;
        state.actor.check("the actor's vector", actor)?;
        state.critic.check("the critics' vector", critic)?;
        check(
            "the critics' target network",
            state.critic_target.len(),
            critic,
        )?;
        let has_target = !is_random || self.views.shares();
        let target = if has_target { actor } else { 0 };
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
        let [actor_size, critic_size] = self.head_sizes;
        self.actor.expect_room(rows, actor_size)?;
        self.critics.expect_room(rows, critic_size)?;
        self.views.expect_room(rows)?;
        let weight = match (&state.log_ent_coef, self.actor.kind) {
            (_, ActorKind::Deterministic) => 0.0,
            (Some(log_ent_coef), _) => log_ent_coef.parameters[0].exp(),
            (None, _) => settings.ent_coef,
        };
        let mut metrics = ActorCriticMetrics {
            critic_loss: self.critic_step(batch, settings, weight, state)?,
            actor_loss: f64::NAN,
            ent_coef: f64::from(weight),
            ent_coef_loss: f64::NAN,
        };
        if settings.update_actor {
            let log_prob;
            (metrics.actor_loss, log_prob) = self.actor_step(batch, weight, state)?;
            if let Some(log_ent_coef) = &mut state.log_ent_coef {
                let gap = log_prob + f64::from(settings.target_entropy);
                metrics.ent_coef_loss = -f64::from(log_ent_coef.parameters[0]) * gap;
                let mut gradient = vec![0.0; log_ent_coef.parameters.len()];
                gradient[0] = -gap as f32;
                log_ent_coef.step(&gradient, 1.0);
            }
        }
        if settings.update_targets {
            self.move_targets(settings.tau, state);
        }
        Ok(metrics)
    }

    fn move_targets(&self, tau: f32, state: &mut ActorCriticState<'_>) {
        polyak_update(state.critic.parameters, state.critic_target, tau);
        let (source, target) = (&*state.actor.parameters, &mut *state.actor_target);
        // As part of the critics, and with TD3 as part of the actor again.
        for place in self.views.shared_places() {
            polyak_update(&source[place.clone()], &mut target[place], tau);
        }
        if self.actor.kind == ActorKind::Deterministic {
            polyak_update(source, target, tau);
        }
    }

    /// A step of the critics towards the values that their target networks give the next actions.
    /// Returns their loss.
    fn critic_step(
        &mut self,
        batch: &ActorCriticBatch<'_>,
        settings: &ActorCriticSettings,
        weight: f32,
        state: &mut ActorCriticState<'_>,
    ) -> Result<f64, UpdateError> {
        self.find_targets(batch, settings, weight, state)?;
        let transitions = &batch.transitions;
        // SAC halves the squares.
        let half = if self.actor.kind.is_random() {
            0.5
        } else {
            1.0
        };
        let (columns, rows) = (transitions.observations, transitions.rows());
        let sight = |parameters| Sight {
            parameters,
            columns,
            rows,
        };
        if self.views.shares() {
            // The actor's step sees the same: its parameters do not change before.
            self.views.see_as_actor(&sight(state.actor.parameters));
        }
        let critics = sight(&*state.critic.parameters);
        self.views.see_as_critics(&critics);
        let pairs = Pairs {
            view: self.views.of_critics(&critics)?,
            actions: transitions.actions,
            action_dim: self.actor.action_dim,
        };
        let of_inputs = (self.head_sizes[1], &mut self.by_inputs);
        let (targets, critics_of) = (&self.targets, &mut self.critics);
        let (of_heads, loss) = match self.quantiles {
            None => critics_of.gradient(&pairs, targets, half, of_inputs),
            Some(quantiles) => critics_of.quantile_gradient(&pairs, targets, quantiles, of_inputs),
        };
        let by_inputs = &mut self.by_inputs;
        let gradient = self
            .views
            .gradient_of_critics(&critics, of_heads, by_inputs);
        state.critic.step(gradient, 1.0);
        Ok(loss)
    }

    /// Finds what the critics are to say about the batch.
    fn find_targets(
        &mut self,
        batch: &ActorCriticBatch<'_>,
        settings: &ActorCriticSettings,
        weight: f32,
        state: &ActorCriticState<'_>,
    ) -> Result<(), UpdateError> {
        let (transitions, noise) = (&batch.transitions, batch.next_noise);
        let (columns, rows) = (transitions.next_observations, transitions.rows());
        let sight = |parameters| Sight {
            parameters,
            columns,
            rows,
        };
        let is_random = self.actor.kind.is_random();
        let policy: &[f32] = if is_random {
            state.actor.parameters
        } else {
            state.actor_target
        };
        self.views.see_as_actor(&sight(policy));
        let view = self.views.of_actor(&sight(policy))?;
        self.actor.sample(&view, noise, &mut self.sampled);
        if !is_random {
            add_target_noise(&mut self.sampled.actions, noise, settings);
        }
        if is_random && self.views.shares() {
            // The critics' target network of the extractor.
            self.views.see_as_actor(&sight(state.actor_target));
        }
        let critics = sight(&*state.critic_target);
        self.views.see_as_critics(&critics);
        let next = Pairs {
            view: self.views.of_critics(&critics)?,
            actions: &self.sampled.actions,
            action_dim: self.actor.action_dim,
        };
        let targets = &mut self.targets;
        if let Some(quantiles) = self.quantiles {
            self.critics.pool(&next, quantiles, targets);
        } else {
            let count = self.critics.nets.len();
            self.critics.evaluate(&next, count, &mut self.min_values);
            targets.clone_from(&self.min_values.values);
        }
        let of_row = self.quantiles.map_or(1, |quantiles| quantiles.kept);
        let rows = targets.chunks_exact_mut(of_row).enumerate();
        for ((row, targets), log_prob) in rows.zip(&self.sampled.log_probs) {
            for target in targets {
                *target = transitions.target(row, *target - weight * log_prob);
            }
        }
        Ok(())
    }

    /// A step of the actor towards actions that the critics value. TD3 takes the first critic, SAC the
    /// smallest value, TQC the mean of all quantiles. Returns the loss and the mean log-likelihood.
    fn actor_step(
        &mut self,
        batch: &ActorCriticBatch<'_>,
        weight: f32,
        state: &mut ActorCriticState<'_>,
    ) -> Result<(f64, f64), UpdateError> {
        let count = match self.actor.kind {
            ActorKind::Deterministic => 1,
            _ => self.critics.nets.len(),
        };
        let (noise, rows) = (batch.noise, batch.transitions.rows());
        let columns = batch.transitions.observations;
        let [actor, critics] =
            [&*state.actor.parameters, &*state.critic.parameters].map(|parameters| Sight {
                parameters,
                columns,
                rows,
            });
        if !self.views.shares() {
            self.views.see_as_actor(&actor);
            self.views.see_as_critics(&critics);
        }
        let view = self.views.of_actor(&actor)?;
        self.actor.sample(&view, noise, &mut self.sampled);
        let (sampled, min_values) = (&self.sampled, &mut self.min_values);
        let pairs = Pairs {
            view: self.views.of_critics(&critics)?,
            actions: &sampled.actions,
            action_dim: self.actor.action_dim,
        };
        let (critics_of, by_actions) = (&mut self.critics, &mut self.by_actions);
        if self.quantiles.is_some() {
            critics_of.mean_values(&pairs, &mut min_values.values);
            critics_of.mean_by_actions(&pairs, by_actions);
        } else {
            critics_of.evaluate(&pairs, count, min_values);
            critics_of.by_actions(&pairs, count, min_values, by_actions);
        }
        let losses = sampled.log_probs.iter().zip(&min_values.values);
        let loss: f64 = losses.map(|(&l, &q)| f64::from(weight * l - q)).sum();
        let log_prob: f64 = sampled.log_probs.iter().map(|&l| f64::from(l)).sum();
        let slopes = (&by_actions[..], weight / rows as f32);
        let of_inputs = (self.head_sizes[0], &mut self.by_inputs);
        let of_heads = self.actor.gradient(&view, noise, slopes, of_inputs);
        let by_inputs = &mut self.by_inputs;
        let gradient = self.views.gradient_of_actor(&actor, of_heads, by_inputs);
        state.actor.step(gradient, 1.0);
        Ok((loss / rows as f64, log_prob / rows as f64))
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
