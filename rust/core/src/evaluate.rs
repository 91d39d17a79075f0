//! Many policies of one shape, each evaluated on episodes of its own, over the cores.
//!
//! What comes out is what one environment gives that plays the episodes of one policy after the other. Each
//! policy's first state is known before the others have played, because a reset draws from the environment's
//! generator and a step does not. Where a step does, it is seen afterwards, and what follows is played again.

use thiserror::Error;

use crate::actor::{ActionsOut, Actor, ActorError};
use crate::env::{ActionSpace, Actions, EnvError};
use crate::interrupt::{Interrupted, Watch};
use crate::nn::{NnError, TrainableMlp};
use crate::threads::each;
use crate::vec_env::{Episode, Snapshot, StepOut, VectorEnv};

/// Steps between two questions whether to stop.
const SLICE: usize = 4096;

/// What can be wrong with an evaluation.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum EvaluateError {
    /// The environment.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// A policy.
    #[error(transparent)]
    Actor(#[from] ActorError),
    /// The layers of the policies.
    #[error(transparent)]
    Network(#[from] NnError),
    /// The work was stopped from outside.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Data of the wrong size.
    #[error("{what}: got {got}, expected {expected}")]
    Count {
        /// What it is.
        what: &'static str,
        /// How many there are.
        got: usize,
        /// How many there should be.
        expected: String,
    },
}

/// The policies to evaluate.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    /// Where in a row of parameters the layers have theirs.
    pub net: &'a TrainableMlp,
    /// The parameters, one row for each policy.
    pub parameters: &'a [f32],
    /// How many policies there are.
    pub count: usize,
    /// Episodes of each.
    pub episodes: usize,
    /// Lowest and highest action that the environment takes, if actions are not discrete.
    pub bounds: [&'a [f32]; 2],
    /// Whether actions lie in `[-1, 1]` and are scaled to the bounds; others are clipped.
    pub squashed: bool,
}

impl Candidates<'_> {
    fn check(&self, envs: &dyn VectorEnv, actor: &Actor) -> Result<(), EvaluateError> {
        let expect = |what, got: usize, fits: bool, expected: &str| match fits {
            true => Ok(()),
            false => Err(EvaluateError::Count {
                what,
                got,
                expected: expected.to_owned(),
            }),
        };
        let rows = self.count > 0 && self.parameters.len().is_multiple_of(self.count);
        let got = self.parameters.len();
        expect("parameters", got, rows, "one row for each policy")?;
        let (size, needed) = (got / self.count, self.net.parameters());
        expect(
            "parameters of a policy",
            size,
            size >= needed,
            "all that its layers have",
        )?;
        expect("environments", envs.num_envs(), envs.num_envs() == 1, "1")?;
        expect("episodes", self.episodes, self.episodes > 0, "at least 1")?;
        let inputs = self.net.inputs();
        expect(
            "inputs",
            inputs,
            inputs == envs.spec().obs_dim,
            "the observation's numbers",
        )?;
        let (fits, width) = match envs.spec().action {
            ActionSpace::Discrete(n) => {
                (actor.head().is_discrete() && actor.options() as i64 <= n, 0)
            }
            ActionSpace::Box(width) => (
                !actor.head().is_discrete() && actor.action_dim() == width,
                width,
            ),
        };
        expect(
            "actions",
            actor.action_dim(),
            fits,
            "those of the environment",
        )?;
        for bound in self.bounds {
            expect(
                "bounds",
                bound.len(),
                bound.len() == width,
                "one for each number of an action",
            )?;
        }
        Ok(())
    }
}

/// A policy and its environment while they play.
struct Play {
    envs: Box<dyn VectorEnv>,
    actor: Actor,
    obs: Vec<f32>,
    choice: [i64; 1],
    action: Vec<f32>,
    episodes: Vec<Episode>,
    error: Option<EvaluateError>,
}

impl Play {
    fn is_over(&self, candidates: &Candidates<'_>) -> bool {
        self.error.is_some() || self.episodes.len() >= candidates.episodes
    }

