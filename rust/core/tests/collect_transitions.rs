//! Fused chunks of off-policy steps against the same steps taken one by one.

use mlx_baselines3_core::actor::{ActionsOut, Actor, Head};
use mlx_baselines3_core::buffer::ring::Ring;
use mlx_baselines3_core::buffer::terminal::TerminalObs;
use mlx_baselines3_core::collect::{
    ActionBounds, ActionColumn, ActionPlan, CollectError, CollectedTransitions, LastStep, NextObs,
    RandomActions, ReplayColumns, collect_transitions,
};
use mlx_baselines3_core::env::numerics::Numerics;
use mlx_baselines3_core::env::{ActionSpace, Actions, EnvError, registry};
use mlx_baselines3_core::interrupt::Watch;
use mlx_baselines3_core::nn::{Activation, InferenceLayer, InferenceMlp};
use mlx_baselines3_core::rng::{Pcg64, SeedSequence};
use mlx_baselines3_core::vec_env::{StepOut, VectorEnv};

const N: usize = 3;
const ROWS: usize = 17;
const BOUNDS: ActionBounds<'static> = ActionBounds {
    low: &[-2.0],
    high: &[1.5],
};

struct Run {
    envs: Box<dyn VectorEnv>,
    actor: Actor,
    ring: Ring,
    obs: Vec<f32>,
    rewards: Vec<f32>,
    dones: Vec<bool>,
    ints: Vec<i64>,
    floats: Vec<f32>,
    scaled: Vec<f32>,
    // The columns, named as in `ReplayColumns`.
    observations: Vec<f32>,
    next: Vec<f32>,
    int_column: Vec<i64>,
    float_column: Vec<f32>,
    reward_column: Vec<f32>,
    done_column: Vec<f32>,
    timeouts: Vec<f32>,
}

fn actor(dim: usize, action: ActionSpace, scale: f64) -> Actor {
    let (outputs, head) = match action {
        ActionSpace::Discrete(n) => (n as usize, Head::EpsilonGreedy(0.0)),
        ActionSpace::Box(n) => (2 * n, Head::SquashedGaussian),
    };
    let mut rng = Pcg64::new(&SeedSequence::from_u64(1));
    let mut layer = InferenceLayer::zeros(dim, outputs, Activation::Identity).unwrap();
    let weights: Vec<f32> = (0..dim * outputs)
        .map(|_| (scale * rng.uniform(-1.0, 1.0)) as f32)
        .collect();
    layer.load(&weights, None).unwrap();
    Actor::new(InferenceMlp::new(vec![layer]).unwrap(), head).unwrap()
}

impl Run {
    fn new(id: &str, scale: f64) -> Self {
        let mut envs = registry::make(id, N, Numerics::default()).unwrap();
        envs.set_time_limit(Some(11));
        let (dim, action) = (envs.spec().obs_dim, envs.spec().action);
        let mut obs = vec![0.0; N * dim];
        for (env, row) in obs.chunks_exact_mut(dim).enumerate() {
            envs.reset(env, Some(&[env as u32]), None, row).unwrap();
        }
        let choices = if matches!(action, ActionSpace::Discrete(_)) {
            N
        } else {
            0
        };
        Self {
            envs,
            actor: actor(dim, action, scale),
            ring: Ring::new(ROWS, 0, false).unwrap(),
            obs,
            rewards: vec![0.0; N],
            dones: vec![false; N],
            ints: vec![0; choices],
            floats: vec![0.0; N - choices],
            scaled: vec![0.0; N - choices],
            observations: vec![0.0; ROWS * N * dim],
            next: vec![0.0; ROWS * N * dim],
            int_column: vec![0; ROWS * choices],
            float_column: vec![0.0; ROWS * (N - choices)],
            reward_column: vec![0.0; ROWS * N],
            done_column: vec![0.0; ROWS * N],
            timeouts: vec![0.0; ROWS * N],
        }
    }

    fn is_discrete(&self) -> bool {
        !self.ints.is_empty()
    }

    /// Whether each step is random, the random actions, and the noise of all steps.
    fn draws(&self, start: usize, steps: usize) -> (Vec<bool>, Vec<i64>, Vec<f32>, Vec<f32>) {
        let all = start..start + steps;
        let is_random: Vec<bool> = all.clone().map(|step| step % 5 < 2).collect();
        let drawn = || {
            all.clone()
                .filter(|step| step % 5 < 2)
                .flat_map(|step| step..step + N)
        };
        let noise = all.clone().flat_map(|step| step..step + N);
        let ints = drawn().map(|i| (i % 2) as i64).collect();
        let floats = drawn().map(|i| (i as f32).sin()).collect();
        (
            is_random,
            ints,
            floats,
            noise.map(|i| (7.0 * i as f32).cos()).collect(),
        )
    }

