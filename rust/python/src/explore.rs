//! A fused stretch of an off-policy algorithm, as `_native_exploration.py` sees it.

use std::ops::Range;

use mlx_baselines3_core::buffer::ring::Ring;
use mlx_baselines3_core::explore::{
    ActionColumn, Drawn, Explored, Last, NextObs, Plan, Replay, explore as core_explore,
};
use mlx_baselines3_core::vec_env::VectorEnv;
use mlx_baselines3_macros::guarded;
use numpy::ndarray::{Ix1, Ix2};
use numpy::{PyReadonlyArray1, PyReadonlyArrayDyn, PyReadwriteArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::actor::Actor;
use crate::args::{Many, apart, place};
use crate::collect::{ActionArray, Actions, Entry, entries};
use crate::error::{bad, py_err};
use crate::ffi::new_array::NewArray;
use crate::signals::watched;
use crate::terminal::TerminalObs;
use crate::vec_env::EnvBatch;

/// Steps taken, the error after them, Monitor's entries of the episodes that ended before the last
/// step (each with its step and environment), and what the last step gave.
type Outcome<'py> = (usize, Option<PyErr>, Vec<Entry<'py>>, Bound<'py, PyTuple>);

type DrawnArray<'py> = Actions<PyReadonlyArrayDyn<'py, i64>, PyReadonlyArrayDyn<'py, f32>>;

/// Which steps are drawn, their actions, noise, lowest and highest action, stop at an episode's end.
#[derive(FromPyObject)]
struct PlanArgs<'py>(
    Many<bool>,
    DrawnArray<'py>,
    Option<PyReadonlyArrayDyn<'py, f32>>,
    (PyReadonlyArray1<'py, f32>, PyReadonlyArray1<'py, f32>),
    bool,
);

impl PlanArgs<'_> {
    fn plan(&self) -> PyResult<Plan<'_>> {
        Ok(Plan {
            given: &self.0.0,
            drawn: match &self.1 {
                DrawnArray::Ints(drawn) => Drawn::Ints(drawn.as_slice()?),
                DrawnArray::Floats(drawn) => Drawn::Floats(drawn.as_slice()?),
            },
            noise: self.2.as_ref().map(|noise| noise.as_slice()).transpose()?,
            bounds: (self.3.0.as_slice()?, self.3.1.as_slice()?),
            until_end: self.4,
        })
    }
}

/// Observations, next observations (or what keeps those that the next row does not hold), actions,
/// rewards, dones, timeouts if they count.
#[derive(FromPyObject)]
struct Columns<'py>(
    PyReadwriteArrayDyn<'py, f32>,
    Following<'py>,
    ActionArray<'py>,
    PyReadwriteArrayDyn<'py, f32>,
    PyReadwriteArrayDyn<'py, f32>,
    Option<PyReadwriteArrayDyn<'py, f32>>,
);

#[derive(FromPyObject)]
enum Following<'py> {
    Column(PyReadwriteArrayDyn<'py, f32>),
    NextRow(PyRefMut<'py, TerminalObs>),
}

impl Columns<'_> {
    /// That each has its own memory, and none what is read meanwhile.
    fn apart_from(&self, last_obs: Range<usize>, plan: &PlanArgs<'_>) -> PyResult<()> {
        let nothing = 0..0;
        let written = [
            place(&self.0),
            match &self.1 {
                Following::Column(column) => place(column),
                Following::NextRow(_) => nothing.clone(),
            },
            self.2.place(),
            place(&self.3),
            place(&self.4),
            self.5
                .as_ref()
                .map_or(nothing.clone(), |column| place(column)),
        ];
        let drawn = match &plan.1 {
            DrawnArray::Ints(drawn) => place(drawn),
            DrawnArray::Floats(drawn) => place(drawn),
        };
        let noise = plan.2.as_ref().map_or(nothing, |noise| place(noise));
        let bounds = (place(&plan.3.0), place(&plan.3.1));
        apart(&written, &[last_obs, drawn, noise, bounds.0, bounds.1])
    }

    fn replay(&mut self, ring: Ring) -> PyResult<Replay<'_>> {
        Ok(Replay {
            ring,
            observations: self.0.as_slice_mut()?,
            next: match &mut self.1 {
                Following::Column(column) => NextObs::Column(column.as_slice_mut()?),
                Following::NextRow(terminal) => NextObs::NextRow(&mut terminal.core),
            },
            actions: self.2.column()?,
            rewards: self.3.as_slice_mut()?,
            dones: self.4.as_slice_mut()?,
            timeouts: match &mut self.5 {
                Some(column) => Some(column.as_slice_mut()?),
                None => None,
            },
        })
    }
}

/// The arrays of the last step. Choices have no scaled form: the one array is then empty.
struct LastStep<'py> {
    obs: NewArray<'py, f32, Ix2>,
    rewards: NewArray<'py, f32, Ix1>,
    dones: NewArray<'py, bool, Ix1>,
    choices: Option<NewArray<'py, i64, Ix1>>,
    numbers: NewArray<'py, f32, Ix2>,
    scaled: NewArray<'py, f32, Ix2>,
}

