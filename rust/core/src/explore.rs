//! The fused stretch of off-policy algorithms: actor, exploration, environments and replay buffer,
//! step after step, without leaving Rust.

use std::ops::Range;

use crate::actor::{ActionsOut, Actor, ActorError};
use crate::buffer::ring::Ring;
use crate::buffer::terminal::{BadBlock, TerminalObs};
use crate::env::Actions;
use crate::interrupt::Watch;
pub use crate::stretch::{ActionColumn, CollectError};
use crate::stretch::{check, check_policy};
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

/// Actions that were drawn before the stretch.
#[derive(Debug, Clone, Copy)]
pub enum Drawn<'a> {
    /// Choices.
    Ints(&'a [i64]),
    /// Numbers, as the environments take them.
    Floats(&'a [f32]),
}

/// How a stretch explores.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// For each step, whether its actions were drawn before. The policy chooses the others.
    pub given: &'a [bool],
    /// The actions of those steps, one after the other.
    pub drawn: Drawn<'a>,
    /// Noise on the actions, scaled to [-1, 1], of all steps.
    pub noise: Option<&'a [f32]>,
    /// Lowest and highest action, for continuous ones.
    pub bounds: (&'a [f32], &'a [f32]),
    /// Whether to stop after a step that ends an episode.
    pub until_end: bool,
}

/// Where the observations that follow are kept.
#[derive(Debug)]
pub enum NextObs<'a> {
    /// In a column of their own.
    Column(&'a mut [f32]),
    /// In the next row, and here where an episode ended.
    NextRow(&'a mut TerminalObs),
}

/// The columns of a replay buffer, `ring.capacity()` rows of all environments each.
#[derive(Debug)]
pub struct Replay<'a> {
    /// Where the next row goes; moves with every step.
    pub ring: Ring,
    /// What was seen.
    pub observations: &'a mut [f32],
    /// What followed.
    pub next: NextObs<'a>,
    /// What was done; numbers are scaled to [-1, 1].
    pub actions: ActionColumn<'a>,
    /// What it gave.
    pub rewards: &'a mut [f32],
    /// 1 where an episode ended, else 0.
    pub dones: &'a mut [f32],
    /// 1 where the time limit alone ended it, else 0; not written if not asked for.
    pub timeouts: Option<&'a mut [f32]>,
}

/// The last step.
#[derive(Debug)]
pub struct Last<'a> {
    /// The observations; before the stretch, those to begin with.
    pub obs: &'a mut [f32],
    /// Its rewards.
    pub rewards: &'a mut [f32],
    /// Which episodes it ended.
    pub dones: &'a mut [bool],
    /// Its actions, as the environments took them.
    pub actions: ActionColumn<'a>,
    /// The same scaled to [-1, 1]; empty for choices.
    pub scaled: &'a mut [f32],
}

/// What a stretch did.
#[derive(Debug)]
pub struct Explored {
    /// Steps that were taken and stored.
    pub steps: usize,
    /// The episodes that ended, each with its step.
    pub episodes: Vec<(usize, Episode)>,
    /// Why there is no next step, if there should be one. It left everything as the last step did.
    pub error: Option<CollectError>,
}

/// Lengths that do not change during a stretch.
#[derive(Clone, Copy)]
struct Sizes {
    n_envs: usize,
    dim: usize,
    width: usize,
}

