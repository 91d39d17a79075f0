//! LSTMs, as `native/recurrent.py` and `training/native_recurrent.py` call them.

use std::ops::Range;

use mlx_baselines3_core::nn::{Lstm as CoreLstm, LstmPlaces, LstmWeights};
use mlx_baselines3_core::update::{CriticInput, Memories, RecurrentUpdate as CoreRecurrent};
use mlx_baselines3_macros::guarded;
use numpy::{
    PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray3, PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::args::{Many, apart, place};
use crate::error::{bad, py_err};
use crate::ffi::new_array::NewArray;
use crate::signals::watched_whole;
use crate::trained::{LayerSpec, TrainedArrays, net};
use crate::update::{LogStd, OnPolicyNumbers, OnPolicyResult, RolloutArrays, distribution};

/// Where the parameters of a layer lie.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct PlacesSpec {
    weight_ih: usize,
    weight_hh: usize,
    bias_ih: Option<usize>,
    bias_hh: Option<usize>,
}

/// Layers of an LSTM.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct LstmSpec {
    inputs: usize,
    hidden: usize,
    layers: Many<PlacesSpec>,
}

impl LstmSpec {
    fn lstm(self) -> PyResult<CoreLstm> {
        let places = self.layers.0.into_iter().map(|layer| LstmPlaces {
            weight_ih: layer.weight_ih,
            weight_hh: layer.weight_hh,
            biases: layer.bias_ih.zip(layer.bias_hh).map(<[usize; 2]>::from),
        });
        CoreLstm::new(self.inputs, self.hidden, places.collect()).map_err(py_err)
    }
}

/// An LSTM that takes single steps.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct Lstm {
    core: CoreLstm,
    weights: LstmWeights,
}

#[guarded]
#[pymethods]
impl Lstm {
    #[new]
    fn new(spec: LstmSpec) -> PyResult<Self> {
        crate::threads::check()?;
        let core = spec.lstm()?;
        let mut weights = LstmWeights::default();
        let zeros = mlx_baselines3_core::memory::filled(0.0, core.parameters()).map_err(py_err)?;
        core.load(&zeros, &mut weights, false).map_err(py_err)?;
        Ok(Self { core, weights })
    }

    /// Takes the weights out of a vector.
    fn load(&mut self, parameters: PyReadonlyArray1<'_, f32>) -> PyResult<()> {
        let (core, parameters) = (&self.core, parameters.as_slice()?);
        core.load(parameters, &mut self.weights, false)
            .map_err(py_err)
    }

    /// One step: the hidden states of the last layer. Both states are changed.
    fn step<'py>(
        &self,
        py: Python<'py>,
        input: PyReadonlyArray2<'py, f32>,
        mut hidden: PyReadwriteArray3<'py, f32>,
        mut cell: PyReadwriteArray3<'py, f32>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        apart(&[place(&hidden), place(&cell)], &[place(&input)])?;
        let rows = input.shape()[0];
        let (width, inputs) = (self.core.hidden(), self.core.inputs());
        if input.shape()[1] != inputs {
            return Err(bad(format!(
                "the input has shape {:?}, expected ({rows}, {inputs})",
                input.shape()
            )));
        }
        let expected = [self.core.layers(), rows, width];
        for states in [hidden.shape(), cell.shape()] {
            if states != expected {
                return Err(bad(format!(
                    "the states have shape {states:?}, expected {expected:?}"
                )));
            }
        }
        let mut out = NewArray::zeros(py, [rows, width])?;
        let (core, weights, input) = (&self.core, &self.weights, input.as_slice()?);
        let (hidden, cell, to) = (
            hidden.as_slice_mut()?,
            cell.as_slice_mut()?,
            out.as_mut_slice(),
        );
        py.detach(|| {
            core.step(weights, input, hidden, cell);
            to.copy_from_slice(&hidden[(core.layers() - 1) * rows * width..]);
        });
        Ok(out.finish())
    }
}

