//! `mlx_baselines3/InvalidAction-v0`: choose what is observed; most of the other choices are forbidden.
//!
//! The Python environment that it repeats is `SeededInvalidActionEnv` of the package.

use super::numerics::Numerics;
use super::{ActionSpace, Bounds, Env, EnvSpec, Physics, Transition};
use crate::rng::Pcg64;

/// Numbers of choices.
const CHOICES: usize = 80;
/// Choices that are forbidden, by default.
const FORBIDDEN: f64 = 60.0;

/// The right choice, which ones are allowed, and a key for each that was drawn to tell.
#[derive(Debug, Clone)]
pub struct InvalidAction {
    right: usize,
    allowed: [bool; CHOICES],
    forbidden: f64,
}

impl InvalidAction {
    fn draw(&mut self, rng: &mut Pcg64) {
        self.right = (rng.random() * CHOICES as f64) as usize;
        let mut keys: [f64; CHOICES] = std::array::from_fn(|_| rng.random());
        // Above all others: the right choice is never forbidden.
        keys[self.right] = 2.0;
        let count = (self.forbidden.max(0.0) as usize).min(CHOICES - 1);
        let mut order: [usize; CHOICES] = std::array::from_fn(|choice| choice);
        // Of equal keys the first is the smaller one, as NumPy's stable sort has them.
        let smaller = |&a: &usize, &b: &usize| keys[a].total_cmp(&keys[b]).then(a.cmp(&b));
        order.select_nth_unstable_by(count, smaller);
        self.allowed = [true; CHOICES];
        for &choice in &order[..count] {
            self.allowed[choice] = false;
        }
    }
}

impl Env for InvalidAction {
    type Action = i64;
    const SPEC: EnvSpec = EnvSpec {
        id: "mlx_baselines3/InvalidAction-v0",
        entry_point: "mlx_baselines3.contrib.common.envs.seeded_invalid_action:SeededInvalidActionEnv",
        max_steps: 100,
        obs_dim: CHOICES,
        action: ActionSpace::Discrete(CHOICES as i64),
        choices: CHOICES,
        step_ns: 900,
        params: &["n_invalid_actions"],
        options: ["low", "high"],
        default_bounds: [0.0, 0.0],
    };

    fn new(_: Numerics) -> Self {
        Self {
            right: 0,
            allowed: [true; CHOICES],
            forbidden: FORBIDDEN,
        }
    }

    fn reset(&mut self, rng: &mut Pcg64, _: Bounds) {
        self.draw(rng);
    }

    fn step(&mut self, action: i64, rng: &mut Pcg64) -> Transition {
        let reward = f64::from(u8::from(action == self.right as i64));
        self.draw(rng);
        Transition {
            reward,
            terminated: false,
        }
    }

    fn observe(&self, out: &mut [f32]) {
        out.fill(0.0);
        out[self.right] = 1.0;
    }

    fn allow(&self, out: &mut [f32]) {
        for (out, &allowed) in out.iter_mut().zip(&self.allowed) {
            *out = f32::from(u8::from(allowed));
        }
    }

    fn physics(&self) -> Physics {
        let flags = self
            .allowed
            .iter()
            .map(|&allowed| f64::from(u8::from(allowed)));
        Physics {
            state: std::iter::once(self.right as f64).chain(flags).collect(),
            single: false,
            last_action: None,
        }
    }

    fn set_physics(&mut self, physics: &Physics) -> bool {
        let [right, flags @ ..] = physics.state.as_slice() else {
            return false;
        };
        let is_choice = (0.0..CHOICES as f64).contains(right) && right.fract() == 0.0;
        if !is_choice || flags.len() != CHOICES || flags[*right as usize] == 0.0 {
            return false;
        }
        self.right = *right as usize;
        self.allowed = std::array::from_fn(|choice| flags[choice] != 0.0);
        true
    }

    fn param(&mut self, name: &str) -> Option<&mut f64> {
        (name == "n_invalid_actions").then_some(&mut self.forbidden)
    }
}
