//! Networks and heads against numbers worked out in double precision, and draws against their laws.

use mlx_baselines3_core::actor::{ActionsOut, Actor, ActorError, Head};
use mlx_baselines3_core::nn::{
    Activation, InferenceLayer, InferenceMlp, NnError, Workspace, exp, sigmoid, tanh,
};
use mlx_baselines3_core::rng::{Pcg64, SeedSequence};
use proptest::prelude::*;

fn rng(seed: u64) -> Pcg64 {
    Pcg64::new(&SeedSequence::from_u64(seed))
}

fn draws(rng: &mut Pcg64, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.uniform(-1.0, 1.0) as f32).collect()
}

/// One layer without hidden ones: its outputs are the biases for an observation of zeros.
fn constant(bias: &[f32], head: Head) -> Actor {
    let mut layer = InferenceLayer::zeros(1, bias.len(), Activation::Identity).unwrap();
    layer.load(&vec![0.0; bias.len()], Some(bias)).unwrap();
    Actor::new(InferenceMlp::new(vec![layer]).unwrap(), head).unwrap()
}

fn choices(actor: &mut Actor, rows: usize, deterministic: bool) -> Vec<i64> {
    let mut out = vec![0; rows * actor.action_dim()];
    let obs = vec![0.0; rows];
    actor
        .act(&obs, deterministic, ActionsOut::Ints(&mut out))
        .unwrap();
    out
}

fn numbers(actor: &mut Actor, rows: usize, deterministic: bool) -> Vec<f32> {
    let mut out = vec![0.0; rows * actor.action_dim()];
    let obs = vec![0.0; rows];
    actor
        .act(&obs, deterministic, ActionsOut::Floats(&mut out))
        .unwrap();
    out
}

fn reference(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Tanh => x.tanh(),
        Activation::Relu => x.max(0.0),
        Activation::Elu(alpha) => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * x.exp_m1()
            }
        }
        Activation::LeakyRelu(slope) => x.max(f64::from(slope) * x),
        Activation::HardTanh(limit) => x.clamp(-f64::from(limit), f64::from(limit)),
        Activation::Silu => x / (1.0 + (-x).exp()),
        // Simpson's rule for the Gaussian distribution function.
        Activation::Gelu => {
            let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
            let (n, h) = (2000, x / 2000.0);
            let sum: f64 = (0..=n)
                .map(|i| {
                    let weight = match i {
                        0 | 2000 => 1.0,
                        _ if i % 2 == 1 => 4.0,
                        _ => 2.0,
                    };
                    weight * density(f64::from(i) * h)
                })
                .sum();
            x * (0.5 + sum * h / 3.0)
        }
    }
}

const ALL: [Activation; 8] = [
    Activation::Identity,
    Activation::Tanh,
    Activation::Relu,
    Activation::Elu(0.7),
    Activation::LeakyRelu(0.01),
    Activation::Silu,
    Activation::Gelu,
    Activation::HardTanh(1.5),
];

#[test]
fn activations_are_within_a_millionth() {
    for activation in ALL {
        let mut layer = InferenceLayer::zeros(1, 1, activation).unwrap();
        layer.load(&[1.0], None).unwrap();
        let net = InferenceMlp::new(vec![layer]).unwrap();
        let input: Vec<f32> = (-1200..=1200).map(|i| i as f32 / 100.0).collect();
        let mut work = Workspace::default();
        let outputs = net.forward(&input, &mut work).unwrap();
        for (row, &x) in outputs.rows().zip(&input) {
            let expected = reference(activation, f64::from(x));
            let error = (f64::from(row[0]) - expected).abs();
            assert!(
                error <= 1e-6 * expected.abs().max(1.0),
                "{activation:?}({x}): {error}"
            );
        }
    }
}

