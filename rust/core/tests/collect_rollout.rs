//! The fused rollout against the same steps taken one by one.

use mlx_baselines3_core::actor::{ActionsOut, Actor, Head};
use mlx_baselines3_core::collect::{
    ActionBounds, ActionColumn, CollectError, CurrentObs, FinishedEpisode, RolloutColumns,
    collect_rollout,
};
use mlx_baselines3_core::env::numerics::Numerics;
use mlx_baselines3_core::env::{ActionSpace, Actions, EnvError, registry};
use mlx_baselines3_core::interrupt::Watch;
use mlx_baselines3_core::nn::{Activation, InferenceLayer, InferenceMlp};
use mlx_baselines3_core::rng::{Pcg64, SeedSequence};
use mlx_baselines3_core::vec_env::{StepOut, VectorEnv};

const N: usize = 3;

struct Run {
    envs: Box<dyn VectorEnv>,
    actor: Actor,
    obs: Vec<f32>,
    starts: Vec<bool>,
    observations: Vec<f32>,
    ints: Vec<i64>,
    floats: Vec<f32>,
    rewards: Vec<f32>,
    firsts: Vec<f32>,
    finished: Vec<FinishedEpisode>,
}

impl Run {
    fn new(id: &str, scale: f64) -> Self {
        let mut envs = registry::make(id, N, Numerics::default()).unwrap();
        envs.set_time_limit(Some(13));
        let (dim, action) = (envs.spec().obs_dim, envs.spec().action);
        let (outputs, head) = match action {
            ActionSpace::Discrete(n) => (n as usize, Head::Categorical),
            ActionSpace::Box(n) => (n, Head::Gaussian(vec![2.0; n])),
        };
        let mut rng = Pcg64::new(&SeedSequence::from_u64(1));
        let mut layer = InferenceLayer::zeros(dim, outputs, Activation::Identity).unwrap();
        let weights: Vec<f32> = (0..dim * outputs)
            .map(|_| (scale * rng.uniform(-1.0, 1.0)) as f32)
            .collect();
        layer.load(&weights, None).unwrap();
        let mut obs = vec![0.0; N * dim];
        for (env, row) in obs.chunks_exact_mut(dim).enumerate() {
            envs.reset(env, Some(&[env as u32]), None, row).unwrap();
        }
        Self {
            envs,
            actor: Actor::new(InferenceMlp::new(vec![layer]).unwrap(), head).unwrap(),
            obs,
            starts: vec![true; N],
            observations: vec![],
            ints: vec![],
            floats: vec![],
            rewards: vec![],
            firsts: vec![],
            finished: vec![],
        }
    }

    fn is_discrete(&self) -> bool {
        matches!(self.envs.spec().action, ActionSpace::Discrete(_))
    }

    fn fused(&mut self, steps: usize) -> Result<(), CollectError> {
        let (rows, before) = (steps * N, self.rewards.len());
        self.observations
            .resize((before + rows) * self.envs.spec().obs_dim, -9.0);
        self.ints.resize(before + rows, -9);
        self.floats.resize(before + rows, -9.0);
        self.rewards.resize(before + rows, -9.0);
        self.firsts.resize(before + rows, -9.0);
        let actions = if self.is_discrete() {
            ActionColumn::Ints(&mut self.ints[before..])
        } else {
            ActionColumn::Floats(&mut self.floats[before..])
        };
        let columns = RolloutColumns {
            observations: &mut self.observations[before * self.envs.spec().obs_dim..],
            actions,
            rewards: &mut self.rewards[before..],
            episode_starts: &mut self.firsts[before..],
            masks: None,
        };
        let current = CurrentObs {
            obs: &mut self.obs,
            starts: &mut self.starts,
        };
        let bounds = ActionBounds {
            low: &[-1.0],
            high: &[0.5],
        };
        let mut ended = collect_rollout(
            &mut *self.envs,
            &mut self.actor,
            bounds,
            current,
            columns,
            &mut Watch::never(),
        )?
        .finished;
        for end in &mut ended {
            end.step += before / N;
        }
        self.finished.append(&mut ended);
        Ok(())
    }

