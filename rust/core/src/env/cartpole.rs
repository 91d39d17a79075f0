//! `CartPole-v1`: balance a pole on a cart that is pushed left or right (Barto, Sutton and Anderson, 1983).

use super::numerics::{Numerics, square};
use super::{ActionSpace, Bounds, Env, EnvSpec, Physics, Transition};
use crate::rng::Pcg64;

/// Cart position, its velocity, pole angle, its velocity; reward 1 for every step.
#[derive(Debug, Clone)]
pub struct CartPole {
    state: [f64; 4],
    gravity: f64,
    mass_pole: f64,
    total_mass: f64,
    length: f64,
    polemass_length: f64,
    force: f64,
    tau: f64,
    theta_threshold: f64,
    x_threshold: f64,
    semi_implicit: f64,
    sutton_barto: f64,
    pow_squares: bool,
}

impl CartPole {
    fn acceleration(&self, force: f64) -> (f64, f64) {
        // Asked once: a branch between a sine and its cosine keeps the compiler from one call for both.
        if self.pow_squares {
            self.old_acceleration(force)
        } else {
            self.acceleration_by(|x| x * x, force)
        }
    }

    /// With the squares of Gymnasium before 1.0.
    #[cold]
    fn old_acceleration(&self, force: f64) -> (f64, f64) {
        self.acceleration_by(square, force)
    }

    #[inline]
    fn acceleration_by(&self, square: impl Fn(f64) -> f64, force: f64) -> (f64, f64) {
        let [_, _, theta, theta_dot] = self.state;
        let (sin, cos) = (theta.sin(), theta.cos());
        let temp = (force + self.polemass_length * square(theta_dot) * sin) / self.total_mass;
        let theta_acc = (self.gravity * sin - cos * temp)
            / (self.length * (4.0 / 3.0 - self.mass_pole * square(cos) / self.total_mass));
        let x_acc = temp - self.polemass_length * theta_acc * cos / self.total_mass;
        (x_acc, theta_acc)
    }
}

impl Env for CartPole {
    type Action = i64;
    const SPEC: EnvSpec = EnvSpec {
        id: "CartPole-v1",
        entry_point: "gymnasium.envs.classic_control.cartpole:CartPoleEnv",
        max_steps: 500,
        obs_dim: 4,
        action: ActionSpace::Discrete(2),
        choices: 0,
        step_ns: 25,
        params: &[
            "gravity",
            "masspole",
            "total_mass",
            "length",
            "polemass_length",
            "force_mag",
            "tau",
            "theta_threshold_radians",
            "x_threshold",
            "kinematics_integrator",
            "_sutton_barto_reward",
        ],
        options: ["low", "high"],
        default_bounds: [-0.05, 0.05],
    };

    fn new(numerics: Numerics) -> Self {
        let (mass_cart, mass_pole, length) = (1.0, 0.1, 0.5);
        Self {
            state: [0.0; 4],
            gravity: 9.8,
            mass_pole,
            total_mass: mass_pole + mass_cart,
            length,
            polemass_length: mass_pole * length,
            force: 10.0,
            tau: 0.02,
            theta_threshold: 12.0 * 2.0 * std::f64::consts::PI / 360.0,
            x_threshold: 2.4,
            semi_implicit: 0.0,
            sutton_barto: 0.0,
            pow_squares: numerics.pow_squares,
        }
    }

    fn reset(&mut self, rng: &mut Pcg64, [low, high]: Bounds) {
        self.state = std::array::from_fn(|_| rng.uniform(low, high));
    }

    fn step(&mut self, action: i64, _: &mut Pcg64) -> Transition {
        let force = if action == 1 { self.force } else { -self.force };
        let (x_acc, theta_acc) = self.acceleration(force);
        let [mut x, mut x_dot, mut theta, mut theta_dot] = self.state;
        if self.semi_implicit == 0.0 {
            x += self.tau * x_dot;
            x_dot += self.tau * x_acc;
            theta += self.tau * theta_dot;
            theta_dot += self.tau * theta_acc;
        } else {
            x_dot += self.tau * x_acc;
            x += self.tau * x_dot;
            theta_dot += self.tau * theta_acc;
            theta += self.tau * theta_dot;
        }
        self.state = [x, x_dot, theta, theta_dot];
        let terminated = x < -self.x_threshold
            || x > self.x_threshold
            || theta < -self.theta_threshold
            || theta > self.theta_threshold;
        let reward = match (self.sutton_barto != 0.0, terminated) {
            (false, _) => 1.0,
            (true, false) => 0.0,
            (true, true) => -1.0,
        };
        Transition { reward, terminated }
    }

    fn observe(&self, out: &mut [f32]) {
        for (out, &value) in out.iter_mut().zip(&self.state) {
            *out = value as f32;
        }
    }

    fn physics(&self) -> Physics {
        Physics {
            state: self.state.to_vec(),
            single: false,
            last_action: None,
        }
    }

    fn set_physics(&mut self, physics: &Physics) -> bool {
        let state = physics.state.as_slice().try_into().ok();
        state.map(|state| self.state = state).is_some()
    }

    fn param(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "gravity" => &mut self.gravity,
            "masspole" => &mut self.mass_pole,
            "total_mass" => &mut self.total_mass,
            "length" => &mut self.length,
            "polemass_length" => &mut self.polemass_length,
            "force_mag" => &mut self.force,
            "tau" => &mut self.tau,
            "theta_threshold_radians" => &mut self.theta_threshold,
            "x_threshold" => &mut self.x_threshold,
            "kinematics_integrator" => &mut self.semi_implicit,
            "_sutton_barto_reward" => &mut self.sutton_barto,
            _ => return None,
        })
    }
}
