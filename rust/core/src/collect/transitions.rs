//! The fused collection of off-policy algorithms: exploration and replay buffer included.

use std::ops::Range;

use super::{ActionBounds, ActionColumn, CollectError, check, check_policy};
use crate::actor::{ActionsOut, Actor, ActorError};
use crate::buffer::ring::Ring;
use crate::buffer::terminal::{BadBlock, TerminalObs};
use crate::env::Actions;
use crate::interrupt::Watch;
use crate::vec_env::{Episode, StepOut, VectorEnv};

impl From<BadBlock> for CollectError {
    fn from(bad: BadBlock) -> Self {
        Self::Column {
            what: bad.what,
            got: bad.got,
            expected: bad.expected,
        }
    }
}

/// Random actions, drawn before the chunk.
#[derive(Debug, Clone, Copy)]
pub enum RandomActions<'a> {
    /// Discrete actions.
    Ints(&'a [i64]),
    /// Continuous actions, as the environments take them.
    Floats(&'a [f32]),
}

/// How the actions of a chunk come about.
#[derive(Debug, Clone, Copy)]
pub struct ActionPlan<'a> {
    /// For each step, whether it takes random actions and not the policy's.
    pub is_random: &'a [bool],
    /// The random actions, one step after the other.
    pub random_actions: RandomActions<'a>,
    /// Noise on the actions, scaled to [-1, 1], of all steps.
    pub noise: Option<&'a [f32]>,
    /// Bounds of continuous actions.
    pub bounds: ActionBounds<'a>,
    /// Whether to stop after a step that ends an episode.
    pub until_end: bool,
}

/// Where the observations that follow are kept.
#[derive(Debug)]
pub enum NextObs<'a> {
    /// In their own column.
    Column(&'a mut [f32]),
    /// In the next row, and here where an episode ended.
    NextRow(&'a mut TerminalObs),
}

/// The columns of a replay buffer, `ring.capacity()` rows of all environments each.
#[derive(Debug)]
pub struct ReplayColumns<'a> {
    /// Where the next row goes; moves with every step.
    pub ring: Ring,
    /// Observations.
    pub observations: &'a mut [f32],
    /// Next observations.
    pub next: NextObs<'a>,
    /// Actions; continuous ones are scaled to [-1, 1].
    pub actions: ActionColumn<'a>,
    /// Rewards.
    pub rewards: &'a mut [f32],
    /// 1 where an episode ended, else 0.
    pub dones: &'a mut [f32],
    /// 1 where the time limit alone ended it, else 0; `None` if timeouts are not kept.
    pub timeouts: Option<&'a mut [f32]>,
}

/// The last step.
#[derive(Debug)]
pub struct LastStep<'a> {
    /// The observations; before the chunk, those to begin with.
    pub obs: &'a mut [f32],
    /// Its rewards.
    pub rewards: &'a mut [f32],
    /// Which episodes it ended.
    pub dones: &'a mut [bool],
    /// Its actions, as the environments took them.
    pub actions: ActionColumn<'a>,
    /// The same scaled to [-1, 1]; empty for discrete actions.
    pub scaled: &'a mut [f32],
}

/// The outcome of a chunk.
#[derive(Debug)]
pub struct CollectedTransitions {
    /// Steps that were taken and stored.
    pub steps: usize,
    /// The episodes that ended, each with its step.
    pub episodes: Vec<(usize, Episode)>,
    /// Why there is no next step, if there should be one. It left everything as the last step did.
    pub error: Option<CollectError>,
}

/// Lengths that do not change during a chunk.
#[derive(Clone, Copy)]
struct Sizes {
    n_envs: usize,
    dim: usize,
    width: usize,
}

