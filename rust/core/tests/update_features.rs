//! Gradient steps of networks that see features.

use mlx_baselines3_core::interrupt::Watch;
use mlx_baselines3_core::nn::{
    Activation, Branch, Conv2d, ConvLayer, Extractor, LayerPart, LinearLayer, ObservationColumn,
    TrainableLayer, TrainableMlp,
};
use mlx_baselines3_core::threads;
use mlx_baselines3_core::update::{
    Distribution, OnPolicyMetrics, OnPolicySettings, OnPolicyUpdate, QSettings, QUpdate, Rollout,
    Rule, Trained, Transitions, UpdateError,
};

const ROWS: usize = 200;
const OBS: usize = 5;
const HIDDEN: usize = 7;
// The first layer, the layers of actor and critic behind it, and two logarithms of deviations.
const FIRST: usize = OBS * HIDDEN + HIDDEN;
const SIZE: usize = 2 * FIRST + 3 * HIDDEN + 3 + 2;

fn numbers(count: usize, step: f32) -> Vec<f32> {
    (0..count)
        .map(|i| ((i as f32 * step).sin() * 43.7).fract())
        .collect()
}

fn layer(inputs: usize, outputs: usize, weights: usize, activation: Activation) -> TrainableLayer {
    let part = LayerPart {
        outputs,
        weights,
        bias: Some(weights + inputs * outputs),
    };
    TrainableLayer::new(inputs, vec![part], activation)
}

/// A network of a first layer and one behind it, or the extractor that is its first layer and the rest.
fn whole(first: usize, outputs: usize, last: usize) -> TrainableMlp {
    let layers = vec![
        layer(OBS, HIDDEN, first, Activation::Tanh),
        layer(HIDDEN, outputs, last, Activation::Identity),
    ];
    TrainableMlp::new(layers).unwrap()
}

fn head(outputs: usize, last: usize) -> TrainableMlp {
    TrainableMlp::new(vec![layer(HIDDEN, outputs, last, Activation::Identity)]).unwrap()
}

fn extractor(first: usize) -> Extractor {
    let linear = LinearLayer {
        inputs: OBS,
        outputs: HIDDEN,
        weights: first,
        bias: Some(first + OBS * HIDDEN),
        activation: Activation::Tanh,
    };
    let branch = Branch {
        column: 0,
        inputs: OBS,
        scale: 1.0,
        convolutions: Vec::new(),
        linears: vec![linear],
    };
    Extractor::new(&[branch]).unwrap()
}

/// Parameters and the state of Adam.
#[derive(Clone, PartialEq, Debug)]
struct Vectors {
    parameters: Vec<f32>,
    moments: [Vec<f32>; 2],
    steps: u64,
}

impl Vectors {
    fn new(size: usize) -> Self {
        Self {
            parameters: numbers(size, 0.9).iter().map(|x| x * 0.5).collect(),
            moments: [vec![0.0; size], vec![0.0; size]],
            steps: 0,
        }
    }

    fn trained(&mut self) -> Trained<'_> {
        let [exp_avg, exp_avg_sq] = &mut self.moments;
        Trained {
            parameters: &mut self.parameters,
            exp_avg,
            exp_avg_sq,
            previous: None,
            before: None,
            steps: &mut self.steps,
            rule: Rule::Adam {
                betas: [0.9, 0.999],
                eps: 1e-5,
                bias_correction: true,
            },
            learning_rate: 1e-3,
        }
    }

    fn assert_near(&self, other: &Self) {
        for (index, (a, b)) in self.parameters.iter().zip(&other.parameters).enumerate() {
            assert!((a - b).abs() < 1e-6, "{index}: {a} and {b}");
        }
        assert_ne!(self.parameters, Self::new(self.parameters.len()).parameters);
    }
}

fn settings(target_kl: Option<f32>) -> OnPolicySettings {
    OnPolicySettings {
        clip_range: Some(0.2),
        clip_range_vf: None,
        ent_coef: 0.01,
        vf_coef: 0.5,
        max_grad_norm: 0.5,
        target_kl,
        normalize: true,
    }
}

