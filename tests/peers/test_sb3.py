"""
Models that are exported here, in SB3: ``SB3_PYTHON=/path/to/python pytest -m peers``, where that interpreter
has Stable-Baselines3 installed.
"""

import os
import pathlib
import subprocess

import numpy as np
import pytest

from exported_models import CASES, make, observations
from mlx_baselines3.common.export import export_sb3

pytestmark = pytest.mark.peers
SLOTS = {"exp_avg": "m", "exp_avg_sq": "v", "square_avg": "v"}


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
    script = pathlib.Path(__file__).parent / "sb3_side.py"
    command = [os.environ["SB3_PYTHON"], str(script), str(folder)]
    path = {"PYTHONPATH": str(script.parents[1]), "OMP_NUM_THREADS": "1"}
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
    # DQN optimises one of its two networks.
    if f"{optimizer}|step|q_net.q_net.0.weight" in theirs:
        prefix = "q_net."
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