fn check_fit(
    envs: &dyn VectorEnv,
    actor: &Actor,
    plan: &ActionPlan<'_>,
    replay: &ReplayColumns<'_>,
    last: &LastStep<'_>,
) -> Result<Sizes, CollectError> {
    let (dim, n_envs) = (envs.spec().obs_dim, envs.num_envs());
    let width = check_policy(envs, actor, &replay.actions, plan.bounds)?;
    check_policy(envs, actor, &last.actions, plan.bounds)?;
    let (numbers, rows) = (
        n_envs * width,
        replay.ring.capacity().saturating_mul(n_envs),
    );
    let (random, scaled) = match (plan.random_actions, &last.actions) {
        (RandomActions::Ints(random), ActionColumn::Ints(_)) => (random.len(), 0),
        (RandomActions::Floats(random), ActionColumn::Floats(_)) => (random.len(), numbers),
        _ => return Err(CollectError::Action { id: envs.spec().id }),
    };
    let random_steps = plan.is_random.iter().filter(|&&random| random).count();
    check(
        "the block of random actions",
        random,
        random_steps.saturating_mul(numbers),
    )?;
    if let Some(noise) = plan.noise {
        check("the noise", noise.len(), plan.is_random.len() * scaled)?;
    }
    check(
        "observations",
        replay.observations.len(),
        rows.saturating_mul(dim),
    )?;
    if let NextObs::Column(column) = &replay.next {
        check("next_observations", column.len(), rows.saturating_mul(dim))?;
    }
    check("actions", replay.actions.len(), rows.saturating_mul(width))?;
    check("rewards", replay.rewards.len(), rows)?;
    check("dones", replay.dones.len(), rows)?;
    if let Some(timeouts) = &replay.timeouts {
        check("timeouts", timeouts.len(), rows)?;
    }
    check("the last observations", last.obs.len(), n_envs * dim)?;
    check("the last rewards", last.rewards.len(), n_envs)?;
    check("the last dones", last.dones.len(), n_envs)?;
    check("the last actions", last.actions.len(), numbers)?;
    check("the last scaled actions", last.scaled.len(), scaled)?;
    Ok(Sizes { n_envs, dim, width })
}

/// The policy's or the random actions of a step, ready for environments and buffer.
///
/// `step` counts from the start of the chunk, `taken` the random steps before it.
fn act(
    actor: &mut Actor,
    plan: &ActionPlan<'_>,
    (step, taken): (usize, usize),
    last: &mut LastStep<'_>,
) -> Result<(), ActorError> {
    let random = plan.is_random[step];
    match (&mut last.actions, plan.random_actions) {
        (ActionColumn::Ints(actions), RandomActions::Ints(drawn)) => {
            if !random {
                return actor.act(last.obs, false, ActionsOut::Ints(actions));
            }
            actions.copy_from_slice(&drawn[block(taken, actions.len())]);
        }
        (ActionColumn::Floats(actions), RandomActions::Floats(drawn)) => {
            if random {
                actions.copy_from_slice(&drawn[block(taken, actions.len())]);
            } else {
                actor.act(last.obs, false, ActionsOut::Floats(actions))?;
                each(actions, plan.bounds, unscale);
            }
            let noise = plan.noise.map(|noise| &noise[block(step, actions.len())]);
            add_noise(actions, last.scaled, noise, plan.bounds);
        }
        _ => {}
    }
    Ok(())
}

fn each(
    row: &mut [f32],
    ActionBounds { low, high }: ActionBounds<'_>,
    f: impl Fn(f32, f32, f32) -> f32,
) {
    for action in row.chunks_exact_mut(low.len()) {
        for (x, (&low, &high)) in action.iter_mut().zip(low.iter().zip(high)) {
            *x = f(*x, low, high);
        }
    }
}

// Both as `policy.scale_action` and `policy.unscale_action` round, operation by operation.
fn scale(x: f32, low: f32, high: f32) -> f32 {
    2.0 * ((x - low) / (high - low)) - 1.0
}

fn unscale(x: f32, low: f32, high: f32) -> f32 {
    low + (0.5 * (x + 1.0) * (high - low))
}

/// Scales the actions, adds the noise to that, and scales back what the environments take.
fn add_noise(
    actions: &mut [f32],
    scaled: &mut [f32],
    noise: Option<&[f32]>,
    bounds: ActionBounds<'_>,
) {
    scaled.copy_from_slice(actions);
    each(scaled, bounds, scale);
    if let Some(noise) = noise {
        for (x, noise) in scaled.iter_mut().zip(noise) {
            // `np.clip`: NaN stays, so that the environment can name it.
            *x = (*x + noise).clamp(-1.0, 1.0);
        }
    }
    actions.copy_from_slice(scaled);
    each(actions, bounds, unscale);
}

