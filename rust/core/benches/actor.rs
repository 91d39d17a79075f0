//! Actions per second of the native actor: the usual policies at the usual batch sizes.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlx_baselines3_core::actor::{ActionsOut, Actor, Head};
use mlx_baselines3_core::nn::{Activation, Dense, Mlp};
use mlx_baselines3_core::rng::{Pcg64, SeedSequence};

/// A network of uniform weights, small enough that the activations do not saturate.
fn network(widths: &[usize], activation: Activation) -> Mlp {
    let mut rng = Pcg64::new(&SeedSequence::from_u64(0));
    let last = widths.len() - 2;
    let layers = widths.windows(2).enumerate().map(|(i, pair)| {
        let after = if i == last {
            Activation::Identity
        } else {
            activation
        };
        let mut layer = Dense::zeros(pair[0], pair[1], after).expect("widths above 0");
        let weights: Vec<f32> = (0..pair[0] * pair[1])
            .map(|_| rng.uniform(-0.1, 0.1) as f32)
            .collect();
        layer.load(&weights, None).expect("as many weights");
        layer
    });
    Mlp::new(layers.collect()).expect("the widths fit")
}

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
