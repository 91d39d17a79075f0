//! Times gradient steps and actions with the network of Mnih et al. (2015), on images of 84 x 84 x 4 bytes.
//!
//! `nature_cnn THREADS...` prints the fastest of many runs for each number of threads, and the share of the
//! rate of one core's products.

use std::hint::black_box;
use std::time::Instant;

use mlx_baselines3_core::interrupt::Watch;
use mlx_baselines3_core::nn::{
    Activation, Branch, Conv2d, ConvLayer, Extractor, ExtractorWorkspace, InferenceExtractor,
    LayerPart, LinearLayer, Matrix, ObservationColumn, Rows, TrainableLayer, TrainableMlp,
    multiply,
};
use mlx_baselines3_core::threads;
use mlx_baselines3_core::update::{
    Distribution, OnPolicySettings, OnPolicyUpdate, QSettings, QUpdate, Rollout, Rule, Trained,
    Transitions,
};

const FEATURES: usize = 512;
const ACTIONS: usize = 6;
const IMAGE: usize = 4 * 84 * 84;

/// Where the next parameters go.
struct Place(usize);

impl Place {
    fn take(&mut self, count: usize) -> usize {
        self.0 += count;
        self.0 - count
    }
}

fn nature_cnn(place: &mut Place) -> Branch {
    let (mut image, mut convolutions) = ([4, 84, 84], Vec::new());
    for (channels, kernel, stride) in [(32, 8, 4), (64, 4, 2), (64, 3, 1)] {
        let conv = Conv2d::new(image, channels, [kernel; 2], [stride; 2], [0; 2]).expect("it fits");
        image = conv.output();
        convolutions.push(ConvLayer {
            conv,
            weights: place.take(conv.weights()),
            bias: Some(place.take(channels)),
            activation: Activation::Relu,
        });
    }
    let flat = image.iter().product();
    let linear = LinearLayer {
        inputs: flat,
        outputs: FEATURES,
        weights: place.take(flat * FEATURES),
        bias: Some(place.take(FEATURES)),
        activation: Activation::Relu,
    };
    Branch {
        column: 0,
        inputs: IMAGE,
        scale: 1.0 / 255.0,
        convolutions,
        linears: vec![linear],
    }
}

fn head(outputs: usize, place: &mut Place) -> TrainableMlp {
    let part = LayerPart {
        outputs,
        weights: place.take(FEATURES * outputs),
        bias: Some(place.take(outputs)),
    };
    let layer = TrainableLayer::new(FEATURES, vec![part], Activation::Identity);
    TrainableMlp::new(vec![layer]).expect("it fits")
}

/// Milliseconds of the fastest of many runs.
fn fastest(mut work: impl FnMut()) -> f64 {
    let (mut best, start) = (f64::INFINITY, Instant::now());
    while start.elapsed().as_secs_f64() < 0.6 {
        let began = Instant::now();
        work();
        best = best.min(began.elapsed().as_secs_f64() * 1e3);
    }
    best
}

fn numbers(count: usize, scale: f32) -> Vec<f32> {
    (0..count)
        .map(|i| scale * ((i as f32 * 0.7).sin() * 43.7).fract())
        .collect()
}

/// A vector of parameters and the state of Adam.
struct Vectors {
    parameters: Vec<f32>,
    exp_avg: Vec<f32>,
    exp_avg_sq: Vec<f32>,
    steps: u64,
}

impl Vectors {
    fn new(size: usize) -> Self {
        Self {
            parameters: numbers(size, 0.05),
            exp_avg: vec![0.0; size],
            exp_avg_sq: vec![0.0; size],
            steps: 0,
        }
    }

    fn trained(&mut self) -> Trained<'_> {
        Trained {
            parameters: &mut self.parameters,
            exp_avg: &mut self.exp_avg,
            exp_avg_sq: &mut self.exp_avg_sq,
            previous: None,
            before: None,
            steps: &mut self.steps,
            rule: Rule::Adam {
                betas: [0.9, 0.999],
                eps: 1e-5,
                bias_correction: true,
            },
            learning_rate: 1e-6,
        }
    }
}