impl ReplayColumns<'_> {
    /// Stores the step that began with the observations `seen` and ended with `last`.
    fn store(
        &mut self,
        envs: &dyn VectorEnv,
        sizes: Sizes,
        seen: &[f32],
        last: &LastStep<'_>,
    ) -> Result<(), BadBlock> {
        let Sizes { n_envs, dim, width } = sizes;
        self.store_observations(envs, dim, seen, last.obs)?;
        let row = block(self.ring.pos(), n_envs);
        let numbers = block(self.ring.pos(), n_envs * width);
        match (&mut self.actions, &last.actions) {
            (ActionColumn::Ints(column), ActionColumn::Ints(actions)) => {
                column[numbers].copy_from_slice(actions);
            }
            (ActionColumn::Floats(column), _) => column[numbers].copy_from_slice(last.scaled),
            _ => {}
        }
        self.rewards[row.clone()].copy_from_slice(last.rewards);
        for (to, &done) in self.dones[row.clone()].iter_mut().zip(&*last.dones) {
            *to = f32::from(u8::from(done));
        }
        if let Some(timeouts) = &mut self.timeouts {
            let timeouts = &mut timeouts[row];
            timeouts.fill(0.0);
            for episode in envs.episodes() {
                let truncated = episode.truncated && !episode.terminated;
                timeouts[episode.env] = f32::from(u8::from(truncated));
            }
        }
        self.ring.advance();
        Ok(())
    }

    fn store_observations(
        &mut self,
        envs: &dyn VectorEnv,
        dim: usize,
        seen: &[f32],
        obs: &[f32],
    ) -> Result<(), BadBlock> {
        let row = block(self.ring.pos(), seen.len());
        let after = block(self.ring.after(self.ring.pos(), 1), seen.len());
        let following = match &mut self.next {
            NextObs::Column(column) => {
                self.observations[row.clone()].copy_from_slice(seen);
                &mut column[row]
            }
            NextObs::NextRow(terminal) => {
                terminal.before_write(&self.ring, self.observations, seen, envs.num_envs())?;
                self.observations[row].copy_from_slice(seen);
                &mut self.observations[after]
            }
        };
        following.copy_from_slice(obs);
        for (k, episode) in envs.episodes().iter().enumerate() {
            let at = block(episode.env, dim);
            following[at].copy_from_slice(envs.terminal_obs(k));
        }
        Ok(())
    }
}

/// Where block `index` of `len` numbers is.
fn block(index: usize, len: usize) -> Range<usize> {
    index * len..(index + 1) * len
}

/// Steps `envs` once for each entry of `plan.is_random`, or until an episode ends if the plan says so,
/// and stores every step in `replay`. `watch` may stop it between two steps.
///
/// # Errors
/// A [`CollectError`] if the parts do not fit each other; nothing has moved then. What goes wrong
/// later is in [`CollectedTransitions::error`].
pub fn collect_transitions(
    envs: &mut dyn VectorEnv,
    actor: &mut Actor,
    plan: &ActionPlan<'_>,
    replay: &mut ReplayColumns<'_>,
    last: &mut LastStep<'_>,
    watch: &mut Watch<'_>,
) -> Result<CollectedTransitions, CollectError> {
    let sizes = check_fit(envs, actor, plan, replay, last)?;
    let mut collected = CollectedTransitions {
        steps: 0,
        episodes: Vec::new(),
        error: None,
    };
    let (mut seen, mut taken) = (last.obs.to_vec(), 0);
    for (step, &random) in plan.is_random.iter().enumerate() {
        seen.copy_from_slice(last.obs);
        let moved = watch
            .check()
            .map_err(CollectError::from)
            .and_then(|()| Ok(act(actor, plan, (step, taken), last)?))
            .and_then(|()| advance(envs, last))
            .and_then(|()| Ok(replay.store(envs, sizes, &seen, last)?));
        if let Err(error) = moved {
            collected.error = Some(error);
            break;
        }
        taken += usize::from(random);
        collected.steps += 1;
        let ended = envs.episodes();
        collected
            .episodes
            .extend(ended.iter().map(|&episode| (step, episode)));
        if plan.until_end && !ended.is_empty() {
            break;
        }
    }
    Ok(collected)
}

fn advance(envs: &mut dyn VectorEnv, last: &mut LastStep<'_>) -> Result<(), CollectError> {
    let actions = match &last.actions {
        ActionColumn::Ints(actions) => Actions::Discrete(actions),
        ActionColumn::Floats(actions) => Actions::Single(actions),
    };
    let out = StepOut {
        obs: &mut *last.obs,
        rewards: &mut *last.rewards,
        dones: &mut *last.dones,
    };
    Ok(envs.step(actions, out)?)
}
