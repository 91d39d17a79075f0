//! Many policies at once, as `native/candidates.py` evaluates them.

use mlx_baselines3_core::evaluate::{Candidates, evaluate};
use mlx_baselines3_macros::guarded;
use numpy::{PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::actor::Actor;
use crate::args::Many;
use crate::error::bad;
use crate::signals::watched_whole;
use crate::trained::{LayerSpec, net};
use crate::vec_env::EnvBatch;

/// Lowest and highest action that the environment takes.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Bounds<'py> {
    low: PyReadonlyArray1<'py, f32>,
    high: PyReadonlyArray1<'py, f32>,
}

/// The policies.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct CandidateArrays<'py> {
    layers: Many<LayerSpec>,
    parameters: PyReadonlyArray2<'py, f32>,
    episodes: usize,
    bounds: Bounds<'py>,
    squashed: bool,
}

/// Plays episodes with each of many policies of the actor's shape. For each a list of Monitor's entries.
#[guarded]
#[pyfunction]
fn evaluate_candidates<'py>(
    py: Python<'py>,
    mut envs: PyRefMut<'py, EnvBatch>,
    actor: PyRef<'py, Actor>,
    obs: PyReadonlyArray1<'py, f32>,
    candidates: CandidateArrays<'py>,
) -> PyResult<Bound<'py, PyList>> {
    envs.check_open()?;
    let (obs, count) = (obs.as_slice()?, candidates.parameters.as_array().nrows());
    if obs.len() != envs.envs.spec().obs_dim {
        return Err(bad("the observation is not that of the environment"));
    }
    let net = net(candidates.layers)?;
    let plan = Candidates {
        net: &net,
        parameters: candidates.parameters.as_slice()?,
        count,
        episodes: candidates.episodes,
        bounds: [
            candidates.bounds.low.as_slice()?,
            candidates.bounds.high.as_slice()?,
        ],
        squashed: candidates.squashed,
    };
    let (core, shape) = (&mut envs.envs, &actor.core);
    let played = watched_whole(py, |watch| evaluate(core, shape, obs, &plan, watch))?;
    let lists = PyList::empty(py);
    for episodes in &played {
        let entries: PyResult<Vec<_>> = episodes
            .iter()
            .map(|episode| envs.monitor_entry(py, episode))
            .collect();
        lists.append(PyList::new(py, entries?)?)?;
    }
    Ok(lists)
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(evaluate_candidates, m)?)
}
