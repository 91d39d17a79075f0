"""
Replay buffers and statistics that are written for SB3, in SB3: ``pytest -m peers``, where ``SB3_PYTHON`` is
an interpreter that has it.
"""

import os
import subprocess

import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import DQN, SAC
from mlx_baselines3.common.envs import BitFlippingEnv, SimpleMultiObsEnv
from mlx_baselines3.common.vec_env import DummyVecEnv, NativeVecEnv, VecNormalize
from mlx_baselines3.her import HerReplayBuffer
from support import TESTS
from support.random_env import RandomEnv

pytestmark = pytest.mark.peers

BUFFERS = """
import sys, warnings
import numpy as np
from gymnasium import spaces
from support.random_env import RandomEnv
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.envs import BitFlippingEnv, SimpleMultiObsEnv
from stable_baselines3.common import buffers
from stable_baselines3.her import HerReplayBuffer

warnings.simplefilter("error")
warnings.filterwarnings("ignore", message=".*(enough memory|smallest of the three|custom replay buffer).*")
small = {"learning_starts": 1000, "device": "cpu", "buffer_size": 60}
her = {"replay_buffer_class": HerReplayBuffer}
pendulum = RandomEnv(spaces.Box(-8.0, 8.0, (3,)), spaces.Box(-2.0, 2.0, (1,)))
MODELS = {
    "plain": lambda: SAC("MlpPolicy", pendulum, **small),
    "compact": lambda: SAC("MlpPolicy", pendulum, optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False}, **small),
    "n_step": lambda: SAC("MlpPolicy", pendulum, n_steps=3, **small),
    "dict": lambda: DQN("MultiInputPolicy", SimpleMultiObsEnv(), **small),
    "her": lambda: DQN("MultiInputPolicy", BitFlippingEnv(n_bits=3, continuous=False), **her, **small),
}
for path in sys.argv[1:]:
    name = path.rpartition("/")[2]
    model = MODELS[name.removesuffix("_infos")]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.load_replay_buffer(path, truncate_last_traj=False)
    buffer, known = model.replay_buffer, np.load(path + ".npz")
    assert type(buffer).__module__.startswith("stable_baselines3."), type(buffer)
    assert type(buffer).__name__ == str(known["kind"]), type(buffer)
    assert set(vars(buffer)) == set(vars(MODELS[name.removesuffix("_infos")]().replay_buffer)), vars(buffer)
    for key in known:
        if key == "kind":
            continue
        attribute, _, part = key.partition("/")
        found = getattr(buffer, attribute)
        np.testing.assert_array_equal(found[part] if part else found, known[key], err_msg=key)
    if hasattr(buffer, "infos"):
        assert buffer.infos.shape == (buffer.buffer_size, buffer.n_envs)
        assert all(isinstance(info, dict) for info in buffer.infos.reshape(-1))
    assert len(buffer.sample(20).rewards) == 20
    before = buffer.pos - model.num_timesteps
    # One environment here, whatever was saved.
    if buffer.n_envs == 1:
        model.learn(5, reset_num_timesteps=False)
        assert model.num_timesteps >= 5
        assert buffer.pos == (before + model.num_timesteps) % buffer.buffer_size
    print(name, "is read")
"""


def models():
    small = {"learning_starts": 1000, "buffer_size": 60, "seed": 0}
    pendulum = {"buffer_size": 60, "learning_starts": 1000, "seed": 0}

    def bits():
        return DummyVecEnv([lambda: BitFlippingEnv(n_bits=3, continuous=False)])

    yield "plain", SAC("MlpPolicy", NativeVecEnv("Pendulum-v1", 2), **pendulum)
    compact = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    yield "compact", SAC("MlpPolicy", NativeVecEnv("Pendulum-v1", 1), **compact, **pendulum)
    yield "n_step", SAC("MlpPolicy", NativeVecEnv("Pendulum-v1", 1), n_steps=3, **pendulum)
    yield "dict", DQN("MultiInputPolicy", DummyVecEnv([SimpleMultiObsEnv]), **small)
    her = {"replay_buffer_class": HerReplayBuffer}
    yield "her", DQN("MultiInputPolicy", bits(), **her, **small)
    her["replay_buffer_kwargs"] = {"copy_info_dict": True}
    yield "her_infos", DQN("MultiInputPolicy", bits(), **her, **small)


def run(script, paths):
    command = [os.environ["SB3_PYTHON"], "-c", script, *map(str, paths)]
    path = {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"


@pytest.mark.parametrize("steps", [37, 90])
def test_sb3_loads_replay_buffers_and_goes_on(tmp_path, steps):
    paths = []
    for name, model in models():
        model.learn(steps)
        paths.append(tmp_path / name)
        with open(paths[-1], "wb") as file:
            model.save_replay_buffer(file, format="sb3")
        buffer = model.replay_buffer
        arrays = {key: buffer._column(key) for key in buffer._columns}
        names = ("ep_start", "ep_length", "_current_ep_start", "n_steps", "gamma", "pos", "full", "n_envs")
        arrays |= {key: getattr(buffer, key) for key in names if hasattr(buffer, key)}
        np.savez(f"{paths[-1]}.npz", kind=type(buffer).__name__, **arrays)
    run(BUFFERS, paths)


STATISTICS = """
import sys
import numpy as np
from gymnasium import spaces
from support.random_env import RandomEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
for path in sys.argv[1:]:
    known = np.load(path + ".npz")
    space = spaces.Box(-2.0, 2.0, (3,))
    if "dict" in path:
        space = spaces.Dict({"a": space, "b": spaces.Discrete(3)})
    env = VecNormalize.load(path, DummyVecEnv([lambda: RandomEnv(space, spaces.Discrete(2))] * 2))
    assert type(env).__module__.startswith("stable_baselines3.")
    given = {"a": known["obs"], "b": np.zeros(2, int)} if "dict" in path else known["obs"]
    found = env.normalize_obs(given)
    np.testing.assert_array_equal(found["a"] if "dict" in path else found, known["normalized"])
    env.reset(), env.step(np.zeros(2, int))
"""


def test_sb3_reads_what_vec_normalize_saves_for_it(tmp_path):
    box = spaces.Box(-2.0, 2.0, (3,))
    paths = [tmp_path / name for name in ("box", "dict", "dict_again")]
    for path in paths:
        space = box if path.name == "box" else spaces.Dict({"a": box, "b": spaces.Discrete(3)})
        venv = DummyVecEnv([lambda space=space: RandomEnv(space, spaces.Discrete(2))] * 2)
        env = VecNormalize(venv, norm_obs_keys=None if path.name == "box" else ["a"])
        env.reset()
        for _ in range(5):
            env.step(np.zeros(2, int))
        if path.name == "dict_again":
            # What came from a file is written as well.
            env.save(tmp_path / "ours")
            env = VecNormalize.load(tmp_path / "ours", venv)
        env.save(path, format="sb3")
        obs = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
        normalized = env.normalize_obs(obs if path.name == "box" else {"a": obs, "b": np.zeros(2, int)})
        normalized = normalized if path.name == "box" else normalized["a"]
        np.savez(f"{path}.npz", obs=obs, normalized=normalized)
    run(STATISTICS, paths)
