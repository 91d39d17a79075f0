//! `Acrobot-v1`: swing a two-link robot above a line by a torque on its elbow (Sutton, 1996).

use std::f64::consts::PI;

use super::acrobot_motion::{Links, Robot, swing};
use super::numerics::{Numerics, cos_sin_f32};
use super::{ActionSpace, Bounds, Env, EnvSpec, Physics, Transition};
use crate::rng::Pcg64;

/// The angles of both links and their velocities; -1 a step until the tip is above the line.
#[derive(Debug, Clone)]
pub struct Acrobot {
    robot: Robot,
    single: bool,
    torque_noise: f64,
}

impl Env for Acrobot {
    type Action = i64;
    const SPEC: EnvSpec = EnvSpec {
        id: "Acrobot-v1",
        entry_point: "gymnasium.envs.classic_control.acrobot:AcrobotEnv",
        max_steps: 500,
        obs_dim: 6,
        action: ActionSpace::Discrete(3),
        choices: 0,
        // 165 where the sines are our own, 265 where they are the C library's.
        step_ns: 200,
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
            robot: Robot::new(Links {
                dt: 0.2,
                link_length_1: 1.0,
                link_mass_1: 1.0,
                link_mass_2: 1.0,
                link_com_1: 0.5,
                link_com_2: 0.5,
                link_moi: 1.0,
                max_vel_1: 4.0 * PI,
                max_vel_2: 9.0 * PI,
                nips: 0.0,
            }),
            single: false,
            torque_noise: 0.0,
        }
    }

    fn reset(&mut self, rng: &mut Pcg64, [low, high]: Bounds) {
        let mut draw = || f64::from(rng.uniform(low, high) as f32);
        self.robot.place([draw(), draw(), draw(), draw()]);
        self.single = true;
    }

    fn step(&mut self, action: i64, rng: &mut Pcg64) -> Transition {
        let [moved] = Self::step_abreast([(self, action, rng)]);
        moved
    }

    const ABREAST: bool = true;

    fn step_abreast<const N: usize>(
        mut envs: [(&mut Self, i64, &mut Pcg64); N],
    ) -> [Transition; N] {
        let mut torques = [0.0; N];
        for (torque, (env, action, rng)) in torques.iter_mut().zip(&mut envs) {
            *torque = (*action - 1) as f64;
            if env.torque_noise > 0.0 {
                *torque += rng.uniform(-env.torque_noise, env.torque_noise);
            }
            env.single = false;
        }
        let robots = envs.map(|(env, ..)| &mut env.robot);
        swing(robots, torques).map(|terminated| Transition {
            reward: if terminated { 0.0 } else { -1.0 },
            terminated,
        })
    }

    fn observe(&self, out: &mut [f32]) {
        let [theta1, theta2, dtheta1, dtheta2] = self.robot.state();
        if self.single {
            (out[0], out[1]) = cos_sin_f32(theta1 as f32);
            (out[2], out[3]) = cos_sin_f32(theta2 as f32);
        } else {
            let waves = self.robot.waves();
            let shown = [waves.cos1, waves.sin1, waves.pull.cos2, waves.pull.sin2];
            out[..4].copy_from_slice(&shown.map(|wave| wave as f32));
        }
        out[4] = dtheta1 as f32;
        out[5] = dtheta2 as f32;
    }

    fn physics(&self) -> Physics {
        Physics {
            state: self.robot.state().to_vec(),
            single: self.single,
            last_action: None,
        }
    }

    fn set_physics(&mut self, physics: &Physics) -> bool {
        let Ok(state) = physics.state.as_slice().try_into() else {
            return false;
        };
        self.robot.place(state);
        self.single = physics.single;
        true
    }

    fn param(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "dt" => &mut self.robot.links.dt,
            "LINK_LENGTH_1" => &mut self.robot.links.link_length_1,
            "LINK_MASS_1" => &mut self.robot.links.link_mass_1,
            "LINK_MASS_2" => &mut self.robot.links.link_mass_2,
            "LINK_COM_POS_1" => &mut self.robot.links.link_com_1,
            "LINK_COM_POS_2" => &mut self.robot.links.link_com_2,
            "LINK_MOI" => &mut self.robot.links.link_moi,
            "MAX_VEL_1" => &mut self.robot.links.max_vel_1,
            "MAX_VEL_2" => &mut self.robot.links.max_vel_2,
            "torque_noise_max" => &mut self.torque_noise,
            "book_or_nips" => &mut self.robot.links.nips,
            _ => return None,
        })
    }
}
