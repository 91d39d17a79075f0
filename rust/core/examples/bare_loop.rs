//! Steps environments and does nothing else: the ceiling of everything built on them.
//!
//! `bare_loop ENV_ID N_ENVS THREADS SECONDS` prints the seconds of one environment step. Each thread has its own
//! environments and waits for nobody.

use std::time::Instant;

use mlx_baselines3_core::env::numerics::Numerics;
use mlx_baselines3_core::env::{ActionSpace, Actions, registry};
use mlx_baselines3_core::rng::{Pcg64, SeedSequence};
use mlx_baselines3_core::vec_env::StepOut;

/// Steps in a round, unless these are more than 64 of each environment.
const ROUND: usize = 1 << 18;

/// Step `n_envs` environments for at least `seconds`; steps per second.
fn rate(id: &str, n_envs: usize, seconds: f64) -> f64 {
    let spec = registry::specs().find(|spec| spec.id == id);
    let spec = spec.expect("a registered id");
    let mut envs = registry::make(id, n_envs, Numerics::default()).expect("registered");
    let mut obs = vec![0.0; n_envs * spec.obs_dim];
    for (env, row) in obs.chunks_exact_mut(spec.obs_dim).enumerate() {
        envs.reset(env, Some(&[env as u32]), None, row)
            .expect("seeded");
    }
    let mut rng = Pcg64::new(&SeedSequence::from_u64(0));
    let mut draw = |n: f64| (rng.random() * n).floor();
    let choices = match spec.action {
        ActionSpace::Discrete(n) => n as f64,
        ActionSpace::Box(_) => 1.0,
    };
    let batches = (ROUND / n_envs).clamp(1, 64);
    let rows = n_envs * batches;
    let ints: Vec<i64> = (0..rows).map(|_| draw(choices) as i64).collect();
    let floats: Vec<f32> = (0..rows).map(|_| draw(3.0) as f32 - 1.0).collect();
    let (mut rewards, mut dones) = (vec![0.0; n_envs], vec![false; n_envs]);
    let (mut steps, mut elapsed) = (0, 0.0);
    let start = Instant::now();
    // The clock is read once in a round over all batches.
    while elapsed < seconds {
        for batch in 0..batches {
            let range = batch * n_envs..(batch + 1) * n_envs;
            let actions = match spec.action {
                ActionSpace::Discrete(_) => Actions::Discrete(&ints[range]),
                ActionSpace::Box(_) => Actions::Single(&floats[range]),
            };
            let out = StepOut {
                obs: &mut obs,
                rewards: &mut rewards,
                dones: &mut dones,
            };
            envs.step(actions, out).expect("valid actions");
        }
        steps += rows;
        elapsed = start.elapsed().as_secs_f64();
    }
    steps as f64 / elapsed
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [id, n_envs, threads, seconds] = args.as_slice() else {
        panic!("expected: ENV_ID N_ENVS THREADS SECONDS");
    };
    let total: usize = n_envs.parse().expect("a number of environments");
    let threads: usize = threads.parse().expect("a number of threads");
    let seconds: f64 = seconds.parse().expect("a number of seconds");
    let share = total.div_ceil(threads.min(total).max(1));
    let sum = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..total)
            .step_by(share)
            .map(|first| scope.spawn(move || rate(id, share.min(total - first), seconds)))
            .collect();
        let rates = parts.into_iter().map(|part| part.join().expect("no panic"));
        rates.sum::<f64>()
    });
    println!("{:e}", 1.0 / sum);
}