/// The states that a rollout has stored, and where its episodes begin.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct MemoryArrays<'py> {
    hidden_states_pi: PyReadonlyArray1<'py, f32>,
    cell_states_pi: PyReadonlyArray1<'py, f32>,
    hidden_states_vf: PyReadonlyArray1<'py, f32>,
    cell_states_vf: PyReadonlyArray1<'py, f32>,
    episode_starts: PyReadonlyArray1<'py, f32>,
    env_rows: usize,
}

impl MemoryArrays<'_> {
    fn places(&self) -> [Range<usize>; 5] {
        [
            place(&self.hidden_states_pi),
            place(&self.cell_states_pi),
            place(&self.hidden_states_vf),
            place(&self.cell_states_vf),
            place(&self.episode_starts),
        ]
    }

    fn memories(&self) -> PyResult<Memories<'_>> {
        Ok(Memories {
            actor: [
                self.hidden_states_pi.as_slice()?,
                self.cell_states_pi.as_slice()?,
            ],
            critic: [
                self.hidden_states_vf.as_slice()?,
                self.cell_states_vf.as_slice()?,
            ],
            episode_starts: self.episode_starts.as_slice()?,
            env_rows: self.env_rows,
        })
    }
}

/// PPO with a recurrent policy.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct RecurrentUpdate(CoreRecurrent);

#[guarded]
#[pymethods]
impl RecurrentUpdate {
    #[new]
    #[pyo3(signature = (actor_lstm, actor, critic_lstm, critic, critic_sees_actor, head, options, log_std, size))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        actor_lstm: LstmSpec,
        actor: Many<LayerSpec>,
        critic_lstm: Option<LstmSpec>,
        critic: Many<LayerSpec>,
        critic_sees_actor: bool,
        head: &str,
        options: Many<usize>,
        log_std: usize,
        size: usize,
    ) -> PyResult<Self> {
        crate::threads::check()?;
        let distribution = distribution(head, options.0, LogStd::Place(log_std))?;
        let critic_lstm = critic_lstm.map(LstmSpec::lstm).transpose()?;
        let sees = if critic_sees_actor {
            CriticInput::ActorMemory
        } else {
            CriticInput::Observations
        };
        let (actor, critic) = (
            (actor_lstm.lstm()?, net(actor)?),
            (critic_lstm, net(critic)?),
        );
        let core = CoreRecurrent::new(actor, critic, sees, distribution, size);
        Ok(Self(core.map_err(py_err)?))
    }

    /// One pass over a rollout.
    #[pyo3(signature = (rollout, memory, order, batch_size, settings, trained))]
    #[allow(clippy::too_many_arguments)]
    fn epoch<'py>(
        &mut self,
        py: Python<'py>,
        rollout: RolloutArrays<'py>,
        memory: MemoryArrays<'py>,
        order: PyReadonlyArray1<'py, u32>,
        batch_size: usize,
        settings: OnPolicyNumbers,
        mut trained: TrainedArrays<'py>,
    ) -> PyResult<OnPolicyResult> {
        let (written, read) = trained.places();
        let data = [
            rollout.places(),
            memory.places().to_vec(),
            vec![place(&order)],
        ]
        .concat();
        apart(&written, &[&read[..], &data].concat())?;
        let columns = rollout.columns()?;
        let observations = match columns.as_slice() {
            [mlx_baselines3_core::nn::ObservationColumn::Floats(column)] => *column,
            _ => return Err(bad("expected one array of float observations")),
        };
        let (rollout, memories) = (rollout.rollout(&columns)?, memory.memories()?);
        let (core, order, settings) = (&mut self.0, order.as_slice()?, settings.settings());
        let mut state = trained.trained()?;
        let (metrics, stopped) = watched_whole(py, |watch| {
            let (data, rows) = ((&rollout, &memories), (order, batch_size));
            core.epoch(observations, data, rows, &settings, &mut state, watch)
        })?;
        Ok(OnPolicyResult::new(py, &metrics, stopped, trained.steps))
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Lstm>()?;
    m.add_class::<RecurrentUpdate>()
}
