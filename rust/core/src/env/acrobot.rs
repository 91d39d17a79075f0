//! `Acrobot-v1`: swing a two-link robot above a line by a torque on its elbow (Sutton, 1996).

use std::f64::consts::PI;

use super::numerics::{Numerics, cos_sin_f32, square_by};
use super::sines::{Wave, Work, dispatch, sines};
use super::{ActionSpace, Bounds, Env, EnvSpec, Physics, Transition};
use crate::rng::Pcg64;

type State = [f64; 4];

/// The angles of both links and their velocities; -1 a step until the tip is above the line.
#[derive(Debug, Clone)]
pub struct Acrobot {
    state: State,
    waves: Waves,
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

/// The sines and cosines that the equations of motion take of a state.
#[derive(Debug, Clone, Copy)]
struct Pull {
    sin2: f64,
    cos2: f64,
    /// Of the upper link's angle from the horizontal, and of the lower one's.
    upper: f64,
    lower: f64,
}

/// All sines and cosines of the present state: what it shows, whether it is the end, and where the
/// next step starts from. Several are the same number, and they are most of a step's time.
#[derive(Debug, Clone, Copy)]
struct Waves {
    cos1: f64,
    sin1: f64,
    /// The height of the tip above the elbow, downwards.
    cos_tip: f64,
    pull: Pull,
}

impl Waves {
    #[inline(always)]
    fn of<const FUSED: bool>([theta1, theta2, ..]: State) -> Self {
        use Wave::{Cosine, Sine};
        let tip = theta2 + theta1;
        let [sin2, cos2, upper, lower, cos1, sin1, cos_tip] = sines::<FUSED, 7>(
            [
                theta2,
                theta2,
                theta1 - PI / 2.0,
                tip - PI / 2.0,
                theta1,
                theta1,
                tip,
            ],
            [Sine, Cosine, Cosine, Cosine, Cosine, Sine, Cosine],
        );
        let pull = Pull {
            sin2,
            cos2,
            upper,
            lower,
        };
        Self {
            cos1,
            sin1,
            cos_tip,
            pull,
        }
    }
}

impl Pull {
    #[inline(always)]
    fn of<const FUSED: bool>([theta1, theta2, ..]: State) -> Self {
        use Wave::{Cosine, Sine};
        let [sin2, cos2, upper, lower] = sines::<FUSED, 4>(
            [
                theta2,
                theta2,
                theta1 - PI / 2.0,
                theta1 + theta2 - PI / 2.0,
            ],
            [Sine, Cosine, Cosine, Cosine],
        );
        Self {
            sin2,
            cos2,
            upper,
            lower,
        }
    }
}

/// Squared lengths, taken once a step: `pow` is not cheap.
struct Squares {
    link_1: f64,
    com_1: f64,
    com_2: f64,
}

impl Acrobot {
    /// The time derivative of the state under a torque (Sutton and Barto's book, or the NIPS paper).
    #[inline(always)]
    fn derivative<const FUSED: bool>(
        &self,
        state: State,
        pull: Pull,
        torque: f64,
        lengths: &Squares,
    ) -> State {
        const G: f64 = 9.8;
        let [_, _, dtheta1, dtheta2] = state;
        let Pull { sin2, cos2, .. } = pull;
        let (m1, m2, l1) = (self.link_mass_1, self.link_mass_2, self.link_length_1);
        let (lc1, lc2, moi) = (self.link_com_1, self.link_com_2, self.link_moi);
        let d1 = m1 * lengths.com_1
            + m2 * (lengths.link_1 + lengths.com_2 + 2.0 * l1 * lc2 * cos2)
            + moi
            + moi;
        let d2 = m2 * (lengths.com_2 + l1 * lc2 * cos2) + moi;
        let phi2 = m2 * lc2 * G * pull.lower;
        let phi1 = -m2 * l1 * lc2 * square_by::<FUSED>(dtheta2) * sin2
            - 2.0 * m2 * l1 * lc2 * dtheta2 * dtheta1 * sin2
            + (m1 * lc1 + m2 * l1) * G * pull.upper
            + phi2;
        let inertia = m2 * lengths.com_2 + moi - square_by::<FUSED>(d2) / d1;
        let ddtheta2 = if self.nips == 0.0 {
            (torque + d2 / d1 * phi1 - m2 * l1 * lc2 * square_by::<FUSED>(dtheta1) * sin2 - phi2)
                / inertia
        } else {
            (torque + d2 / d1 * phi1 - phi2) / inertia
        };
        let ddtheta1 = -(d2 * ddtheta2 + phi1) / d1;
        [dtheta1, dtheta2, ddtheta1, ddtheta2]
    }

