//! Environments that are stepped one after the other: the whole vector, or what one thread has of it.

use super::{Episode, StepOut};
use crate::env::numerics::{Numerics, ReturnSum};
use crate::env::{Action, Actions, Bounds, Env, Transition};
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
        let mut rows = (self.first..).zip(rows.zip(flags));
        let mut last = self.terminal_obs.chunks_exact_mut(E::SPEC.obs_dim);
        let mut account = |slot: &mut Slot<E>, moved: Transition| {
            let Some((env, (obs, (reward, done)))) = rows.next() else {
                unreachable!("every environment has its row");
            };
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
        };
        let (mut slots, mut first) = (self.slots, self.first);
        if E::ABREAST {
            (slots, first) = step_blocks::<E, 8>(slots, first, &actions, &mut account);
            (slots, first) = step_blocks::<E, 4>(slots, first, &actions, &mut account);
        }
        step_blocks::<E, 1>(slots, first, &actions, &mut account);
    }
}

/// Steps `N` neighbours at a time, the first of all being environment `first` of the vector; those
/// left over, and which the first of them is.
#[inline(always)]
fn step_blocks<'a, E: Env, const N: usize>(
    slots: &'a mut [Slot<E>],
    mut first: usize,
    actions: &Actions<'_>,
    account: &mut impl FnMut(&mut Slot<E>, Transition),
) -> (&'a mut [Slot<E>], usize) {
    let (blocks, rest) = slots.as_chunks_mut::<N>();
    for block in blocks {
        let mut env = first..;
        let moved = E::step_abreast(block.each_mut().map(|slot| {
            let action = env.next().and_then(|env| E::Action::read(actions, env));
            let (Some(action), Some(rng)) = (action, slot.rng.as_mut()) else {
                unreachable!("checked before the step");
            };
            (&mut slot.env, action, rng)
        }));
        for (slot, moved) in block.iter_mut().zip(moved) {
            account(slot, moved);
        }
        first += N;
    }
    (rest, first)
}