#[test]
fn functions_at_their_ends() {
    assert_eq!((exp(0.0), exp(-200.0)), (1.0, 0.0));
    assert!(exp(200.0).is_finite() && exp(f32::NAN).is_nan());
    assert_eq!(sigmoid(0.0), 0.5);
    assert!((0.0..1e-37).contains(&sigmoid(-200.0)));
    assert!((tanh(50.0) - 1.0).abs() < 1e-6 && tanh(f32::NAN).is_nan());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn networks_agree_with_sums_in_double_precision(
        widths in prop::collection::vec(1_usize..70, 2..5), rows in 1_usize..12, seed in 0_u64..1000
    ) {
        let mut rng = rng(seed);
        let (mut layers, mut expected) = (Vec::new(), Vec::new());
        let input = draws(&mut rng, rows * widths[0]);
        expected.extend(input.iter().map(|&x| f64::from(x)));
        for pair in widths.windows(2) {
            let activation = ALL[(rng.random() * 7.0) as usize];
            let (weights, bias) = (draws(&mut rng, pair[0] * pair[1]), draws(&mut rng, pair[1]));
            let mut layer = InferenceLayer::zeros(pair[0], pair[1], activation).unwrap();
            layer.load(&weights, Some(&bias)).unwrap();
            layers.push(layer);
            expected = expected.chunks(pair[0]).flat_map(|x| {
                weights.chunks(pair[0]).zip(&bias).map(|(w, &b)| {
                    let sum: f64 = w.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
                    reference(activation, sum + f64::from(b))
                }).collect::<Vec<_>>()
            }).collect();
        }
        let net = InferenceMlp::new(layers).unwrap();
        let mut work = Workspace::default();
        let batch: Vec<f32> = net.forward(&input, &mut work).unwrap().rows().flatten().copied().collect();
        for (got, expected) in batch.iter().zip(&expected) {
            prop_assert!((f64::from(*got) - expected).abs() <= 1e-5 * expected.abs().max(10.0));
        }
        // The same bits for a row alone as in the batch.
        let alone: Vec<f32> = input.chunks(widths[0]).flat_map(|row| {
            let mut work = Workspace::default();
            net.forward(row, &mut work).unwrap().rows().flatten().copied().collect::<Vec<_>>()
        }).collect();
        prop_assert_eq!(alone, batch);
    }
}

#[test]
fn choices_follow_the_softmax() {
    // Probabilities 0.1, 0.2, 0.3, 0.4 and one that is impossible.
    let logits: Vec<f32> = [0.1_f32, 0.2, 0.3, 0.4, 0.0].map(f32::ln).to_vec();
    let mut actor = constant(&logits, Head::Categorical);
    let n = 100_000;
    let drawn = choices(&mut actor, n, false);
    for (choice, p) in [0.1, 0.2, 0.3, 0.4, 0.0].into_iter().enumerate() {
        let count = drawn.iter().filter(|&&c| c == choice as i64).count() as f64;
        // Five standard deviations.
        assert!((count / n as f64 - p).abs() <= 5.0 * (p * (1.0 - p) / n as f64).sqrt());
    }
    assert_eq!(choices(&mut actor, 2, true), [3, 3]);
}

#[test]
fn several_choices_are_independent() {
    let logits: Vec<f32> = [0.25_f32, 0.75, 0.5, 0.5, 0.0].map(f32::ln).to_vec();
    let mut actor = constant(&logits, Head::MultiCategorical(vec![2, 3]));
    let n = 40_000;
    let drawn = choices(&mut actor, n, false);
    let both = drawn.chunks(2).filter(|pair| pair == &[1, 1]).count() as f64;
    assert!((both / n as f64 - 0.375).abs() < 0.013);
    assert!(drawn.chunks(2).all(|pair| pair[1] < 2));
    assert_eq!(choices(&mut actor, 1, true), [1, 0]);
}

#[test]
fn coins_follow_their_odds() {
    let mut actor = constant(&[0.0, 3.0_f32.ln(), -0.1], Head::Bernoulli);
    let n = 40_000;
    let drawn = numbers(&mut actor, n, false);
    let heads = |k: usize| drawn.chunks(3).map(|row| f64::from(row[k])).sum::<f64>() / n as f64;
    assert!((heads(0) - 0.5).abs() < 0.013 && (heads(1) - 0.75).abs() < 0.011);
    assert_eq!(numbers(&mut actor, 1, true), [0.0, 1.0, 0.0]);
}

#[test]
fn gaussians_have_their_moments() {
    let mut actor = constant(&[1.0, -2.0, 0.0], Head::Gaussian(vec![0.5, 2.0, 1.0]));
    let n = 100_000;
    let drawn = numbers(&mut actor, n, false);
    for (k, (mean, std)) in [(1.0, 0.5), (-2.0, 2.0), (0.0, 1.0)]
        .into_iter()
        .enumerate()
    {
        let column = || drawn.chunks(3).map(|row| (f64::from(row[k]) - mean) / std);
        let moment = |power| column().map(|z| z.powi(power)).sum::<f64>() / n as f64;
        assert!(moment(1).abs() < 0.016 && (moment(2) - 1.0).abs() < 0.023);
        assert!(moment(3).abs() < 0.062 && (moment(4) - 3.0).abs() < 0.16);
    }
    assert_eq!(numbers(&mut actor, 1, true), [1.0, -2.0, 0.0]);
}

