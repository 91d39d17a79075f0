//! What several benches start from.
#![allow(dead_code)] // each bench uses a part

use mlx_baselines3_core::nn::{Activation, InferenceLayer, InferenceMlp};
use mlx_baselines3_core::rng::{Pcg64, SeedSequence};
use mlx_baselines3_core::vec_env::VectorEnv;

/// A network of uniform weights, small enough that the activations do not saturate.
pub fn network(widths: &[usize], activation: Activation) -> InferenceMlp {
    let mut rng = Pcg64::new(&SeedSequence::from_u64(0));
    let last = widths.len() - 2;
    let layers = widths.windows(2).enumerate().map(|(i, pair)| {
        let after = if i == last {
            Activation::Identity
        } else {
            activation
        };
        let mut layer = InferenceLayer::zeros(pair[0], pair[1], after).expect("widths above 0");
        let weights: Vec<f32> = (0..pair[0] * pair[1])
            .map(|_| rng.uniform(-0.1, 0.1) as f32)
            .collect();
        layer.load(&weights, None).expect("as many weights");
        layer
    });
    InferenceMlp::new(layers.collect()).expect("the widths fit")
}

/// Environment `i` is seeded with `i`; the first observations.
pub fn first_observations(envs: &mut dyn VectorEnv) -> Vec<f32> {
    let dim = envs.spec().obs_dim;
    let mut obs = vec![0.0; envs.num_envs() * dim];
    for (env, row) in obs.chunks_exact_mut(dim).enumerate() {
        envs.reset(env, Some(&[env as u32]), None, row)
            .expect("seeded");
    }
    obs
}
