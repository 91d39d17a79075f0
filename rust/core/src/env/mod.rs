//! The environments, what they have in common, and the list of their ids.
//!
//! Each environment repeats the arithmetic of its Gymnasium original operation by operation, in
//! the same order and the same types: the observations and rewards are to be equal in every bit.

mod acrobot;
mod acrobot_motion;
mod action;
mod cartpole;
mod error;
mod invalid_action;
mod mountain_car;
mod mountain_car_continuous;
pub mod numerics;
mod pendulum;
pub mod registry;
pub mod sines;

pub use acrobot::Acrobot;
pub use action::{Action, ActionSpace, Actions};
pub use cartpole::CartPole;
pub use error::EnvError;
pub use invalid_action::InvalidAction;
pub use mountain_car::MountainCar;
pub use mountain_car_continuous::MountainCarContinuous;
pub use pendulum::Pendulum;

use crate::rng::Pcg64;
use numerics::Numerics;

/// The fixed facts of an environment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnvSpec {
    /// Gymnasium's id.
    pub id: &'static str,
    /// The class Gymnasium ships under that id, as `module:Class`.
    pub entry_point: &'static str,
    /// Steps until Gymnasium's registration truncates an episode.
    pub max_steps: u32,
    /// Length of an observation (float32).
    pub obs_dim: usize,
    /// What an action is.
    pub action: ActionSpace,
    /// Choices of an action that may be forbidden; 0 if all are always allowed.
    pub choices: usize,
    /// About how many nanoseconds a step takes, to tell from how many environments on threads pay.
    pub step_ns: usize,
    /// Physical constants that can be changed, by the name of Gymnasium's attribute.
    pub params: &'static [&'static str],
    /// Names of the two bounds that `reset(options=...)` may give.
    pub options: [&'static str; 2],
    /// What the two bounds are by default.
    pub default_bounds: Bounds,
}

/// The two numbers from which an initial state is drawn; what they mean is the environment's.
pub type Bounds = [f64; 2];

/// The part of an environment that changes from step to step.
#[derive(Debug, Clone, PartialEq)]
pub struct Physics {
    /// Gymnasium's `state`.
    pub state: Vec<f64>,
    /// Whether Gymnasium holds `state` in float32 at this moment.
    pub single: bool,
    /// The last torque of Pendulum, which its renderer draws.
    pub last_action: Option<f64>,
}

/// What a step gives besides the observation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transition {
    /// The reward, before it is rounded to float32.
    pub reward: f64,
    /// Whether the episode came to its own end. The time limit is not the environment's.
    pub terminated: bool,
}

/// One environment. It knows its physics and nothing of time limits, seeds or other environments.
pub trait Env: Clone + std::fmt::Debug + Send + Sync + 'static {
    /// The kind of action.
    type Action: Action;
    /// The fixed facts.
    const SPEC: EnvSpec;

    /// An environment with Gymnasium's constants, not yet reset.
    fn new(numerics: Numerics) -> Self;

    /// Draws an initial state.
    fn reset(&mut self, rng: &mut Pcg64, bounds: Bounds);

    /// Moves on by one step. `action` is valid: the vector checks it.
    fn step(&mut self, action: Self::Action, rng: &mut Pcg64) -> Transition;

    /// Whether several are stepped faster side by side than one after the other.
    const ABREAST: bool = false;

    /// [`Env::step`] of each, with the same results.
    #[inline(always)]
    fn step_abreast<const N: usize>(
        envs: [(&mut Self, Self::Action, &mut Pcg64); N],
    ) -> [Transition; N] {
        envs.map(|(env, action, rng)| env.step(action, rng))
    }

    /// Writes the observation, `SPEC.obs_dim` numbers.
    fn observe(&self, out: &mut [f32]);

    /// Writes 1 for each of `SPEC.choices` that is allowed now, else 0.
    fn allow(&self, _out: &mut [f32]) {}

    /// The present state.
    fn physics(&self) -> Physics;

    /// Puts the environment in a state; false, and no change, if it has not the right length.
    fn set_physics(&mut self, physics: &Physics) -> bool;

    /// The constant called `name`, one of `SPEC.params`. Flags are 0 or 1.
    fn param(&mut self, name: &str) -> Option<&mut f64>;
}