/// Milliseconds of a step of DQN.
fn dqn(columns: &[ObservationColumn<'_>], rows: usize) -> f64 {
    let mut place = Place(0);
    let extractor = Extractor::new(&[nature_cnn(&mut place)]).expect("it fits");
    let net = head(ACTIONS, &mut place);
    let update = QUpdate::new(net, place.0).expect("it fits");
    let mut update = update.with_extractor(extractor).expect("it fits");
    let (mut vectors, target) = (Vectors::new(place.0), numbers(place.0, 0.05));
    let (rewards, zeros) = (numbers(rows, 1.0), vec![0.0; rows]);
    let batch = Transitions {
        observations: columns,
        next_observations: columns,
        actions: &zeros,
        rewards: &rewards,
        dones: &zeros,
        discounts: &[0.99],
    };
    let settings = QSettings {
        max_grad_norm: 10.0,
    };
    fastest(|| {
        let loss = update.step(&batch, &settings, &target, &mut vectors.trained());
        black_box(loss).expect("it fits");
    })
}

/// Milliseconds of a step of PPO whose actor and critic share an extractor.
fn ppo(columns: &[ObservationColumn<'_>], rows: usize) -> f64 {
    let mut place = Place(0);
    let extractor = Extractor::new(&[nature_cnn(&mut place)]).expect("it fits");
    let (actor, critic) = (head(ACTIONS, &mut place), head(1, &mut place));
    let categorical = Distribution::Categorical(vec![ACTIONS]);
    let update = OnPolicyUpdate::new(actor, critic, categorical, place.0).expect("it fits");
    let mut update = update.with_extractors(vec![extractor]).expect("it fits");
    let mut vectors = Vectors::new(place.0);
    let (column, zeros) = (numbers(rows, 1.0), vec![0.0; rows]);
    let rollout = Rollout {
        observations: columns,
        actions: &zeros,
        values: &column,
        log_probs: &column,
        advantages: &column,
        returns: &column,
        masks: None,
    };
    let settings = OnPolicySettings {
        clip_range: Some(0.2),
        clip_range_vf: None,
        ent_coef: 0.01,
        vf_coef: 0.5,
        max_grad_norm: 0.5,
        target_kl: None,
        normalize: true,
    };
    let order: Vec<u32> = (0..rows as u32).rev().collect();
    fastest(|| {
        let (trained, never) = (&mut vectors.trained(), &mut Watch::never());
        let epoch = update.epoch(&rollout, &order, rows, &settings, trained, never);
        black_box(epoch).expect("it fits");
    })
}

fn act(columns: &[ObservationColumn<'_>], rows: usize) -> f64 {
    let mut place = Place(0);
    let mut extractor = InferenceExtractor::zeros(&[nature_cnn(&mut place)]).expect("it fits");
    let parameters = numbers(place.0, 0.05);
    extractor.load(&parameters).expect("as many parameters");
    let mut work = ExtractorWorkspace::default();
    fastest(|| {
        let rows = Rows::From(0, rows);
        black_box(extractor.forward(columns, rows, &mut work)).expect("enough memory");
    })
}

/// Billions of operations a second on one core.
fn rate() -> f64 {
    const SIZE: usize = 256;
    let (a, b) = (numbers(SIZE * SIZE, 1.0), numbers(SIZE * SIZE, 0.5));
    let (a, b) = (
        Matrix::new(&a, SIZE, SIZE, SIZE),
        Matrix::new(&b, SIZE, SIZE, SIZE),
    );
    let mut out = vec![0.0; SIZE * SIZE];
    let time = fastest(|| multiply(black_box(a), black_box(b), &mut out, SIZE, false));
    2e-6 * SIZE.pow(3) as f64 / time
}

fn main() {
    let counts: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    let bytes: Vec<u8> = (0..64 * IMAGE).map(|i| (i * 7 % 251) as u8).collect();
    let rate = rate();
    println!("products of 256 x 256 matrices: {rate:.0} GFLOP/s on one core");
    for count in if counts.is_empty() {
        vec![1, 2]
    } else {
        counts
    } {
        threads::set(Some(count));
        let print = |what: &str, rows: usize, gflop: f64, ms: f64| {
            let share = gflop / ms * 1e5 / (rate * count as f64);
            println!("{count} threads: {what} {rows:2}  {ms:7.3} ms, {share:3.0} % of the rate");
        };
        let columns = |rows: usize| [ObservationColumn::Bytes(&bytes[..rows * IMAGE])];
        for rows in [32, 64] {
            print(
                "DQN ",
                rows,
                0.0683 * rows as f64,
                dqn(&columns(rows), rows),
            );
            print(
                "PPO ",
                rows,
                0.0496 * rows as f64,
                ppo(&columns(rows), rows),
            );
        }
        for rows in [1, 8, 64] {
            print(
                "act ",
                rows,
                0.0187 * rows as f64,
                act(&columns(rows), rows),
            );
        }
    }
}
