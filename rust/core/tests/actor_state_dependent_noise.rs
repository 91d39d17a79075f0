//! State-dependent exploration of the native actor.

use mlx_baselines3_core::actor::{ActionsOut, Actor, ActorError, Head};
use mlx_baselines3_core::nn::{Activation, InferenceLayer, InferenceMlp};

const FEATURES: usize = 3;
const STD: [f32; 6] = [0.5, 1.0, 0.25, 2.0, 0.0, 0.0];

/// Features are the observations, doubled; means are their first and second number.
fn actor(squash: bool) -> Actor {
    let mut double = InferenceLayer::zeros(3, FEATURES, Activation::Identity).unwrap();
    double
        .load(&[2.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 2.0], None)
        .unwrap();
    let mut half = InferenceLayer::zeros(FEATURES, 2, Activation::Identity).unwrap();
    half.load(&[0.5, 0.0, 0.0, 0.0, 0.5, 0.0], None).unwrap();
    let head = Head::StateDependent {
        std: STD.to_vec(),
        squash,
    };
    Actor::new(InferenceMlp::new(vec![double, half]).unwrap(), head).unwrap()
}

fn act(actor: &mut Actor, obs: &[f32], deterministic: bool) -> Vec<f32> {
    let mut out = vec![0.0; obs.len() / 3 * 2];
    actor
        .act(obs, deterministic, ActionsOut::Floats(&mut out))
        .unwrap();
    out
}

#[test]
fn noise_is_linear_in_the_features_and_the_same_until_drawn_again() {
    let mut actor = actor(false);
    actor.reset_noise(2, 0).unwrap();
    let zero = act(&mut actor, &[0.0; 6], false);
    assert_eq!(zero, [0.0; 4]);
    let one = act(&mut actor, &[1.0, 0.0, 0.0, 1.0, 0.0, 0.0], false);
    let two = act(&mut actor, &[2.0, 0.0, 0.0, 2.0, 0.0, 0.0], false);
    for (one, two) in one.iter().zip(&two) {
        assert!((2.0 * one - two).abs() < 1e-6);
    }
    // Each environment has its own matrix, and the third feature has no noise.
    assert!(one[0] != one[2] && one[1] != one[3]);
    let third = act(&mut actor, &[0.0, 0.0, 5.0, 0.0, 0.0, 5.0], false);
    assert_eq!(third, [0.0; 4]);
    let means = act(&mut actor, &[1.0, 0.5, 0.0, -1.0, 0.25, 0.0], true);
    assert_eq!(means, [1.0, 0.5, -1.0, 0.25]);
}

#[test]
fn matrices_are_drawn_again_after_as_many_batches_as_asked() {
    let obs = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
    let mut actor = actor(false);
    actor.reset_noise(2, 3).unwrap();
    let seen: Vec<_> = (0..7).map(|_| act(&mut actor, &obs, false)).collect();
    assert!(seen[0] == seen[1] && seen[1] == seen[2]);
    assert!(seen[3] != seen[2] && seen[3] == seen[5]);
    assert!(seen[6] != seen[5]);
    actor.reset_noise(2, 3).unwrap();
    let again = act(&mut actor, &obs, false);
    assert!(again != seen[6] && again == act(&mut actor, &obs, false));
}

#[test]
fn entries_have_the_standard_deviations_of_the_head() {
    let mut actor = actor(false);
    let n_envs = 4000;
    actor.reset_noise(n_envs, 0).unwrap();
    let obs: Vec<f32> = [0.0, 0.5, 0.0].repeat(n_envs);
    // The means are 0 and 0.5, the second feature is 1.
    let drawn = act(&mut actor, &obs, false);
    for (dim, mean, std) in [(0, 0.0, 0.25), (1, 0.5, 2.0)] {
        let noise: Vec<f64> = drawn[dim..]
            .iter()
            .step_by(2)
            .map(|x| f64::from(*x) - mean)
            .collect();
        let average = noise.iter().sum::<f64>() / n_envs as f64;
        let variance = noise.iter().map(|x| x * x).sum::<f64>() / n_envs as f64;
        assert!(average.abs() < 4.0 * std / (n_envs as f64).sqrt());
        assert!((variance.sqrt() / std - 1.0).abs() < 0.05);
    }
}

#[test]
fn squashed_actions_stay_inside_their_bounds() {
    let mut actor = actor(true);
    actor.reset_noise(1, 0).unwrap();
    let actions = act(&mut actor, &[30.0, 0.2, 0.0], true);
    let near = |x: f32, y: f32| (x - y).abs() < 1e-6;
    assert!(near(actions[0], 1.0) && near(actions[1], 0.2_f32.tanh()));
    let actions = act(&mut actor, &[3.0, 3.0, 0.0], false);
    assert!(actions.iter().all(|x| x.abs() <= 1.0));
}

#[test]
fn one_environment_uses_the_common_matrix_and_counts_its_steps() {
    let mut actor = actor(false);
    actor.reset_noise(1, 2).unwrap();
    let obs = [1.0, 1.0, 0.0];
    let seen: Vec<_> = (0..3).map(|_| act(&mut actor, &obs, false)).collect();
    assert!(seen[0] == seen[1] && seen[1] != seen[2]);
}

#[test]
fn standard_deviations_of_another_size_are_refused() {
    let mut actor = actor(false);
    // Rows that are not whole, one more number or one less than the two outputs take.
    for (size, outputs) in [(7, 3), (5, 1), (9, 3)] {
        let std = vec![1.0; size];
        let squash = false;
        assert!(matches!(
            actor.set_head(Head::StateDependent { std, squash }),
            Err(ActorError::Width { expected, .. }) if expected == outputs
        ));
    }
}