    fn step(&mut self, candidates: &Candidates<'_>) -> Result<(), EvaluateError> {
        let discrete = self.action.is_empty();
        let out = match discrete {
            true => ActionsOut::Ints(&mut self.choice),
            false => ActionsOut::Floats(&mut self.action),
        };
        self.actor.act(&self.obs, true, out)?;
        let [low, high] = candidates.bounds;
        for ((action, &low), &high) in self.action.iter_mut().zip(low).zip(high) {
            *action = match candidates.squashed {
                true => low + 0.5 * (*action + 1.0) * (high - low),
                false if *action < low => low,
                false if *action > high => high,
                false => *action,
            };
        }
        let actions = match discrete {
            true => Actions::Discrete(&self.choice),
            false => Actions::Single(&self.action),
        };
        let (mut reward, mut done) = ([0.0], [false]);
        let out = StepOut {
            obs: &mut self.obs,
            rewards: &mut reward,
            dones: &mut done,
        };
        self.envs.step(actions, out)?;
        self.episodes.extend_from_slice(self.envs.episodes());
        Ok(())
    }

    fn advance(&mut self, candidates: &Candidates<'_>) {
        for _ in 0..SLICE {
            if self.is_over(candidates) {
                return;
            }
            self.error = self.step(candidates).err();
        }
    }
}

/// Where a policy's episodes begin.
struct Start {
    envs: Box<dyn VectorEnv>,
    obs: Vec<f32>,
    /// The environment after all of them, if no step draws from the generator.
    after: Snapshot,
}

/// The beginning of each policy's episodes, from the present state of the environment on, which has just been
/// reset for the first one.
fn starts(
    envs: &dyn VectorEnv,
    first: &[f32],
    candidates: &Candidates<'_>,
    from: usize,
) -> Result<Vec<Start>, EvaluateError> {
    let (mut next, mut obs) = (envs.clone_box(), first.to_vec());
    let mut found = Vec::with_capacity(candidates.count - from);
    for index in from..candidates.count {
        let start = (next.clone_box(), obs.clone());
        // A reset after each episode, and the one before the next policy's first.
        for _ in 0..candidates.episodes {
            next.reset(0, None, None, &mut obs)?;
        }
        let after = next.snapshot(0)?;
        if index + 1 < candidates.count {
            next.reset(0, None, None, &mut obs)?;
        }
        let (envs, obs) = start;
        found.push(Start { envs, obs, after });
    }
    Ok(found)
}

/// Evaluates policies, whose actions are their most likely ones. The environment has been reset, and `obs`
/// is what it gave; it is left as after the last policy's last episode. Gives the episodes of each policy.
///
/// # Errors
/// An [`EvaluateError`]; the environment is left as it was then.
pub fn evaluate(
    envs: &mut Box<dyn VectorEnv>,
    actor: &Actor,
    obs: &[f32],
    candidates: &Candidates<'_>,
    watch: &mut Watch<'_>,
) -> Result<Vec<Vec<Episode>>, EvaluateError> {
    candidates.check(&**envs, actor)?;
    let (mut present, mut first) = (envs.clone_box(), obs.to_vec());
    let mut episodes: Vec<Vec<Episode>> = Vec::with_capacity(candidates.count);
    while episodes.len() < candidates.count {
        let from = episodes.len();
        if from > 0 {
            present.reset(0, None, None, &mut first)?;
        }
        let begun = starts(&*present, &first, candidates, from)?;
        let mut plays = Vec::with_capacity(begun.len());
        let mut expected = Vec::with_capacity(begun.len());
        let size = candidates.parameters.len() / candidates.count;
        let rows = candidates.parameters.chunks_exact(size).skip(from);
        for (start, parameters) in begun.into_iter().zip(rows) {
            let Start { envs, obs, after } = start;
            let mut actor = actor.clone();
            candidates.net.load_into(parameters, actor.net_mut())?;
            let dim = match envs.spec().action {
                ActionSpace::Discrete(_) => 0,
                ActionSpace::Box(width) => width,
            };
            expected.push(after);
            plays.push(Play {
                envs,
                actor,
                obs,
                choice: [0],
                action: vec![0.0; dim],
                episodes: Vec::with_capacity(candidates.episodes),
                error: None,
            });
        }
        let step_ns = candidates.net.row_ns() + 200;
        while plays.iter().any(|play| !play.is_over(candidates)) {
            watch.check()?;
            let cost = plays.len() * SLICE.min(256) * step_ns;
            each(&mut plays, cost, |_, play| play.advance(candidates));
        }
        for (play, expected) in plays.into_iter().zip(expected) {
            if let Some(error) = play.error {
                return Err(error);
            }
            let is_as_expected = play.envs.snapshot(0)?.rng == expected.rng;
            present = play.envs;
            episodes.push(play.episodes);
            if !is_as_expected {
                break;
            }
        }
    }
    *envs = present;
    Ok(episodes)
}
