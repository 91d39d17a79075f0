//! Environment steps per second of off-policy chunks: DQN's and SAC's default networks.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlx_baselines3_core::actor::{Actor, Head};
use mlx_baselines3_core::buffer::ring::Ring;
use mlx_baselines3_core::collect::{
    ActionBounds, ActionColumn, ActionPlan, LastStep, NextObs, RandomActions, ReplayColumns,
    collect_transitions,
};
use mlx_baselines3_core::env::numerics::Numerics;
use mlx_baselines3_core::env::{ActionSpace, registry};
use mlx_baselines3_core::interrupt::Watch;
use mlx_baselines3_core::nn::Activation;
use mlx_baselines3_core::vec_env::VectorEnv;

mod support;
use support::{first_observations, network};

const STEPS: usize = 64;
const ROWS: usize = 10_000;

fn policy(obs_dim: usize, action: ActionSpace) -> Actor {
    let (outputs, head, hidden) = match action {
        ActionSpace::Discrete(n) => (n as usize, Head::EpsilonGreedy(0.0), 64),
        ActionSpace::Box(n) => (2 * n, Head::SquashedGaussian, 256),
    };
    let net = network(&[obs_dim, hidden, hidden, outputs], Activation::Relu);
    Actor::new(net, head).expect("the head fits")
}

/// Everything that a chunk writes.
struct Memory {
    obs: Vec<f32>,
    rewards: Vec<f32>,
    dones: Vec<bool>,
    ints: Vec<i64>,
    floats: [Vec<f32>; 2],
    observations: [Vec<f32>; 2],
    int_column: Vec<i64>,
    columns: [Vec<f32>; 4],
}

impl Memory {
    fn new(envs: &mut dyn VectorEnv) -> Self {
        let (n_envs, dim) = (envs.num_envs(), envs.spec().obs_dim);
        let ints = match envs.spec().action {
            ActionSpace::Discrete(_) => n_envs,
            ActionSpace::Box(_) => 0,
        };
        let column = |width: usize| vec![0.0; ROWS * n_envs * width];
        Self {
            obs: first_observations(envs),
            rewards: vec![0.0; n_envs],
            dones: vec![false; n_envs],
            ints: vec![0; ints],
            floats: [vec![0.0; n_envs - ints], vec![0.0; n_envs - ints]],
            observations: [column(dim), column(dim)],
            int_column: vec![0; ROWS * ints],
            columns: [
                vec![0.0; ROWS * (n_envs - ints)],
                column(1),
                column(1),
                column(1),
            ],
        }
    }

    fn chunk(&mut self, envs: &mut dyn VectorEnv, actor: &mut Actor, ring: Ring) -> Ring {
        let discrete = !self.ints.is_empty();
        let [observations, next] = &mut self.observations;
        let [numbers, rewards, dones, timeouts] = &mut self.columns;
        let [floats, scaled] = &mut self.floats;
        let mut replay = ReplayColumns {
            ring,
            observations,
            next: NextObs::Column(next),
            actions: if discrete {
                ActionColumn::Ints(&mut self.int_column)
            } else {
                ActionColumn::Floats(numbers)
            },
            rewards,
            dones,
            timeouts: Some(timeouts),
        };
        let mut last = LastStep {
            obs: &mut self.obs,
            rewards: &mut self.rewards,
            dones: &mut self.dones,
            actions: if discrete {
                ActionColumn::Ints(&mut self.ints)
            } else {
                ActionColumn::Floats(floats)
            },
            scaled,
        };
        let plan = ActionPlan {
            is_random: &[false; STEPS],
            random_actions: if discrete {
                RandomActions::Ints(&[])
            } else {
                RandomActions::Floats(&[])
            },
            noise: None,
            bounds: ActionBounds {
                low: &[-1.0],
                high: &[1.0],
            },
            until_end: false,
        };
        collect_transitions(
            envs,
            actor,
            &plan,
            &mut replay,
            &mut last,
            &mut Watch::never(),
        )
        .expect("everything fits");
        replay.ring
    }
}

fn bench(c: &mut Criterion) {
    for id in ["CartPole-v1", "Pendulum-v1"] {
        let mut group = c.benchmark_group(format!("transitions {id}"));
        for n_envs in [1_usize, 8, 256] {
            let mut envs = registry::make(id, n_envs, Numerics::default()).expect("known");
            let mut memory = Memory::new(&mut *envs);
            let mut actor = policy(envs.spec().obs_dim, envs.spec().action);
            let mut ring = Ring::new(ROWS, 0, false).expect("row 0 exists");
            group.sample_size(20);
            group.throughput(Throughput::Elements((STEPS * n_envs) as u64));
            group.bench_function(BenchmarkId::from_parameter(n_envs), |b| {
                b.iter(|| ring = memory.chunk(&mut *envs, &mut actor, ring));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
