"""
Run by an interpreter that has some version of SB3: writes small replay buffers and statistics of
``VecNormalize``, and what they hold. ``python record_files.py FOLDER`` writes ``NAME.pkl`` and ``NAME.npz``.

The files in ``tests/data/replay`` were written by it. For versions before 2.0, gym 0.26's modules have to be
importable as well.
"""

import pathlib
import pickle
import sys

import numpy as np
import stable_baselines3 as sb3  # noqa: TID251  this file is SB3's side
from stable_baselines3.common import buffers  # noqa: TID251
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: TID251
from stable_baselines3.her import HerReplayBuffer  # noqa: TID251

VERSION = tuple(int(part) for part in sb3.__version__.split(".")[:2])
if VERSION < (2, 0):
    import gym
    from gym import spaces
else:
    import gymnasium as gym
    from gymnasium import spaces

BOX = spaces.Box(-2.0, 2.0, (3,), np.float32)
# Of 64 bits: SB3 kept such actions as they were before 2.1.
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float64)
GOALS = spaces.Dict(dict.fromkeys(("observation", "achieved_goal", "desired_goal"), BOX))
BOTH = spaces.Dict({"a": BOX, "b": spaces.Discrete(4)})


class GoalEnv(gym.Env):
    """Nothing but spaces, and what HER asks for."""

    action_space = ACTIONS
    observation_space = GOALS
    metadata = {"render_modes": [], "render.modes": []}

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -np.linalg.norm(achieved_goal - desired_goal, axis=-1)


class Noise(gym.Env):
    """Observations drawn from a normal distribution."""

    action_space = spaces.Discrete(2)
    metadata = {"render_modes": [], "render.modes": []}

    def __init__(self, space):
        self.observation_space, self._rng = space, np.random.default_rng(1)

    def _draw(self):
        obs = self._rng.normal(1.0, 2.0, 3).astype(np.float32)
        return {"a": obs, "b": 2} if isinstance(self.observation_space, spaces.Dict) else obs

    def reset(self, **kwargs):
        return self._draw() if VERSION < (2, 0) else (self._draw(), {})

    def step(self, action):
        result = self._draw(), 3.0, False
        return (*result, {}) if VERSION < (2, 0) else (*result, False, {})


def draw(rng, space, n_envs):
    if isinstance(space, spaces.Dict):
        return {key: draw(rng, part, n_envs) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.n, size=(n_envs, 1))
    return rng.uniform(-1, 1, (n_envs, *space.shape)).astype(space.dtype)


def fill(buffer, space, steps, n_envs):
    """Episodes of four steps; every other one is cut by a time limit. The last one is under way."""
    rng = np.random.default_rng(0)
    obs = draw(rng, space, n_envs)
    for step in range(steps):
        done, cut = step % 4 == 3, step % 8 == 7
        following = draw(rng, space, n_envs)
        infos = [{"TimeLimit.truncated": cut, "step": step} for _ in range(n_envs)]
        action = rng.uniform(-1, 1, (n_envs, 2))
        buffer.add(obs, following, action, np.full(n_envs, float(step)), np.full(n_envs, done), infos)
        obs = following
    return buffer


def made():
    common = buffers.ReplayBuffer(20, BOX, ACTIONS, n_envs=2)
    yield "plain", fill(common, BOX, 14, 2)
    compact = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    yield "compact", fill(buffers.ReplayBuffer(10, BOX, ACTIONS, **compact), BOX, 14, 1)
    yield "dict", fill(buffers.DictReplayBuffer(10, BOTH, ACTIONS), BOTH, 7, 1)
    if VERSION >= (1, 8):
        her = {"copy_info_dict": True, "goal_selection_strategy": "final"}
        yield "her", fill(HerReplayBuffer(10, GOALS, ACTIONS, DummyVecEnv([GoalEnv]), **her), GOALS, 14, 1)
        yield "her_plain", fill(HerReplayBuffer(10, GOALS, ACTIONS, DummyVecEnv([GoalEnv])), GOALS, 7, 1)
    else:
        env = DummyVecEnv([GoalEnv])
        for name, steps in (("her", 7), ("her_full", 18)):
            yield name, fill(HerReplayBuffer(env, 14, max_episode_length=4), GOALS, steps, 1)
        inner = buffers.DictReplayBuffer(60, GOALS, ACTIONS)
        offline = HerReplayBuffer(env, 14, replay_buffer=inner, max_episode_length=4, online_sampling=False)
        yield "her_offline", fill(offline, GOALS, 7, 1)
    if hasattr(buffers, "NStepReplayBuffer"):
        n_step = buffers.NStepReplayBuffer(10, BOX, ACTIONS, n_steps=4, gamma=0.9)
        yield "n_step", fill(n_step, BOX, 14, 1)


def arrays_of(owner, prefix=""):
    found = {}
    for name, value in vars(owner).items():
        values = value if isinstance(value, dict) else {"": value}
        for key, item in values.items():
            if isinstance(item, (int, float)) or (isinstance(item, np.ndarray) and not item.dtype.hasobject):
                found[f"{prefix}{name}{key and '/'}{key}"] = item
    return found


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, buffer in made():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(buffer, protocol=pickle.HIGHEST_PROTOCOL))
        inner = getattr(buffer, "replay_buffer", None)
        arrays = {**arrays_of(buffer), **(arrays_of(inner, "inner.") if inner is not None else {})}
        np.savez_compressed(folder / f"{name}.npz", **arrays)
    for name, space in (("normalize_box", BOX), ("normalize_dict", BOTH)):
        venv = DummyVecEnv([lambda space=space: Noise(space)] * 2)
        env = VecNormalize(venv, gamma=0.9, clip_obs=5.0, norm_obs_keys=["a"] if space is BOTH else None)
        env.reset()
        for _ in range(5):
            env.step([0, 0])
        env.save(str(folder / f"{name}.pkl"))
        obs = np.random.default_rng(2).normal(size=(2, 3)).astype(np.float32)
        given = {"a": obs, "b": np.zeros((2, 1), int)} if space is BOTH else obs
        normalized = env.normalize_obs(given)
        normalized = normalized["a"] if space is BOTH else normalized
        scaled = env.normalize_reward(obs[0])
        np.savez(folder / f"{name}.npz", obs=obs, normalized=normalized, scaled=scaled)


if __name__ == "__main__":
    main()
