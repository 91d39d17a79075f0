//! The vector of native environments, as `NativeVecEnv` uses it.

mod actions;
pub(crate) mod infos;
pub(crate) mod news;
mod state;

use std::time::{SystemTime, UNIX_EPOCH};

use mlx_baselines3_core::env::numerics::Numerics;
use mlx_baselines3_core::env::registry;
use mlx_baselines3_core::vec_env::{Episode, StepOut, VectorEnv};
use mlx_baselines3_macros::guarded;
use numpy::{PyArray1, PyArray2};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::args::Many;
use crate::error::{bad, py_err};
use crate::ffi::new_array::NewArray;
use actions::ActionBuffer;
use infos::Infos;

type StepReturn<'py> = (
    Bound<'py, PyArray2<f32>>,
    Bound<'py, PyArray1<f32>>,
    Bound<'py, PyArray1<bool>>,
    Bound<'py, Infos>,
);

/// A shorter step keeps the GIL: another thread loses less by waiting than this one by asking twice.
const WORTH_RELEASING_NS: usize = 10_000;

/// Seconds since 1970, Python's `time.time()`.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |time| time.as_secs_f64())
}

/// Environments of one kind, stepped together.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct EnvBatch {
    pub(crate) envs: Box<dyn VectorEnv>,
    actions: ActionBuffer,
    t_start: f64,
    closed: bool,
}

impl EnvBatch {
    pub(crate) fn check_open(&self) -> PyResult<()> {
        if self.closed {
            return Err(PyRuntimeError::new_err(
                "the environments are closed; make a new NativeVecEnv to go on",
            ));
        }
        Ok(())
    }

    /// Seconds since the episode clock started.
    fn elapsed(&self) -> f64 {
        now() - self.t_start
    }

    /// Monitor's entry of an episode that finished now.
    pub(crate) fn monitor_entry<'py>(
        &self,
        py: Python<'py>,
        episode: &Episode,
    ) -> PyResult<Bound<'py, PyDict>> {
        news::monitor_entry(py, episode, self.elapsed())
    }

    /// The infos of the last step.
    pub(crate) fn infos<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Infos>> {
        Bound::new(py, Infos::of(&*self.envs, || self.elapsed()))
    }
}

#[guarded]
#[pymethods]
impl EnvBatch {
    #[new]
    #[pyo3(signature = (env_id, n_envs, *, weak_scalars, pow_squares, fused_uniform, compensated_sum))]
    fn new(
        env_id: &str,
        n_envs: usize,
        weak_scalars: bool,
        pow_squares: bool,
        fused_uniform: bool,
        compensated_sum: bool,
    ) -> PyResult<Self> {
        crate::threads::check()?;
        let numerics = Numerics {
            weak_scalars,
            pow_squares,
            fused_uniform,
            compensated_sum,
        };
        Ok(Self {
            envs: registry::make(env_id, n_envs, numerics).map_err(py_err)?,
            actions: ActionBuffer::default(),
            t_start: now(),
            closed: false,
        })
    }

    /// When the episode clock started, in seconds since 1970.
    #[getter]
    fn t_start(&self) -> PyResult<f64> {
        Ok(self.t_start)
    }

    #[setter]
    fn set_t_start(&mut self, t_start: f64) -> PyResult<()> {
        self.t_start = t_start;
        Ok(())
    }

    /// Steps until an episode is truncated, or None.
    #[getter]
    fn time_limit(&self) -> PyResult<Option<u32>> {
        Ok(self.envs.time_limit())
    }

    #[setter]
    fn set_time_limit(&mut self, limit: Option<u32>) -> PyResult<()> {
        if limit == Some(0) {
            return Err(bad(
                "the time limit is 0 steps, expected at least 1 or None",
            ));
        }
        self.envs.set_time_limit(limit);
        Ok(())
    }

