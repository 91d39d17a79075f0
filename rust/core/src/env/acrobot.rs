//! `Acrobot-v1`: swing a two-link robot above a line by a torque on its elbow (Sutton, 1996).

use std::f64::consts::PI;

use super::numerics::{Numerics, cos_sin_f32, square};
use super::{ActionSpace, Bounds, Env, EnvSpec, Physics, Transition};
use crate::rng::Pcg64;

type State = [f64; 4];

/// The angles of both links and their velocities; -1 a step until the tip is above the line.
#[derive(Debug, Clone)]
pub struct Acrobot {
    state: State,
    single: bool,
    dt: f64,
    link_length_1: f64,
    link_mass_1: f64,
    link_mass_2: f64,
    link_com_1: f64,
    link_com_2: f64,
    link_moi: f64,
    max_vel_1: f64,
    max_vel_2: f64,
    torque_noise: f64,
    nips: f64,
}

/// Squared lengths, taken once a step: `pow` is not cheap.
struct Squares {
    link_1: f64,
    com_1: f64,
    com_2: f64,
}

impl Acrobot {
    /// The time derivative of the state under a torque (Sutton and Barto's book, or the NIPS paper).
    fn derivative(&self, state: State, torque: f64, lengths: &Squares) -> State {
        const G: f64 = 9.8;
        let [theta1, theta2, dtheta1, dtheta2] = state;
        let (m1, m2, l1) = (self.link_mass_1, self.link_mass_2, self.link_length_1);
        let (lc1, lc2, moi) = (self.link_com_1, self.link_com_2, self.link_moi);
        let (sin2, cos2) = (theta2.sin(), theta2.cos());
        let d1 = m1 * lengths.com_1
            + m2 * (lengths.link_1 + lengths.com_2 + 2.0 * l1 * lc2 * cos2)
            + moi
            + moi;
        let d2 = m2 * (lengths.com_2 + l1 * lc2 * cos2) + moi;
        let phi2 = m2 * lc2 * G * (theta1 + theta2 - PI / 2.0).cos();
        let phi1 = -m2 * l1 * lc2 * square(dtheta2) * sin2
            - 2.0 * m2 * l1 * lc2 * dtheta2 * dtheta1 * sin2
            + (m1 * lc1 + m2 * l1) * G * (theta1 - PI / 2.0).cos()
            + phi2;
        let inertia = m2 * lengths.com_2 + moi - square(d2) / d1;
        let ddtheta2 = if self.nips == 0.0 {
            (torque + d2 / d1 * phi1 - m2 * l1 * lc2 * square(dtheta1) * sin2 - phi2) / inertia
        } else {
            (torque + d2 / d1 * phi1 - phi2) / inertia
        };
        let ddtheta1 = -(d2 * ddtheta2 + phi1) / d1;
        [dtheta1, dtheta2, ddtheta1, ddtheta2]
    }

    /// One classical Runge-Kutta step over `dt`.
    fn integrate(&self, torque: f64) -> State {
        let start = self.state;
        let half = self.dt / 2.0;
        let ahead = |by: f64, k: &State| std::array::from_fn(|i| start[i] + by * k[i]);
        let lengths = Squares {
            link_1: square(self.link_length_1),
            com_1: square(self.link_com_1),
            com_2: square(self.link_com_2),
        };
        let k1 = self.derivative(start, torque, &lengths);
        let k2 = self.derivative(ahead(half, &k1), torque, &lengths);
        let k3 = self.derivative(ahead(half, &k2), torque, &lengths);
        let k4 = self.derivative(ahead(self.dt, &k3), torque, &lengths);
        std::array::from_fn(|i| {
            start[i] + self.dt / 6.0 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i])
        })
    }
}

/// Into `[-pi, pi]` by whole turns, one after the other as Gymnasium does.
fn wrap(mut angle: f64) -> f64 {
    // A turn no longer changes an angle this large: Gymnasium would never return.
    if angle.abs() > 1e15 || angle.is_nan() {
        return f64::NAN;
    }
    while angle > PI {
        angle -= 2.0 * PI;
    }
    while angle < -PI {
        angle += 2.0 * PI;
    }
    angle
}

