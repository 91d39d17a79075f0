//! Every environment against 2,500 steps of two of its original, seeds 123 and 124: Gymnasium 1.4's, and for
//! `mlx_baselines3/InvalidAction-v0` the Python environment of this package.

use mlx_baselines3_core::env::numerics::Numerics;
use mlx_baselines3_core::env::{ActionSpace, Actions, registry};
use mlx_baselines3_core::vec_env::StepOut;

struct Pinned {
    id: &'static str,
    /// First observation of environment 0.
    first: &'static [f32],
    /// Observation of environment 1 after five steps.
    fifth: &'static [f32],
    /// FNV-1a over the bytes of observations, rewards, dones, terminal observations and lengths.
    #[cfg_attr(not(all(target_os = "linux", target_env = "gnu")), expect(dead_code))]
    hash: u64,
    episodes: usize,
    /// Sum of all finished returns.
    total: f64,
}

/// Zeros with a 1 at `hot`.
const fn one_hot(hot: usize) -> [f32; 80] {
    let mut row = [0.0; 80];
    row[hot] = 1.0;
    row
}

const PINNED: [Pinned; 6] = [
    Pinned {
        id: "CartPole-v1",
        first: &[0.018235186, -0.0446179, -0.027964013, -0.03156282],
        fifth: &[0.015636543, -0.17027274, 0.07588131, 0.40093413],
        hash: 0xbe56_f35b_3ee0_1c26,
        episodes: 244,
        total: 4926.0,
    },
    Pinned {
        id: "Pendulum-v1",
        first: &[0.4123625, 0.91101986, -0.89235795],
        fifth: &[-0.7041469, 0.71005434, 3.251389],
        hash: 0xe9a3_54a9_aeb2_4bbc,
        episodes: 24,
        total: -28_089.747_149,
    },
    Pinned {
        id: "Acrobot-v1",
        first: &[
            0.99933505,
            0.03646229,
            0.99602115,
            -0.089117415,
            -0.055928025,
            -0.06312564,
        ],
        fifth: &[
            0.9991613,
            -0.040946983,
            0.990924,
            0.13442312,
            -0.4074356,
            0.55611825,
        ],
        hash: 0xc07b_c936_4590_9216,
        episodes: 10,
        total: -5000.0,
    },
    Pinned {
        id: "MountainCar-v0",
        first: &[-0.46352962, 0.0],
        fifth: &[-0.4526665, -0.0018578492],
        hash: 0x3df5_6457_ebe6_0b10,
        episodes: 24,
        total: -4800.0,
    },
    Pinned {
        id: "MountainCarContinuous-v0",
        first: &[-0.46352962, 0.0],
        fifth: &[-0.4739001, -0.01019001],
        hash: 0x9eaa_33c7_e945_cc1f,
        episodes: 4,
        total: -399.975,
    },
    Pinned {
        id: "mlx_baselines3/InvalidAction-v0",
        first: &one_hot(54),
        fifth: &one_hot(0),
        hash: 0x6fcf_69ff_5268_a3e7,
        episodes: 50,
        total: 62.0,
    },
];

struct Fnv(u64);

impl Fnv {
    fn bytes(&mut self, bytes: impl IntoIterator<Item = u8>) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn floats(&mut self, values: &[f32]) {
        self.bytes(values.iter().flat_map(|value| value.to_le_bytes()));
    }
}

fn assert_near(got: &[f32], expected: &[f32], what: &str) {
    let near = got.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-6);
    assert!(
        near && got.len() == expected.len(),
        "{what}: {got:?}, the original has {expected:?}"
    );
}

/// Steps through the pinned run; the hash, the number of episodes and the sum of their returns.
fn replay(pinned: &Pinned) -> (u64, usize, f64) {
    let mut envs = registry::make(pinned.id, 2, Numerics::default()).unwrap();
    let (dim, action) = (envs.spec().obs_dim, envs.spec().action);
    let (mut obs, mut rewards, mut dones) = (vec![0.0; 2 * dim], [0.0; 2], [false; 2]);
    for (env, row) in obs.chunks_exact_mut(dim).enumerate() {
        envs.reset(env, Some(&[123 + env as u32]), None, row)
            .unwrap();
    }
    assert_near(&obs[..dim], pinned.first, pinned.id);
    let (mut hash, mut episodes, mut total) = (Fnv(0xcbf2_9ce4_8422_2325), 0, 0.0);
    hash.floats(&obs);
    for t in 0..2500_i64 {
        let ints = [0, 1].map(|i| match action {
            ActionSpace::Discrete(n) => (t / 3 + t * i) % n,
            ActionSpace::Box(_) => 0,
        });
        let floats = [0, 1].map(|i| ((t / 5 + i) % 7) as f32 * 0.5 - 1.5);
        let actions = match action {
            ActionSpace::Discrete(_) => Actions::Discrete(&ints),
            ActionSpace::Box(_) => Actions::Single(&floats),
        };
        let (obs_out, rewards_out, dones_out) = (&mut obs, &mut rewards, &mut dones);
        let out = StepOut {
            obs: obs_out,
            rewards: rewards_out,
            dones: dones_out,
        };
        envs.step(actions, out).unwrap();
        hash.floats(&obs);
        hash.floats(&rewards);
        hash.bytes(dones.map(u8::from));
        for (k, episode) in envs.episodes().iter().enumerate() {
            hash.floats(envs.terminal_obs(k));
            hash.bytes(episode.length.to_le_bytes());
            episodes += 1;
            total += episode.total;
        }
        if t == 4 {
            assert_near(&obs[dim..], pinned.fifth, pinned.id);
        }
    }
    (hash.0, episodes, total)
}

#[test]
fn trajectories_are_those_of_the_originals() {
    for pinned in &PINNED {
        let (hash, episodes, total) = replay(pinned);
        // The hash is of glibc's sine and cosine; other C libraries round a few last places otherwise.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            assert_eq!(hash, pinned.hash, "{}", pinned.id);
            assert_eq!(episodes, pinned.episodes, "{}", pinned.id);
            assert!(
                (total - pinned.total).abs() < 1e-4,
                "{}: {total}",
                pinned.id
            );
        }
        assert!(hash != 0 && episodes > 0 && total.is_finite());
    }
}

#[test]
fn every_registered_environment_is_pinned() {
    let ids: Vec<_> = registry::specs().map(|spec| spec.id).collect();
    assert_eq!(ids, PINNED.map(|pinned| pinned.id));
}