    #[inline(always)]
    fn slope<const FUSED: bool>(&self, state: State, torque: f64, lengths: &Squares) -> State {
        self.derivative::<FUSED>(state, Pull::of::<FUSED>(state), torque, lengths)
    }

    /// One classical Runge-Kutta step over `dt`.
    #[inline(always)]
    fn integrate<const FUSED: bool>(&self, torque: f64) -> State {
        let start = self.state;
        let half = self.dt / 2.0;
        let ahead = |by: f64, k: &State| std::array::from_fn(|i| start[i] + by * k[i]);
        let lengths = Squares {
            link_1: square_by::<FUSED>(self.link_length_1),
            com_1: square_by::<FUSED>(self.link_com_1),
            com_2: square_by::<FUSED>(self.link_com_2),
        };
        let k1 = self.derivative::<FUSED>(start, self.waves.pull, torque, &lengths);
        let k2 = self.slope::<FUSED>(ahead(half, &k1), torque, &lengths);
        let k3 = self.slope::<FUSED>(ahead(half, &k2), torque, &lengths);
        let k4 = self.slope::<FUSED>(ahead(self.dt, &k3), torque, &lengths);
        std::array::from_fn(|i| {
            start[i] + self.dt / 6.0 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i])
        })
    }
}

/// One step under a torque.
struct Move<'a>(&'a mut Acrobot, f64);

impl Work for Move<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Self(env, torque) = self;
        let [theta1, theta2, dtheta1, dtheta2] = env.integrate::<FUSED>(torque);
        env.state = [
            wrap(theta1),
            wrap(theta2),
            dtheta1.max(-env.max_vel_1).min(env.max_vel_1),
            dtheta2.max(-env.max_vel_2).min(env.max_vel_2),
        ];
        env.waves = Waves::of::<FUSED>(env.state);
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
            waves: Waves::of::<false>([0.0; 4]),
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
        self.waves = Waves::of::<false>(self.state);
        self.single = true;
    }

    fn step(&mut self, action: i64, rng: &mut Pcg64) -> Transition {
        let mut torque = (action - 1) as f64;
        if self.torque_noise > 0.0 {
            torque += rng.uniform(-self.torque_noise, self.torque_noise);
        }
        dispatch(Move(self, torque));
        self.single = false;
        let terminated = -self.waves.cos1 - self.waves.cos_tip > 1.0;
        Transition {
            reward: if terminated { 0.0 } else { -1.0 },
            terminated,
        }
    }

    fn observe(&self, out: &mut [f32]) {
        let [theta1, theta2, dtheta1, dtheta2] = self.state;
        if self.single {
            (out[0], out[1]) = cos_sin_f32(theta1 as f32);
            (out[2], out[3]) = cos_sin_f32(theta2 as f32);
        } else {
            let Waves {
                cos1, sin1, pull, ..
            } = self.waves;
            let shown = [cos1, sin1, pull.cos2, pull.sin2];
            out[..4].copy_from_slice(&shown.map(|wave| wave as f32));
        }
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
        self.waves = Waves::of::<false>(state);
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
