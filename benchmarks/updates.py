"""Time of a gradient step through the public ``train()``."""

import dataclasses
import importlib
import math
import statistics
from typing import Any

import report
from timing import Effort, Figure, Pool, Runner, Side, measure
from worker import Job

IMAGES = "images"
# Two vectors in a dictionary, and the same numbers in one; 6 actions, or a choice of two.
DICT, VECTOR, DICT_CHOICE = "dict", "vector", "dict choice"

# On a CPU Rust computes the gradient steps of MLPs and CNNs, and MLX all others.
MLX_STEPS = (("MLX_BASELINES3_UPDATES", "mlx"),)

_LIBRARIES = {"ours": ("mlx_baselines3", "mlx_baselines3"), "sb3": ("SB3", "stable_baselines3")}


def _frames() -> Any:
    """An environment of random images as Atari's wrappers give them."""
    gym, np = importlib.import_module("gymnasium"), importlib.import_module("numpy")
    images = np.random.default_rng(0).integers(0, 256, (16, 4, 84, 84), dtype=np.uint8)

    class Frames(gym.Env):  # type: ignore[misc, name-defined]
        observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        action_space = gym.spaces.Discrete(6)
        steps = 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return images[0], {}

        def step(self, action: Any) -> Any:
            self.steps += 1
            return images[self.steps % 16], float(action), self.steps % 100 == 0, False, {}

    return Frames


def _numbers(kind: str) -> Any:
    """An environment of random numbers, 17 of them."""
    gym, np = importlib.import_module("gymnasium"), importlib.import_module("numpy")
    parts = {name: gym.spaces.Box(-1, 1, (size,), np.float32) for name, size in (("a", 9), ("b", 8))}
    both = gym.spaces.Dict(parts)

    class Numbers(gym.Env):  # type: ignore[misc, name-defined]
        observation_space = gym.spaces.Box(-1, 1, (17,), np.float32) if kind == VECTOR else both
        action_space = (
            gym.spaces.Discrete(2) if kind == DICT_CHOICE else gym.spaces.Box(-1, 1, (6,), np.float32)
        )
        steps = 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> Any:
            self.steps += 1
            return self.observation_space.sample(), 1.0, self.steps % 100 == 0, False, {}

    return Numbers


def _model(library: str, algorithm: str, env_id: str, n_envs: int, steps: int, settings: Any) -> Any:
    """A model with that many steps in its buffer."""
    package = importlib.import_module(library)
    images = env_id == IMAGES
    numbers = env_id in (DICT, VECTOR, DICT_CHOICE)
    env: Any = _frames() if images else _numbers(env_id) if numbers else env_id
    env = importlib.import_module(f"{library}.common.env_util").make_vec_env(env, n_envs, seed=0)
    policy = "CnnPolicy" if images else "MultiInputPolicy" if env_id in (DICT, DICT_CHOICE) else "MlpPolicy"
    model = getattr(package, algorithm)(policy, env, seed=0, **settings)
    logger = importlib.import_module(f"{library}.common.logger")
    model.set_logger(logger.Logger(None, []))
    return model.learn(steps)


def _finish(library: str) -> Any:
    """Finish pending computations before the clock is read."""
    return importlib.import_module("mlx.core").synchronize if library == "mlx_baselines3" else None


def on_policy(library: str, algorithm: str, env_id: str, n_envs: int, n_steps: int, **settings: Any) -> Job:
    """Repeated ``train()`` on one rollout."""
    rows = n_steps * n_envs
    model = _model(library, algorithm, env_id, n_envs, rows, {"n_steps": n_steps, **settings})
    batches = math.ceil(rows / settings.get("batch_size", rows)) * settings.get("n_epochs", 1)
    return Job(model.train, batches, finish=_finish(library))