fn check_fit(
    envs: &dyn VectorEnv,
    actor: &Actor,
    plan: &Plan<'_>,
    replay: &Replay<'_>,
    last: &Last<'_>,
) -> Result<Sizes, CollectError> {
    let (dim, n_envs) = (envs.spec().obs_dim, envs.num_envs());
    let width = check_policy(envs, actor, &replay.actions, plan.bounds)?;
    check_policy(envs, actor, &last.actions, plan.bounds)?;
    let (numbers, rows) = (
        n_envs * width,
        replay.ring.capacity().saturating_mul(n_envs),
    );
    let (drawn, scaled) = match (plan.drawn, &last.actions) {
        (Drawn::Ints(drawn), ActionColumn::Ints(_)) => (drawn.len(), 0),
        (Drawn::Floats(drawn), ActionColumn::Floats(_)) => (drawn.len(), numbers),
        _ => return Err(CollectError::Action { id: envs.spec().id }),
    };
    let given = plan.given.iter().filter(|&&given| given).count();
    check(
        "the block of drawn actions",
        drawn,
        given.saturating_mul(numbers),
    )?;
    if let Some(noise) = plan.noise {
        check("the noise", noise.len(), plan.given.len() * scaled)?;
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

/// The policy's or the drawn actions of the present step, ready for environments and buffer.
///
/// `step` counts from the start of the stretch, `taken` the drawn steps before it.
fn act(
    actor: &mut Actor,
    plan: &Plan<'_>,
    (step, taken): (usize, usize),
    last: &mut Last<'_>,
) -> Result<(), ActorError> {
    let given = plan.given[step];
    match (&mut last.actions, plan.drawn) {
        (ActionColumn::Ints(actions), Drawn::Ints(drawn)) => {
            if !given {
                return actor.act(last.obs, false, ActionsOut::Ints(actions));
            }
            actions.copy_from_slice(&drawn[block(taken, actions.len())]);
        }
        (ActionColumn::Floats(actions), Drawn::Floats(drawn)) => {
            if given {
                actions.copy_from_slice(&drawn[block(taken, actions.len())]);
            } else {
                actor.act(last.obs, false, ActionsOut::Floats(actions))?;
                each(actions, plan.bounds, unscale);
            }
            let noise = plan.noise.map(|noise| &noise[block(step, actions.len())]);
            disturb(actions, last.scaled, noise, plan.bounds);
        }
        _ => {}
    }
    Ok(())
}

fn each(row: &mut [f32], (low, high): (&[f32], &[f32]), f: impl Fn(f32, f32, f32) -> f32) {
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
fn disturb(
    actions: &mut [f32],
    scaled: &mut [f32],
    noise: Option<&[f32]>,
    bounds: (&[f32], &[f32]),
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

impl Replay<'_> {
    /// Stores the step that `last` tells of, and that began with `seen`.
    fn store(
        &mut self,
        envs: &dyn VectorEnv,
        sizes: Sizes,
        seen: &[f32],
        last: &Last<'_>,
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
                let cut = episode.truncated && !episode.terminated;
                timeouts[episode.env] = f32::from(u8::from(cut));
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

/// Steps `envs` once for each entry of `plan.given`, or until an episode ends if the plan says so,
/// and stores every step in `replay`. `watch` may stop it between two steps.
///
/// # Errors
/// A [`CollectError`] if the parts do not fit each other; nothing has moved then. What goes wrong
/// later is in [`Explored::error`].
pub fn explore(
    envs: &mut dyn VectorEnv,
    actor: &mut Actor,
    plan: &Plan<'_>,
    replay: &mut Replay<'_>,
    last: &mut Last<'_>,
    watch: &mut Watch<'_>,
) -> Result<Explored, CollectError> {
    let sizes = check_fit(envs, actor, plan, replay, last)?;
    let mut explored = Explored {
        steps: 0,
        episodes: Vec::new(),
        error: None,
    };
    let (mut seen, mut taken) = (last.obs.to_vec(), 0);
    for (step, &given) in plan.given.iter().enumerate() {
        seen.copy_from_slice(last.obs);
        let moved = watch
            .check()
            .map_err(CollectError::from)
            .and_then(|()| Ok(act(actor, plan, (step, taken), last)?))
            .and_then(|()| advance(envs, last))
            .and_then(|()| Ok(replay.store(envs, sizes, &seen, last)?));
        if let Err(error) = moved {
            explored.error = Some(error);
            break;
        }
        taken += usize::from(given);
        explored.steps += 1;
        let ended = envs.episodes();
        explored
            .episodes
            .extend(ended.iter().map(|&episode| (step, episode)));
        if plan.until_end && !ended.is_empty() {
            break;
        }
    }
    Ok(explored)
}

fn advance(envs: &mut dyn VectorEnv, last: &mut Last<'_>) -> Result<(), CollectError> {
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