    fn fused(
        &mut self,
        start: usize,
        steps: usize,
        terminal: Option<&mut TerminalObs>,
        until_end: bool,
    ) -> Result<CollectedTransitions, CollectError> {
        let discrete = self.is_discrete();
        let (is_random, ints, floats, noise) = self.draws(start, steps);
        let plan = ActionPlan {
            is_random: &is_random,
            random_actions: if discrete {
                RandomActions::Ints(&ints)
            } else {
                RandomActions::Floats(&floats)
            },
            noise: (!discrete).then_some(&noise),
            bounds: BOUNDS,
            until_end,
        };
        let mut replay = ReplayColumns {
            ring: self.ring,
            observations: &mut self.observations,
            next: match terminal {
                Some(terminal) => NextObs::NextRow(terminal),
                None => NextObs::Column(&mut self.next),
            },
            actions: if discrete {
                ActionColumn::Ints(&mut self.int_column)
            } else {
                ActionColumn::Floats(&mut self.float_column)
            },
            rewards: &mut self.reward_column,
            dones: &mut self.done_column,
            timeouts: Some(&mut self.timeouts),
        };
        let mut last = LastStep {
            obs: &mut self.obs,
            rewards: &mut self.rewards,
            dones: &mut self.dones,
            actions: if discrete {
                ActionColumn::Ints(&mut self.ints)
            } else {
                ActionColumn::Floats(&mut self.floats)
            },
            scaled: &mut self.scaled,
        };
        let collected = collect_transitions(
            &mut *self.envs,
            &mut self.actor,
            &plan,
            &mut replay,
            &mut last,
            &mut Watch::never(),
        );
        self.ring = replay.ring;
        collected
    }

    /// One step with the pieces that users see.
    fn step(&mut self, step: usize) {
        let (is_random, ints, floats, noise) = self.draws(step, 1);
        let seen = self.obs.clone();
        let mut scaled = vec![0.0; self.floats.len()];
        if self.is_discrete() {
            if is_random[0] {
                self.ints.copy_from_slice(&ints);
            } else {
                let out = ActionsOut::Ints(&mut self.ints);
                self.actor.act(&seen, false, out).unwrap();
            }
        } else {
            let (low, high) = (BOUNDS.low[0], BOUNDS.high[0]);
            let unscale = |x: f32| low + (0.5 * (x + 1.0) * (high - low));
            let mut actions = floats;
            if !is_random[0] {
                actions = vec![0.0; N];
                let out = ActionsOut::Floats(&mut actions);
                self.actor.act(&seen, false, out).unwrap();
                actions.iter_mut().for_each(|x| *x = unscale(*x));
            }
            for ((to, x), noise) in scaled.iter_mut().zip(&actions).zip(&noise) {
                *to = (2.0 * ((x - low) / (high - low)) - 1.0 + noise).clamp(-1.0, 1.0);
            }
            self.floats = scaled.iter().map(|&x| unscale(x)).collect();
        }
        let actions = if self.is_discrete() {
            Actions::Discrete(&self.ints)
        } else {
            Actions::Single(&self.floats)
        };
        let out = StepOut {
            obs: &mut self.obs,
            rewards: &mut self.rewards,
            dones: &mut self.dones,
        };
        self.envs.step(actions, out).unwrap();
        self.scaled = scaled;
        self.store(&seen);
    }

    fn store(&mut self, seen: &[f32]) {
        let (row, dim) = (self.ring.pos(), self.envs.spec().obs_dim);
        let mut next = self.obs.clone();
        self.timeouts[row * N..][..N].fill(0.0);
        for (k, episode) in self.envs.episodes().iter().enumerate() {
            next[episode.env * dim..][..dim].copy_from_slice(self.envs.terminal_obs(k));
            if episode.truncated && !episode.terminated {
                self.timeouts[row * N + episode.env] = 1.0;
            }
        }
        self.observations[row * N * dim..][..N * dim].copy_from_slice(seen);
        self.next[row * N * dim..][..N * dim].copy_from_slice(&next);
        if self.is_discrete() {
            self.int_column[row * N..][..N].copy_from_slice(&self.ints);
        } else {
            self.float_column[row * N..][..N].copy_from_slice(&self.scaled);
        }
        self.reward_column[row * N..][..N].copy_from_slice(&self.rewards);
        for env in 0..N {
            self.done_column[row * N + env] = f32::from(u8::from(self.dones[env]));
        }
        self.ring.advance();
    }

