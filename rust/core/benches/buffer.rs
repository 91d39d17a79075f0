//! Moving rows: the flattening of a rollout, and what a replay buffer stores and gathers.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlx_baselines3_core::buffer::ring::Ring;
use mlx_baselines3_core::buffer::rows::{flatten_env_major, gather, gather_ended};
use mlx_baselines3_core::buffer::terminal::TerminalObs;

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

/// A step of eight Pendulums: observation, next observation, action, reward, done and timeout.
const COLUMNS: [usize; 6] = [12, 12, 4, 4, 4, 4];

fn add(c: &mut Criterion) {
    let (rows, n_envs) = (125_000, 8);
    let mut group = c.benchmark_group("replay_add/8_envs");
    let mut columns = COLUMNS.map(|width| vec![0_u8; rows * n_envs * width]);
    let step = COLUMNS.map(|width| vec![1_u8; n_envs * width]);
    let mut ring = Ring::new(rows, 0, true).unwrap();
    group.bench_function("twice", |b| {
        b.iter(|| {
            for (column, row) in columns.iter_mut().zip(black_box(&step)) {
                column[ring.pos() * row.len()..][..row.len()].copy_from_slice(row);
            }
            ring.advance();
        });
    });
    let mut terminal = TerminalObs::default();
    let (mut time, mut seen) = (0_u32, [0_u8; 96]);
    group.bench_function("once", |b| {
        b.iter(|| {
            // Every 200 steps another observation is seen than the one that followed.
            time += 1;
            seen.fill((time / 200) as u8);
            let (row, after) = (ring.pos(), ring.after(ring.pos(), 1));
            terminal
                .before_write(&ring, &columns[0], &seen, n_envs)
                .unwrap();
            columns[0][row * 96..][..96].copy_from_slice(&seen);
            columns[0][after * 96..][..96].copy_from_slice(&seen);
            for (column, row) in columns.iter_mut().zip(black_box(&step)).skip(2) {
                column[ring.pos() * row.len()..][..row.len()].copy_from_slice(row);
            }
            ring.advance();
        });
    });
    group.finish();
}

fn sample(c: &mut Criterion) {
    let mut group = c.benchmark_group("replay_sample/256_of_1M");
    let columns = COLUMNS.map(|width| vec![1_u8; 1_000_000 * width]);
    let mut batch = COLUMNS.map(|width| vec![0_u8; 256 * width]);
    let picks = scattered(256, 999_000);
    let after: Vec<usize> = picks.iter().map(|pick| pick + 8).collect();
    group.bench_function("twice", |b| {
        b.iter(|| {
            for ((column, to), width) in columns.iter().zip(&mut batch).zip(COLUMNS) {
                gather(black_box(column), to, width, &picks).unwrap();
            }
        });
    });
    let ends: Vec<usize> = (0..1_000_000).step_by(200).collect();
    let mut dones = vec![0_u8; 4_000_000];
    for end in &ends {
        dones[4 * end..4 * end + 4].copy_from_slice(&1_f32.to_ne_bytes());
    }
    group.bench_function("twice, timeouts of ends", |b| {
        b.iter(|| {
            for ((column, to), width) in columns.iter().zip(&mut batch).zip(COLUMNS).take(4) {
                gather(black_box(column), to, width, &picks).unwrap();
            }
            gather_ended(black_box(&dones), &columns[5], &mut batch[4], &picks).unwrap();
        });
    });
    let terminal = TerminalObs::import(&ends, &vec![2; ends.len() * 12]).unwrap();
    group.bench_function("once", |b| {
        b.iter(|| {
            for (i, ((column, to), width)) in
                columns.iter().zip(&mut batch).zip(COLUMNS).enumerate()
            {
                let rows = if i == 1 { &after } else { &picks };
                gather(black_box(column), to, width, rows).unwrap();
            }
            terminal.patch(&picks, &mut batch[1]).unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, flatten, replay, n_step, add, sample);
criterion_main!(benches);
