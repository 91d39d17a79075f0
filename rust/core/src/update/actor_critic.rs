//! The gradient steps of TD3, DDPG and SAC.

use super::actor::{Actor, Choice};
use super::actor_critic_data::{
    ActorCriticBatch, ActorCriticMetrics, ActorCriticSettings, ActorCriticState, ActorKind,
};
use super::critics::{Critics, Least, Pairs};
use super::{UpdateError, check, follow};
use crate::nn::Net;

/// An actor and critics that learn from transitions.
#[derive(Debug, Clone)]
pub struct ActorCriticUpdate {
    actor: Actor,
    critics: Critics,
    sizes: [usize; 2],
    choice: Choice,
    least: Least,
    by_actions: Vec<f32>,
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
        let actor = Actor::new(actor, kind);
        let critics = Critics::new(critics);
        let count = critics.nets.len();
        check("the list of critics", count, count.max(1))?;
        let pair = actor.net.inputs() + actor.action_dim;
        for critic in &critics.nets {
            let widths = [
                ("inputs", critic.inputs(), pair),
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
        let all_needed = [actor.net.parameters(), critics.parameters()];
        for (size, needed) in sizes.into_iter().zip(all_needed) {
            if size < needed {
                check("the vector of parameters", size, needed)?;
            }
        }
        Ok(Self {
            actor,
            critics,
            sizes,
            choice: Choice::default(),
            least: Least::default(),
            by_actions: Vec::new(),
        })
    }

    fn check(
        &self,
        batch: &ActorCriticBatch<'_>,
        state: &ActorCriticState<'_>,
    ) -> Result<(), UpdateError> {
        let (obs_dim, action_dim) = (self.actor.net.inputs(), self.actor.action_dim);
        batch.transitions.check(obs_dim, action_dim)?;
        let squashed = self.actor.kind == ActorKind::Squashed;
        let actions = batch.transitions.actions.len();
        let draws = if squashed { actions } else { 0 };
        check("noise", batch.noise.len(), draws)?;
        check("noise of the next actions", batch.next_noise.len(), actions)?;
        let [actor, critic] = self.sizes;
        state.actor.check("the actor's vector", actor)?;
        state.critic.check("the critics' vector", critic)?;
        check("the critics' slow copy", state.critic_target.len(), critic)?;
        let copy = if squashed { 0 } else { actor };
        check("the actor's slow copy", state.actor_target.len(), copy)?;
        match &state.entropy {
            // One number, and some room behind it: its vectors are as long as each other.
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
        let rows = batch.transitions.rows();
        self.actor.expect_room(rows, self.sizes[0])?;
        self.critics.expect_room(rows, self.sizes[1])?;
        let weight = match (&state.entropy, self.actor.kind) {
            (Some(entropy), ActorKind::Squashed) => entropy.parameters[0].exp(),
            (None, ActorKind::Squashed) => settings.ent_coef,
            (_, ActorKind::Deterministic) => 0.0,
        };
        let mut metrics = ActorCriticMetrics {
            critic_loss: self.critic_step(batch, settings, weight, state),
            actor_loss: f64::NAN,
            ent_coef: f64::from(weight),
            ent_coef_loss: f64::NAN,
        };
        if settings.actor_learns {
            let log_prob;
            (metrics.actor_loss, log_prob) = self.actor_step(batch, weight, state);
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

    /// The critics learn what their slow copies say of the next actions. Gives their loss.
    fn critic_step(
        &mut self,
        batch: &ActorCriticBatch<'_>,
        settings: &ActorCriticSettings,
        weight: f32,
        state: &mut ActorCriticState<'_>,
    ) -> f64 {
        let (chooser, half): (&[f32], f32) = match self.actor.kind {
            ActorKind::Deterministic => (state.actor_target, 1.0),
            // SAC halves the squares.
            ActorKind::Squashed => (state.actor.parameters, 0.5),
        };
        let transitions = &batch.transitions;
        let (next, noise) = (transitions.next_observations, batch.next_noise);
        self.actor.choose(chooser, next, noise, &mut self.choice);
        if self.actor.kind == ActorKind::Deterministic {
            smooth(&mut self.choice.actions, noise, settings.smoothing);
        }
        let action_dim = self.actor.action_dim;
        let next = Pairs {
            observations: next,
            actions: &self.choice.actions,
            action_dim,
        };
        let asked = self.critics.nets.len();
        self.critics
            .ask(state.critic_target, &next, asked, &mut self.least);
        let goals = &mut self.least.values;
        for (row, (goal, log_prob)) in goals.iter_mut().zip(&self.choice.log_probs).enumerate() {
            *goal = transitions.goal(row, *goal - weight * log_prob);
        }
        let pairs = Pairs {
            observations: transitions.observations,
            actions: transitions.actions,
            action_dim,
        };
        let (parameters, size) = (&*state.critic.parameters, self.sizes[1]);
        let (gradient, loss) = self.critics.learn(parameters, &pairs, goals, half, size);
        state.critic.step(gradient, 1.0);
        loss
    }

    /// The actor learns what the critics value. TD3 asks the first critic, SAC the one that says least.
    /// Gives the loss and the mean log-likelihood.
    fn actor_step(
        &mut self,
        batch: &ActorCriticBatch<'_>,
        weight: f32,
        state: &mut ActorCriticState<'_>,
    ) -> (f64, f64) {
        let asked = match self.actor.kind {
            ActorKind::Deterministic => 1,
            ActorKind::Squashed => self.critics.nets.len(),
        };
        let (observations, noise) = (batch.transitions.observations, batch.noise);
        let (parameters, critic) = (&*state.actor.parameters, &*state.critic.parameters);
        self.actor
            .choose(parameters, observations, noise, &mut self.choice);
        let (choice, least) = (&self.choice, &mut self.least);
        let pairs = Pairs {
            observations,
            actions: &choice.actions,
            action_dim: self.actor.action_dim,
        };
        self.critics.ask(critic, &pairs, asked, least);
        let by_actions = &mut self.by_actions;
        self.critics
            .by_actions(critic, &pairs, asked, least, by_actions);
        let rows = batch.transitions.rows() as f64;
        let losses = choice.log_probs.iter().zip(&least.values);
        let loss: f64 = losses.map(|(&l, &q)| f64::from(weight * l - q)).sum();
        let log_prob: f64 = choice.log_probs.iter().map(|&l| f64::from(l)).sum();
        let slopes = (&by_actions[..], weight / rows as f32);
        let size = self.sizes[0];
        let gradient = self
            .actor
            .learn(parameters, observations, noise, slopes, size);
        state.actor.step(gradient, 1.0);
        (loss / rows, log_prob / rows)
    }
}

/// Adds bounded noise to actions, which stay in [-1, 1] (Fujimoto et al. 2018,
/// <https://arxiv.org/abs/1802.09477>).
fn smooth(actions: &mut [f32], noise: &[f32], [deviation, bound]: [f32; 2]) {
    for (action, &noise) in actions.iter_mut().zip(noise) {
        let noise = (noise * deviation).max(-bound).min(bound);
        *action = (*action + noise).clamp(-1.0, 1.0);
    }
}
