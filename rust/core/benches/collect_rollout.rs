//! Environment steps per second of the fused rollout: PPO's 64-64 tanh policy, 2048 steps.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlx_baselines3_core::actor::{Actor, Head};
use mlx_baselines3_core::collect::{
    ActionBounds, ActionColumn, CurrentObs, RolloutColumns, collect_rollout,
};
use mlx_baselines3_core::env::numerics::Numerics;
use mlx_baselines3_core::env::{ActionSpace, registry};
use mlx_baselines3_core::interrupt::Watch;
use mlx_baselines3_core::nn::Activation;

mod support;
use support::{first_observations, network};

const STEPS: usize = 2048;

fn policy(obs_dim: usize, action: ActionSpace) -> Actor {
    let (outputs, head) = match action {
        ActionSpace::Discrete(n) => (n as usize, Head::Categorical),
        ActionSpace::Box(n) => (n, Head::Gaussian(vec![1.0; n])),
    };
    let net = network(&[obs_dim, 64, 64, outputs], Activation::Tanh);
    Actor::new(net, head).expect("the head fits")
}

fn bench(c: &mut Criterion) {
    for spec in registry::specs() {
        let mut group = c.benchmark_group(format!("rollout {}", spec.id));
        for n_envs in [8_usize, 256] {
            let mut envs = registry::make(spec.id, n_envs, Numerics::default()).expect("known");
            let (dim, rows) = (spec.obs_dim, STEPS * n_envs);
            let (mut obs, mut starts) = (first_observations(&mut *envs), vec![true; n_envs]);
            let mut actor = policy(dim, spec.action);
            let (mut observations, mut rewards) = (vec![0.0; rows * dim], vec![0.0; rows]);
            let (mut ints, mut floats, mut firsts) =
                (vec![0; rows], vec![0.0; rows], vec![0.0; rows]);
            group.sample_size(20);
            group.throughput(Throughput::Elements(rows as u64));
            group.bench_function(BenchmarkId::from_parameter(n_envs), |b| {
                b.iter(|| {
                    let current = CurrentObs {
                        obs: &mut obs,
                        starts: &mut starts,
                    };
                    let columns = RolloutColumns {
                        observations: &mut observations,
                        actions: match spec.action {
                            ActionSpace::Discrete(_) => ActionColumn::Ints(&mut ints),
                            ActionSpace::Box(_) => ActionColumn::Floats(&mut floats),
                        },
                        rewards: &mut rewards,
                        episode_starts: &mut firsts,
                        masks: None,
                    };
                    collect_rollout(
                        &mut *envs,
                        &mut actor,
                        ActionBounds {
                            low: &[-1.0],
                            high: &[1.0],
                        },
                        current,
                        columns,
                        &mut Watch::never(),
                    )
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
