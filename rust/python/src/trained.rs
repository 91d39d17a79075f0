//! Networks in vectors of parameters and their optimizers, as all gradient steps take them.

use std::ops::Range;

use mlx_baselines3_core::nn::{LayerPart, TrainableLayer, TrainableMlp};
use mlx_baselines3_core::update::{Moments, Rule, Trained};
use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::prelude::*;

use crate::actor::activation;
use crate::args::{Many, place};
use crate::error::{bad, py_err};

/// Outputs of a layer, and where their weights and biases begin in the vector of parameters.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct PartSpec {
    outputs: usize,
    weights: usize,
    bias: Option<usize>,
}

/// A layer whose parameters lie in a vector, and the activation after it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct LayerSpec {
    inputs: usize,
    parts: Many<PartSpec>,
    activation: String,
    parameter: f32,
}

impl LayerSpec {
    fn layer(self) -> PyResult<TrainableLayer> {
        let parts = self.parts.0.into_iter().map(|part| LayerPart {
            outputs: part.outputs,
            weights: part.weights,
            bias: part.bias,
        });
        let activation = activation(&self.activation, self.parameter)?;
        Ok(TrainableLayer::new(
            self.inputs,
            parts.collect(),
            activation,
        ))
    }
}

pub(crate) fn net(layers: Many<LayerSpec>) -> PyResult<TrainableMlp> {
    let layers: PyResult<_> = layers.0.into_iter().map(LayerSpec::layer).collect();
    TrainableMlp::new(layers?).map_err(py_err)
}

/// First and second moment of the gradient, to be read.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct MomentArrays<'py> {
    exp_avg: PyReadonlyArray1<'py, f32>,
    exp_avg_sq: PyReadonlyArray1<'py, f32>,
}

/// How an optimizer moves parameters.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct RuleSpec {
    name: String,
    betas: [f64; 2],
    alpha: f64,
    eps: f64,
    bias_correction: bool,
}

impl RuleSpec {
    pub(crate) fn rule(&self) -> PyResult<Rule> {
        let (betas, alpha, eps) = (self.betas, self.alpha, self.eps);
        Ok(match self.name.as_str() {
            "adam" => Rule::Adam {
                betas,
                eps,
                bias_correction: self.bias_correction,
            },
            "rmsprop" => Rule::RmsProp { alpha, eps },
            "rmsprop_tf" => Rule::RmsPropTf { alpha, eps },
            name => return Err(bad(format!("no native optimizer is called {name:?}"))),
        })
    }
}

/// Parameters and their optimizer: the vectors that a call changes, and its settings.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct TrainedArrays<'py> {
    parameters: PyReadwriteArray1<'py, f32>,
    exp_avg: PyReadwriteArray1<'py, f32>,
    exp_avg_sq: PyReadwriteArray1<'py, f32>,
    previous: Option<MomentArrays<'py>>,
    before: Option<PyReadwriteArray1<'py, f32>>,
    pub(crate) steps: u64,
    learning_rate: f32,
    rule: RuleSpec,
}

impl TrainedArrays<'_> {
    /// Where the numbers lie that are written, and those that are not.
    pub(crate) fn places(&self) -> ([Range<usize>; 4], [Range<usize>; 2]) {
        let written = [
            place(&self.parameters),
            place(&self.exp_avg),
            place(&self.exp_avg_sq),
            self.before.as_ref().map_or(0..0, |array| place(array)),
        ];
        let read = self.previous.as_ref().map_or([0..0, 0..0], |moments| {
            [place(&moments.exp_avg), place(&moments.exp_avg_sq)]
        });
        (written, read)
    }

    pub(crate) fn trained(&mut self) -> PyResult<Trained<'_>> {
        let rule = self.rule.rule()?;
        let previous = match &self.previous {
            Some(moments) => Some(Moments {
                exp_avg: moments.exp_avg.as_slice()?,
                exp_avg_sq: moments.exp_avg_sq.as_slice()?,
            }),
            None => None,
        };
        Ok(Trained {
            parameters: self.parameters.as_slice_mut()?,
            exp_avg: self.exp_avg.as_slice_mut()?,
            exp_avg_sq: self.exp_avg_sq.as_slice_mut()?,
            previous,
            before: match &mut self.before {
                Some(before) => Some(before.as_slice_mut()?),
                None => None,
            },
            steps: &mut self.steps,
            rule,
            learning_rate: self.learning_rate,
        })
    }
}