impl<'py> LastStep<'py> {
    fn new(
        py: Python<'py>,
        envs: &dyn VectorEnv,
        plan: &PlanArgs<'py>,
        obs: &[f32],
    ) -> PyResult<Self> {
        let (n_envs, dim) = (envs.num_envs(), envs.spec().obs_dim);
        let discrete = matches!(plan.1, DrawnArray::Ints(_));
        let width = if discrete { 0 } else { plan.3.0.len() };
        let mut now = NewArray::zeros(py, [n_envs, dim])?;
        let to = now.as_mut_slice();
        let known = to.len().min(obs.len());
        to[..known].copy_from_slice(&obs[..known]);
        let choices = match discrete {
            true => Some(NewArray::zeros(py, [n_envs])?),
            false => None,
        };
        Ok(Self {
            obs: now,
            rewards: NewArray::zeros(py, [n_envs])?,
            dones: NewArray::zeros(py, [n_envs])?,
            choices,
            numbers: NewArray::zeros(py, [n_envs, width])?,
            scaled: NewArray::zeros(py, [n_envs, width])?,
        })
    }

    fn slices(&mut self) -> Last<'_> {
        Last {
            obs: self.obs.as_mut_slice(),
            rewards: self.rewards.as_mut_slice(),
            dones: self.dones.as_mut_slice(),
            actions: match &mut self.choices {
                Some(choices) => ActionColumn::Ints(choices.as_mut_slice()),
                None => ActionColumn::Floats(self.numbers.as_mut_slice()),
            },
            scaled: self.scaled.as_mut_slice(),
        }
    }

    /// Actions, the same as the buffer has them, observations, rewards, dones, infos.
    fn finish(self, py: Python<'py>, envs: &EnvBatch) -> PyResult<Bound<'py, PyTuple>> {
        let (actions, stored) = match self.choices {
            Some(choices) => {
                let choices = choices.finish().into_any();
                (choices.clone(), choices)
            }
            None => (
                self.numbers.finish().into_any(),
                self.scaled.finish().into_any(),
            ),
        };
        let (obs, rewards, dones) = (
            self.obs.finish(),
            self.rewards.finish(),
            self.dones.finish(),
        );
        (actions, stored, obs, rewards, dones, envs.infos(py)?).into_pyobject(py)
    }
}

/// Steps the environments as the plan says, and stores every step in the columns from the cursor
/// (rows, next row, full) on.
#[guarded]
#[pyfunction]
fn explore<'py>(
    py: Python<'py>,
    mut envs: PyRefMut<'py, EnvBatch>,
    mut actor: PyRefMut<'py, Actor>,
    last_obs: PyReadonlyArrayDyn<'py, f32>,
    plan: PlanArgs<'py>,
    mut columns: Columns<'py>,
    cursor: (usize, usize, bool),
) -> PyResult<Outcome<'py>> {
    envs.check_open()?;
    columns.apart_from(place(&last_obs), &plan)?;
    let last_obs = last_obs.as_slice()?;
    if last_obs.len() != envs.envs.num_envs() * envs.envs.spec().obs_dim {
        return Err(bad(
            "the last observations are not those of the environments",
        ));
    }
    let ring = Ring::new(cursor.0, cursor.1, cursor.2).map_err(py_err)?;
    let mut replay = columns.replay(ring)?;
    let mut end = LastStep::new(py, &*envs.envs, &plan, last_obs)?;
    let (explored, raised) = {
        let (plan, mut last) = (plan.plan()?, end.slices());
        let (envs, policy) = (&mut *envs.envs, &mut actor.core);
        watched(py, |watch| {
            core_explore(envs, policy, &plan, &mut replay, &mut last, watch)
        })
    };
    // A signal that came since is seen to here: raised after this call, it would lose the steps.
    let raised = raised.or_else(|| py.check_signals().err());
    report(py, &envs, explored.map_err(py_err)?, raised, end)
}

fn report<'py>(
    py: Python<'py>,
    envs: &EnvBatch,
    explored: Explored,
    raised: Option<PyErr>,
    end: LastStep<'py>,
) -> PyResult<Outcome<'py>> {
    let mut error = raised.or_else(|| explored.error.map(py_err));
    // The infos tell of the last step; an error leaves none that could.
    let last_told = error.is_none().then(|| explored.steps.saturating_sub(1));
    let ended = &explored.episodes;
    let count = last_told.map_or(ended.len(), |last| {
        ended.partition_point(|end| end.0 < last)
    });
    let told = ended[..count]
        .iter()
        .map(|(step, episode)| (*step, episode));
    let mut episodes = entries(py, envs, told, &mut error)?;
    if error.is_some() && last_told.is_some() {
        // A signal came just now: the last step is told of like those before it.
        let rest = ended[count..]
            .iter()
            .map(|(step, episode)| (*step, episode));
        episodes.extend(entries(py, envs, rest, &mut error)?);
    }
    let last = end.finish(py, envs)?;
    Ok((explored.steps, error, episodes, last))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(explore, m)?)
}
