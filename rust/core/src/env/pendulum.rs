//! `Pendulum-v1`: swing a pendulum up and hold it with a bounded torque.

use std::f64::consts::PI;

use super::numerics::{Numerics, Scalar, floor_mod, square};
use super::{ActionSpace, Bounds, Env, EnvSpec, Physics, Transition};
use crate::rng::Pcg64;

/// Angle (0 is upright) and angular velocity; the cost is the distance from rest upright.
#[derive(Debug, Clone)]
pub struct Pendulum {
    theta: f64,
    theta_dot: f64,
    last_torque: Option<f64>,
    max_speed: f64,
    max_torque: f64,
    dt: f64,
    gravity: f64,
    mass: f64,
    length: f64,
    numerics: Numerics,
}

impl Pendulum {
    /// `np.clip` of the action array, which keeps the array's type.
    fn clip(&self, torque: Scalar) -> Scalar {
        match torque {
            Scalar::Single(u) => {
                let bound = self.max_torque as f32;
                Scalar::Single(u.max(-bound).min(bound))
            }
            other => Scalar::Double(other.get().max(-self.max_torque).min(self.max_torque)),
        }
    }

    fn cost(&self, torque: Scalar) -> f64 {
        let angle = floor_mod(self.theta + PI, 2.0 * PI) - PI;
        let effort = Scalar::Python(0.001).mul(torque.squared(self.numerics), self.numerics);
        square(angle) + 0.1 * square(self.theta_dot) + effort.get()
    }
}

impl Env for Pendulum {
    type Action = Scalar;
    const SPEC: EnvSpec = EnvSpec {
        id: "Pendulum-v1",
        entry_point: "gymnasium.envs.classic_control.pendulum:PendulumEnv",
        max_steps: 200,
        obs_dim: 3,
        action: ActionSpace::Box(1),
        choices: 0,
        step_ns: 75,
        params: &["max_speed", "max_torque", "dt", "g", "m", "l"],
        options: ["x_init", "y_init"],
        default_bounds: [PI, 1.0],
    };

    fn new(numerics: Numerics) -> Self {
        Self {
            theta: 0.0,
            theta_dot: 0.0,
            last_torque: None,
            max_speed: 8.0,
            max_torque: 2.0,
            dt: 0.05,
            gravity: 10.0,
            mass: 1.0,
            length: 1.0,
            numerics,
        }
    }

    fn reset(&mut self, rng: &mut Pcg64, [angle, speed]: Bounds) {
        self.theta = rng.uniform(-angle, angle);
        self.theta_dot = rng.uniform(-speed, speed);
        self.last_torque = None;
    }

    fn step(&mut self, action: Scalar, _: &mut Pcg64) -> Transition {
        let torque = self.clip(action);
        let cost = self.cost(torque);
        let (g, m, l) = (self.gravity, self.mass, self.length);
        let push = Scalar::Python(3.0 / (m * square(l))).mul(torque, self.numerics);
        let acceleration = 3.0 * g / (2.0 * l) * self.theta.sin() + push.get();
        let speed = self.theta_dot + acceleration * self.dt;
        self.theta_dot = speed.max(-self.max_speed).min(self.max_speed);
        self.theta += self.theta_dot * self.dt;
        self.last_torque = Some(torque.get());
        Transition {
            reward: -cost,
            terminated: false,
        }
    }

    fn observe(&self, out: &mut [f32]) {
        out[0] = self.theta.cos() as f32;
        out[1] = self.theta.sin() as f32;
        out[2] = self.theta_dot as f32;
    }

    fn physics(&self) -> Physics {
        Physics {
            state: vec![self.theta, self.theta_dot],
            single: false,
            last_action: self.last_torque,
        }
    }

    fn set_physics(&mut self, physics: &Physics) -> bool {
        let &[theta, theta_dot] = physics.state.as_slice() else {
            return false;
        };
        (self.theta, self.theta_dot) = (theta, theta_dot);
        self.last_torque = physics.last_action;
        true
    }

    fn param(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "max_speed" => &mut self.max_speed,
            "max_torque" => &mut self.max_torque,
            "dt" => &mut self.dt,
            "g" => &mut self.gravity,
            "m" => &mut self.mass,
            "l" => &mut self.length,
            _ => return None,
        })
    }
}
