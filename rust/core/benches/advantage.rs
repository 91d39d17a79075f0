//! GAE over rollouts of the sizes that A2C and PPO use.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlx_baselines3_core::advantage::{Trajectory, gae};
use mlx_baselines3_core::interrupt::Watch;

fn advantage(c: &mut Criterion) {
    let mut group = c.benchmark_group("gae");
    for (steps, envs) in [(5, 16), (2048, 1), (2048, 8), (128, 64)] {
        let rows = steps * envs;
        let rewards: Vec<f32> = (0..rows).map(|row| (row % 7) as f32 - 3.0).collect();
        let values: Vec<f32> = (0..rows).map(|row| (row % 11) as f32 / 4.0).collect();
        let starts: Vec<f32> = (0..rows).map(|row| f32::from(row % 190 < envs)).collect();
        let ends = vec![0.5; envs];
        let seen = Trajectory {
            rewards: &rewards,
            values: &values,
            episode_starts: &starts,
            last_values: &ends,
            dones: &ends,
        };
        let (mut advantages, mut returns) = (vec![0.0; rows], vec![0.0; rows]);
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(
            BenchmarkId::from_parameter(format!("{steps}x{envs}")),
            |b| {
                b.iter(|| {
                    gae(
                        black_box(&seen),
                        0.99,
                        0.95,
                        &mut advantages,
                        &mut returns,
                        &mut Watch::never(),
                    )
                    .unwrap()
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, advantage);
criterion_main!(benches);
