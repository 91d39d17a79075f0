//! The native actor, as `native/actor.py` uses it.

use std::ops::Range;

use mlx_baselines3_core::actor::{ActionsOut, Actor as CoreActor, ActorError, Head};
use mlx_baselines3_core::interrupt::Watch;
use mlx_baselines3_core::nn::{
    Activation, InferenceExtractor, InferenceLayer, InferenceMlp, ObservationColumn,
};
use mlx_baselines3_core::rng::{Pcg64, Pcg64State, SeedSequence};
use mlx_baselines3_macros::guarded;
use numpy::{Ix2, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::args::Many;
use crate::error::{bad, py_err};
use crate::extractor::{BranchSpec, ColumnArray};
use crate::ffi::new_array::{NewArray, array_of};
use crate::ffi::plain::OnePiece;
use crate::signals::watched_whole;

pub(crate) fn activation(name: &str, parameter: f32) -> PyResult<Activation> {
    Ok(match name {
        "identity" => Activation::Identity,
        "tanh" => Activation::Tanh,
        "relu" => Activation::Relu,
        "elu" => Activation::Elu(parameter),
        "leaky_relu" => Activation::LeakyRelu(parameter),
        "silu" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "hard_tanh" => Activation::HardTanh(parameter),
        _ => return Err(bad(format!("no native activation is called {name:?}"))),
    })
}

fn gaussian(log_stds: &[f64]) -> Head {
    let log_stds: Vec<f32> = log_stds.iter().map(|&log_std| log_std as f32).collect();
    Head::gaussian(&log_stds)
}

fn head(name: &str, options: Vec<usize>, numbers: &[f64]) -> PyResult<Head> {
    Ok(match name {
        "categorical" => Head::Categorical,
        "multi_categorical" => Head::MultiCategorical(options),
        "bernoulli" => Head::Bernoulli,
        "gaussian" => gaussian(numbers),
        "squashed_gaussian" => Head::SquashedGaussian,
        "state_dependent" | "squashed_state_dependent" => Head::StateDependent {
            std: numbers.iter().map(|&std| std as f32).collect(),
            squash: name == "squashed_state_dependent",
        },
        "deterministic" => Head::Deterministic,
        "epsilon_greedy" => Head::EpsilonGreedy(numbers.first().copied().unwrap_or(0.0)),
        "greedy_quantiles" => match options.first() {
            Some(&count) if count > 0 => Head::GreedyQuantiles(count),
            _ => return Err(bad("a greedy_quantiles head needs the number of actions")),
        },
        _ => return Err(bad(format!("no native head is called {name:?}"))),
    })
}

/// A linear layer and the activation after it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct LayerSpec {
    inputs: usize,
    outputs: usize,
    activation: String,
    parameter: f32,
}

impl LayerSpec {
    fn layer(&self) -> PyResult<InferenceLayer> {
        let activation = activation(&self.activation, self.parameter)?;
        InferenceLayer::zeros(self.inputs, self.outputs, activation).map_err(py_err)
    }
}

/// State and increment of a generator, as NumPy's `PCG64` has them.
#[derive(FromPyObject, IntoPyObject)]
#[pyo3(from_item_all)]
struct RngState {
    state: u128,
    inc: u128,
}

