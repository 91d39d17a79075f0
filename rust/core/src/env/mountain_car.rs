//! `MountainCar-v0`: rock an underpowered car out of a valley (Moore, 1990).

use super::numerics::Numerics;
use super::{ActionSpace, Bounds, Env, EnvSpec, Physics, Transition};
use crate::rng::Pcg64;

/// Position and velocity; push left, coast or push right, at a reward of -1 a step.
#[derive(Debug, Clone)]
pub struct MountainCar {
    position: f64,
    velocity: f64,
    min_position: f64,
    max_position: f64,
    max_speed: f64,
    goal_position: f64,
    goal_velocity: f64,
    force: f64,
    gravity: f64,
}

impl Env for MountainCar {
    type Action = i64;
    const SPEC: EnvSpec = EnvSpec {
        id: "MountainCar-v0",
        entry_point: "gymnasium.envs.classic_control.mountain_car:MountainCarEnv",
        max_steps: 200,
        obs_dim: 2,
        action: ActionSpace::Discrete(3),
        choices: 0,
        step_ns: 15,
        params: &[
            "min_position",
            "max_position",
            "max_speed",
            "goal_position",
            "goal_velocity",
            "force",
            "gravity",
        ],
        options: ["low", "high"],
        default_bounds: [-0.6, -0.4],
    };

    fn new(_: Numerics) -> Self {
        Self {
            position: 0.0,
            velocity: 0.0,
            min_position: -1.2,
            max_position: 0.6,
            max_speed: 0.07,
            goal_position: 0.5,
            goal_velocity: 0.0,
            force: 0.001,
            gravity: 0.0025,
        }
    }

    fn reset(&mut self, rng: &mut Pcg64, [low, high]: Bounds) {
        self.position = rng.uniform(low, high);
        self.velocity = 0.0;
    }

    fn step(&mut self, action: i64, _: &mut Pcg64) -> Transition {
        let slope = (3.0 * self.position).cos() * -self.gravity;
        let velocity = self.velocity + ((action - 1) as f64 * self.force + slope);
        let velocity = velocity.max(-self.max_speed).min(self.max_speed);
        let position = (self.position + velocity)
            .max(self.min_position)
            .min(self.max_position);
        let at_wall = position == self.min_position && velocity < 0.0;
        self.position = position;
        self.velocity = if at_wall { 0.0 } else { velocity };
        Transition {
            reward: -1.0,
            terminated: position >= self.goal_position && self.velocity >= self.goal_velocity,
        }
    }

    fn observe(&self, out: &mut [f32]) {
        out[0] = self.position as f32;
        out[1] = self.velocity as f32;
    }

    fn physics(&self) -> Physics {
        Physics {
            state: vec![self.position, self.velocity],
            single: false,
            last_action: None,
        }
    }

    fn set_physics(&mut self, physics: &Physics) -> bool {
        let &[position, velocity] = physics.state.as_slice() else {
            return false;
        };
        (self.position, self.velocity) = (position, velocity);
        true
    }

    fn param(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "min_position" => &mut self.min_position,
            "max_position" => &mut self.max_position,
            "max_speed" => &mut self.max_speed,
            "goal_position" => &mut self.goal_position,
            "goal_velocity" => &mut self.goal_velocity,
            "force" => &mut self.force,
            "gravity" => &mut self.gravity,
            _ => return None,
        })
    }
}
