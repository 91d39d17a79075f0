//! Steps many environments of one kind: time limit, reset within the step, terminal observation,
//! episode return and length.
//!
//! Everything is slice in, slice out, and a step allocates nothing. An action is checked before
//! any environment moves, so that a refused step changes nothing.

mod part;

use std::fmt::Debug;

use crate::env::numerics::{Numerics, ReturnSum};
use crate::env::{Actions, Bounds, Env, EnvError, EnvSpec, Physics};
use crate::memory::{self, OutOfMemory};
use crate::rng::{Pcg64, Pcg64State, SeedSequence};
use crate::threads;
use part::{Part, Slot};

/// An episode that ended in the last step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Episode {
    /// The environment it ended in.
    pub env: usize,
    /// The sum of its rewards.
    pub total: f64,
    /// Its number of steps.
    pub length: u32,
    /// It came to its own end.
    pub terminated: bool,
    /// It reached the time limit. Both may hold.
    pub truncated: bool,
}

/// Everything about one environment that a later run needs to go on exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The state of the physics.
    pub physics: Physics,
    /// The constants, in the order of [`EnvSpec::params`].
    pub params: Vec<f64>,
    /// The random generator, if there is one yet.
    pub rng: Option<Pcg64State>,
    /// Whether it has been reset, and may be stepped.
    pub ready: bool,
    /// Steps of the running episode.
    pub steps: u32,
    /// Rewards of the running episode.
    pub total: ReturnSum,
}

/// Where a step writes.
#[derive(Debug)]
pub struct StepOut<'a> {
    /// `n_envs * obs_dim` observations; of a new episode where the old one ended.
    pub obs: &'a mut [f32],
    /// `n_envs` rewards.
    pub rewards: &'a mut [f32],
    /// `n_envs` flags: the episode ended, for either reason.
    pub dones: &'a mut [bool],
}

/// A vector of environments of one kind, whichever kind it is.
pub trait VectorEnv: Debug + Send + Sync {
    /// The facts of the environment.
    fn spec(&self) -> &'static EnvSpec;

    /// How many environments there are.
    fn num_envs(&self) -> usize;

    /// Steps after which an episode is truncated, if at all.
    fn time_limit(&self) -> Option<u32>;

    /// Changes the time limit of all environments.
    fn set_time_limit(&mut self, limit: Option<u32>);

    /// Resets environment `env` and writes its observation (`obs_dim` numbers). With a seed (its
    /// 32-bit words, least significant first) it starts a new random generator, without one the
    /// old generator continues.
    ///
    /// # Errors
    /// [`EnvError::Index`], [`EnvError::NotSeeded`] or [`EnvError::Buffer`]; nothing has changed then.
    fn reset(
        &mut self,
        env: usize,
        seed: Option<&[u32]>,
        bounds: Option<Bounds>,
        obs: &mut [f32],
    ) -> Result<(), EnvError>;

    /// Steps every environment; one whose episode ends is reset at once.
    ///
    /// # Errors
    /// An [`EnvError`] that names the first wrong action, buffer or environment; no environment
    /// has moved then.
    fn step(&mut self, actions: Actions<'_>, out: StepOut<'_>) -> Result<(), EnvError>;

    /// Writes for each of [`EnvSpec::choices`] of each environment 1 if it is allowed now, else 0.
    ///
    /// # Errors
    /// [`EnvError::Buffer`]; nothing is written then.
    fn allow(&self, out: &mut [f32]) -> Result<(), EnvError>;

    /// The episodes that ended in the last step, by rising environment.
    fn episodes(&self) -> &[Episode];

    /// The last observations of these episodes, one after the other.
    fn terminal_observations(&self) -> &[f32];

    /// The last observation of `episodes()[k]`.
    fn terminal_obs(&self, k: usize) -> &[f32] {
        let dim = self.spec().obs_dim;
        &self.terminal_observations()[k * dim..(k + 1) * dim]
    }

    /// The whole state of environment `env`.
    ///
    /// # Errors
    /// [`EnvError::Index`].
    fn snapshot(&self, env: usize) -> Result<Snapshot, EnvError>;

    /// Puts environment `env` in a state.
    ///
    /// # Errors
    /// [`EnvError::Index`] or [`EnvError::BadState`]; nothing has changed then.
    fn restore(&mut self, env: usize, snapshot: &Snapshot) -> Result<(), EnvError>;

    /// Changes a constant of environment `env`, named as in [`EnvSpec::params`].
    ///
    /// # Errors
    /// [`EnvError::Index`], [`EnvError::UnknownParam`] or [`EnvError::BadParam`].
    fn set_param(&mut self, env: usize, name: &str, value: f64) -> Result<(), EnvError>;