def off_policy(
    library: str, algorithm: str, env_id: str, batch_size: int, steps: int, use_sde: bool = False
) -> Job:
    """``train(1, batch_size)``, as the default settings call it after each step or every few."""
    settings: dict[str, Any] = {"learning_starts": steps}
    if env_id == IMAGES:
        settings["buffer_size"] = steps
    if use_sde:
        settings["use_sde"] = True
    model = _model(library, algorithm, env_id, 1, steps, settings)
    return Job(lambda: model.train(1, batch_size), finish=_finish(library))


def predict(library: str, algorithm: str, env_id: str) -> Job:
    """``predict`` of one observation."""
    model = _model(library, algorithm, env_id, 1, 100, {"buffer_size": 100, "learning_starts": 100})
    observation = model.env.reset()[0]
    return Job(lambda: model.predict(observation, deterministic=True))


def products(size: int) -> Job:
    """MLX's float32 product of two square matrices."""
    importlib.import_module("mlx_baselines3")
    mx = importlib.import_module("mlx.core")
    a = mx.random.normal((size, size))
    mx.eval(a)
    return Job(lambda: mx.eval(a @ a))


def sac_operations(batch: int = 256, hidden: int = 256, obs: int = 3, act: int = 1) -> float:
    """
    Floating point operations of the matrix products in a gradient step of SAC with two critics. In passes
    through a network (a backward pass is two, or one where no weights are asked for): actor 1 + 1 forward, 2
    backward; critics 2 for the targets, 2 forward and 4 backward, 2 forward and 2 backward below the actor's
    loss.

    :return: additions and multiplications
    """
    actor = obs * hidden + hidden * hidden + hidden * 2 * act
    critic = (obs + act) * hidden + hidden * hidden + hidden
    return 2.0 * batch * (4 * actor + 12 * critic)


def _sides(function: str, args: dict[str, Any], reach: float) -> tuple[Side, tuple[Side, ...]]:
    ours, sb3 = (
        Side(label, peer, f"updates:{function}", {"library": library, **args}, reach=reach)
        for peer, (label, library) in _LIBRARIES.items()
    )
    mlx = dataclasses.replace(ours, label="the same with MLX's steps", env=MLX_STEPS, reach=None)
    return ours, (sb3, mlx)


def figures(quick: bool) -> list[Figure]:
    """
    :param quick: shorter rollouts
    :return: the lines of the table
    """
    found = []
    cartpole = {"env_id": "CartPole-v1", "n_envs": 1}
    for batch, share in ((64, 0.25), (256, 0.33), (2048, 0.5)):
        steps = batch if quick else 2048
        args = {**cartpole, "algorithm": "PPO", "n_steps": steps, "batch_size": batch, "n_epochs": 2}
        sides = _sides("on_policy", args, round(1 / share, 1))
        found.append(Figure(f"PPO, batch {batch}", "gradient step", *sides))
    args = {"algorithm": "A2C", "env_id": "CartPole-v1", "n_envs": 8, "n_steps": 5}
    found.append(Figure("A2C, 8 envs x 5 steps", "gradient step", *_sides("on_policy", args, 3)))
    for algorithm, env_id, batch, share in (
        ("DQN", "CartPole-v1", 32, 0.33),
        ("SAC", "Pendulum-v1", 256, 0.6),
        ("TD3", "Pendulum-v1", 256, 0.6),
    ):
        args = {
            "algorithm": algorithm,
            "env_id": env_id,
            "batch_size": batch,
            "steps": 300 if quick else 1000,
        }
        sides = _sides("off_policy", args, round(1 / share, 1))
        found.append(Figure(f"{algorithm}, batch {batch}", "gradient step", *sides))
    return found + other_figures(quick)


def other_figures(quick: bool) -> list[Figure]:
    """
    :param quick: shorter rollouts
    :return: dictionaries and gSDE
    """
    steps = 300 if quick else 1000
    sac = {"algorithm": "SAC", "batch_size": 256, "steps": steps}
    args = {"algorithm": "PPO", "env_id": DICT_CHOICE, "n_envs": 1, "batch_size": 64, "n_epochs": 2}
    ppo = _sides("on_policy", {**args, "n_steps": 256 if quick else 2048}, 4)
    dictionary = _sides("off_policy", {**sac, "env_id": DICT}, 2.5)
    sde = _sides("off_policy", {**sac, "env_id": VECTOR, "use_sde": True}, 2.5)
    return [
        Figure("PPO, MultiInput, batch 64", "gradient step", *ppo),
        Figure("SAC, MultiInput, batch 256", "gradient step", *dictionary),
        Figure("SAC, gSDE, batch 256", "gradient step", *sde),
    ]


