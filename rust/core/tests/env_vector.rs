//! The vector: autoreset, time limit, episode bookkeeping, snapshots and errors.

use mlx_baselines3_core::env::numerics::Numerics;
use mlx_baselines3_core::env::{Actions, EnvError, registry};
use mlx_baselines3_core::vec_env::{Episode, StepOut, VectorEnv};

fn made(id: &str, n_envs: usize) -> Box<dyn VectorEnv> {
    let mut envs = registry::make(id, n_envs, Numerics::default()).unwrap();
    let mut obs = vec![0.0; envs.spec().obs_dim];
    for env in 0..n_envs {
        envs.reset(env, Some(&[env as u32]), None, &mut obs)
            .unwrap();
    }
    envs
}

type Outcome = (Vec<f32>, Vec<f32>, Vec<bool>);

fn step(envs: &mut dyn VectorEnv, actions: Actions<'_>) -> Result<Outcome, EnvError> {
    let (n, dim) = (envs.num_envs(), envs.spec().obs_dim);
    let (mut obs, mut rewards, mut dones) = (vec![0.0; n * dim], vec![0.0; n], vec![false; n]);
    let (o, r, d) = (&mut obs, &mut rewards, &mut dones);
    envs.step(
        actions,
        StepOut {
            obs: o,
            rewards: r,
            dones: d,
        },
    )?;
    Ok((obs, rewards, dones))
}

#[test]
fn an_ended_episode_restarts_within_the_step() {
    let mut envs = made("CartPole-v1", 2);
    for length in 1.. {
        // Pushing in one direction forever fells the pole within a dozen steps.
        let (obs, _, dones) = step(envs.as_mut(), Actions::Discrete(&[1, 1])).unwrap();
        let ended = envs.episodes();
        assert_eq!(ended.len(), dones.iter().filter(|&&done| done).count());
        let Some(&episode) = ended.first() else {
            continue;
        };
        let expected = Episode {
            env: episode.env,
            total: f64::from(length),
            length,
            terminated: true,
            truncated: false,
        };
        assert_eq!(episode, expected);
        assert!((8..13).contains(&length));
        let row = &obs[episode.env * 4..episode.env * 4 + 4];
        assert!(
            row.iter().all(|x| x.abs() <= 0.05),
            "a new episode begins: {row:?}"
        );
        assert!(
            envs.terminal_obs(0)[2].abs() > 0.2,
            "the old one ended fallen"
        );
        assert_eq!(envs.snapshot(episode.env).unwrap().steps, 0);
        break;
    }
}

/// Thirteen are stepped as eight, four and one; each as if it were alone, whatever it is made of.
#[test]
fn robots_side_by_side_move_as_each_alone() {
    const N: usize = 13;
    let change = |envs: &mut dyn VectorEnv, env: usize, like: usize| {
        let mut set = |name, value| envs.set_param(env, name, value).unwrap();
        match like % 4 {
            1 => set("book_or_nips", 1.0),
            2 => set("torque_noise_max", 0.5),
            3 => set("LINK_MASS_2", 1.7),
            _ => {}
        }
    };
    let mut together = made("Acrobot-v1", N);
    let mut alone: Vec<_> = (0..N).map(|_| made("Acrobot-v1", 1)).collect();
    for (env, single) in alone.iter_mut().enumerate() {
        change(together.as_mut(), env, env);
        change(single.as_mut(), 0, env);
        single
            .reset(0, Some(&[env as u32]), None, &mut [0.0; 6])
            .unwrap();
    }
    let mut ended = 0;
    for round in 0..2_000 {
        let actions: [i64; N] = std::array::from_fn(|env| ((round / 7 + env) % 3) as i64);
        let (obs, rewards, dones) = step(together.as_mut(), Actions::Discrete(&actions)).unwrap();
        for (env, single) in alone.iter_mut().enumerate() {
            let wanted = step(single.as_mut(), Actions::Discrete(&[actions[env]])).unwrap();
            let row = obs[env * 6..env * 6 + 6].to_vec();
            assert_eq!((row, vec![rewards[env]], vec![dones[env]]), wanted);
            assert_eq!(together.snapshot(env).unwrap(), single.snapshot(0).unwrap());
        }
        ended += together.episodes().len();
    }
    assert!(ended > N, "{ended} episodes ended");
}

#[test]
fn the_time_limit_truncates() {
    let mut envs = made("MountainCar-v0", 3);
    assert_eq!(envs.time_limit(), Some(200));
    envs.set_time_limit(Some(4));
    for round in 1..=8 {
        let (_, rewards, dones) = step(envs.as_mut(), Actions::Discrete(&[0, 1, 2])).unwrap();
        assert_eq!(dones, [round % 4 == 0; 3]);
        assert_eq!(rewards, [-1.0; 3]);
    }
    let lengths: Vec<_> = envs
        .episodes()
        .iter()
        .map(|e| (e.env, e.length, e.total))
        .collect();
    assert_eq!(lengths, [(0, 4, -4.0), (1, 4, -4.0), (2, 4, -4.0)]);
    assert!(envs.episodes().iter().all(|e| e.truncated && !e.terminated));
    envs.set_time_limit(None);
    assert_eq!(envs.time_limit(), None);
    for _ in 0..300 {
        assert_eq!(
            step(envs.as_mut(), Actions::Discrete(&[1, 1, 1]))
                .unwrap()
                .2,
            [false; 3]
        );
    }
    assert!(envs.episodes().is_empty());
}

