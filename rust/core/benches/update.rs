//! Gradient steps of the default networks: 64-64 for CartPole (PPO, DQN), 256-256 and 400-300 for
//! Pendulum (SAC, TD3).

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mlx_baselines3_core::interrupt::Watch;
use mlx_baselines3_core::nn::{
    Activation, LayerPart, ObservationColumn, TrainableLayer, TrainableMlp,
};
use mlx_baselines3_core::update::{
    ActorCriticBatch, ActorCriticSettings, ActorCriticSizes, ActorCriticState, ActorCriticUpdate,
    ActorKind, Distribution, OnPolicySettings, OnPolicyUpdate, QSettings, QUpdate, Rollout, Rule,
    Trained, Transitions,
};

const ADAM: Rule = Rule::Adam {
    betas: [0.9, 0.999],
    eps: 1e-8,
    bias_correction: true,
};

fn numbers(count: usize, scale: f32) -> Vec<f32> {
    (0..count)
        .map(|i| scale * ((i as f32 * 0.7).sin() * 43.7).fract())
        .collect()
}

/// An MLP whose parameters begin at `start`, and where they end.
fn net(
    start: usize,
    widths: &[usize],
    hidden: Activation,
    last: Activation,
) -> (TrainableMlp, usize) {
    let mut place = start;
    let layers = widths.windows(2).enumerate().map(|(index, pair)| {
        let (weights, bias) = (place, place + pair[0] * pair[1]);
        place = bias + pair[1];
        let part = LayerPart {
            outputs: pair[1],
            weights,
            bias: Some(bias),
        };
        let is_last = index + 2 == widths.len();
        TrainableLayer::new(pair[0], vec![part], if is_last { last } else { hidden })
    });
    let layers = layers.collect();
    (TrainableMlp::new(layers).unwrap(), place)
}

/// A vector of parameters and its optimizer.
struct Vectors {
    parameters: Vec<f32>,
    exp_avg: Vec<f32>,
    exp_avg_sq: Vec<f32>,
    steps: u64,
}

impl Vectors {
    fn new(size: usize) -> Self {
        Self {
            parameters: numbers(size, 0.1),
            exp_avg: vec![0.0; size],
            exp_avg_sq: vec![0.0; size],
            steps: 0,
        }
    }

    fn trained(&mut self) -> Trained<'_> {
        Trained {
            parameters: &mut self.parameters,
            exp_avg: &mut self.exp_avg,
            exp_avg_sq: &mut self.exp_avg_sq,
            previous: None,
            before: None,
            steps: &mut self.steps,
            rule: ADAM,
            learning_rate: 1e-6,
        }
    }
}

fn on_policy(c: &mut Criterion) {
    const ROWS: usize = 2048;
    let mut group = c.benchmark_group("update/ppo");
    let identity = Activation::Identity;
    let (actor, middle) = net(0, &[4, 64, 64, 2], Activation::Tanh, identity);
    let (critic, size) = net(middle, &[4, 64, 64, 1], Activation::Tanh, identity);
    let distribution = Distribution::Categorical(vec![2]);
    let mut update = OnPolicyUpdate::new(actor, critic, distribution, size).unwrap();
    let mut vectors = Vectors::new(size);
    let column = numbers(ROWS, 1.0);
    let (observations, actions) = (numbers(4 * ROWS, 1.0), vec![1.0; ROWS]);
    let rollout = Rollout {
        observations: &[ObservationColumn::Floats(&observations)],
        actions: &actions,
        values: &column,
        log_probs: &column,
        advantages: &column,
        returns: &column,
        masks: None,
    };
    let settings = OnPolicySettings {
        clip_range: Some(0.2),
        clip_range_vf: None,
        ent_coef: 0.0,
        vf_coef: 0.5,
        max_grad_norm: 0.5,
        target_kl: None,
        normalize: true,
    };
    for batch in [64, 256, 2048] {
        let order: Vec<u32> = (0..batch).collect();
        group.throughput(Throughput::Elements(u64::from(batch)));
        group.bench_function(BenchmarkId::from_parameter(batch), |b| {
            b.iter(|| {
                let trained = &mut vectors.trained();
                let size = batch as usize;
                black_box(update.epoch(
                    &rollout,
                    &order,
                    size,
                    &settings,
                    trained,
                    &mut Watch::never(),
                ))
                .unwrap()
            });
        });
    }
    group.finish();
}

