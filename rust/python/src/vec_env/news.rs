//! The episodes that ended in a step, and the infos that tell of them.

use mlx_baselines3_core::env::numerics::round_micro;
use mlx_baselines3_core::vec_env::{Episode, VectorEnv};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict};

use crate::ffi::new_array::array_of;

/// The episodes that ended in a step, at least one, by rising environment.
pub(super) struct News {
    episodes: Vec<Episode>,
    last_obs: Vec<f32>,
    elapsed: f64,
}

/// Monitor's entry of an episode that ended `elapsed` seconds after the clock started.
pub(crate) fn monitor_entry<'py>(
    py: Python<'py>,
    episode: &Episode,
    elapsed: f64,
) -> PyResult<Bound<'py, PyDict>> {
    let stats = PyDict::new(py);
    match round_micro(episode.total) {
        Some(total) => stats.set_item(intern!(py, "r"), total)?,
        None => {
            let total = episode.total.into_pyobject(py)?;
            let total = total.call_method1(intern!(py, "__round__"), (6,))?;
            stats.set_item(intern!(py, "r"), total)?;
        }
    }
    stats.set_item(intern!(py, "l"), episode.length)?;
    stats.set_item(intern!(py, "t"), (elapsed * 1e6).round() / 1e6)?;
    Ok(stats)
}

/// Whether the time limit ended the episode, and nothing else did.
fn is_timeout(episode: &Episode) -> bool {
    episode.truncated && !episode.terminated
}

impl News {
    /// Those of the last step. `elapsed` is the time since the start, in seconds.
    pub(super) fn of(envs: &dyn VectorEnv, elapsed: impl FnOnce() -> f64) -> Option<Box<Self>> {
        let episodes = envs.episodes();
        (!episodes.is_empty()).then(|| {
            Box::new(Self {
                episodes: episodes.to_vec(),
                last_obs: envs.terminal_observations().to_vec(),
                elapsed: elapsed(),
            })
        })
    }

    /// The info of environment `env`, if its episode ended.
    pub(super) fn info<'py>(
        &self,
        py: Python<'py>,
        env: usize,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Ok(k) = self.episodes.binary_search_by_key(&env, |end| end.env) else {
            return Ok(None);
        };
        let (info, episode) = (PyDict::new(py), &self.episodes[k]);
        let dim = self.last_obs.len() / self.episodes.len();
        let last = array_of(py, &self.last_obs[k * dim..(k + 1) * dim])?;
        let stats = monitor_entry(py, episode, self.elapsed)?;
        info.set_item(intern!(py, "episode"), stats)?;
        info.set_item(intern!(py, "TimeLimit.truncated"), is_timeout(episode))?;
        info.set_item(intern!(py, "terminal_observation"), last)?;
        Ok(Some(info))
    }

    /// Writes 1 for each environment whose episode was ended by the time limit alone.
    pub(super) fn mark_truncations(&self, truncations: &mut [f32]) {
        for episode in self.episodes.iter().filter(|episode| is_timeout(episode)) {
            truncations[episode.env] = 1.0;
        }
    }
}

/// The `TimeLimit.truncated` of an info, as 1 or 0.
pub(crate) fn truncation_of(info: &Bound<'_, PyAny>) -> Option<f32> {
    let info = info.cast_exact::<PyDict>().ok()?;
    if info.is_empty() {
        return Some(0.0);
    }
    let key = intern!(info.py(), "TimeLimit.truncated");
    match info.get_item(key).ok()? {
        None => Some(0.0),
        Some(truncated) => Some(f32::from(u8::from(
            truncated.cast_exact::<PyBool>().ok()?.is_true(),
        ))),
    }
}
