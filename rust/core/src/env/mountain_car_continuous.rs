//! `MountainCarContinuous-v0`: `MountainCar` with a continuous force that costs its square.
//!
//! Gymnasium keeps this state in float64 after a reset and in float32 from the first step on, and
//! lets Python floats in wherever a bound is hit. The arithmetic therefore runs on [`Scalar`]s.

use super::numerics::{Numerics, Scalar};
use super::{ActionSpace, Bounds, Env, EnvSpec, Physics, Transition};
use crate::rng::Pcg64;
use Scalar::Python;

/// Position and velocity; 100 for reaching the flag, less a tenth of the squared action each step.
#[derive(Debug, Clone)]
pub struct MountainCarContinuous {
    position: f64,
    velocity: f64,
    single: bool,
    min_action: f64,
    max_action: f64,
    min_position: f64,
    max_position: f64,
    max_speed: f64,
    goal_position: f64,
    goal_velocity: f64,
    power: f64,
    numerics: Numerics,
}

impl MountainCarContinuous {
    fn load(&self, value: f64) -> Scalar {
        if self.single {
            Scalar::Single(value as f32)
        } else {
            Scalar::Double(value)
        }
    }

    fn velocity_after(&self, action: Scalar) -> Scalar {
        let n = self.numerics;
        let low = Python(self.min_action);
        let high = Python(self.max_action);
        let force = if low.gt(action, n) { low } else { action };
        let force = if force.gt(high, n) { high } else { force };
        let angle = Python(3.0).mul(self.load(self.position), n);
        let slope = Python(0.0025 * angle.get().cos());
        let push = force.mul(Python(self.power), n).sub(slope, n);
        let velocity = self.load(self.velocity).add(push, n);
        let (top, bottom) = (Python(self.max_speed), Python(-self.max_speed));
        let velocity = if velocity.gt(top, n) { top } else { velocity };
        if bottom.gt(velocity, n) {
            bottom
        } else {
            velocity
        }
    }
}

impl Env for MountainCarContinuous {
    type Action = Scalar;
    const SPEC: EnvSpec = EnvSpec {
        id: "MountainCarContinuous-v0",
        entry_point: "gymnasium.envs.classic_control.continuous_mountain_car:Continuous_MountainCarEnv",
        max_steps: 999,
        obs_dim: 2,
        action: ActionSpace::Box(1),
        choices: 0,
        step_ns: 40,
        params: &[
            "min_action",
            "max_action",
            "min_position",
            "max_position",
            "max_speed",
            "goal_position",
            "goal_velocity",
            "power",
        ],
        options: ["low", "high"],
        default_bounds: [-0.6, -0.4],
    };

    fn new(numerics: Numerics) -> Self {
        Self {
            position: 0.0,
            velocity: 0.0,
            single: false,
            min_action: -1.0,
            max_action: 1.0,
            min_position: -1.2,
            max_position: 0.6,
            max_speed: 0.07,
            goal_position: 0.45,
            goal_velocity: 0.0,
            power: 0.0015,
            numerics,
        }
    }

    fn reset(&mut self, rng: &mut Pcg64, [low, high]: Bounds) {
        self.position = rng.uniform(low, high);
        self.velocity = 0.0;
        self.single = false;
    }

    fn step(&mut self, action: Scalar, _: &mut Pcg64) -> Transition {
        let n = self.numerics;
        let (low, high) = (Python(self.min_position), Python(self.max_position));
        let mut velocity = self.velocity_after(action);
        let mut position = self.load(self.position).add(velocity, n);
        if position.gt(high, n) {
            position = high;
        }
        if low.gt(position, n) {
            position = low;
        }
        if position.eq(low, n) && velocity.get() < 0.0 {
            velocity = Python(0.0);
        }
        let terminated = position.ge(Python(self.goal_position), n)
            && velocity.ge(Python(self.goal_velocity), n);
        // Both are stored as float32, whatever they were on the way.
        self.position = f64::from(position.get() as f32);
        self.velocity = f64::from(velocity.get() as f32);
        self.single = true;
        let prize = if terminated { 100.0 } else { 0.0 };
        let action = action.get();
        let reward = prize - super::numerics::square(action) * 0.1;
        Transition { reward, terminated }
    }

    fn observe(&self, out: &mut [f32]) {
        out[0] = self.position as f32;
        out[1] = self.velocity as f32;
    }

    fn physics(&self) -> Physics {
        Physics {
            state: vec![self.position, self.velocity],
            single: self.single,
            last_action: None,
        }
    }

    fn set_physics(&mut self, physics: &Physics) -> bool {
        let &[position, velocity] = physics.state.as_slice() else {
            return false;
        };
        (self.position, self.velocity) = (position, velocity);
        self.single = physics.single;
        true
    }

    fn param(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "min_action" => &mut self.min_action,
            "max_action" => &mut self.max_action,
            "min_position" => &mut self.min_position,
            "max_position" => &mut self.max_position,
            "max_speed" => &mut self.max_speed,
            "goal_position" => &mut self.goal_position,
            "goal_velocity" => &mut self.goal_velocity,
            "power" => &mut self.power,
            _ => return None,
        })
    }
}