/// Writes what some rows of observations give.
type Forward = fn(&mut CoreActor, &[ObservationColumn<'_>], &mut [f32]) -> Result<(), ActorError>;

/// Rows between two questions whether to stop, of vectors and of what an extractor takes. A row gives
/// the same bits in any batch.
const PART: usize = 1 << 15;
const EXTRACTED_PART: usize = 1 << 8;

/// A batch of observations: one array of vectors, or those that an extractor takes, `(rows, numbers)`.
#[derive(FromPyObject)]
enum Batch<'py> {
    One(ColumnArray<'py, Ix2>),
    Several(Many<ColumnArray<'py, Ix2>>),
}

impl Batch<'_> {
    fn arrays(&self) -> &[ColumnArray<'_, Ix2>] {
        match self {
            Self::One(array) => std::slice::from_ref(array),
            Self::Several(Many(arrays)) => arrays,
        }
    }

    /// How many observations there are, which have the numbers that `actor` takes.
    fn rows(&self, actor: &CoreActor) -> PyResult<usize> {
        let arrays = self.arrays();
        let rows = arrays.first().map_or(0, |array| array.shape()[0]);
        for (column, width) in actor.columns() {
            let shape = arrays.get(column).map_or(&[0, 0][..], ColumnArray::shape);
            if shape != [rows, width] {
                let rows = shape[0].max(rows);
                return Err(bad(format!(
                    "the observations have shape {shape:?}, expected ({rows}, {width})"
                )));
            }
        }
        Ok(rows)
    }

    fn columns(&self) -> PyResult<Vec<ObservationColumn<'_>>> {
        self.arrays().iter().map(ColumnArray::column).collect()
    }
}

/// Some rows of columns with `rows` of them.
fn part<'a>(
    columns: &[ObservationColumn<'a>],
    rows: usize,
    range: &Range<usize>,
) -> Vec<ObservationColumn<'a>> {
    let of = |column: &ObservationColumn<'a>| {
        let width = column.len().checked_div(rows).unwrap_or(0);
        let place = range.start * width..range.end * width;
        match *column {
            ObservationColumn::Floats(all) => ObservationColumn::Floats(&all[place]),
            ObservationColumn::Bytes(all) => ObservationColumn::Bytes(&all[place]),
        }
    };
    columns.iter().map(of).collect()
}

/// A policy made of an MLP and a distribution.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct Actor {
    pub(crate) core: CoreActor,
    // Rows that are computed at once.
    part: usize,
    // The bytes of the numbers that `changed` has seen.
    seen: Vec<Vec<u8>>,
}

impl Actor {
    /// Somebody else is about to change the weights: the next ones that are shown are others.
    pub(crate) fn forget(&mut self) {
        self.seen.clear();
    }
}

#[guarded]
#[pymethods]
impl Actor {
    #[new]
    #[pyo3(signature = (layers, head_name, options, numbers, branches=None))]
    fn new(
        layers: Many<LayerSpec>,
        head_name: &str,
        options: Many<usize>,
        numbers: Many<f64>,
        branches: Option<Many<BranchSpec>>,
    ) -> PyResult<Self> {
        crate::threads::check()?;
        let (Many(layers), Many(options), Many(numbers)) = (layers, options, numbers);
        let layers: PyResult<Vec<InferenceLayer>> = layers.iter().map(LayerSpec::layer).collect();
        let net = InferenceMlp::new(layers?).map_err(py_err)?;
        let head = head(head_name, options, &numbers)?;
        let mut core = CoreActor::new(net, head).map_err(py_err)?;
        let part = if branches.is_some() {
            EXTRACTED_PART
        } else {
            PART
        };
        if let Some(branches) = branches {
            let extractor = InferenceExtractor::zeros(&crate::extractor::branches(&branches)?);
            let extractor = extractor.map_err(py_err)?;
            core = core.with_extractor(extractor).map_err(py_err)?;
        }
        Ok(Self {
            core,
            part,
            seen: Vec::new(),
        })
    }

    /// Takes exploration matrices that were drawn elsewhere.
    fn set_matrices(&mut self, matrices: PyReadonlyArray1<'_, f32>) -> PyResult<()> {
        self.core.set_matrices(matrices.as_slice()?).map_err(py_err)
    }

    /// Copies the parameters of the features extractor from their places in a vector.
    fn load_extractor(&mut self, parameters: PyReadonlyArray1<'_, f32>) -> PyResult<()> {
        self.core
            .load_extractor(parameters.as_slice()?)
            .map_err(py_err)
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
        layer.load(weights.as_slice()?, bias).map_err(py_err)
    }