/// An epoch of PPO over `columns`, with the last rows in a smaller minibatch.
fn epoch(
    update: &mut OnPolicyUpdate,
    columns: &[ObservationColumn<'_>],
    action_dim: usize,
    vectors: &mut Vectors,
) -> Result<Vec<OnPolicyMetrics>, UpdateError> {
    let column = numbers(ROWS, 1.7);
    let actions = numbers(ROWS * action_dim, 0.3);
    let order: Vec<u32> = (0..ROWS as u32).map(|row| row * 7 % ROWS as u32).collect();
    let rollout = Rollout {
        observations: columns,
        actions: &actions,
        values: &column,
        log_probs: &column,
        advantages: &column,
        returns: &column,
        masks: None,
    };
    let (trained, never) = (&mut vectors.trained(), &mut Watch::never());
    let (metrics, _) = update.epoch(&rollout, &order, 150, &settings(None), trained, never)?;
    Ok(metrics)
}

#[test]
fn an_extractor_that_is_a_layer_learns_as_that_layer_does() {
    let observations = numbers(ROWS * OBS, 0.77);
    let columns = [ObservationColumn::Floats(&observations)];
    // The logarithms of the deviations lie before all else, the critic's layer in the middle.
    for critic_first in [2, 2 + FIRST] {
        let (last_critic, last_actor) = (2 + 2 * FIRST, 3 + 2 * FIRST + HIDDEN);
        let gaussian = Distribution::Gaussian {
            size: 2,
            log_std: 0,
        };
        let (actor, critic) = (whole(2, 2, last_actor), whole(critic_first, 1, last_critic));
        let mut plain = OnPolicyUpdate::new(actor, critic, gaussian.clone(), SIZE).unwrap();
        let (actor, critic) = (head(2, last_actor), head(1, last_critic));
        let update = OnPolicyUpdate::new(actor, critic, gaussian, SIZE).unwrap();
        let extractors = if critic_first == 2 {
            vec![extractor(2)]
        } else {
            vec![extractor(2), extractor(critic_first)]
        };
        let mut update = update.with_extractors(extractors).unwrap();
        let (mut expected, mut got) = (Vectors::new(SIZE), Vectors::new(SIZE));
        for _ in 0..2 {
            let metrics = epoch(&mut plain, &columns, 2, &mut expected).unwrap();
            let seen = epoch(&mut update, &columns, 2, &mut got).unwrap();
            for (metrics, seen) in metrics.iter().zip(&seen) {
                assert!((metrics.loss - seen.loss).abs() < 1e-5 * metrics.loss.abs());
            }
        }
        got.assert_near(&expected);
    }
}

fn transitions<'a>(
    columns: [&'a [ObservationColumn<'a>]; 2],
    column: &'a [f32],
    zeros: &'a [f32],
) -> Transitions<'a> {
    Transitions {
        observations: columns[0],
        next_observations: columns[1],
        actions: zeros,
        rewards: column,
        dones: zeros,
        discounts: &[0.99],
    }
}

const Q_SETTINGS: QSettings = QSettings { max_grad_norm: 0.3 };

#[test]
fn a_q_network_with_an_extractor_learns_as_one_with_that_layer_does() {
    let size = FIRST + 4 * (HIDDEN + 1);
    let (observations, next) = (numbers(ROWS * OBS, 0.77), numbers(ROWS * OBS, 0.57));
    let columns = [
        [ObservationColumn::Floats(&observations)],
        [ObservationColumn::Floats(&next)],
    ];
    let (column, zeros) = (numbers(ROWS, 1.7), vec![0.0; ROWS]);
    let batch = transitions([&columns[0], &columns[1]], &column, &zeros);
    // The extractor lies behind its head.
    let first = 4 * (HIDDEN + 1);
    let mut plain = QUpdate::new(whole(first, 4, 0), size).unwrap();
    let update = QUpdate::new(head(4, 0), size).unwrap();
    let mut update = update.with_extractor(extractor(first)).unwrap();
    let target = numbers(size, 0.4);
    let (mut expected, mut got) = (Vectors::new(size), Vectors::new(size));
    for _ in 0..3 {
        let a = plain.step(&batch, &Q_SETTINGS, &target, &mut expected.trained());
        let b = update.step(&batch, &Q_SETTINGS, &target, &mut got.trained());
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!((a - b).abs() < 1e-6 * a.abs(), "{a} {b}");
    }
    got.assert_near(&expected);
}