def image_figures(quick: bool) -> list[Figure]:
    """
    :param quick: shorter rollouts
    :return: NatureCNN on images of 84 x 84 x 4
    """
    steps = 64 if quick else 256
    args = {
        "env_id": IMAGES,
        "algorithm": "PPO",
        "n_envs": 1,
        "n_steps": steps,
        "batch_size": 64,
        "n_epochs": 1,
    }
    found = [Figure("PPO, NatureCNN, batch 64", "gradient step", *_sides("on_policy", args, 2))]
    args = {"env_id": IMAGES, "algorithm": "DQN", "batch_size": 32, "steps": 200 if quick else 1000}
    found.append(Figure("DQN, NatureCNN, batch 32", "gradient step", *_sides("off_policy", args, 2)))
    args = {"env_id": IMAGES, "algorithm": "DQN"}
    ours, (sb3, _) = _sides("predict", args, 2)
    found.append(Figure("DQN, NatureCNN, one predict", "call", ours, (sb3,)))
    return found


def product_figures() -> list[Figure]:
    """
    :return: MLX's matrix product with the bridge to NumPy's OpenBLAS and without
    """
    found = []
    for size in (64, 512):
        args = {"size": size}
        ours = Side("mlx_baselines3", "ours", "updates:products", args)
        plain = Side("MLX's own BLAS", "ours", "updates:products", args, env=(("MLX_BASELINES3_BLAS", "0"),))
        found.append(Figure(f"product of {size} x {size}", "product", ours, (plain,)))
    return found


def gemm_share(pool: Pool, sac: dict[str, Any], effort: Effort) -> tuple[str, dict[str, float]]:
    """
    :param pool: child processes
    :param sac: the measured row of SAC
    :param effort: how long
    :return: SAC's share of the machine's rate of matrix products, as a sentence and as numbers
    """
    side = Side("", "ours", "updates:products", {"size": 256}, (sac["threads"],))
    runner = Runner(pool, side, effort)
    peak = 2 * 256**3 / statistics.median(runner.time(effort.seconds) for _ in range(effort.repeats))
    runner.close()
    work = sac_operations()
    reached = work / sac["ours"]
    text = (
        f"SAC's matrix products are {work / 1e9:.2f} GFLOP a gradient step: {reached / 1e9:.1f} GFLOP/s with "
        f"all else that a step does, {100 * reached / peak:.0f} % of the {peak / 1e9:.1f} GFLOP/s that MLX "
        f"reaches here on products of 256 x 256 and nothing else ({sac['threads']} t)."
    )
    return text, {"operations": work, "reached": reached, "peak": peak}


def measure_all(pool: Pool, effort: Effort, quick: bool) -> tuple[str, Any]:
    """
    :param pool: child processes
    :param effort: how long
    :param quick: shorter rollouts
    :return: tables and numbers
    """
    rows: list[dict[str, Any]] = []
    for figure in figures(quick):
        rows += measure(pool, figure, effort)
    sac = next(row for row in rows if row["what"].startswith("SAC"))
    sentence, share = gemm_share(pool, sac, effort)
    image_rows: list[dict[str, Any]] = []
    for figure in image_figures(quick):
        image_rows += measure(pool, figure, effort)
    products_rows: list[dict[str, Any]] = []
    for figure in product_figures():
        products_rows += measure(pool, figure, effort)
    tables = [report.comparisons(rows), sentence, *map(report.comparisons, (image_rows, products_rows))]
    return "\n\n".join(tables), {"rows": rows, "sac": share, "images": image_rows, "products": products_rows}