    /// One step with the pieces that users see.
    fn step(&mut self) {
        let (mut ints, mut floats) = (vec![0; N], vec![0.0; N]);
        self.observations.extend(&self.obs);
        self.firsts
            .extend(self.starts.iter().map(|&start| f32::from(u8::from(start))));
        if self.is_discrete() {
            let out = ActionsOut::Ints(&mut ints);
            self.actor.act(&self.obs, false, out).unwrap();
        } else {
            let out = ActionsOut::Floats(&mut floats);
            self.actor.act(&self.obs, false, out).unwrap();
        }
        let clipped: Vec<f32> = floats.iter().map(|x: &f32| x.clamp(-1.0, 0.5)).collect();
        let actions = if self.is_discrete() {
            Actions::Discrete(&ints)
        } else {
            Actions::Single(&clipped)
        };
        let mut rewards = vec![0.0; N];
        let out = StepOut {
            obs: &mut self.obs,
            rewards: &mut rewards,
            dones: &mut self.starts,
        };
        self.envs.step(actions, out).unwrap();
        let step = self.rewards.len() / N;
        for (k, &episode) in self.envs.episodes().iter().enumerate() {
            let truncated = episode.truncated && !episode.terminated;
            self.finished.push(FinishedEpisode {
                step,
                episode,
                timeout_obs: truncated.then(|| self.envs.terminal_obs(k).to_vec()),
            });
        }
        self.ints.extend(ints);
        self.floats.extend(floats);
        self.rewards.extend(rewards);
    }
}

#[test]
fn chunks_of_any_length_give_the_steps_one_by_one() {
    for spec in registry::specs() {
        let (mut fused, mut single) = (Run::new(spec.id, 1.0), Run::new(spec.id, 1.0));
        for steps in [1, 20, 0, 19] {
            fused.fused(steps).unwrap();
        }
        (0..40).for_each(|_| single.step());
        assert_eq!(fused.observations, single.observations);
        assert_eq!(fused.rewards, single.rewards);
        assert_eq!(fused.firsts, single.firsts);
        if fused.is_discrete() {
            assert_eq!(fused.ints, single.ints);
        } else {
            assert_eq!(fused.floats, single.floats);
            // The buffer keeps what the policy said, beyond the bounds too.
            assert!(
                fused.floats.iter().any(|&a| a < -1.0) && fused.floats.iter().any(|&a| a > 0.5)
            );
        }
        assert_eq!((&fused.obs, &fused.starts), (&single.obs, &single.starts));
        assert_eq!(fused.finished, single.finished);
        assert!(fused.finished.iter().any(|end| end.timeout_obs.is_some()));
    }
}

#[test]
fn a_policy_that_is_not_a_number_stops_the_rollout() {
    let mut run = Run::new("Pendulum-v1", f64::NAN);
    let before = run.obs.clone();
    let error = run.fused(5).unwrap_err();
    assert!(matches!(
        error,
        CollectError::Env(EnvError::ActionNotFinite { env: 0, .. })
    ));
    assert_eq!(run.obs, before);
    let mut run = Run::new("CartPole-v1", f64::NAN);
    assert!(matches!(run.fused(5).unwrap_err(), CollectError::Actor(_)));
}

#[test]
fn a_policy_for_other_environments_is_refused() {
    let mut run = Run::new("CartPole-v1", 1.0);
    run.actor = Run::new("Acrobot-v1", 1.0).actor;
    assert_eq!(
        run.fused(1).unwrap_err().to_string(),
        "the policy takes 6 numbers per observation, CartPole-v1 gives 4"
    );
    let mut run = Run::new("Pendulum-v1", 1.0);
    let (mut obs, mut starts) = (run.obs.clone(), vec![true; N]);
    let columns = RolloutColumns {
        observations: &mut [0.0; 9],
        actions: ActionColumn::Ints(&mut [0; 3]),
        rewards: &mut [0.0; 3],
        episode_starts: &mut [0.0; 3],
        masks: None,
    };
    let current = CurrentObs {
        obs: &mut obs,
        starts: &mut starts,
    };
    let bounds = ActionBounds {
        low: &[-2.0],
        high: &[2.0],
    };
    let error = collect_rollout(
        &mut *run.envs,
        &mut run.actor,
        bounds,
        current,
        columns,
        &mut Watch::never(),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the policy's actions are not those that Pendulum-v1 takes"
    );
    assert_eq!(obs, run.obs);
}
