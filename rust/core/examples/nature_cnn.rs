//! Times the network of Mnih et al. (2015) on images of 84 x 84 x 4 bytes, and its share of the rate of products.

use std::hint::black_box;
use std::time::Instant;

use mlx_baselines3_core::nn::{
    Activation, Branch, Conv2d, ConvLayer, Extractor, ExtractorTape, LinearLayer,
    ObservationColumn, Rows,
};
use mlx_baselines3_core::threads;

/// The extractor, and how many parameters it has.
fn nature_cnn(features: usize) -> (Extractor, usize) {
    let (mut place, mut image, mut convolutions) = (0, [4, 84, 84], Vec::new());
    let mut take = |count: usize| {
        place += count;
        place - count
    };
    for (channels, kernel, stride) in [(32, 8, 4), (64, 4, 2), (64, 3, 1)] {
        let conv = Conv2d::new(image, channels, [kernel; 2], [stride; 2], [0; 2]).expect("it fits");
        image = conv.output();
        convolutions.push(ConvLayer {
            conv,
            weights: take(conv.weights()),
            bias: Some(take(channels)),
            activation: Activation::Relu,
        });
    }
    let flat = image.iter().product();
    let linear = LinearLayer {
        inputs: flat,
        outputs: features,
        weights: take(flat * features),
        bias: Some(take(features)),
        activation: Activation::Relu,
    };
    let branch = Branch {
        column: 0,
        inputs: 4 * 84 * 84,
        scale: 1.0 / 255.0,
        convolutions,
        linears: vec![linear],
    };
    (Extractor::new(&[branch]).expect("it fits"), place)
}

/// Milliseconds of the fastest of many runs.
fn fastest(mut work: impl FnMut()) -> f64 {
    let (mut best, start) = (f64::INFINITY, Instant::now());
    while start.elapsed().as_secs_f64() < 2.0 {
        let began = Instant::now();
        work();
        best = best.min(began.elapsed().as_secs_f64() * 1e3);
    }
    best
}

fn main() {
    let (extractor, size) = nature_cnn(512);
    let parameters: Vec<f32> = (0..size)
        .map(|i| 0.05 * ((i as f32 * 0.7).sin() * 43.7).fract())
        .collect();
    let images: Vec<u8> = (0..64 * 28_224).map(|i| (i * 7 % 251) as u8).collect();
    let columns = [ObservationColumn::Bytes(&images)];
    for threads in [1, 2] {
        threads::set(Some(threads));
        for rows in [1, 32, 64] {
            let rows = Rows::From(0, rows);
            let (mut tape, mut gradient) = (ExtractorTape::default(), vec![0.0; size]);
            let forward = fastest(|| {
                black_box(extractor.forward(&parameters, &columns, rows, &mut tape));
            });
            let by_features = vec![0.1; rows.len() * 512];
            let backward = fastest(|| {
                extractor.backward(
                    &parameters,
                    &columns,
                    rows,
                    &mut tape,
                    &by_features,
                    &mut gradient,
                );
            });
            let gflop = |millions: f64| millions * 2e-3 * rows.len() as f64;
            println!(
                "{threads} threads, {:2} rows: forward {forward:6.2} ms ({:5.1} GFLOP/s), backward {backward:6.2} ms ({:5.1} GFLOP/s)",
                rows.len(),
                gflop(9.35) / forward * 1e3,
                gflop(15.4) / backward * 1e3,
            );
        }
    }
}
