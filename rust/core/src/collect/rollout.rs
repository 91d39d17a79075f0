//! The fused rollout of on-policy algorithms.

use super::{ActionBounds, ActionColumn, CollectError, check, check_policy};
use crate::actor::{ActionsOut, Actor};
use crate::env::Actions;
use crate::interrupt::Watch;
use crate::nn::ObservationColumn;
use crate::vec_env::{Episode, StepOut, VectorEnv};

/// The rows of a rollout buffer that a chunk fills: as many as `rewards` holds.
#[derive(Debug)]
pub struct RolloutColumns<'a> {
    /// What the policy observed.
    pub observations: &'a mut [f32],
    /// Its actions.
    pub actions: ActionColumn<'a>,
    /// Its rewards.
    pub rewards: &'a mut [f32],
    /// 1 where the observation is the first of an episode, else 0.
    pub episode_starts: &'a mut [f32],
    /// Which choices the environments allowed, 1 or 0 for each; `None`: the policy is not to know.
    pub masks: Option<&'a mut [f32]>,
}

/// Where the environments are between two steps; both fields change with every step.
#[derive(Debug)]
pub struct CurrentObs<'a> {
    /// The last observations.
    pub obs: &'a mut [f32],
    /// Whether they are the first of an episode.
    pub starts: &'a mut [bool],
}

/// An episode that ended during a chunk.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedEpisode {
    /// The step it ended with, counted from the start of the chunk.
    pub step: usize,
    /// Its statistics.
    pub episode: Episode,
    /// Its last observation, if the time limit alone ended it.
    pub timeout_obs: Option<Vec<f32>>,
}

/// The outcome of a chunk.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CollectedRollout {
    /// Steps that were taken: all that there were rows for, or fewer if it was interrupted.
    pub steps: usize,
    /// The finished episodes in the order of step and environment.
    pub finished: Vec<FinishedEpisode>,
}

fn check_fit(
    envs: &dyn VectorEnv,
    actor: &Actor,
    bounds: ActionBounds<'_>,
    current: &CurrentObs<'_>,
    columns: &RolloutColumns<'_>,
) -> Result<(), CollectError> {
    let (dim, n_envs) = (envs.spec().obs_dim, envs.num_envs());
    let width = check_policy(envs, actor, &columns.actions, bounds)?;
    let rows = columns.rewards.len();
    check("rewards", rows, rows.next_multiple_of(n_envs))?;
    check("observations", columns.observations.len(), rows * dim)?;
    check("actions", columns.actions.len(), rows * width)?;
    check("episode_starts", columns.episode_starts.len(), rows)?;
    if let Some(masks) = &columns.masks {
        check("masks", masks.len(), rows * envs.spec().choices)?;
    }
    check("the last observations", current.obs.len(), n_envs * dim)?;
    check("the last episode starts", current.starts.len(), n_envs)
}

/// `np.clip`: NaN stays, so that the environment can name it.
fn clip(actions: &[f32], ActionBounds { low, high }: ActionBounds<'_>, out: &mut Vec<f32>) {
    out.clear();
    for row in actions.chunks_exact(low.len()) {
        out.extend(row.iter().zip(low.iter().zip(high)).map(|(&x, (&l, &h))| {
            let x = if x < l { l } else { x };
            if x > h { h } else { x }
        }));
    }
}

/// Steps `envs` with samples of `actor` until the columns are full. Continuous actions are clipped to
/// `bounds` on their way to the environments. `watch` may stop it between two steps.
///
/// # Errors
/// A [`CollectError`]. Lengths and kinds are checked before anything moves; after a later error
/// `current` says where the environments are.
pub fn collect_rollout(
    envs: &mut dyn VectorEnv,
    actor: &mut Actor,
    bounds: ActionBounds<'_>,
    current: CurrentObs<'_>,
    columns: RolloutColumns<'_>,
    watch: &mut Watch<'_>,
) -> Result<CollectedRollout, CollectError> {
    check_fit(envs, actor, bounds, &current, &columns)?;
    let (n_envs, dim) = (envs.num_envs(), envs.spec().obs_dim);
    let CurrentObs { obs, starts } = current;
    let (mut actions, mut masks) = (columns.actions, columns.masks);
    let choices = n_envs * envs.spec().choices;
    let width = actions
        .len()
        .checked_div(columns.rewards.len())
        .unwrap_or(0);
    let (mut clipped, mut collected) = (Vec::new(), CollectedRollout::default());
    let rows = columns.observations.chunks_exact_mut(n_envs * dim);
    let scalars = columns
        .rewards
        .chunks_exact_mut(n_envs)
        .zip(columns.episode_starts.chunks_exact_mut(n_envs));
    for (step, (seen, (rewards, first))) in rows.zip(scalars).enumerate() {
        if watch.check().is_err() {
            break;
        }
        seen.copy_from_slice(obs);
        for (to, &from) in first.iter_mut().zip(starts.iter()) {
            *to = f32::from(u8::from(from));
        }
        let at = step * n_envs * width..(step + 1) * n_envs * width;
        let masks = match &mut masks {
            Some(column) => {
                let row = &mut column[step * choices..(step + 1) * choices];
                envs.allow(row)?;
                Some(&*row)
            }
            None => None,
        };
        let input = [ObservationColumn::Floats(seen)];
        let actions = match &mut actions {
            ActionColumn::Ints(column) => {
                let row = &mut column[at];
                actor.act_on(&input, masks, false, ActionsOut::Ints(row))?;
                Actions::Discrete(row)
            }
            ActionColumn::Floats(column) => {
                let row = &mut column[at];
                actor.act_on(&input, masks, false, ActionsOut::Floats(row))?;
                clip(row, bounds, &mut clipped);
                Actions::Single(&clipped)
            }
        };
        let out = StepOut {
            obs: &mut *obs,
            rewards,
            dones: &mut *starts,
        };
        envs.step(actions, out)?;
        note_finished(envs, step, &mut collected.finished);
        collected.steps += 1;
    }
    Ok(collected)
}

fn note_finished(envs: &dyn VectorEnv, step: usize, finished: &mut Vec<FinishedEpisode>) {
    for (k, &episode) in envs.episodes().iter().enumerate() {
        let truncated = episode.truncated && !episode.terminated;
        finished.push(FinishedEpisode {
            step,
            episode,
            timeout_obs: truncated.then(|| envs.terminal_obs(k).to_vec()),
        });
    }
}
