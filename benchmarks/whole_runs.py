"""Wall-clock time of ``learn()`` with default settings, compared with SB3, sb3-contrib and SBX."""

import importlib
from typing import Any

from timing import Effort, Figure, Side
from worker import Job, clock

_LIBRARIES = {"ours": "mlx_baselines3", "sb3": "stable_baselines3", "sbx": "sbx"}
# sb3-contrib's algorithms, in the same form.
_CONTRIB = (
    ("QRDQN", "CartPole-v1", 1, 2_000, 15.0),
    ("TQC", "Pendulum-v1", 1, 300, 5.0),
    ("CrossQ", "Pendulum-v1", 1, 200, 2.0),
    ("TRPO", "CartPole-v1", 1, 8_192, 8.0),
    ("ARS", "CartPole-v1", 1, 20_000, 50.0),
)
_CONTRIB_LIBRARIES = {"ours": "mlx_baselines3.contrib", "sb3": "sb3_contrib", "sbx": "sbx"}
_IN_SBX = {"PPO", "DQN", "SAC", "TD3", "TQC", "CrossQ"}
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
    base = "mlx_baselines3" if library.startswith("mlx_baselines3") else "stable_baselines3"
    kind = importlib.import_module(f"{base}.common.vec_env").NativeVecEnv if native else None
    env = importlib.import_module(f"{base}.common.env_util").make_vec_env(
        env_id, n_envs, seed=0, vec_env_cls=kind
    )
    policy = "LinearPolicy" if algorithm == "ARS" else "MlpPolicy"
    model = getattr(package, algorithm)(policy, env, seed=0, **settings)
    model.set_logger(importlib.import_module(f"{base}.common.logger").Logger(None, []))
    if library not in ("stable_baselines3", "sb3_contrib"):
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
    for algorithm, env_id, n_envs, steps, reach in (*_RUNS, *_CONTRIB):
        is_contrib = (algorithm, env_id, n_envs, steps, reach) in _CONTRIB
        libraries = _CONTRIB_LIBRARIES if is_contrib else _LIBRARIES
        settings: dict[str, Any] = {}
        if quick:
            on_policy = {"n_steps": 64, "batch_size": 64} if algorithm == "TRPO" else {"n_steps": 64}
            steps, settings = (512, on_policy) if algorithm in ("PPO", "TRPO") else (min(steps, 160), {})
        args = {"algorithm": algorithm, "env_id": env_id, "n_envs": n_envs, "steps": steps, **settings}
        # Sufficient to choose the thread count.
        trial = {"PPO": {"steps": 1024, "n_steps": 128}, "DQN": {"steps": 500}, "A2C": {"steps": 400}}
        shorter = trial.get(algorithm, {"steps": 150})

        def side(
            label: str,
            peer: str,
            args: dict[str, Any] = args,
            shorter=shorter,
            libraries=libraries,
            **more: Any,
        ) -> Side:
            library = libraries[peer]
            args = {**args, "library": library, "native": peer == "ours", **more.pop("settings", {})}
            return Side(label, peer, "whole_runs:learn", args, trial=shorter, **more)

        others = [side("sb3-contrib" if is_contrib else "SB3", "sb3", reach=reach)]
        if algorithm in _IN_SBX:
            networks = {"policy_kwargs": {"net_arch": _NETWORKS[algorithm]}} if algorithm in _NETWORKS else {}
            others.append(side("SBX", "sbx", settings=networks, reach=1))
        what = f"{algorithm}, {env_id}, {n_envs} env{'s' * (n_envs > 1)}, {steps:,} steps"
        effort = Effort(1 if quick else 3, 0)
        found.append(Figure(what, "step", side("mlx_baselines3", "ours"), tuple(others), effort))
    return found
