//! The motion of the two links of `Acrobot-v1`, of several robots side by side: a step of one is a
//! chain of sines and divisions that wait for each other, and those of several fill the gaps.

use std::f64::consts::PI;

use super::numerics::squares;
use super::sines::{Work, cosines, dispatch, sines_and_cosines};

/// The angles of both links and their velocities.
pub(super) type State = [f64; 4];

/// One number of each robot.
type Lanes<const N: usize> = [f64; N];

/// What the robot is made of, by Gymnasium's names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Links<T = f64> {
    pub(super) dt: T,
    pub(super) link_length_1: T,
    pub(super) link_mass_1: T,
    pub(super) link_mass_2: T,
    pub(super) link_com_1: T,
    pub(super) link_com_2: T,
    pub(super) link_moi: T,
    pub(super) max_vel_1: T,
    pub(super) max_vel_2: T,
    pub(super) nips: T,
}

/// The sines and cosines of a state: what it shows, whether it is the end, and what pulls at the
/// links. Several of them are the same number, and they are most of a step's time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waves<T = f64> {
    pub(super) cos1: T,
    pub(super) sin1: T,
    /// Of the lower link's angle from downwards.
    pub(super) cos_tip: T,
    pub(super) pull: Pull<T>,
}

/// Those in the equations of motion.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pull<T = f64> {
    pub(super) sin2: T,
    pub(super) cos2: T,
    /// Of the upper link's angle from the horizontal, and of the lower one's.
    upper: T,
    lower: T,
}

/// A robot, with the sines and cosines of its state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Robot {
    state: State,
    waves: Waves,
    pub(super) links: Links,
}

impl Robot {
    pub(super) fn new(links: Links) -> Self {
        Self {
            state: [0.0; 4],
            waves: Waves::of::<false>(&[[0.0]; 4]).lane(0),
            links,
        }
    }

    pub(super) fn place(&mut self, state: State) {
        self.state = state;
        self.waves = Waves::of::<false>(&state.map(|x| [x])).lane(0);
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn waves(&self) -> &Waves {
        &self.waves
    }
}

/// Moves each robot on by one step under its torque; whether its tip is then above the line.
#[inline]
pub(super) fn swing<const N: usize>(robots: [&mut Robot; N], torques: [f64; N]) -> [bool; N] {
    dispatch(Swing { robots, torques })
}

struct Swing<'a, const N: usize> {
    robots: [&'a mut Robot; N],
    torques: Lanes<N>,
}

impl<const N: usize> Work for Swing<'_, N> {
    type Output = [bool; N];

    #[inline(always)]
    fn run<const FUSED: bool>(self) -> [bool; N] {
        let motion = Motion::of::<FUSED>(&self.robots, self.torques);
        let mut state = motion.integrate::<FUSED>(&self.robots);
        let [theta1, theta2, dtheta1, dtheta2] = &mut state;
        for (i, robot) in self.robots.iter().enumerate() {
            let (most1, most2) = (robot.links.max_vel_1, robot.links.max_vel_2);
            theta1[i] = wrap(theta1[i]);
            theta2[i] = wrap(theta2[i]);
            dtheta1[i] = dtheta1[i].max(-most1).min(most1);
            dtheta2[i] = dtheta2[i].max(-most2).min(most2);
        }
        let waves = Waves::of::<FUSED>(&state);
        let mut up = [false; N];
        for (i, robot) in self.robots.into_iter().enumerate() {
            robot.state = lane(&state, i);
            robot.waves = waves.lane(i);
            up[i] = -waves.cos1[i] - waves.cos_tip[i] > 1.0;
        }
        up
    }
}

#[inline(always)]
fn lane<const N: usize>(state: &[Lanes<N>; 4], i: usize) -> State {
    [state[0][i], state[1][i], state[2][i], state[3][i]]
}