fn q_learning(c: &mut Criterion) {
    const ROWS: usize = 32;
    let (q_net, size) = net(0, &[4, 64, 64, 2], Activation::Relu, Activation::Identity);
    let mut update = QUpdate::new(q_net, size).unwrap();
    let mut vectors = Vectors::new(size);
    let (target, column) = (numbers(size, 0.1), numbers(ROWS, 1.0));
    let (observations, zeros) = (numbers(4 * ROWS, 1.0), vec![0.0; ROWS]);
    let batch = Transitions {
        observations: &[ObservationColumn::Floats(&observations)],
        next_observations: &[ObservationColumn::Floats(&observations)],
        actions: &zeros,
        rewards: &column,
        dones: &zeros,
        discounts: &[0.99],
    };
    let settings = QSettings {
        max_grad_norm: 10.0,
    };
    c.bench_function("update/dqn/32", |b| {
        b.iter(|| update.step(&batch, &settings, &target, &mut vectors.trained()));
    });
}

fn actor_critic(c: &mut Criterion, name: &str, kind: ActorKind, hidden: [usize; 2]) {
    const ROWS: usize = 256;
    let (outputs, last) = match kind {
        ActorKind::Deterministic => (1, Activation::Tanh),
        _ => (2, Activation::Identity),
    };
    let [first, second] = hidden;
    let (actor, actor_size) = net(0, &[3, first, second, outputs], Activation::Relu, last);
    let identity = Activation::Identity;
    let (left, middle) = net(0, &[4, first, second, 1], Activation::Relu, identity);
    let (right, critic_size) = net(middle, &[4, first, second, 1], Activation::Relu, identity);
    let sizes = ActorCriticSizes {
        actor: actor_size,
        critic: critic_size,
    };
    let mut update = ActorCriticUpdate::new(actor, vec![left, right], kind, sizes, None).unwrap();
    let (mut actor, mut critic) = (Vectors::new(actor_size), Vectors::new(critic_size));
    let mut critic_target = critic.parameters.clone();
    let squashed = kind == ActorKind::Squashed;
    let mut actor_target = vec![0.1; if squashed { 0 } else { actor_size }];
    let mut log_ent_coef = Vectors::new(1);
    let (column, zeros) = (numbers(ROWS, 1.0), vec![0.0; ROWS]);
    let observations = numbers(3 * ROWS, 1.0);
    let transitions = Transitions {
        observations: &[ObservationColumn::Floats(&observations)],
        next_observations: &[ObservationColumn::Floats(&observations)],
        actions: &column,
        rewards: &column,
        dones: &zeros,
        discounts: &[0.99],
    };
    let batch = ActorCriticBatch {
        transitions,
        noise: if squashed { &column } else { &[] },
        next_noise: &column,
    };
    for (update_actor, step) in [(true, "whole"), (false, "critics")] {
        let settings = ActorCriticSettings {
            tau: 0.005,
            target_policy_noise: 0.2,
            target_noise_clip: 0.5,
            ent_coef: 0.1,
            target_entropy: -1.0,
            update_actor,
            update_targets: update_actor,
        };
        c.bench_function(&format!("update/{name}/256/{step}"), |b| {
            b.iter(|| {
                let mut state = ActorCriticState {
                    actor: actor.trained(),
                    critic: critic.trained(),
                    actor_target: &mut actor_target,
                    critic_target: &mut critic_target,
                    log_ent_coef: squashed.then(|| log_ent_coef.trained()),
                };
                black_box(update.step(&batch, &settings, &mut state)).unwrap()
            });
        });
    }
}

fn sac(c: &mut Criterion) {
    actor_critic(c, "sac", ActorKind::Squashed, [256, 256]);
}

fn td3(c: &mut Criterion) {
    actor_critic(c, "td3", ActorKind::Deterministic, [400, 300]);
}

criterion_group!(benches, on_policy, q_learning, sac, td3);
criterion_main!(benches);
