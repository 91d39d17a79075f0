"""Files that earlier versions of the package wrote; see tests/data/archives."""

import pathlib
import pickle
import warnings

import numpy as np
import pytest

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from mlx_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.noise import NormalActionNoise
from mlx_baselines3.common.saving.replay import load_replay_buffer
from mlx_baselines3.her import HerReplayBuffer

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "archives"
ALGORITHMS = {"ppo": PPO, "a2c": A2C, "dqn": DQN, "sac": SAC, "td3": TD3, "ddpg": DDPG}
MODELS = sorted(path for path in FOLDER.glob("*/*.zip") if not path.name.startswith("checkpoint_"))
CHECKPOINTS = sorted(FOLDER.glob("*/checkpoint_*.zip"))
# Version 0.1.0 pickled them.
PICKLES = sorted(FOLDER.glob("*/pickles/replay_*.pkl"))
CLASSES = {
    "replay_plain": ReplayBuffer,
    "replay_compact": ReplayBuffer,
    "replay_n_step": NStepReplayBuffer,
    "replay_dict": DictReplayBuffer,
    "replay_her": HerReplayBuffer,
}


def name_of(path):
    return f"{path.parent.name}-{path.stem}"


def test_there_are_some():
    assert {path.stem for path in MODELS} == set(ALGORITHMS)
    assert len(CHECKPOINTS) >= 2


@pytest.mark.parametrize("path", MODELS, ids=name_of)
def test_models_act_as_they_did_and_train_on(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ALGORITHMS[path.stem].load(path)
    with np.load(path.with_suffix(".npz")) as known:
        actions = model.predict(known["obs"], deterministic=True)[0]
        if actions.dtype.kind == "i":
            np.testing.assert_array_equal(actions, known["actions"])
        else:
            np.testing.assert_allclose(actions, known["actions"], atol=1e-5)
        assert model.policy.parameters_to_vector().astype(np.float64).sum() == pytest.approx(known["total"])
    # A rollout is 16 steps of PPO's, 5 of A2C's.
    assert model.num_timesteps in (48, 50)
    optimizers = {key: arrays for key, arrays in model.get_parameters().items() if key.endswith("optimizer")}
    assert all(np.array(arrays["step"]) > 0 for arrays in optimizers.values())
    if path.stem == "ppo":
        assert model.clip_range(0.75) == pytest.approx(0.2)
    if path.stem == "td3":
        assert isinstance(model.action_noise, NormalActionNoise)
    env_id = "CartPole-v1" if path.stem in ("ppo", "dqn") else "Pendulum-v1"
    model.set_env(make_vec_env(env_id, 1))
    model.learn(16, reset_num_timesteps=False)
    assert model.num_timesteps >= 64


@pytest.mark.parametrize("path", CHECKPOINTS, ids=name_of)
def test_checkpoints_go_on(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ALGORITHMS[path.stem.removeprefix("checkpoint_")].load_checkpoint(path)
    assert (model.num_timesteps, model.env.num_envs) == (64, 2)
    assert model.get_vec_normalize_env().obs_rms.count > 64
    model.learn(32, reset_num_timesteps=False)
    assert model.num_timesteps == 96


@pytest.mark.parametrize("path", PICKLES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_pickled_replay_buffers(path, monkeypatch):
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    buffer = load_replay_buffer(path)
    assert type(buffer) is CLASSES[path.stem]
    with np.load(path.with_suffix(".npz")) as expected:
        for name in expected:
            found = buffer._column(name) if name in buffer._columns else getattr(buffer, name)
            np.testing.assert_array_equal(found, expected[name], err_msg=name)
        assert {"actions", "pos", "full", "timeouts"} <= set(expected)
    if path.stem == "replay_her":
        assert [len(info) > 0 for info in buffer.infos[:, 0]] == [True] * 40
        buffer.set_env(object())
    else:
        buffer.sample(8)
    if path.stem == "replay_compact":
        # The last observations of episodes, which lie beside the rows.
        assert len(buffer._terminal_arrays()["transitions"]) > 0
    if path.stem == "replay_n_step":
        assert (buffer.n_steps, buffer.gamma) == (3, 0.99)