    /// A copy with everything in it.
    fn clone_box(&self) -> Box<dyn VectorEnv>;
}

/// The environments of a vector side by side, each with its generator and episode counters.
#[derive(Debug, Clone)]
pub struct EnvVec<E: Env> {
    slots: Vec<Slot<E>>,
    // How many are ready: looking at each would cost as much as stepping where they are many.
    ready: usize,
    numerics: Numerics,
    limit: u32,
    episodes: Vec<Episode>,
    terminal_obs: Vec<f32>,
    // The episodes that ended in each part of the vector, before they are put together.
    ended: Vec<Vec<Episode>>,
}

impl<E: Env> EnvVec<E> {
    const DIM: usize = E::SPEC.obs_dim;

    /// `n_envs` environments, not yet reset.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(n_envs: usize, numerics: Numerics) -> Result<Self, OutOfMemory> {
        let slot = Slot {
            env: E::new(numerics),
            rng: None,
            ready: false,
            steps: 0,
            total: ReturnSum::default(),
        };
        Ok(Self {
            slots: memory::filled(slot, n_envs)?,
            ready: 0,
            numerics,
            limit: E::SPEC.max_steps,
            episodes: memory::with_capacity(n_envs)?,
            terminal_obs: memory::filled(0.0, n_envs.saturating_mul(Self::DIM))?,
            ended: Vec::new(),
        })
    }

    fn slot(&self, index: usize) -> Result<&Slot<E>, EnvError> {
        let n_envs = self.slots.len();
        self.slots
            .get(index)
            .ok_or(EnvError::Index { index, n_envs })
    }

    fn slot_mut(&mut self, index: usize) -> Result<&mut Slot<E>, EnvError> {
        let n_envs = self.slots.len();
        self.slots
            .get_mut(index)
            .ok_or(EnvError::Index { index, n_envs })
    }

    fn check_out(&self, out: &StepOut<'_>) -> Result<(), EnvError> {
        let n_envs = self.slots.len();
        check_len("observation", out.obs.len(), n_envs * Self::DIM)?;
        check_len("reward", out.rewards.len(), n_envs)?;
        check_len("done", out.dones.len(), n_envs)
    }

    /// How many environments make a part.
    fn part_size(&self) -> usize {
        let n_envs = self.slots.len();
        match threads::parts(n_envs, E::SPEC.step_ns) {
            1 => n_envs.max(1),
            parts => n_envs.div_ceil(parts),
        }
    }

    fn parts<'a>(
        &'a mut self,
        size: usize,
        out: StepOut<'a>,
    ) -> impl ExactSizeIterator<Item = Part<'a, E>> {
        let parts = self.slots.len().div_ceil(size);
        self.ended.resize_with(parts, Vec::new);
        let obs = out.obs.chunks_mut(size * Self::DIM);
        let flags = out.rewards.chunks_mut(size).zip(out.dones.chunks_mut(size));
        let ends = self
            .terminal_obs
            .chunks_mut(size * Self::DIM)
            .zip(&mut self.ended);
        let slots = self.slots.chunks_mut(size).enumerate();
        slots.zip(obs).zip(flags).zip(ends).map(
            move |((((part, slots), obs), (rewards, dones)), (terminal_obs, episodes))| Part {
                first: part * size,
                slots,
                out: StepOut {
                    obs,
                    rewards,
                    dones,
                },
                terminal_obs,
                episodes,
            },
        )
    }

    /// Puts the episodes of all parts, and their last observations, side by side.
    fn gather(&mut self, size: usize) {
        if let [ended] = self.ended.as_mut_slice() {
            std::mem::swap(ended, &mut self.episodes);
            return;
        }
        self.episodes.clear();
        for (part, ended) in self.ended.iter().enumerate() {
            let (from, to) = (part * size * Self::DIM, self.episodes.len() * Self::DIM);
            self.terminal_obs
                .copy_within(from..from + ended.len() * Self::DIM, to);
            self.episodes.extend_from_slice(ended);
        }
    }
}

fn check_len(what: &'static str, got: usize, expected: usize) -> Result<(), EnvError> {
    if got == expected {
        Ok(())
    } else {
        Err(EnvError::Buffer {
            what,
            got,
            expected,
        })
    }
}