    /// Whether these are other numbers than at the last call; keeps a copy of them.
    fn changed(&mut self, arrays: Many<Bound<'_, PyAny>>) -> PyResult<bool> {
        let arrays: PyResult<Vec<OnePiece<'_>>> = arrays.0.iter().map(OnePiece::of).collect();
        let arrays = arrays?;
        // Those of another type are never the same.
        let singles = arrays.iter().all(OnePiece::is_f32);
        let mut pairs = self.seen.iter().zip(&arrays);
        if singles && self.seen.len() == arrays.len() && pairs.all(|(seen, now)| now.is(seen)) {
            return Ok(false);
        }
        let copies: Option<_> = arrays.iter().map(OnePiece::to_vec).collect();
        self.seen = copies.filter(|_| singles).unwrap_or_default();
        Ok(true)
    }

    /// Replaces the numbers of the head: standard deviations, or the probability to explore.
    fn set_numbers(&mut self, numbers: Many<f64>) -> PyResult<()> {
        let Many(numbers) = numbers;
        let head = match self.core.head() {
            Head::Gaussian(_) => gaussian(&numbers),
            Head::EpsilonGreedy(_) => Head::EpsilonGreedy(numbers.first().copied().unwrap_or(0.0)),
            Head::StateDependent { squash, .. } => Head::StateDependent {
                std: numbers.iter().map(|&std| std as f32).collect(),
                squash: *squash,
            },
            other => other.clone(),
        };
        self.core.set_head(head).map_err(py_err)
    }

    /// Restarts the generator as `np.random.PCG64(seed)`.
    fn seed(&mut self, seed: u64) -> PyResult<()> {
        *self.core.rng_mut() = Pcg64::new(&SeedSequence::from_u64(seed));
        Ok(())
    }

    /// State and increment of the generator, as NumPy's `PCG64` has them.
    #[getter]
    fn rng_state(&mut self) -> PyResult<RngState> {
        let Pcg64State { state, inc, .. } = self.core.rng_mut().state();
        Ok(RngState { state, inc })
    }

    #[setter]
    fn set_rng_state(&mut self, value: RngState) -> PyResult<()> {
        let RngState { state, inc } = value;
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

    /// The outputs of the network, one row per observation.
    fn outputs<'py>(
        &mut self,
        py: Python<'py>,
        obs: Batch<'py>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let width = self.core.net().outputs();
        self.by_parts(py, &obs, width, CoreActor::outputs)
    }