    fn assert_same(&self, other: &Self) {
        assert_eq!(self.ring, other.ring);
        assert_eq!(
            (&self.obs, &self.rewards, &self.dones),
            (&other.obs, &other.rewards, &other.dones)
        );
        assert_eq!(
            (&self.ints, &self.floats, &self.scaled),
            (&other.ints, &other.floats, &other.scaled)
        );
        assert_eq!(self.int_column, other.int_column);
        assert_eq!(self.float_column, other.float_column);
        assert_eq!(self.reward_column, other.reward_column);
        assert_eq!(self.done_column, other.done_column);
        assert_eq!(self.timeouts, other.timeouts);
    }
}

#[test]
fn chunks_of_any_length_give_the_steps_one_by_one() {
    for spec in registry::specs() {
        let (mut fused, mut single) = (Run::new(spec.id, 1.0), Run::new(spec.id, 1.0));
        let mut start = 0;
        for steps in [1, 20, 0, 19] {
            let collected = fused.fused(start, steps, None, false).unwrap();
            assert_eq!((collected.steps, collected.error), (steps, None));
            start += steps;
        }
        (0..start).for_each(|step| single.step(step));
        fused.assert_same(&single);
        assert_eq!(fused.observations, single.observations);
        assert_eq!(fused.next, single.next);
        assert!(fused.timeouts.contains(&1.0) && fused.ring.is_full());
        let scaled = |a: &f32| (-1.0..=1.0).contains(a);
        assert!(fused.float_column.iter().all(scaled));
    }
}

#[test]
fn every_observation_once_gives_the_same_next_ones() {
    for spec in registry::specs() {
        let (mut twice, mut once) = (Run::new(spec.id, 1.0), Run::new(spec.id, 1.0));
        let mut terminal = TerminalObs::default();
        for start in [0, 9, 18, 27] {
            twice.fused(start, 9, None, false).unwrap();
            once.fused(start, 9, Some(&mut terminal), false).unwrap();
            once.assert_same(&twice);
            let stale = once.ring.is_full().then_some(once.ring.pos());
            let rows = (0..once.ring.len()).filter(|&row| Some(row) != stale);
            let dim = spec.obs_dim;
            for transition in rows.flat_map(|row| row * N..(row + 1) * N) {
                let after = (transition + N) % (ROWS * N);
                let mut bytes: Vec<u8> = once.observations[after * dim..][..dim]
                    .iter()
                    .flat_map(|x| x.to_ne_bytes())
                    .collect();
                terminal.patch(&[transition], &mut bytes).unwrap();
                let (numbers, _) = bytes.as_chunks::<4>();
                let next: Vec<f32> = numbers.iter().map(|&b| f32::from_ne_bytes(b)).collect();
                assert_eq!(next, twice.next[transition * dim..][..dim]);
            }
        }
        assert!(!terminal.is_empty());
    }
}

#[test]
fn a_chunk_ends_with_an_episode_if_asked_to() {
    let mut run = Run::new("Pendulum-v1", 1.0);
    let collected = run.fused(0, 30, None, true).unwrap();
    assert_eq!(
        (collected.steps, collected.episodes.len(), run.ring.pos()),
        (11, N, 11)
    );
    assert!(collected.episodes.iter().all(|(step, _)| *step == 10));
    assert!(run.dones.iter().all(|&done| done));
}

#[test]
fn a_policy_that_is_not_a_number_leaves_whole_steps() {
    for (id, env_error) in [("Pendulum-v1", true), ("CartPole-v1", false)] {
        let (mut run, mut single) = (Run::new(id, f64::NAN), Run::new(id, 1.0));
        // The first two of five steps are random.
        let collected = run.fused(0, 5, None, false).unwrap();
        assert_eq!((collected.steps, run.ring.pos()), (2, 2));
        let error = collected.error.unwrap();
        let named = matches!(
            error,
            CollectError::Env(EnvError::ActionNotFinite { env: 0, .. })
        );
        assert_eq!(named, env_error);
        assert!(env_error || matches!(error, CollectError::Actor(_)));
        (0..2).for_each(|step| single.step(step));
        assert_eq!(run.obs, single.obs);
        assert_eq!(run.reward_column, single.reward_column);
        assert_eq!(run.float_column, single.float_column);
        assert_eq!(run.int_column, single.int_column);
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let mut run = Run::new("CartPole-v1", 1.0);
    let before = run.obs.clone();
    run.actor = Run::new("Acrobot-v1", 1.0).actor;
    assert_eq!(
        run.fused(0, 1, None, false).unwrap_err().to_string(),
        "the policy takes 6 numbers per observation, CartPole-v1 gives 4"
    );
    let mut run = Run::new("CartPole-v1", 1.0);
    run.timeouts.pop();
    assert_eq!(
        run.fused(0, 1, None, false).unwrap_err().to_string(),
        "timeouts holds 50 numbers, expected 51"
    );
    assert_eq!((run.obs, run.ring.pos()), (before, 0));
}
