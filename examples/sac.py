"""Train SAC on Pendulum-v1, save it with its replay buffer, load both, train on, and evaluate."""

import argparse
import pathlib

from mlx_baselines3 import SAC
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("sac_pendulum"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    model = SAC(
        "MlpPolicy",
        "Pendulum-v1",
        learning_rate=1e-3,
        buffer_size=50_000,
        # Small networks are sufficient here, and take a fraction of the time of the default ones on a CPU.
        policy_kwargs={"net_arch": [64, 64]},
        seed=args.seed,
        verbose=1,
    )
    model.learn(args.steps // 2)
    model.save(args.out / "model")
    model.save_replay_buffer(args.out / "replay_buffer")

    model = SAC.load(args.out / "model", env=model.get_env())
    model.load_replay_buffer(args.out / "replay_buffer")
    print(f"Loaded the model, and {model.replay_buffer.size()} transitions to continue with")
    model.learn(args.steps - args.steps // 2, reset_num_timesteps=False)

    test_env = make_vec_env("Pendulum-v1", seed=1000)
    mean, std = evaluate_policy(model, test_env, n_eval_episodes=20)
    print(f"Mean return over 20 episodes: {mean:.1f} +/- {std:.1f}")


if __name__ == "__main__":
    main()