impl<E: Env> VectorEnv for EnvVec<E> {
    fn spec(&self) -> &'static EnvSpec {
        &E::SPEC
    }

    fn num_envs(&self) -> usize {
        self.slots.len()
    }

    fn time_limit(&self) -> Option<u32> {
        (self.limit != u32::MAX).then_some(self.limit)
    }

    fn set_time_limit(&mut self, limit: Option<u32>) {
        self.limit = limit.unwrap_or(u32::MAX);
    }

    fn reset(
        &mut self,
        env: usize,
        seed: Option<&[u32]>,
        bounds: Option<Bounds>,
        obs: &mut [f32],
    ) -> Result<(), EnvError> {
        check_len("observation", obs.len(), Self::DIM)?;
        let fused = self.numerics.fused_uniform;
        let slot = self.slot_mut(env)?;
        let fresh = seed.map(|seed| Pcg64::new(&SeedSequence::new(seed)).fused(fused));
        let rng = fresh.or(slot.rng).ok_or(EnvError::NotSeeded(env))?;
        let was_ready = slot.ready;
        slot.restart(rng, bounds.unwrap_or(E::SPEC.default_bounds));
        slot.env.observe(obs);
        self.ready += usize::from(!was_ready);
        Ok(())
    }

    fn step(&mut self, actions: Actions<'_>, out: StepOut<'_>) -> Result<(), EnvError> {
        actions.check(E::SPEC.action, self.slots.len())?;
        self.check_out(&out)?;
        if self.ready < self.slots.len() {
            let env = self.slots.iter().position(|slot| !slot.ready);
            return Err(EnvError::NotReset(env.unwrap_or(0)));
        }
        let (numerics, limit) = (self.numerics, self.limit);
        let size = self.part_size();
        threads::for_each(self.parts(size, out), |part| {
            part.step(actions, numerics, limit);
        });
        self.gather(size);
        Ok(())
    }

    fn allow(&self, out: &mut [f32]) -> Result<(), EnvError> {
        check_len("mask", out.len(), self.slots.len() * E::SPEC.choices)?;
        for (slot, out) in self
            .slots
            .iter()
            .zip(out.chunks_mut(E::SPEC.choices.max(1)))
        {
            slot.env.allow(out);
        }
        Ok(())
    }

    fn episodes(&self) -> &[Episode] {
        &self.episodes
    }

    fn terminal_observations(&self) -> &[f32] {
        &self.terminal_obs[..self.episodes.len() * Self::DIM]
    }

    fn snapshot(&self, env: usize) -> Result<Snapshot, EnvError> {
        let slot = self.slot(env)?;
        let mut constants = slot.env.clone();
        Ok(Snapshot {
            physics: slot.env.physics(),
            params: E::SPEC
                .params
                .iter()
                .filter_map(|name| constants.param(name).copied())
                .collect(),
            rng: slot.rng.map(|rng| rng.state()),
            ready: slot.ready,
            steps: slot.steps,
            total: slot.total,
        })
    }

    fn restore(&mut self, env: usize, snapshot: &Snapshot) -> Result<(), EnvError> {
        let fused = self.numerics.fused_uniform;
        let slot = self.slot_mut(env)?;
        let mut fresh = slot.env.clone();
        let fits =
            fresh.set_physics(&snapshot.physics) && snapshot.params.len() == E::SPEC.params.len();
        if !fits || (snapshot.ready && snapshot.rng.is_none()) {
            return Err(EnvError::BadState {
                env,
                id: E::SPEC.id,
                got: snapshot.physics.state.len(),
            });
        }
        for (name, &value) in E::SPEC.params.iter().zip(&snapshot.params) {
            if let Some(param) = fresh.param(name) {
                *param = value;
            }
        }
        let was_ready = slot.ready;
        *slot = Slot {
            env: fresh,
            rng: snapshot
                .rng
                .map(|state| Pcg64::from_state(state).fused(fused)),
            ready: snapshot.ready,
            steps: snapshot.steps,
            total: snapshot.total,
        };
        self.ready = self.ready + usize::from(snapshot.ready) - usize::from(was_ready);
        Ok(())
    }

    fn set_param(&mut self, env: usize, name: &str, value: f64) -> Result<(), EnvError> {
        let slot = self.slot_mut(env)?;
        let Some(param) = slot.env.param(name) else {
            return Err(EnvError::UnknownParam {
                id: E::SPEC.id,
                name: name.to_owned(),
                known: E::SPEC.params.join(", "),
            });
        };
        if value.is_nan() {
            return Err(EnvError::BadParam {
                name: name.to_owned(),
                value,
            });
        }
        *param = value;
        Ok(())
    }

    fn clone_box(&self) -> Box<dyn VectorEnv> {
        Box::new(self.clone())
    }
}
