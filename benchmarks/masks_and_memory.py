"""Wall-clock time of ``learn()`` of MaskablePPO and RecurrentPPO, compared with sb3-contrib."""

import importlib
from typing import Any

from timing import Effort, Figure, Side
from worker import Job, clock

# The environment with forbidden actions: this package's, stepped in Rust, and sb3-contrib's, which is the
# same but for the random numbers.
_MASKED = "mlx_baselines3/InvalidAction-v0"
_THEIRS = {"dim": 80, "n_invalid_actions": 60}
# Algorithm, policy, environment, number of environments, steps of a run, and the target speedup.
_RUNS = (
    ("MaskablePPO", "MlpPolicy", _MASKED, 1, 4096, 30.0),
    ("MaskablePPO", "MlpPolicy", _MASKED, 8, 16_384, None),
    ("RecurrentPPO", "MlpLstmPolicy", "CartPole-v1", 1, 512, 8.0),
    ("RecurrentPPO", "MlpLstmPolicy", "CartPole-v1", 8, 1024, 8.0),
)


def learn(
    library: str, algorithm: str, policy: str, env_id: str, n_envs: int, steps: int, **settings: Any
) -> Job:
    """One ``learn(steps)`` of a model that has already learned. Only the call is timed."""
    ours = library == "mlx_baselines3"
    package = importlib.import_module("mlx_baselines3.contrib" if ours else "sb3_contrib")
    base = "mlx_baselines3" if ours else "stable_baselines3"
    make_vec_env = importlib.import_module(f"{base}.common.env_util").make_vec_env
    if ours:
        native = importlib.import_module(f"{base}.common.vec_env").NativeVecEnv
        env = make_vec_env(env_id, n_envs, seed=0, vec_env_cls=native)
    elif env_id == _MASKED:
        kind = importlib.import_module("sb3_contrib.common.envs").InvalidActionEnvDiscrete
        env = make_vec_env(kind, n_envs, seed=0, env_kwargs=_THEIRS)
    else:
        env = make_vec_env(env_id, n_envs, seed=0)
    model = getattr(package, algorithm)(policy, env, seed=0, device="cpu", **settings)
    model.set_logger(importlib.import_module(f"{base}.common.logger").Logger(None, []))
    if ours:
        model.learn(min(steps, 120))

    def run() -> float:
        start = clock()
        model.learn(steps)
        return clock() - start

    return Job(run, steps, warm=False, calls=1)


def figures(quick: bool) -> list[Figure]:
    """
    :param quick: runs just long enough for an update
    :return: the lines of the table
    """
    found = []
    for algorithm, policy, env_id, n_envs, steps, reach in _RUNS:
        # sb3-contrib's default of MaskablePPO is 2048 steps of each environment.
        settings: dict[str, Any] = {"n_steps": 2048 // n_envs if algorithm == "MaskablePPO" else 128}
        if quick:
            steps, settings = 64 * n_envs, {"n_steps": 64}
        args = {"algorithm": algorithm, "policy": policy, "env_id": env_id, "n_envs": n_envs, "steps": steps}
        args |= settings
        trial = {"steps": 64 * n_envs, "n_steps": 64}
        ours, theirs = (
            Side(
                label, peer, "masks_and_memory:learn", {**args, "library": library}, trial=trial, reach=reach
            )
            for label, peer, library, reach in (
                ("mlx_baselines3", "ours", "mlx_baselines3", None),
                ("sb3-contrib", "sb3", "sb3_contrib", reach),
            )
        )
        what = f"{algorithm}, {env_id.rpartition('/')[2]}, {n_envs} env{'s' * (n_envs > 1)}, {steps:,} steps"
        found.append(Figure(what, "step", ours, (theirs,), Effort(1 if quick else 3, 0)))
    return found