impl Env for Acrobot {
    type Action = i64;
    const SPEC: EnvSpec = EnvSpec {
        id: "Acrobot-v1",
        entry_point: "gymnasium.envs.classic_control.acrobot:AcrobotEnv",
        max_steps: 500,
        obs_dim: 6,
        action: ActionSpace::Discrete(3),
        step_ns: 310,
        params: &[
            "dt",
            "LINK_LENGTH_1",
            "LINK_MASS_1",
            "LINK_MASS_2",
            "LINK_COM_POS_1",
            "LINK_COM_POS_2",
            "LINK_MOI",
            "MAX_VEL_1",
            "MAX_VEL_2",
            "torque_noise_max",
            "book_or_nips",
        ],
        options: ["low", "high"],
        default_bounds: [-0.1, 0.1],
    };

    fn new(_: Numerics) -> Self {
        Self {
            state: [0.0; 4],
            single: false,
            dt: 0.2,
            link_length_1: 1.0,
            link_mass_1: 1.0,
            link_mass_2: 1.0,
            link_com_1: 0.5,
            link_com_2: 0.5,
            link_moi: 1.0,
            max_vel_1: 4.0 * PI,
            max_vel_2: 9.0 * PI,
            torque_noise: 0.0,
            nips: 0.0,
        }
    }

    fn reset(&mut self, rng: &mut Pcg64, [low, high]: Bounds) {
        self.state = std::array::from_fn(|_| f64::from(rng.uniform(low, high) as f32));
        self.single = true;
    }

    fn step(&mut self, action: i64, rng: &mut Pcg64) -> Transition {
        let mut torque = (action - 1) as f64;
        if self.torque_noise > 0.0 {
            torque += rng.uniform(-self.torque_noise, self.torque_noise);
        }
        let [theta1, theta2, dtheta1, dtheta2] = self.integrate(torque);
        let (theta1, theta2) = (wrap(theta1), wrap(theta2));
        self.state = [
            theta1,
            theta2,
            dtheta1.max(-self.max_vel_1).min(self.max_vel_1),
            dtheta2.max(-self.max_vel_2).min(self.max_vel_2),
        ];
        self.single = false;
        let terminated = -theta1.cos() - (theta2 + theta1).cos() > 1.0;
        Transition {
            reward: if terminated { 0.0 } else { -1.0 },
            terminated,
        }
    }

    fn observe(&self, out: &mut [f32]) {
        let [theta1, theta2, dtheta1, dtheta2] = self.state;
        let cos_sin = |theta: f64| {
            if self.single {
                cos_sin_f32(theta as f32)
            } else {
                (theta.cos() as f32, theta.sin() as f32)
            }
        };
        (out[0], out[1]) = cos_sin(theta1);
        (out[2], out[3]) = cos_sin(theta2);
        out[4] = dtheta1 as f32;
        out[5] = dtheta2 as f32;
    }

    fn physics(&self) -> Physics {
        Physics {
            state: self.state.to_vec(),
            single: self.single,
            last_action: None,
        }
    }

    fn set_physics(&mut self, physics: &Physics) -> bool {
        let Ok(state) = physics.state.as_slice().try_into() else {
            return false;
        };
        self.state = state;
        self.single = physics.single;
        true
    }

    fn param(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "dt" => &mut self.dt,
            "LINK_LENGTH_1" => &mut self.link_length_1,
            "LINK_MASS_1" => &mut self.link_mass_1,
            "LINK_MASS_2" => &mut self.link_mass_2,
            "LINK_COM_POS_1" => &mut self.link_com_1,
            "LINK_COM_POS_2" => &mut self.link_com_2,
            "LINK_MOI" => &mut self.link_moi,
            "MAX_VEL_1" => &mut self.max_vel_1,
            "MAX_VEL_2" => &mut self.max_vel_2,
            "torque_noise_max" => &mut self.torque_noise,
            "book_or_nips" => &mut self.nips,
            _ => return None,
        })
    }
}
