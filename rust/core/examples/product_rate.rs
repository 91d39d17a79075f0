//! The rate of the products that gradient steps are made of, on one core: what any of them is a share of.

use std::hint::black_box;
use std::time::Instant;

use mlx_baselines3_core::nn::{Matrix, multiply};

fn numbers(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i as f32 * 0.7).sin() * 43.7).fract())
        .collect()
}

/// Nanoseconds of the fastest of many runs.
fn fastest(mut work: impl FnMut()) -> f64 {
    let (mut best, start) = (f64::INFINITY, Instant::now());
    while start.elapsed().as_secs_f64() < 0.2 {
        let began = Instant::now();
        work();
        best = best.min(began.elapsed().as_nanos() as f64);
    }
    best
}

/// `rows x inner` times `inner x columns`; what is said to be transposed lies the other way in memory.
fn print(rows: usize, inner: usize, columns: usize, transposed: [bool; 2]) {
    let (a, b) = (numbers(rows * inner), numbers(inner * columns));
    let a = match transposed[0] {
        false => Matrix::new(&a, rows, inner, inner),
        true => Matrix::new(&a, inner, rows, rows).transposed(),
    };
    let b = match transposed[1] {
        false => Matrix::new(&b, inner, columns, columns),
        true => Matrix::new(&b, columns, inner, inner).transposed(),
    };
    let mut out = vec![0.0; rows * columns];
    let ns = fastest(|| multiply(black_box(a), black_box(b), &mut out, columns, false));
    let mark = |transposed| if transposed { "'" } else { " " };
    println!(
        "{rows:5} x {inner:5}{}  {inner:5} x {columns:5}{}  {:8.1} us  {:6.1} GFLOP/s",
        mark(transposed[0]),
        mark(transposed[1]),
        ns / 1e3,
        (2 * rows * inner * columns) as f64 / ns
    );
}

fn main() {
    let plain = [false, false];
    for size in [64, 128, 256, 512, 1024, 2048] {
        print(size, size, size, plain);
    }
    println!("convolutions of NatureCNN: forward, weights, input; one image and four");
    for images in [1, 2, 4] {
        for (positions, patch, channels) in [(400, 256, 32), (81, 512, 64), (49, 576, 64)] {
            let positions = images * positions;
            print(positions, patch, channels, plain);
            print(positions, patch, channels, [false, true]);
            print(channels, positions, patch, [true, false]);
            print(patch, positions, channels, [true, false]);
            print(positions, channels, patch, plain);
            print(positions, channels, patch, [false, true]);
        }
    }
    println!("its linear layer");
    for rows in [32, 64] {
        print(rows, 3136, 512, [false, true]);
        print(512, 3136, rows, [false, true]);
        print(512, rows, 3136, [true, false]);
        print(3136, rows, 512, [true, false]);
        print(rows, 512, 3136, plain);
    }
}