#[test]
fn squashed_gaussians_stay_inside() {
    // Mean 0.5; the logarithm of the standard deviation is cut to 2.
    let mut actor = constant(&[0.5, 9.0], Head::SquashedGaussian);
    let drawn = numbers(&mut actor, 20_000, false);
    assert!(drawn.iter().all(|a| a.abs() <= 1.0));
    // P(tanh(0.5 + e^2 z) > 0) = Phi(0.5 / e^2) = 0.52698
    let above = drawn.iter().filter(|&&a| a > 0.0).count() as f64 / 20_000.0;
    assert!((above - 0.52698).abs() < 0.018);
    assert!((numbers(&mut actor, 1, true)[0] - 0.5_f32.tanh()).abs() < 1e-6);
}

#[test]
fn greedy_explores_with_its_probability() {
    let mut actor = constant(&[1.0, 3.0, 2.0, 0.0], Head::EpsilonGreedy(0.4));
    let n = 40_000;
    let best = (0..n)
        .filter(|_| choices(&mut actor, 1, false) == [1])
        .count() as f64;
    // 0.6 + 0.4 / 4
    assert!((best / f64::from(n) - 0.7).abs() < 0.012);
    assert_eq!(choices(&mut actor, 2, true), [1, 1]);
    actor.set_head(Head::EpsilonGreedy(0.0)).unwrap();
    assert_eq!(choices(&mut actor, 2, false), [1, 1]);
}

#[test]
fn the_largest_mean_of_the_quantiles_is_taken() {
    // Three quantiles of two actions: means of 7/3 and 2.
    let quantiles = [1.0, 5.0, 2.0, 0.0, 4.0, 1.0];
    let mut actor = constant(&quantiles, Head::GreedyQuantiles(2));
    assert_eq!((actor.options(), actor.action_dim()), (2, 1));
    assert_eq!(choices(&mut actor, 2, false), [0, 0]);
    let other = actor.set_head(Head::GreedyQuantiles(4)).unwrap_err();
    assert_eq!(
        other.to_string(),
        "the greedy quantiles head needs 8 network outputs, got 6"
    );
    // Two quantiles of three: 1 and 0, 5 and 4, 2 and 1.
    actor.set_head(Head::GreedyQuantiles(3)).unwrap();
    assert_eq!(choices(&mut actor, 1, true), [1]);
}

#[test]
fn a_generator_goes_on_from_its_state() {
    let mut actor = constant(&[0.0; 5], Head::Categorical);
    *actor.rng_mut() = rng(7);
    choices(&mut actor, 3, false);
    let state = actor.rng_mut().state();
    let expected = choices(&mut actor, 50, false);
    *actor.rng_mut() = Pcg64::from_state(state);
    assert_eq!(choices(&mut actor, 50, false), expected);
}

#[test]
fn what_is_wrong_is_said() {
    assert_eq!(InferenceMlp::new(vec![]).unwrap_err(), NnError::NoLayers);
    assert!(InferenceLayer::zeros(0, 3, Activation::Relu).is_err());
    let layer = |i, o| InferenceLayer::zeros(i, o, Activation::Relu).unwrap();
    let error = InferenceMlp::new(vec![layer(2, 3), layer(4, 1)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "layer 1 takes 4 inputs, the layer before it gives 3"
    );
    let error = layer(2, 3).load(&[0.0; 5], None).unwrap_err();
    assert_eq!(error.to_string(), "got 5 weights, expected 6");
    let error = Actor::new(
        InferenceMlp::new(vec![layer(2, 3)]).unwrap(),
        Head::MultiCategorical(vec![2, 2]),
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "the multi-categorical head needs 4 network outputs, got 3"
    );
    let mut actor = constant(&[0.0, f32::NAN], Head::Categorical);
    for deterministic in [false, true] {
        let error = actor.act(&[0.0], deterministic, ActionsOut::Ints(&mut [0]));
        assert_eq!(error, Err(ActorError::NotFinite { row: 0 }));
    }
    let error = actor.act(&[0.0], false, ActionsOut::Floats(&mut [0.0]));
    assert_eq!(
        error.unwrap_err().to_string(),
        "got space for 1 float actions, expected 1 integer ones"
    );
}