    /// Resets every environment; returns the observations.
    fn reset<'py>(
        &mut self,
        py: Python<'py>,
        seeds: Many<Option<Many<u32>>>,
        bounds: Many<Option<[f64; 2]>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        self.check_open()?;
        let (Many(seeds), Many(bounds)) = (seeds, bounds);
        let (n_envs, dim) = (self.envs.num_envs(), self.envs.spec().obs_dim);
        if seeds.len() != n_envs || bounds.len() != n_envs {
            return Err(bad(format!(
                "got {} seeds and {} options, expected one of each for {n_envs} environment(s)",
                seeds.len(),
                bounds.len(),
            )));
        }
        let mut obs = NewArray::zeros(py, [n_envs, dim])?;
        let rows = obs.as_mut_slice().chunks_exact_mut(dim);
        for (env, ((seed, bounds), row)) in seeds.iter().zip(&bounds).zip(rows).enumerate() {
            self.envs
                .reset(env, seed.as_ref().map(|words| &*words.0), *bounds, row)
                .map_err(py_err)?;
        }
        Ok(obs.finish())
    }

    /// Steps every environment; returns observations, rewards, dones and infos, all new.
    fn step<'py>(
        &mut self,
        py: Python<'py>,
        actions: &Bound<'py, PyAny>,
    ) -> PyResult<StepReturn<'py>> {
        self.check_open()?;
        let (n_envs, spec) = (self.envs.num_envs(), self.envs.spec());
        self.actions.fill(actions, spec.action, n_envs)?;
        let mut obs = NewArray::zeros(py, [n_envs, spec.obs_dim])?;
        let mut rewards = NewArray::zeros(py, [n_envs])?;
        let mut dones = NewArray::zeros(py, [n_envs])?;
        let out = StepOut {
            obs: obs.as_mut_slice(),
            rewards: rewards.as_mut_slice(),
            dones: dones.as_mut_slice(),
        };
        let (envs, actions) = (&mut self.envs, &self.actions);
        let step = || envs.step(actions.get(spec.action), out);
        if n_envs * spec.step_ns < WORTH_RELEASING_NS {
            step()
        } else {
            py.detach(step)
        }
        .map_err(py_err)?;
        let infos = self.infos(py)?;
        Ok((obs.finish(), rewards.finish(), dones.finish(), infos))
    }

    /// Which choices each environment allows now, 1 or 0 for each; no columns if all are always allowed.
    fn action_masks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let mut masks = NewArray::zeros(py, [self.envs.num_envs(), self.envs.spec().choices])?;
        self.envs.allow(masks.as_mut_slice()).map_err(py_err)?;
        Ok(masks.finish())
    }

    /// The whole state of one environment as plain Python values.
    fn get_state<'py>(&self, py: Python<'py>, env: usize) -> PyResult<Bound<'py, PyDict>> {
        state::to_dict(
            py,
            self.envs.spec(),
            &self.envs.snapshot(env).map_err(py_err)?,
        )
    }

    /// Puts one environment in a state that `get_state` gave.
    fn set_state(&mut self, env: usize, state: &Bound<'_, PyDict>) -> PyResult<()> {
        let snapshot = state::from_dict(self.envs.spec(), state)?;
        self.envs.restore(env, &snapshot).map_err(py_err)
    }

    /// Changes a physical constant of one environment.
    fn set_param(&mut self, env: usize, name: &str, value: f64) -> PyResult<()> {
        self.envs.set_param(env, name, value).map_err(py_err)
    }

    /// Whether an environment has a random generator, so that it can be reset without a seed.
    fn has_rng(&self, env: usize) -> PyResult<bool> {
        Ok(self.envs.snapshot(env).map_err(py_err)?.rng.is_some())
    }

    /// Makes every later reset and step an error.
    fn close(&mut self) -> PyResult<()> {
        self.closed = true;
        Ok(())
    }
}

/// The facts of every native environment, by id.
#[guarded]
#[pyfunction]
fn env_specs(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let specs = PyDict::new(py);
    for spec in registry::specs() {
        let facts = PyDict::new(py);
        facts.set_item("entry_point", spec.entry_point)?;
        facts.set_item("max_episode_steps", spec.max_steps)?;
        facts.set_item("choices", spec.choices)?;
        facts.set_item("params", spec.params.to_vec())?;
        facts.set_item("options", spec.options.to_vec())?;
        facts.set_item("default_bounds", spec.default_bounds.to_vec())?;
        specs.set_item(spec.id, facts)?;
    }
    Ok(specs)
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<EnvBatch>()?;
    infos::register(m)?;
    m.add_function(wrap_pyfunction!(env_specs, m)?)
}
