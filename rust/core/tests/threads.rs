//! The same bits whatever the number of threads.

use std::sync::Mutex;

use mlx_baselines3_core::actor::{ActionsOut, Actor, Head};
use mlx_baselines3_core::env::numerics::Numerics;
use mlx_baselines3_core::env::{ActionSpace, Actions, registry};
use mlx_baselines3_core::nn::{Activation, InferenceLayer, InferenceMlp};
use mlx_baselines3_core::rng::{Pcg64, SeedSequence};
use mlx_baselines3_core::threads::{self, WORTH_NS};
use mlx_baselines3_core::vec_env::{Episode, StepOut};

/// The number of threads is one for the process.
static ALONE: Mutex<()> = Mutex::new(());

fn with_threads<T>(count: usize, work: impl FnOnce() -> T) -> T {
    threads::set(Some(count));
    let outcome = work();
    threads::set(None);
    outcome
}

type Seen = (Vec<u32>, Vec<u32>, Vec<bool>, Vec<Episode>, Vec<u32>);

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

fn steps(id: &str, n_envs: usize) -> Vec<Seen> {
    let mut envs = registry::make(id, n_envs, Numerics::default()).unwrap();
    let (spec, mut rng) = (envs.spec(), Pcg64::new(&SeedSequence::from_u64(1)));
    envs.set_time_limit(Some(12));
    let mut obs = vec![0.0; n_envs * spec.obs_dim];
    for (env, row) in obs.chunks_exact_mut(spec.obs_dim).enumerate() {
        envs.reset(env, Some(&[env as u32]), None, row).unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..14 {
        let (mut rewards, mut dones) = (vec![0.0; n_envs], vec![false; n_envs]);
        let ints: Vec<i64> = (0..n_envs).map(|_| (rng.random() * 2.0) as i64).collect();
        let floats: Vec<f32> = ints.iter().map(|&x| x as f32 - 0.5).collect();
        let actions = match spec.action {
            ActionSpace::Discrete(_) => Actions::Discrete(&ints),
            ActionSpace::Box(_) => Actions::Single(&floats),
        };
        let out = StepOut {
            obs: &mut obs,
            rewards: &mut rewards,
            dones: &mut dones,
        };
        envs.step(actions, out).unwrap();
        let ended = envs.episodes().to_vec();
        let last: Vec<f32> = (0..ended.len())
            .flat_map(|k| envs.terminal_obs(k).to_vec())
            .collect();
        seen.push((bits(&obs), bits(&rewards), dones, ended, bits(&last)));
    }
    seen
}

#[test]
fn environments_step_alike_on_any_number_of_threads() {
    let _alone = ALONE.lock().unwrap();
    for spec in registry::specs() {
        // Three parts, the last of them shorter.
        let n_envs = 3 * WORTH_NS.div_ceil(spec.step_ns) + 7;
        let one = with_threads(1, || steps(spec.id, n_envs));
        assert!(one.iter().any(|step| !step.3.is_empty()));
        for count in [2, 3] {
            let many = with_threads(count, || steps(spec.id, n_envs));
            assert!(one == many, "{} on {count} threads", spec.id);
        }
    }
}

fn policy(widths: &[usize], head: Head) -> Actor {
    let mut rng = Pcg64::new(&SeedSequence::from_u64(0));
    let layers = widths.windows(2).map(|pair| {
        let mut layer = InferenceLayer::zeros(pair[0], pair[1], Activation::Tanh).unwrap();
        let weights: Vec<f32> = (0..pair[0] * pair[1])
            .map(|_| rng.uniform(-0.3, 0.3) as f32)
            .collect();
        layer.load(&weights, None).unwrap();
        layer
    });
    Actor::new(InferenceMlp::new(layers.collect()).unwrap(), head).unwrap()
}

#[test]
fn policies_act_alike_on_any_number_of_threads() {
    let _alone = ALONE.lock().unwrap();
    let rows = 4099;
    let obs: Vec<f32> = (0..rows * 5)
        .map(|i| (i % 37) as f32 / 20.0 - 0.9)
        .collect();
    for widths in [[5, 64, 48, 3].as_slice(), &[5, 70, 3], &[5, 96, 64, 32, 20]] {
        let outputs = widths[widths.len() - 1];
        let run = || {
            let mut actor = policy(widths, Head::Gaussian(vec![0.5; outputs]));
            let (mut means, mut actions) = (vec![0.0; rows * outputs], vec![0.0; rows * outputs]);
            actor.outputs(&obs, &mut means).unwrap();
            actor
                .act(&obs, false, ActionsOut::Floats(&mut actions))
                .unwrap();
            (bits(&means), bits(&actions))
        };
        let one = with_threads(1, run);
        assert!(one == with_threads(2, run) && one == with_threads(5, run));
    }
}

#[test]
fn short_work_is_not_cut() {
    let _alone = ALONE.lock().unwrap();
    let parts = |items, ns| with_threads(4, || threads::parts(items, ns));
    assert_eq!(parts(8, 100), 1);
    assert_eq!(parts(0, 100), 1);
    assert_eq!(parts(2, WORTH_NS), 2);
    assert_eq!(parts(3, WORTH_NS), 3);
    assert_eq!(parts(100, WORTH_NS), 4);
    assert_eq!(parts(2, usize::MAX), 2);
}