/// An image of 12 x 10 x 2 bytes beside a vector of three numbers.
fn image_extractor() -> (Extractor, usize) {
    let conv = Conv2d::new([2, 12, 10], 6, [4, 4], [2, 2], [1, 1]).unwrap();
    let [channels, height, width] = conv.output();
    let flat = channels * height * width;
    let image = Branch {
        column: 0,
        inputs: 240,
        scale: 1.0 / 255.0,
        convolutions: vec![ConvLayer {
            conv,
            weights: 0,
            bias: Some(192),
            activation: Activation::Relu,
        }],
        linears: vec![LinearLayer {
            inputs: flat,
            outputs: HIDDEN,
            weights: 198,
            bias: None,
            activation: Activation::Relu,
        }],
    };
    let vector = Branch {
        column: 1,
        inputs: 3,
        scale: 1.0,
        convolutions: Vec::new(),
        linears: Vec::new(),
    };
    let extractor = Extractor::new(&[image, vector]).unwrap();
    (extractor, 198 + flat * HIDDEN)
}

#[test]
fn steps_on_images_are_the_same_with_any_number_of_threads() {
    let (extractor, start) = image_extractor();
    let net = |outputs, place| {
        let last = layer(HIDDEN + 3, outputs, place, Activation::Identity);
        TrainableMlp::new(vec![last]).unwrap()
    };
    let size = start + 3 * (HIDDEN + 4);
    let bytes: Vec<u8> = (0..ROWS * 240).map(|i| (i * 31 % 256) as u8).collect();
    let vector = numbers(ROWS * 3, 0.2);
    let columns = [
        ObservationColumn::Bytes(&bytes),
        ObservationColumn::Floats(&vector),
    ];
    let run = |count: usize| {
        threads::set(Some(count));
        let (actor, critic) = (net(2, start), net(1, start + 2 * (HIDDEN + 4)));
        let bernoulli = Distribution::Bernoulli(2);
        let update = OnPolicyUpdate::new(actor, critic, bernoulli, size).unwrap();
        let mut update = update.with_extractors(vec![extractor.clone()]).unwrap();
        let mut vectors = Vectors::new(size);
        epoch(&mut update, &columns, 2, &mut vectors).unwrap();
        let update = QUpdate::new(net(2, start), size).unwrap();
        let mut update = update.with_extractor(extractor.clone()).unwrap();
        let (column, zeros) = (numbers(ROWS, 1.7), vec![0.0; ROWS]);
        let batch = transitions([&columns, &columns], &column, &zeros);
        let target = vectors.parameters.clone();
        update
            .step(&batch, &Q_SETTINGS, &target, &mut vectors.trained())
            .unwrap();
        threads::set(None);
        vectors
    };
    let one = run(1);
    assert!(one.parameters.iter().all(|x| x.is_finite()));
    assert_ne!(one.parameters, Vectors::new(size).parameters);
    assert!(run(2) == one && run(7) == one);
}

#[test]
fn observations_that_do_not_fit_are_refused() {
    let size = FIRST + HIDDEN + 1;
    let update = QUpdate::new(head(1, FIRST), size).unwrap();
    let mut plain = update.clone();
    let mut update = update.with_extractor(extractor(0)).unwrap();
    let (observations, zeros) = (numbers(2 * OBS, 0.7), [0.0; 2]);
    let (whole, short) = (
        [ObservationColumn::Floats(&observations)],
        [ObservationColumn::Floats(&observations[1..])],
    );
    let mut vectors = Vectors::new(size);
    let target = vectors.parameters.clone();
    let mut step = |update: &mut QUpdate, columns| {
        let batch = transitions(columns, &zeros, &zeros);
        update.step(&batch, &Q_SETTINGS, &target, &mut vectors.trained())
    };
    assert!(step(&mut update, [&whole, &whole]).is_ok());
    let count = |result| matches!(result, Err(UpdateError::Count { .. }));
    assert!(count(step(&mut update, [&short, &whole])));
    assert!(count(step(&mut update, [&whole, &[]])));
    let bytes = [ObservationColumn::Bytes(&[0; 10])];
    assert_eq!(
        step(&mut plain, [&bytes, &whole]),
        Err(UpdateError::Columns)
    );
    let wrong = QUpdate::new(whole_of(OBS), size)
        .unwrap()
        .with_extractor(extractor(0));
    assert!(matches!(wrong, Err(UpdateError::Width { .. })));
    let short = QUpdate::new(head(1, 0), HIDDEN + 1)
        .unwrap()
        .with_extractor(extractor(0));
    assert!(count(short.map(|_| 0.0)));
}

fn whole_of(inputs: usize) -> TrainableMlp {
    TrainableMlp::new(vec![layer(inputs, 1, 0, Activation::Identity)]).unwrap()
}
