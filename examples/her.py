"""Hindsight experience replay: DQN learns to flip ten bits to ones, though only all ten count."""

import argparse

from mlx_baselines3 import DQN
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.envs import BitFlippingEnv
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.her import HerReplayBuffer

N_BITS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    env_kwargs = {"n_bits": N_BITS, "max_steps": N_BITS}
    env = make_vec_env(BitFlippingEnv, env_kwargs=env_kwargs, seed=args.seed)
    model = DQN(
        "MultiInputPolicy",
        env,
        replay_buffer_class=HerReplayBuffer,
        # Four of five transitions are relabelled with a goal that their episode achieved.
        replay_buffer_kwargs={"n_sampled_goal": 4, "goal_selection_strategy": "future"},
        learning_rate=1e-3,
        buffer_size=50_000,
        learning_starts=500,
        batch_size=128,
        gamma=0.9,
        target_update_interval=200,
        exploration_fraction=0.3,
        seed=args.seed,
        verbose=1,
    )
    model.learn(args.steps, log_interval=200)

    test_env = make_vec_env(BitFlippingEnv, env_kwargs=env_kwargs, seed=1000)
    returns, _ = evaluate_policy(model, test_env, n_eval_episodes=100, return_episode_rewards=True)
    # Each step with a remaining zero costs 1, so only a failure costs all ten.
    solved = sum(value > -N_BITS for value in returns)
    print(f"Solved {solved} of 100 episodes of {N_BITS} bits")


if __name__ == "__main__":
    main()
