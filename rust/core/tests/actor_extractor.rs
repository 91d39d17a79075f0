//! Actors behind a features extractor: what they see, and observations that they refuse.

use mlx_baselines3_core::actor::{ActionsOut, Actor, ActorError, Head};
use mlx_baselines3_core::nn::{
    Activation, Branch, Conv2d, ConvLayer, InferenceExtractor, InferenceLayer, InferenceMlp,
    LinearLayer, ObservationColumn,
};

/// A convolution of four bytes, and one number as it is.
fn branches() -> [Branch; 2] {
    let conv = Conv2d::new([1, 2, 2], 1, [2, 2], [1, 1], [0, 0]).unwrap();
    let image = Branch {
        column: 1,
        inputs: 4,
        scale: 0.5,
        convolutions: vec![ConvLayer {
            conv,
            weights: 0,
            bias: Some(4),
            activation: Activation::Relu,
        }],
        linears: vec![LinearLayer {
            inputs: 1,
            outputs: 2,
            weights: 5,
            bias: None,
            activation: Activation::Identity,
        }],
    };
    let vector = Branch {
        column: 0,
        inputs: 1,
        scale: 1.0,
        convolutions: Vec::new(),
        linears: Vec::new(),
    };
    [image, vector]
}

const PARAMETERS: [f32; 7] = [1.0, 2.0, 3.0, 4.0, -1.0, 1.0, -2.0];

fn net(inputs: usize) -> InferenceMlp {
    let mut layer = InferenceLayer::zeros(inputs, 1, Activation::Identity).unwrap();
    let weights: Vec<f32> = (0..inputs).map(|i| 10.0_f32.powi(i as i32)).collect();
    layer.load(&weights, None).unwrap();
    InferenceMlp::new(vec![layer]).unwrap()
}

fn actor() -> Actor {
    let extractor = InferenceExtractor::zeros(&branches()).unwrap();
    let actor = Actor::new(net(3), Head::Deterministic).unwrap();
    let mut actor = actor.with_extractor(extractor).unwrap();
    actor.load_extractor(&PARAMETERS).unwrap();
    actor
}

#[test]
fn the_network_sees_the_features() {
    let (mut actor, images) = (actor(), [2, 0, 0, 4, 0, 0, 0, 0]);
    let columns = [
        ObservationColumn::Floats(&[0.25, 0.5]),
        ObservationColumn::Bytes(&images),
    ];
    // 0.5 * (2 * 1 + 4 * 4) - 1, and nothing below 0.
    let mut features = [0.0; 6];
    actor.extract(&columns, &mut features).unwrap();
    assert_eq!(features, [8.0, -16.0, 0.25, 0.0, 0.0, 0.5]);
    let mut out = [0.0; 2];
    actor.outputs(&columns, &mut out).unwrap();
    assert_eq!(out, [8.0 - 160.0 + 25.0, 50.0]);
    actor
        .act_on(&columns, None, true, ActionsOut::Floats(&mut out))
        .unwrap();
    assert_eq!(out, [8.0 - 160.0 + 25.0, 50.0]);
    assert_eq!(actor.columns(), [(1, 4), (0, 1)]);
    assert_eq!((actor.inputs(), actor.obs_dim()), (3, 0));
}

#[test]
fn observations_that_do_not_fit_are_refused() {
    let mut actor = actor();
    let refused = [
        vec![ObservationColumn::Floats(&[0.25])],
        vec![
            ObservationColumn::Floats(&[0.25]),
            ObservationColumn::Bytes(&[1, 2, 3]),
        ],
        vec![
            ObservationColumn::Floats(&[0.25, 0.5]),
            ObservationColumn::Bytes(&[1, 2, 3, 4]),
        ],
    ];
    for columns in refused {
        let error = actor.outputs(&columns, &mut [0.0]).unwrap_err();
        assert!(matches!(error, ActorError::Rows { .. }), "{error}");
    }
    let error = actor.act(&[0.25], true, ActionsOut::Floats(&mut [0.0]));
    assert!(matches!(error, Err(ActorError::Rows { .. })));
    let mut plain = Actor::new(net(3), Head::Deterministic).unwrap();
    let error = plain.outputs(&[ObservationColumn::Bytes(&[1, 2, 3])], &mut [0.0]);
    assert_eq!(error, Err(ActorError::Columns));
    assert!(plain.load_extractor(&PARAMETERS).is_err());
}

#[test]
fn a_network_that_takes_another_number_of_features_is_refused() {
    let extractor = InferenceExtractor::zeros(&branches()).unwrap();
    let actor = Actor::new(net(2), Head::Deterministic).unwrap();
    let error = actor.with_extractor(extractor).unwrap_err();
    let (got, expected) = (2, 3);
    assert_eq!(error, ActorError::Features { got, expected });
}

#[test]
fn too_few_parameters_are_refused() {
    assert!(actor().load_extractor(&PARAMETERS[1..]).is_err());
}
