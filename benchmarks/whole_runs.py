"""Wall-clock time of ``learn()`` with default settings, compared with SB3 and SBX."""

import importlib
from typing import Any

from timing import Effort, Figure, Side
from worker import Job, clock

_LIBRARIES = {"ours": "mlx_baselines3", "sb3": "stable_baselines3", "sbx": "sbx"}
# SB3's networks where SBX's defaults differ.
_NETWORKS = {"DQN": [64, 64], "TD3": [400, 300]}
# Algorithm, environment, number of environments, steps of a run, and the target speedup over SB3.
_RUNS = (
    ("PPO", "CartPole-v1", 8, 16_384, 5.0),
    ("A2C", "CartPole-v1", 8, 4_000, 5.0),
    ("DQN", "CartPole-v1", 1, 4_000, 3.0),
    ("SAC", "Pendulum-v1", 1, 400, 1.7),
    ("TD3", "Pendulum-v1", 1, 400, 1.7),
)


def learn(
    library: str, algorithm: str, env_id: str, n_envs: int, steps: int, native: bool, **settings: Any
) -> Job:
    """
    One ``learn(steps)`` of a model that has already learned, so that nothing is compiled. Only the call is
    timed. The replay buffer keeps its contents; the first steps are random again, as in any run.
    """
    package = importlib.import_module(library)
    base = "mlx_baselines3" if library == "mlx_baselines3" else "stable_baselines3"
    kind = importlib.import_module(f"{base}.common.vec_env").NativeVecEnv if native else None
    env = importlib.import_module(f"{base}.common.env_util").make_vec_env(
        env_id, n_envs, seed=0, vec_env_cls=kind
    )
    model = getattr(package, algorithm)("MlpPolicy", env, seed=0, **settings)
    model.set_logger(importlib.import_module(f"{base}.common.logger").Logger(None, []))
    if library != "stable_baselines3":
        # Long enough for an update to be compiled; SB3 has nothing to compile.
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
    for algorithm, env_id, n_envs, steps, reach in _RUNS:
        settings: dict[str, Any] = {}
        if quick:
            steps, settings = (512, {"n_steps": 64}) if algorithm == "PPO" else (min(steps, 160), {})
        args = {"algorithm": algorithm, "env_id": env_id, "n_envs": n_envs, "steps": steps, **settings}
        # Sufficient to choose the thread count.
        trial = {"PPO": {"steps": 1024, "n_steps": 128}, "DQN": {"steps": 500}, "A2C": {"steps": 400}}
        shorter = trial.get(algorithm, {"steps": 150})

        def side(label: str, peer: str, args: dict[str, Any] = args, shorter=shorter, **more: Any) -> Side:
            library = _LIBRARIES[peer]
            args = {**args, "library": library, "native": peer == "ours", **more.pop("settings", {})}
            return Side(label, peer, "whole_runs:learn", args, trial=shorter, **more)

        others = [side("SB3", "sb3", reach=reach)]
        # SBX has no A2C.
        if algorithm != "A2C":
            networks = {"policy_kwargs": {"net_arch": _NETWORKS[algorithm]}} if algorithm in _NETWORKS else {}
            others.append(side("SBX", "sbx", settings=networks, reach=1))
        what = f"{algorithm}, {env_id}, {n_envs} env{'s' * (n_envs > 1)}, {steps:,} steps"
        effort = Effort(1 if quick else 3, 0)
        found.append(Figure(what, "step", side("mlx_baselines3", "ours"), tuple(others), effort))
    return found
