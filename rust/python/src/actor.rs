//! The native actor, as `native_actor.py` sees it.

use mlx_baselines3_core::actor::{ActionsOut, Actor as CoreActor, Head};
use mlx_baselines3_core::nn::{Activation, Dense, Mlp};
use mlx_baselines3_core::rng::{Pcg64, Pcg64State, SeedSequence};
use numpy::{
    PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArrayDyn,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::ffi::new_array::NewArray;

pub(crate) fn bad(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

pub(crate) fn activation(name: &str, parameter: f32) -> PyResult<Activation> {
    Ok(match name {
        "identity" => Activation::Identity,
        "tanh" => Activation::Tanh,
        "relu" => Activation::Relu,
        "elu" => Activation::Elu(parameter),
        "leaky_relu" => Activation::LeakyRelu(parameter),
        "silu" => Activation::Silu,
        "gelu" => Activation::Gelu,
        _ => return Err(bad(format!("no native activation is called {name:?}"))),
    })
}

fn head(name: &str, options: Vec<usize>, numbers: &[f64]) -> PyResult<Head> {
    Ok(match name {
        "categorical" => Head::Categorical,
        "multi_categorical" => Head::MultiCategorical(options),
        "bernoulli" => Head::Bernoulli,
        "gaussian" => Head::Gaussian(numbers.iter().map(|&std| std as f32).collect()),
        "squashed_gaussian" => Head::SquashedGaussian,
        "state_dependent" | "squashed_state_dependent" => Head::StateDependent {
            std: numbers.iter().map(|&std| std as f32).collect(),
            squash: name == "squashed_state_dependent",
        },
        "deterministic" => Head::Deterministic,
        "epsilon_greedy" => Head::EpsilonGreedy(numbers.first().copied().unwrap_or(0.0)),
        _ => return Err(bad(format!("no native head is called {name:?}"))),
    })
}

/// A policy made of a perceptron and a distribution.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct Actor {
    pub(crate) core: CoreActor,
    seen: Vec<Vec<f32>>,
}

#[pymethods]
impl Actor {
    /// `layers` lists (inputs, outputs, activation, its parameter).
    #[new]
    #[pyo3(signature = (layers, head_name, options, numbers))]
    fn new(
        layers: Vec<(usize, usize, String, f32)>,
        head_name: &str,
        options: Vec<usize>,
        numbers: Vec<f64>,
    ) -> PyResult<Self> {
        crate::threads::check()?;
        let layers: PyResult<Vec<Dense>> = layers
            .iter()
            .map(|(inputs, outputs, name, parameter)| {
                Dense::zeros(*inputs, *outputs, activation(name, *parameter)?).map_err(bad)
            })
            .collect();
        let net = Mlp::new(layers?).map_err(bad)?;
        let head = head(head_name, options, &numbers)?;
        Ok(Self {
            core: CoreActor::new(net, head).map_err(bad)?,
            seen: Vec::new(),
        })
    }

    /// Copies weights and biases into layer `index`.
    #[pyo3(signature = (index, weights, bias))]
    fn load(
        &mut self,
        index: usize,
        weights: PyReadonlyArray2<'_, f32>,
        bias: Option<PyReadonlyArray1<'_, f32>>,
    ) -> PyResult<()> {
        let layers = self.core.net_mut().layers_mut();
        let count = layers.len();
        let layer = layers
            .get_mut(index)
            .ok_or_else(|| bad(format!("layer {index} of a network with {count}")))?;
        let shape = [layer.outputs(), layer.inputs()];
        if weights.shape() != shape {
            return Err(bad(format!(
                "the weights of layer {index} have shape {:?}, expected {shape:?}",
                weights.shape()
            )));
        }
        let bias = bias.as_ref().map(|bias| bias.as_slice()).transpose()?;
        layer.load(weights.as_slice()?, bias).map_err(bad)
    }

    /// Whether these are other numbers than at the last call; keeps a copy of them.
    fn changed(&mut self, arrays: Vec<PyReadonlyArrayDyn<'_, f32>>) -> PyResult<bool> {
        let slices: Result<Vec<&[f32]>, _> = arrays.iter().map(|a| a.as_slice()).collect();
        let slices = slices?;
        let same = self
            .seen
            .iter()
            .map(Vec::as_slice)
            .eq(slices.iter().copied());
        if !same {
            self.seen = slices.into_iter().map(<[f32]>::to_vec).collect();
        }
        Ok(!same)
    }

    /// Replaces the numbers of the head: standard deviations, or the probability to explore.
    fn set_numbers(&mut self, numbers: Vec<f64>) -> PyResult<()> {
        let head = match self.core.head() {
            Head::Gaussian(_) => Head::Gaussian(numbers.iter().map(|&std| std as f32).collect()),
            Head::EpsilonGreedy(_) => Head::EpsilonGreedy(numbers.first().copied().unwrap_or(0.0)),
            Head::StateDependent { squash, .. } => Head::StateDependent {
                std: numbers.iter().map(|&std| std as f32).collect(),
                squash: *squash,
            },
            other => other.clone(),
        };
        self.core.set_head(head).map_err(bad)
    }

    /// Restarts the generator as `np.random.PCG64(seed)`.
    fn seed(&mut self, seed: u64) {
        *self.core.rng_mut() = Pcg64::new(&SeedSequence::from_u64(seed));
    }

    /// State and increment of the generator, as NumPy's `PCG64` has them.
    #[getter]
    fn rng_state(&mut self) -> (u128, u128) {
        let state = self.core.rng_mut().state();
        (state.state, state.inc)
    }

    #[setter]
    fn set_rng_state(&mut self, value: (u128, u128)) -> PyResult<()> {
        let (state, inc) = value;
        if inc.is_multiple_of(2) {
            return Err(bad(format!(
                "the increment is {inc}, expected an odd number"
            )));
        }
        *self.core.rng_mut() = Pcg64::from_state(Pcg64State {
            state,
            inc,
            has_uint32: false,
            uinteger: 0,
        });
        Ok(())
    }

    /// What the network gives, one row per observation.
    fn outputs<'py>(
        &mut self,
        py: Python<'py>,
        obs: PyReadonlyArray2<'py, f32>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let rows = self.rows(&obs)?;
        let mut out = NewArray::zeros(py, [rows, self.core.net().outputs()]);
        let (core, obs, slice) = (&mut self.core, obs.as_slice()?, out.as_mut_slice());
        py.detach(|| core.outputs(obs, slice)).map_err(bad)?;
        Ok(out.finish())
    }

    /// The log-likelihoods of actions, one for each observation; None if the head has none known here.
    fn log_probs<'py>(
        &mut self,
        py: Python<'py>,
        obs: PyReadonlyArray2<'py, f32>,
        actions: PyReadonlyArray1<'py, f32>,
    ) -> PyResult<Option<Bound<'py, PyArray1<f32>>>> {
        let mut out = NewArray::zeros(py, [self.rows(&obs)?]);
        let (core, obs, slice) = (&mut self.core, obs.as_slice()?, out.as_mut_slice());
        let actions = actions.as_slice()?;
        let known = py.detach(|| core.log_probs(obs, actions, slice));
        Ok(known.map_err(bad)?.then(|| out.finish()))
    }

    /// What the last layer takes, one row per observation.
    fn features<'py>(
        &mut self,
        py: Python<'py>,
        obs: PyReadonlyArray2<'py, f32>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let rows = self.rows(&obs)?;
        let mut out = NewArray::zeros(py, [rows, self.core.net().features()]);
        let (core, obs, slice) = (&mut self.core, obs.as_slice()?, out.as_mut_slice());
        py.detach(|| core.features(obs, slice)).map_err(bad)?;
        Ok(out.finish())
    }

    /// Draws exploration matrices, and others after every `every` batches.
    fn explore(&mut self, n_envs: usize, every: usize) {
        self.core.explore(n_envs, every);
    }

    /// How often exploration matrices were drawn.
    #[getter]
    fn draws(&self) -> u64 {
        self.core.matrices().1
    }

    /// The exploration matrices one after the other, that of all rows first.
    fn matrices<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        PyArray1::from_slice(py, self.core.matrices().0)
    }

    /// Integer actions, one row per observation.
    fn choose<'py>(
        &mut self,
        py: Python<'py>,
        obs: PyReadonlyArray2<'py, f32>,
        deterministic: bool,
    ) -> PyResult<Bound<'py, PyArray2<i64>>> {
        let rows = self.rows(&obs)?;
        let mut out = NewArray::zeros(py, [rows, self.core.action_dim()]);
        let (core, obs, slice) = (&mut self.core, obs.as_slice()?, out.as_mut_slice());
        py.detach(|| core.act(obs, deterministic, ActionsOut::Ints(slice)))
            .map_err(bad)?;
        Ok(out.finish())
    }

    /// Float actions, one row per observation.
    fn act<'py>(
        &mut self,
        py: Python<'py>,
        obs: PyReadonlyArray2<'py, f32>,
        deterministic: bool,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let rows = self.rows(&obs)?;
        let mut out = NewArray::zeros(py, [rows, self.core.action_dim()]);
        let (core, obs, slice) = (&mut self.core, obs.as_slice()?, out.as_mut_slice());
        py.detach(|| core.act(obs, deterministic, ActionsOut::Floats(slice)))
            .map_err(bad)?;
        Ok(out.finish())
    }
}

impl Actor {
    fn rows(&self, obs: &PyReadonlyArray2<'_, f32>) -> PyResult<usize> {
        let (shape, width) = (obs.shape(), self.core.obs_dim());
        if shape[1] != width {
            return Err(bad(format!(
                "the observations have shape {shape:?}, expected ({}, {width})",
                shape[0]
            )));
        }
        Ok(shape[0])
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Actor>()
}