/// Into `[-pi, pi]` by whole turns, one after the other as Gymnasium does.
#[inline(always)]
fn wrap(mut angle: f64) -> f64 {
    // Gymnasium takes a turn off at a time, for an angle this large millions of them, and never comes to
    // an end where a turn no longer changes it.
    if angle.abs() > 1e8 || angle.is_nan() {
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

impl<const N: usize> Waves<Lanes<N>> {
    #[inline(always)]
    fn of<const FUSED: bool>(state: &[Lanes<N>; 4]) -> Self {
        let [theta1, theta2, ..] = state;
        let mut tip = [0.0; N];
        for i in 0..N {
            tip[i] = theta2[i] + theta1[i];
        }
        let (sin1, cos1) = sines_and_cosines::<FUSED, N>(*theta1);
        Self {
            cos1,
            sin1,
            cos_tip: cosines::<FUSED, N>(tip),
            pull: Pull::of::<FUSED>(theta1, theta2),
        }
    }

    #[inline(always)]
    fn lane(&self, i: usize) -> Waves {
        Waves {
            cos1: self.cos1[i],
            sin1: self.sin1[i],
            cos_tip: self.cos_tip[i],
            pull: Pull {
                sin2: self.pull.sin2[i],
                cos2: self.pull.cos2[i],
                upper: self.pull.upper[i],
                lower: self.pull.lower[i],
            },
        }
    }
}

impl<const N: usize> Pull<Lanes<N>> {
    #[inline(always)]
    fn of<const FUSED: bool>(theta1: &Lanes<N>, theta2: &Lanes<N>) -> Self {
        let (mut upper, mut lower) = ([0.0; N], [0.0; N]);
        for i in 0..N {
            upper[i] = theta1[i] - PI / 2.0;
            lower[i] = theta1[i] + theta2[i] - PI / 2.0;
        }
        let (sin2, cos2) = sines_and_cosines::<FUSED, N>(*theta2);
        Self {
            sin2,
            cos2,
            upper: cosines::<FUSED, N>(upper),
            lower: cosines::<FUSED, N>(lower),
        }
    }
}

/// What stays the same during a step.
struct Motion<const N: usize> {
    links: Links<Lanes<N>>,
    torque: Lanes<N>,
    link_1_squared: Lanes<N>,
    com_1_squared: Lanes<N>,
    com_2_squared: Lanes<N>,
}

impl<const N: usize> Motion<N> {
    #[inline(always)]
    fn of<const FUSED: bool>(robots: &[&mut Robot; N], torque: Lanes<N>) -> Self {
        let mut links = Links {
            dt: [0.0; N],
            link_length_1: [0.0; N],
            link_mass_1: [0.0; N],
            link_mass_2: [0.0; N],
            link_com_1: [0.0; N],
            link_com_2: [0.0; N],
            link_moi: [0.0; N],
            max_vel_1: [0.0; N],
            max_vel_2: [0.0; N],
            nips: [0.0; N],
        };
        for (i, robot) in robots.iter().enumerate() {
            links.dt[i] = robot.links.dt;
            links.link_length_1[i] = robot.links.link_length_1;
            links.link_mass_1[i] = robot.links.link_mass_1;
            links.link_mass_2[i] = robot.links.link_mass_2;
            links.link_com_1[i] = robot.links.link_com_1;
            links.link_com_2[i] = robot.links.link_com_2;
            links.link_moi[i] = robot.links.link_moi;
            links.nips[i] = robot.links.nips;
        }
        Self {
            link_1_squared: squares::<FUSED, N>(links.link_length_1),
            com_1_squared: squares::<FUSED, N>(links.link_com_1),
            com_2_squared: squares::<FUSED, N>(links.link_com_2),
            links,
            torque,
        }
    }

    /// One classical Runge-Kutta step over `dt`.
    #[inline(always)]
    fn integrate<const FUSED: bool>(&self, robots: &[&mut Robot; N]) -> [Lanes<N>; 4] {
        let mut start = [[0.0; N]; 4];
        let zeros = [0.0; N];
        let mut pull = Pull {
            sin2: zeros,
            cos2: zeros,
            upper: zeros,
            lower: zeros,
        };
        for (i, robot) in robots.iter().enumerate() {
            for (lanes, number) in start.iter_mut().zip(robot.state) {
                lanes[i] = number;
            }
            pull.sin2[i] = robot.waves.pull.sin2;
            pull.cos2[i] = robot.waves.pull.cos2;
            pull.upper[i] = robot.waves.pull.upper;
            pull.lower[i] = robot.waves.pull.lower;
        }
        let k1 = self.derivative::<FUSED>(&start, &pull);
        let k2 = self.slope::<FUSED>(&start, &k1, 0.5);
        let k3 = self.slope::<FUSED>(&start, &k2, 0.5);
        let k4 = self.slope::<FUSED>(&start, &k3, 1.0);
        for j in 0..4 {
            for i in 0..N {
                start[j][i] += self.links.dt[i] / 6.0
                    * (k1[j][i] + 2.0 * k2[j][i] + 2.0 * k3[j][i] + k4[j][i]);
            }
        }
        start
    }

    /// The derivative where `part` of a step along the slope `k` leads, 1/2 or all of it.
    #[inline(always)]
    fn slope<const FUSED: bool>(
        &self,
        start: &[Lanes<N>; 4],
        k: &[Lanes<N>; 4],
        part: f64,
    ) -> [Lanes<N>; 4] {
        let mut state = *start;
        for j in 0..4 {
            for i in 0..N {
                state[j][i] += self.links.dt[i] * part * k[j][i];
            }
        }
        self.derivative::<FUSED>(&state, &Pull::of::<FUSED>(&state[0], &state[1]))
    }

    /// The time derivative of the state under a torque (Sutton and Barto's book, or the NIPS paper).
    #[inline(always)]
    fn derivative<const FUSED: bool>(
        &self,
        state: &[Lanes<N>; 4],
        pull: &Pull<Lanes<N>>,
    ) -> [Lanes<N>; 4] {
        const G: f64 = 9.8;
        let [_, _, dtheta1, dtheta2] = *state;
        let links = &self.links;
        let (d1, d2) = self.inertia_terms(&pull.cos2);
        let d2_squared = squares::<FUSED, N>(d2);
        let (speed1, speed2) = (squares::<FUSED, N>(dtheta1), squares::<FUSED, N>(dtheta2));
        let (mut ddtheta1, mut ddtheta2) = ([0.0; N], [0.0; N]);
        for i in 0..N {
            let (m1, m2, moi) = (
                links.link_mass_1[i],
                links.link_mass_2[i],
                links.link_moi[i],
            );
            let (l1, lc1) = (links.link_length_1[i], links.link_com_1[i]);
            let (lc2, sin2) = (links.link_com_2[i], pull.sin2[i]);
            let phi2 = m2 * lc2 * G * pull.lower[i];
            let phi1 = -m2 * l1 * lc2 * speed2[i] * sin2
                - 2.0 * m2 * l1 * lc2 * dtheta2[i] * dtheta1[i] * sin2
                + (m1 * lc1 + m2 * l1) * G * pull.upper[i]
                + phi2;
            let inertia = m2 * self.com_2_squared[i] + moi - d2_squared[i] / d1[i];
            let nips = self.torque[i] + d2[i] / d1[i] * phi1;
            let book = nips - m2 * l1 * lc2 * speed1[i] * sin2;
            let push = if links.nips[i] == 0.0 { book } else { nips };
            ddtheta2[i] = (push - phi2) / inertia;
            ddtheta1[i] = -(d2[i] * ddtheta2[i] + phi1) / d1[i];
        }
        [dtheta1, dtheta2, ddtheta1, ddtheta2]
    }

    /// `d1` and `d2` of the equations.
    #[inline(always)]
    fn inertia_terms(&self, cos2: &Lanes<N>) -> (Lanes<N>, Lanes<N>) {
        let links = &self.links;
        let (mut d1, mut d2) = ([0.0; N], [0.0; N]);
        for i in 0..N {
            let (m1, m2, moi) = (
                links.link_mass_1[i],
                links.link_mass_2[i],
                links.link_moi[i],
            );
            let (l1, lc2) = (links.link_length_1[i], links.link_com_2[i]);
            let lengths = self.link_1_squared[i] + self.com_2_squared[i];
            d1[i] =
                m1 * self.com_1_squared[i] + m2 * (lengths + 2.0 * l1 * lc2 * cos2[i]) + moi + moi;
            d2[i] = m2 * (self.com_2_squared[i] + l1 * lc2 * cos2[i]) + moi;
        }
        (d1, d2)
    }
}
