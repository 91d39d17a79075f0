"""Rollouts of PPO: policy, environments and buffer together, by ``collect_rollouts``."""

import importlib

from timing import Effort, Figure, Side
from worker import Job


def collect(
    env_id: str,
    n_envs: int,
    n_steps: int,
    library: str = "mlx_baselines3",
    kind: str = "DummyVecEnv",
    native_actor: bool = True,
) -> Job:
    """One rollout with the default policy, 64-64 tanh; without ``native_actor`` MLX infers at each step."""
    package = importlib.import_module(library)
    env_util = importlib.import_module(f"{library}.common.env_util")
    vec_env = importlib.import_module(f"{library}.common.vec_env")
    env = env_util.make_vec_env(env_id, n_envs, seed=0, vec_env_cls=getattr(vec_env, kind))
    model = package.PPO("MlpPolicy", env, n_steps=n_steps, seed=0)
    if not native_actor:
        model._native_actor = lambda buffer: None
    _, callback = model._setup_learn(1)

    def rollout() -> None:
        model.collect_rollouts(model.env, callback, model.rollout_buffer, n_steps)

    return Job(rollout, n_steps * n_envs)


def figures(quick: bool) -> list[Figure]:
    """
    :param quick: shorter rollouts of the slow sides
    :return: the lines of the table
    """
    size = {"env_id": "CartPole-v1", "n_envs": 8}
    # A slow side's cost per step does not depend on the length; a fused rollout's does, because of its fixed
    # part.
    slow = {**size, "n_steps": 32 if quick else 512}
    whole = {**size, "n_steps": 2048}
    python = {**size, "n_steps": 128 if quick else 2048}

    def sb3(reach: float) -> Side:
        args = {**slow, "library": "stable_baselines3"}
        return Side("SB3", "sb3", "rollouts:collect", args, reach=reach)

    through_mlx = Side(
        "MLX inferring each step", "ours", "rollouts:collect", {**slow, "native_actor": False}, (1,)
    )
    native = Side("mlx_baselines3", "ours", "rollouts:collect", {**whole, "kind": "NativeVecEnv"})
    gymnasium = Side("mlx_baselines3", "ours", "rollouts:collect", python, (1,))
    effort = Effort(3, 0.01) if quick else Effort(5, 0.2)
    return [
        Figure("PPO rollout 8 x 2048, native envs", "step", native, (sb3(50), through_mlx), effort),
        Figure("PPO rollout 8 x 2048, Gymnasium's envs", "step", gymnasium, (sb3(3), through_mlx), effort),
    ]