#[test]
fn a_snapshot_goes_on_the_same() {
    for spec in registry::specs() {
        let mut envs = made(spec.id, 2);
        envs.set_param(0, spec.params[0], 0.7).unwrap();
        let (ints, floats) = ([1, 0], [0.3, -0.8]);
        let actions = || match spec.action {
            mlx_baselines3_core::env::ActionSpace::Discrete(_) => Actions::Discrete(&ints),
            mlx_baselines3_core::env::ActionSpace::Box(_) => Actions::Single(&floats),
        };
        for _ in 0..15 {
            step(envs.as_mut(), actions()).unwrap();
        }
        let mut other = registry::make(spec.id, 2, Numerics::default()).unwrap();
        for env in 0..2 {
            let snapshot = envs.snapshot(env).unwrap();
            other.restore(env, &snapshot).unwrap();
            assert_eq!(other.snapshot(env).unwrap(), snapshot);
        }
        let mut third = other.clone_box();
        for _ in 0..600 {
            let expected = step(envs.as_mut(), actions()).unwrap();
            assert_eq!(
                step(other.as_mut(), actions()).unwrap(),
                expected,
                "{}",
                spec.id
            );
            assert_eq!(
                step(third.as_mut(), actions()).unwrap(),
                expected,
                "{}",
                spec.id
            );
            assert_eq!(other.episodes(), envs.episodes());
        }
    }
}

#[test]
fn a_refused_action_moves_nothing() {
    let nan = [0.0, f32::NAN];
    let infinite = [f64::INFINITY, 0.0];
    let cases: [(&str, Actions<'_>, &str); 6] = [
        (
            "CartPole-v1",
            Actions::Discrete(&[0, 2]),
            "action 2 of environment 1 is out of range, expected an integer from 0 to 1",
        ),
        (
            "CartPole-v1",
            Actions::Discrete(&[0]),
            "got 1 action values for 2 environment(s), expected 2",
        ),
        (
            "CartPole-v1",
            Actions::Single(&[0.0, 0.0]),
            "got float actions, expected integers",
        ),
        (
            "Pendulum-v1",
            Actions::Discrete(&[0, 0]),
            "got integer actions, expected floats",
        ),
        (
            "Pendulum-v1",
            Actions::Single(&nan),
            "action NaN of environment 1 is not a finite number",
        ),
        (
            "Pendulum-v1",
            Actions::Double(&infinite),
            "action inf of environment 0 is not a finite number",
        ),
    ];
    for (id, actions, message) in cases {
        let mut envs = made(id, 2);
        let before = envs.snapshot(0).unwrap();
        let error = step(envs.as_mut(), actions).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(envs.snapshot(0).unwrap(), before);
    }
}

#[test]
fn other_errors_say_what_was_expected() {
    let new = |id, n| registry::make(id, n, Numerics::default());
    assert_eq!(new("CartPole-v1", 0).unwrap_err(), EnvError::NoEnvs);
    let unknown = new("Nothing-v0", 1).unwrap_err().to_string();
    assert!(
        unknown.contains("Nothing-v0") && unknown.contains("Acrobot-v1"),
        "{unknown}"
    );

    let mut envs = new("CartPole-v1", 2).unwrap();
    let mut obs = [0.0; 4];
    assert_eq!(
        envs.reset(0, None, None, &mut obs),
        Err(EnvError::NotSeeded(0))
    );
    envs.reset(0, Some(&[1]), None, &mut obs).unwrap();
    assert_eq!(
        step(envs.as_mut(), Actions::Discrete(&[0, 0])),
        Err(EnvError::NotReset(1))
    );
    assert!(matches!(
        envs.reset(2, Some(&[1]), None, &mut obs),
        Err(EnvError::Index {
            index: 2,
            n_envs: 2
        })
    ));
    assert!(matches!(
        envs.reset(1, Some(&[1]), None, &mut obs[..3]),
        Err(EnvError::Buffer {
            got: 3,
            expected: 4,
            ..
        })
    ));
    assert!(matches!(
        envs.set_param(0, "colour", 1.0),
        Err(EnvError::UnknownParam { .. })
    ));
    assert!(matches!(
        envs.set_param(0, "gravity", f64::NAN),
        Err(EnvError::BadParam { .. })
    ));
    let mut snapshot = envs.snapshot(0).unwrap();
    snapshot.physics.state.pop();
    assert!(matches!(
        envs.restore(0, &snapshot),
        Err(EnvError::BadState { got: 3, .. })
    ));
}
