//! Environments that are stepped one after the other: the whole vector, or what one thread has of it.

use super::{Episode, StepOut};
use crate::env::numerics::{Numerics, ReturnSum};
use crate::env::{Action, Actions, Bounds, Env};
use crate::rng::Pcg64;

#[derive(Debug, Clone)]
pub(super) struct Slot<E> {
    pub(super) env: E,
    pub(super) rng: Option<Pcg64>,
    pub(super) ready: bool,
    pub(super) steps: u32,
    pub(super) total: ReturnSum,
}

impl<E: Env> Slot<E> {
    pub(super) fn restart(&mut self, mut rng: Pcg64, bounds: Bounds) {
        self.env.reset(&mut rng, bounds);
        self.rng = Some(rng);
        self.ready = true;
        self.steps = 0;
        self.total = ReturnSum::default();
    }

    /// Accounts for the episode that just ended and starts the next one.
    #[cold]
    fn finish(&mut self, env: usize, terminated: bool, truncated: bool) -> Episode {
        let episode = Episode {
            env,
            total: self.total.value(),
            length: self.steps,
            terminated,
            truncated,
        };
        if let Some(rng) = self.rng {
            self.restart(rng, E::SPEC.default_bounds);
        }
        episode
    }
}

/// Neighbours in the vector, and where they write.
pub(super) struct Part<'a, E> {
    pub(super) first: usize,
    pub(super) slots: &'a mut [Slot<E>],
    pub(super) out: StepOut<'a>,
    pub(super) terminal_obs: &'a mut [f32],
    pub(super) episodes: &'a mut Vec<Episode>,
}

impl<E: Env> Part<'_, E> {
    /// `actions` are those of the whole vector, and were checked; every environment is ready.
    pub(super) fn step(self, actions: Actions<'_>, numerics: Numerics, limit: u32) {
        self.episodes.clear();
        let rows = self.out.obs.chunks_exact_mut(E::SPEC.obs_dim);
        let flags = self.out.rewards.iter_mut().zip(self.out.dones);
        let mut last = self.terminal_obs.chunks_exact_mut(E::SPEC.obs_dim);
        let slots = self.slots.iter_mut().enumerate();
        for (((i, slot), obs), (reward, done)) in slots.zip(rows).zip(flags) {
            let env = self.first + i;
            let (Some(action), Some(rng)) = (E::Action::read(&actions, env), slot.rng.as_mut())
            else {
                unreachable!("checked before the step");
            };
            let moved = slot.env.step(action, rng);
            slot.env.observe(obs);
            slot.steps += 1;
            slot.total.add(moved.reward, numerics);
            *reward = moved.reward as f32;
            let truncated = slot.steps >= limit;
            *done = moved.terminated || truncated;
            if *done {
                if let Some(last) = last.next() {
                    last.copy_from_slice(obs);
                }
                self.episodes
                    .push(slot.finish(env, moved.terminated, truncated));
                slot.env.observe(obs);
            }
        }
    }
}
