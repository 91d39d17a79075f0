//! Steps per second of every environment: as few as a small run has, and as many as a big one.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlx_baselines3_core::env::numerics::Numerics;
use mlx_baselines3_core::env::{ActionSpace, Actions, registry};
use mlx_baselines3_core::rng::{Pcg64, SeedSequence};
use mlx_baselines3_core::vec_env::StepOut;

mod support;
use support::first_observations;

const BATCHES: usize = 64;

fn bench(c: &mut Criterion) {
    for spec in registry::specs() {
        let mut group = c.benchmark_group(spec.id);
        for n_envs in [8_usize, 1024] {
            let mut envs =
                registry::make(spec.id, n_envs, Numerics::default()).expect("registered");
            let mut obs = first_observations(&mut *envs);
            let mut rng = Pcg64::new(&SeedSequence::from_u64(0));
            let mut draw = |n: f64| (rng.random() * n).floor();
            let ints: Vec<i64> = (0..n_envs * BATCHES)
                .map(|_| match spec.action {
                    ActionSpace::Discrete(n) => draw(n as f64) as i64,
                    ActionSpace::Box(_) => 0,
                })
                .collect();
            let floats: Vec<f32> = (0..n_envs * BATCHES)
                .map(|_| draw(5.0) as f32 - 2.0)
                .collect();
            let (mut rewards, mut dones) = (vec![0.0; n_envs], vec![false; n_envs]);
            let mut batch = 0;
            group.throughput(Throughput::Elements(n_envs as u64));
            group.bench_function(BenchmarkId::from_parameter(n_envs), |b| {
                b.iter(|| {
                    batch = (batch + 1) % BATCHES;
                    let range = batch * n_envs..(batch + 1) * n_envs;
                    let actions = match spec.action {
                        ActionSpace::Discrete(_) => Actions::Discrete(&ints[range]),
                        ActionSpace::Box(_) => Actions::Single(&floats[range]),
                    };
                    let (obs, rewards, dones) = (&mut obs, &mut rewards, &mut dones);
                    envs.step(
                        actions,
                        StepOut {
                            obs,
                            rewards,
                            dones,
                        },
                    )
                    .expect("valid actions");
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
