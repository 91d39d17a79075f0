"""
Models that are exported here, in SB3: ``SB3_PYTHON=/path/to/python pytest -m peers``, where that interpreter
has Stable-Baselines3 installed.
"""

import os
import subprocess

import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.export import export_sb3, export_vec_normalize
from mlx_baselines3.common.vec_env import VecNormalize
from support import TESTS
from support.exported_models import CASES, make, observations
from support.random_env import RandomEnv

pytestmark = pytest.mark.peers
# torch's SGD has a momentum buffer alone.
SLOTS = {"exp_avg": "m", "exp_avg_sq": "v", "square_avg": "v", "momentum_buffer": "v"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The models, and the folder in which SB3 has noted what became of them."""
    folder = tmp_path_factory.mktemp("exported")
    made = {name: make(name) for name in CASES}
    for name, model in made.items():
        export_sb3(model, folder / name)
        obs = observations(model.observation_space)
        arrays = (
            {f"obs/{key}": value for key, value in obs.items()} if isinstance(obs, dict) else {"obs": obs}
        )
        np.savez(folder / f"{name}.npz", actions=model.predict(obs, deterministic=True)[0], **arrays)
    script = TESTS / "peers" / "sb3_side.py"
    command = [os.environ["SB3_PYTHON"], str(script), str(folder)]
    path = {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return made, folder


@pytest.mark.parametrize("name", CASES)
def test_sb3_loads_it_acts_alike_and_trains_on(models, name):
    made, folder = models
    model = made[name]
    with np.load(folder / f"{name}.npz") as ours, np.load(folder / f"{name}.sb3.npz") as theirs:
        if ours["actions"].dtype.kind in "iu":
            np.testing.assert_array_equal(theirs["actions"], ours["actions"])
        else:
            np.testing.assert_allclose(theirs["actions"], ours["actions"], atol=1e-5)
        for key, value in model.policy.state_dict().items():
            np.testing.assert_array_equal(theirs[f"policy|{key}"], np.array(value), err_msg=key)
        for optimizer in (key for key in model.get_parameters() if key.endswith("optimizer")):
            assert_same_state(optimizer, model.get_parameters()[optimizer], theirs)
        assert theirs["steps"] >= 48
        assert theirs["updates"] > 0
        assert theirs["lr_half"] == model.lr_schedule(0.5)


def assert_same_state(optimizer, arrays, theirs):
    prefix = f"{optimizer.partition('.')[0]}." if optimizer.startswith(("actor", "critic")) else ""
    # DQN and QR-DQN optimise one of their two networks.
    for online in ("q_net", "quantile_net"):
        if f"{optimizer}|step|{online}.{online}.0.weight" in theirs:
            prefix = f"{online}."
    assert theirs[f"{optimizer}|lr"] == np.array(arrays["learning_rate"])
    seen = 0
    for key in theirs:
        owner, _, rest = key.partition("|")
        slot, _, name = rest.partition("|")
        if owner != optimizer or not name:
            continue
        seen += slot in SLOTS
        mine = arrays["step"] if slot == "step" else arrays[f"{SLOTS[slot]}.{name.removeprefix(prefix)}"]
        np.testing.assert_array_equal(theirs[key], np.array(mine), err_msg=key)
    assert seen == sum(key.startswith(("m.", "v.")) for key in arrays)


NORMALIZE = """
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
    obs = {"a": known["obs"], "b": np.zeros(2, int)} if "dict" in path else known["obs"]
    found = env.normalize_obs(obs)
    np.testing.assert_array_equal(found["a"] if "dict" in path else found, known["normalized"])
    np.testing.assert_array_equal(env.normalize_reward(known["rewards"]), known["scaled"])
    env.reset(), env.step(np.zeros(2, int))
"""


def test_sb3_normalises_alike(tmp_path):
    box = spaces.Box(-2.0, 2.0, (3,))
    rng = np.random.default_rng(0)
    for name, space in (("box", box), ("dict", spaces.Dict({"a": box, "b": spaces.Discrete(3)}))):
        keys = ["a"] if name == "dict" else None
        venv = make_vec_env(lambda space=space: RandomEnv(space, spaces.Discrete(2)), n_envs=2)
        env = VecNormalize(venv, gamma=0.9, norm_obs_keys=keys)
        env.reset()
        for _ in range(20):
            env.step(np.zeros(2, int))
        export_vec_normalize(env, tmp_path / name)
        obs, rewards = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=2)
        given = {"a": obs, "b": np.zeros(2, int)} if name == "dict" else obs
        normalized = env.normalize_obs(given)
        arrays = {"normalized": normalized["a"] if name == "dict" else normalized}
        arrays |= {"obs": obs, "rewards": rewards, "scaled": env.normalize_reward(rewards)}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    command = [os.environ["SB3_PYTHON"], "-c", NORMALIZE, str(tmp_path / "box"), str(tmp_path / "dict")]
    path = {"PYTHONPATH": str(TESTS)}
    ran = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