    /// The log-likelihoods of actions, one for each observation; None if the head has none known here.
    #[pyo3(signature = (obs, actions, masks=None))]
    fn log_probs<'py>(
        &mut self,
        py: Python<'py>,
        obs: Batch<'py>,
        actions: PyReadonlyArray1<'py, f32>,
        masks: Option<PyReadonlyArray1<'py, f32>>,
    ) -> PyResult<Option<Bound<'py, PyArray1<f32>>>> {
        let rows = obs.rows(&self.core)?;
        let mut out = NewArray::zeros(py, [rows])?;
        let (at_once, core) = (self.part, &mut self.core);
        let (columns, slice, actions) = (obs.columns()?, out.as_mut_slice(), actions.as_slice()?);
        let width = actions.len() / rows.max(1);
        let masks = masks.as_ref().map(|masks| masks.as_slice()).transpose()?;
        let choices = masks.map_or(0, |masks| masks.len() / rows.max(1));
        let of_rows = |range: &Range<usize>| {
            masks.map(|masks| &masks[range.start * choices..range.end * choices])
        };
        // Rows that are not whole are for the core to refuse.
        let whole = rows <= at_once
            || width == 0
            || width * rows != actions.len()
            || masks.is_some_and(|masks| choices * rows != masks.len());
        let known = watched_whole(py, |watch| {
            if whole {
                return core.log_probs(&columns, masks, actions, slice);
            }
            let mut known = true;
            let parts = slice.chunks_mut(at_once).enumerate();
            for ((index, out), actions) in parts.zip(actions.chunks(at_once * width)) {
                watch.check()?;
                let range = index * at_once..index * at_once + out.len();
                let some = part(&columns, rows, &range);
                known &= core.log_probs(&some, of_rows(&range), actions, out)?;
            }
            Ok(known)
        })?;
        Ok(known.then(|| out.finish()))
    }

    /// The inputs of the last layer, one row per observation.
    fn features<'py>(
        &mut self,
        py: Python<'py>,
        obs: Batch<'py>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let width = self.core.net().features();
        self.by_parts(py, &obs, width, CoreActor::features)
    }

    /// What the first layer of the network takes, one row per observation: the features, where there is
    /// an extractor.
    fn extract<'py>(
        &mut self,
        py: Python<'py>,
        obs: Batch<'py>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let width = self.core.inputs();
        self.by_parts(py, &obs, width, CoreActor::extract)
    }

    /// Draws exploration matrices, and others after every `every` batches.
    fn reset_noise(&mut self, n_envs: usize, every: usize) -> PyResult<()> {
        self.core.reset_noise(n_envs, every).map_err(py_err)
    }

    /// How often exploration matrices were drawn.
    #[getter]
    fn draws(&self) -> PyResult<u64> {
        Ok(self.core.matrices().1)
    }

    /// The exploration matrices one after the other, that of all rows first.
    fn matrices<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        array_of(py, self.core.matrices().0)
    }

    /// Integer actions, one row per observation.
    #[pyo3(signature = (obs, deterministic, masks=None))]
    fn choose<'py>(
        &mut self,
        py: Python<'py>,
        obs: Batch<'py>,
        deterministic: bool,
        masks: Option<PyReadonlyArray1<'py, f32>>,
    ) -> PyResult<Bound<'py, PyArray2<i64>>> {
        let rows = obs.rows(&self.core)?;
        let mut out = NewArray::zeros(py, [rows, self.core.action_dim()])?;
        let (core, columns, slice) = (&mut self.core, obs.columns()?, out.as_mut_slice());
        let masks = masks.as_ref().map(|masks| masks.as_slice()).transpose()?;
        py.detach(|| core.act_on(&columns, masks, deterministic, ActionsOut::Ints(slice)))
            .map_err(py_err)?;
        Ok(out.finish())
    }

    /// Float actions, one row per observation.
    fn act<'py>(
        &mut self,
        py: Python<'py>,
        obs: Batch<'py>,
        deterministic: bool,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let rows = obs.rows(&self.core)?;
        let mut out = NewArray::zeros(py, [rows, self.core.action_dim()])?;
        let (core, columns, slice) = (&mut self.core, obs.columns()?, out.as_mut_slice());
        py.detach(|| core.act_on(&columns, None, deterministic, ActionsOut::Floats(slice)))
            .map_err(py_err)?;
        Ok(out.finish())
    }
}

impl Actor {
    /// `compute` for all rows of `obs`, a part of them at a time: `width` numbers for each.
    fn by_parts<'py>(
        &mut self,
        py: Python<'py>,
        obs: &Batch<'py>,
        width: usize,
        compute: Forward,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let rows = obs.rows(&self.core)?;
        let mut out = NewArray::zeros(py, [rows, width])?;
        let (at_once, core) = (self.part, &mut self.core);
        let (columns, slice) = (obs.columns()?, out.as_mut_slice());
        watched_whole(py, |watch: &mut Watch<'_>| {
            let mut parts = slice.chunks_mut(at_once * width).enumerate();
            parts.try_for_each(|(index, out)| {
                watch.check()?;
                let range = index * at_once..index * at_once + out.len() / width;
                compute(core, &part(&columns, rows, &range), out)
            })
        })?;
        Ok(out.finish())
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Actor>()
}
