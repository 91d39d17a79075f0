"""Measure this package on this machine; every figure is a ratio of two things timed in turn.

    python benchmarks/run.py [--json FILE]

Peers that need torch or JAX are not measured here: they live in environments of their own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

Timed = Callable[[], object]


def interleaved(first: Timed, second: Timed, repeats: int = 7) -> tuple[float, float]:
    """Median seconds of two functions called in turn, after one call of each that is not counted."""
    first(), second()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, seconds in zip((first, second), times, strict=True):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


_MATMUL = """
import mlx_baselines3, mlx.core as mx, sys, time
a = mx.random.normal((int(sys.argv[1]),) * 2); mx.eval(a)
def run(n):
    start = time.perf_counter()
    for _ in range(n): mx.eval(a @ a)
    return (time.perf_counter() - start) / n
run(3); print(min(run(10) for _ in range(5)))
"""


def matrix_products(rows: list[dict]) -> None:
    """MLX's float32 product with and without the bridge to NumPy's OpenBLAS (Linux only)."""
    for size in (64, 512):
        seconds = []
        for switch in ("1", "0"):
            out = subprocess.run(
                [sys.executable, "-c", _MATMUL, str(size)],
                env={**os.environ, "MLX_BASELINES3_BLAS": switch},
                capture_output=True,
                text=True,
                check=True,
            )
            seconds.append(float(out.stdout))
        rows.append(row(f"MLX matmul {size} x {size}", seconds[0], "MLX's own BLAS", seconds[1]))


def row(what: str, ours: float, peer: str, theirs: float, work: float = 0.0) -> dict:
    """One line of the table; ``work`` (steps per call) turns seconds into a rate."""
    return {
        "what": what,
        "ours_s": ours,
        "peer": peer,
        "peer_s": theirs,
        "ratio": theirs / ours,
        "work": work,
    }


def environments(rows: list[dict]) -> None:
    """Steps of the native environments against Gymnasium's, through the VecEnv interface."""
    from mlx_baselines3.common.env_util import make_vec_env
    from mlx_baselines3.common.vec_env import NativeVecEnv

    ids = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0")
    for env_id in ids:
        envs = [make_vec_env(env_id, 8, seed=0, vec_env_cls=cls) for cls in (NativeVecEnv, None)]
        actions = np.stack([envs[0].action_space.sample() for _ in range(8)])
        for env in envs:
            env.reset()

        def steps(env, n, actions=actions):
            for _ in range(n):
                env.step(actions)

        # Gymnasium's envs get fewer steps; both figures are then for 1,000 vector steps.
        ours, theirs = interleaved(lambda e=envs: steps(e[0], 1000), lambda e=envs: steps(e[1], 50))
        rows.append(row(f"{env_id}, 8 envs", ours, "DummyVecEnv over Gymnasium", theirs * 20, 8000))


def rollouts(rows: list[dict]) -> None:
    """PPO's rollout of 8 CartPoles: actions from Rust, against MLX inferring each step."""
    from mlx_baselines3 import PPO
    from mlx_baselines3.common.env_util import make_vec_env
    from mlx_baselines3.common.vec_env import NativeVecEnv

    def collector(env_class, n_steps: int, *, native_actor: bool) -> Timed:
        env = make_vec_env("CartPole-v1", 8, seed=0, vec_env_cls=env_class)
        model = PPO("MlpPolicy", env, n_steps=n_steps, seed=0)
        if not native_actor:
            model._native_actor = lambda buffer: None
        _, callback = model._setup_learn(1)
        return lambda: model.collect_rollouts(model.env, callback, model.rollout_buffer, n_steps)

    through_mlx = collector(None, 64, native_actor=False)
    for what, env_class in (("native envs", NativeVecEnv), ("Gymnasium's envs", None)):
        ours, theirs = interleaved(collector(env_class, 2048, native_actor=True), through_mlx, 5)
        peer = "Gymnasium, MLX infers"
        rows.append(row(f"PPO rollout 8 x 2048, {what}", ours, peer, theirs * 32, 8 * 2048))


def ppo_update(rows: list[dict]) -> None:
    """One PPO minibatch with the package's tanh and with MLX's own."""
    import mlx.core as mx

    from mlx_baselines3 import PPO
    from mlx_baselines3.common import activations
    from mlx_baselines3.common.logger import Logger

    rational = activations.Tanh.__call__
    for batch_size in (64, 256, 2048):
        models = []
        for call in (rational, lambda self, x: mx.tanh(x)):
            activations.Tanh.__call__ = call
            model = PPO("MlpPolicy", "CartPole-v1", batch_size=batch_size, n_epochs=2, seed=0)
            model.set_logger(Logger(None, []))
            models.append(model.learn(2048))
        activations.Tanh.__call__ = rational
        ours, theirs = interleaved(models[0].train, models[1].train, 5)
        count = 2 * 2048 / batch_size
        rows.append(
            row(f"PPO minibatch of {batch_size}", ours / count, "with MLX's own tanh", theirs / count)
        )


def show(rows: list[dict]) -> None:
    """Print the table."""
    print(f"\n{'what':<40} {'time':>10} {'rate':>12}   {'against':<28} {'times faster':>12}")
    for r in rows:
        rate = f"{r['work'] / r['ours_s'] / 1e6:.2f} M/s" if r["work"] else ""
        print(
            f"{r['what']:<40} {r['ours_s'] * 1e6:>7.0f} us {rate:>12}   {r['peer']:<28} {r['ratio']:>12.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    rows: list[dict] = []
    for part in (matrix_products, environments, rollouts, ppo_update):
        part(rows)
    show(rows)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
