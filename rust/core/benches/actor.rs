//! Actions per second of the native actor: the usual policies at the usual batch sizes.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlx_baselines3_core::actor::{ActionsOut, Actor, Head};
use mlx_baselines3_core::nn::Activation;

mod support;
use support::network;

fn bench(c: &mut Criterion) {
    let policies = [
        ("ppo 4-64-64-2 tanh", vec![4, 64, 64, 2], Activation::Tanh),
        ("dqn 4-64-64-2 relu", vec![4, 64, 64, 2], Activation::Relu),
        ("17-256-256-6 relu", vec![17, 256, 256, 6], Activation::Relu),
    ];
    for (name, widths, activation) in policies {
        let mut group = c.benchmark_group(name);
        for rows in [1_usize, 8, 1024] {
            let mut actor =
                Actor::new(network(&widths, activation), Head::Categorical).expect("fits");
            let obs = vec![0.1; rows * widths[0]];
            let mut actions = vec![0; rows];
            group.throughput(Throughput::Elements(rows as u64));
            group.bench_function(BenchmarkId::from_parameter(rows), |b| {
                b.iter(|| actor.act(&obs, false, ActionsOut::Ints(&mut actions)));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
