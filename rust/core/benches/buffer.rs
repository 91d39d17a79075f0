//! Moving rows: the flattening of a rollout, and the gather of replay batches.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlx_baselines3_core::buffer::ring::Ring;
use mlx_baselines3_core::buffer::rows::{flatten_env_major, gather};

/// Rows spread over the block by a full-period generator, the same in every run.
fn scattered(count: usize, rows: usize) -> Vec<usize> {
    let mut state = 12_345_usize;
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % rows
    })
    .take(count)
    .collect()
}

fn flatten(c: &mut Criterion) {
    let mut group = c.benchmark_group("flatten_env_major/2048x8");
    for width in [4, 16, 64] {
        let from = vec![1_u8; 2048 * 8 * width];
        let mut to = vec![0; from.len()];
        group.throughput(Throughput::Bytes(from.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{width}B")), |b| {
            b.iter(|| flatten_env_major(black_box(&from), &mut to, 2048, 8, width).unwrap());
        });
    }
    group.finish();
}

fn replay(c: &mut Criterion) {
    let rows = 100_000;
    let mut group = c.benchmark_group("gather/256_rows");
    for width in [4, 16, 68, 28_224] {
        let rows = if width > 1000 { 2_000 } else { rows };
        let from = vec![1_u8; rows * width];
        let picks = scattered(256, rows);
        let mut to = vec![0; 256 * width];
        group.throughput(Throughput::Bytes(to.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{width}B")), |b| {
            b.iter(|| gather(black_box(&from), &mut to, width, &picks).unwrap());
        });
    }
    group.finish();
}

fn n_step(c: &mut Criterion) {
    let ring = Ring::new(100_000, 777, true).unwrap();
    let picks = scattered(256, 100_000);
    c.bench_function("n_step_spans/256x3", |b| {
        b.iter(|| {
            let span = |&row: &usize| ring.span(row, 3, |row| row % 200 == 0).unwrap();
            black_box(&picks).iter().map(span).sum::<usize>()
        });
    });
}

criterion_group!(benches, flatten, replay, n_step);
criterion_main!(benches);
