//! The state of an environment as a dict of plain Python values, ready for JSON or pickle.

use mlx_baselines3_core::env::numerics::ReturnSum;
use mlx_baselines3_core::env::{EnvSpec, Physics};
use mlx_baselines3_core::rng::Pcg64State;
use mlx_baselines3_core::vec_env::Snapshot;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::args::Many;
use crate::error::bad;

pub(super) fn to_dict<'py>(
    py: Python<'py>,
    spec: &EnvSpec,
    snapshot: &Snapshot,
) -> PyResult<Bound<'py, PyDict>> {
    let params = PyDict::new(py);
    for (name, value) in spec.params.iter().zip(&snapshot.params) {
        params.set_item(name, value)?;
    }
    let state = PyDict::new(py);
    state.set_item("state", &snapshot.physics.state)?;
    state.set_item("single", snapshot.physics.single)?;
    state.set_item("last_action", snapshot.physics.last_action)?;
    state.set_item("params", params)?;
    state.set_item(
        "rng",
        snapshot.rng.map(|rng| rng_to_dict(py, rng)).transpose()?,
    )?;
    state.set_item("ready", snapshot.ready)?;
    state.set_item("steps", snapshot.steps)?;
    state.set_item("total", snapshot.total.sum)?;
    state.set_item("total_error", snapshot.total.error)?;
    Ok(state)
}

fn rng_to_dict(py: Python<'_>, rng: Pcg64State) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("state", rng.state)?;
    dict.set_item("inc", rng.inc)?;
    dict.set_item("has_uint32", u32::from(rng.has_uint32))?;
    dict.set_item("uinteger", rng.uinteger)?;
    Ok(dict)
}

pub(super) fn from_dict(spec: &EnvSpec, state: &Bound<'_, PyDict>) -> PyResult<Snapshot> {
    let params: Bound<'_, PyDict> = get(state, "params")?.cast_into()?;
    let rng = get(state, "rng")?;
    Ok(Snapshot {
        physics: Physics {
            state: get(state, "state")?.extract::<Many<f64>>()?.0,
            single: get(state, "single")?.extract()?,
            last_action: get(state, "last_action")?.extract()?,
        },
        params: spec
            .params
            .iter()
            .map(|name| get(&params, name)?.extract())
            .collect::<PyResult<_>>()?,
        rng: if rng.is_none() {
            None
        } else {
            Some(rng_from_dict(&rng.cast_into()?)?)
        },
        ready: get(state, "ready")?.extract()?,
        steps: get(state, "steps")?.extract()?,
        total: ReturnSum {
            sum: get(state, "total")?.extract()?,
            error: get(state, "total_error")?.extract()?,
        },
    })
}

fn rng_from_dict(rng: &Bound<'_, PyDict>) -> PyResult<Pcg64State> {
    Ok(Pcg64State {
        state: get(rng, "state")?.extract()?,
        inc: get(rng, "inc")?.extract()?,
        has_uint32: get(rng, "has_uint32")?.extract::<u32>()? != 0,
        uinteger: get(rng, "uinteger")?.extract()?,
    })
}

fn get<'py>(dict: &Bound<'py, PyDict>, key: &str) -> PyResult<Bound<'py, PyAny>> {
    dict.get_item(key)?.ok_or_else(|| {
        let keys = dict.keys();
        bad(format!(
            "the saved environment state has no {key:?}, only {keys}"
        ))
    })
}
