//! Features extractors and the arrays of observations that they take, as Python gives them.

use std::ops::Range;

use mlx_baselines3_core::nn::{Branch, Conv2d, ConvLayer, LinearLayer, ObservationColumn};
use numpy::ndarray::Dimension;
use numpy::{PyReadonlyArray, PyUntypedArrayMethods};
use pyo3::Borrowed;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::actor::activation;
use crate::args::{Many, place};
use crate::error::bad;

/// Some numbers of observations, images as bytes: `Ix1` for the rows one after the other, `Ix2` for an
/// axis of rows and one of numbers.
pub(crate) enum ColumnArray<'py, D: Dimension + 'static> {
    Floats(PyReadonlyArray<'py, f32, D>),
    Bytes(PyReadonlyArray<'py, u8, D>),
}

impl<'py, D: Dimension + 'static> FromPyObject<'_, 'py> for ColumnArray<'py, D> {
    type Error = PyErr;

    fn extract(array: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(floats) = array.extract() {
            return Ok(Self::Floats(floats));
        }
        let bytes = array.extract().map(Self::Bytes);
        bytes.map_err(|_| PyTypeError::new_err("expected an array of float32 or uint8 numbers"))
    }
}

impl<D: Dimension + 'static> ColumnArray<'_, D> {
    pub(crate) fn column(&self) -> PyResult<ObservationColumn<'_>> {
        Ok(match self {
            Self::Floats(array) => ObservationColumn::Floats(array.as_slice()?),
            Self::Bytes(array) => ObservationColumn::Bytes(array.as_slice()?),
        })
    }

    pub(crate) fn place(&self) -> Range<usize> {
        match self {
            Self::Floats(array) => place(array),
            Self::Bytes(array) => place(array),
        }
    }

    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::Floats(array) => array.shape(),
            Self::Bytes(array) => array.shape(),
        }
    }
}

/// A convolution whose parameters lie in a vector, and the activation after it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct ConvolutionSpec {
    input: [usize; 3],
    channels: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    weights: usize,
    bias: Option<usize>,
    activation: String,
    parameter: f32,
}

impl ConvolutionSpec {
    fn layer(&self) -> PyResult<ConvLayer> {
        let conv = Conv2d::new(
            self.input,
            self.channels,
            self.kernel,
            self.stride,
            self.padding,
        );
        Ok(ConvLayer {
            conv: conv.map_err(bad)?,
            weights: self.weights,
            bias: self.bias,
            activation: activation(&self.activation, self.parameter)?,
        })
    }
}

/// A linear layer of an extractor.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct LinearSpec {
    inputs: usize,
    outputs: usize,
    weights: usize,
    bias: Option<usize>,
    activation: String,
    parameter: f32,
}

impl LinearSpec {
    fn layer(&self) -> PyResult<LinearLayer> {
        Ok(LinearLayer {
            inputs: self.inputs,
            outputs: self.outputs,
            weights: self.weights,
            bias: self.bias,
            activation: activation(&self.activation, self.parameter)?,
        })
    }
}

/// What makes features of one array of an observation.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct BranchSpec {
    column: usize,
    inputs: usize,
    scale: f32,
    convolutions: Many<ConvolutionSpec>,
    linears: Many<LinearSpec>,
}

/// The branches of an extractor.
pub(crate) fn branches(specs: &Many<BranchSpec>) -> PyResult<Vec<Branch>> {
    let branch = |spec: &BranchSpec| {
        let convolutions = spec.convolutions.0.iter().map(ConvolutionSpec::layer);
        let linears = spec.linears.0.iter().map(LinearSpec::layer);
        Ok(Branch {
            column: spec.column,
            inputs: spec.inputs,
            scale: spec.scale,
            convolutions: convolutions.collect::<PyResult<_>>()?,
            linears: linears.collect::<PyResult<_>>()?,
        })
    };
    specs.0.iter().map(branch).collect()
}
