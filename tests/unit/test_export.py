"""Models for SB3 and ONNX, without SB3: what is written is read back here, or run by onnxruntime."""

import copy
import io
import json
import subprocess
import sys
import zipfile

import gymnasium as gym
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import DQN, PPO, SAC
from mlx_baselines3.common.export import NotInONNX, NotInSB3, export_onnx, export_sb3
from mlx_baselines3.common.formats.sb3.pickle_reader import parse
from mlx_baselines3.common.formats.sb3.pickle_writer import Global, NewObject, Node, write
from mlx_baselines3.common.nn.activations import make_activation
from mlx_baselines3.common.noise import NormalActionNoise
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.torch_layers import FlattenExtractor
from mlx_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from support.exported_models import CASES, IMAGE, MOVE, SMALL, VECTOR, make, observations
from support.random_env import RandomEnv


def with_optimizer_state(model):
    """As after some steps: training would take longer, above all the compiling."""
    rng = np.random.default_rng(0)
    states = {name: state for name, state in model.get_parameters().items() if name.endswith("optimizer")}
    for state in states.values():
        for key, value in state.items():
            if value.ndim or key.startswith(("m.", "v.")):
                state[key] = mx.array(rng.random(value.shape, np.float32))
        state["step"] = mx.array(7, mx.uint64)
    model.set_parameters(states, exact_match=False)
    return model


def assert_same_parameters(first, second):
    ours, theirs = first.get_parameters(), second.get_parameters()
    assert {name: set(arrays) for name, arrays in ours.items()} == {
        name: set(arrays) for name, arrays in theirs.items()
    }
    for name, arrays in ours.items():
        for key, value in arrays.items():
            np.testing.assert_array_equal(
                np.array(theirs[name][key]), np.array(value), err_msg=f"{name} {key}"
            )


@pytest.mark.parametrize("name", CASES)
def test_sb3s_archive_is_read_back(name):
    model = with_optimizer_state(make(name, steps=0))
    stream = io.BytesIO()
    export_sb3(model, stream)
    stream.seek(0)
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
    assert names[:2] == ["data", "pytorch_variables.pth"]
    assert names[-2:] == ["_stable_baselines3_version", "system_info.txt"]
    assert {entry.removesuffix(".pth") for entry in names[2:-2]} == set(model.get_parameters())
    if name == "ppo_multibinary":
        with pytest.warns(UserWarning, match="Could not restore `learning_rate`.*`lr_schedule`"):
            loaded = type(model).load(stream)
    elif name == "dqn_her":
        loaded = type(model).load(stream, env=model.get_env())
    else:
        loaded = type(model).load(stream)
    assert_same_parameters(model, loaded)
    obs = observations(model.observation_space)
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    for key in ("policy_class", "observation_space", "action_space", "gamma", "num_timesteps", "n_envs"):
        assert getattr(loaded, key) == getattr(model, key)
    if name == "sac_auto":
        assert loaded.train_freq == TrainFreq(1, TrainFrequencyUnit.STEP)
        np.testing.assert_array_equal(np.array(loaded.log_ent_coef), np.array(model.log_ent_coef))
    if name == "td3_mlp":
        assert isinstance(loaded.action_noise, NormalActionNoise)
        np.testing.assert_array_equal(loaded.action_noise._sigma, [0.1, 0.1])


def test_format_of_save(tmp_path):
    model = make("ppo_discrete", steps=0)
    model.save(tmp_path / "model", format="sb3")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert "_stable_baselines3_version" in archive.namelist()
        assert "gamma" in json.loads(archive.read("data"))
    model.save(tmp_path / "less", format="sb3", exclude=["gamma"])
    with zipfile.ZipFile(tmp_path / "less.zip") as archive:
        assert "gamma" not in json.loads(archive.read("data"))
    with pytest.raises(ValueError, match="'mlx' or 'sb3', got 'torch'"):
        model.save(tmp_path / "other", format="torch")
    assert not (tmp_path / "other.zip").exists()


class OwnExtractor(FlattenExtractor):
    """A network of the user's."""


class OwnPolicy(ActorCriticPolicy):
    """A policy of the user's."""

    def _predict(self, observation, deterministic=False):
        return super()._predict(observation, deterministic=True)


def small(policy="MlpPolicy", **policy_kwargs):
    env = RandomEnv(VECTOR, spaces.Discrete(3))
    return PPO(policy, env, n_steps=8, batch_size=8, policy_kwargs={**SMALL, **policy_kwargs})


def test_what_sb3_does_not_have_is_named(tmp_path):
    for model, said in (
        (small(features_extractor_class=OwnExtractor), r"`policy_kwargs`.*OwnExtractor.*MLX's"),
        (small(OwnPolicy), r"`policy_class`.*OwnPolicy.*exclude=\['policy_class'\]"),
        (small(optimizer_kwargs={"bias_correction": False}), "bias_correction=False"),
    ):
        with pytest.raises(NotInSB3, match=said):
            export_sb3(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_bias_correction_is_no_argument_of_torchs():
    model = small(optimizer_kwargs={"bias_correction": True, "eps": 1e-6})
    stream = io.BytesIO()
    export_sb3(model, stream)
    with zipfile.ZipFile(stream) as archive:
        kwargs = json.loads(archive.read("data"))["policy_kwargs"]
    assert kwargs["optimizer_kwargs"] == {"eps": 1e-6}
    assert model.policy_kwargs["optimizer_kwargs"]["bias_correction"]


def test_written_pickles_are_pickles():
    """CPython's own unpickler is the judge."""
    import pickle

    shared = ["é", b"\x00\xff", 2**70, -(2**31), 1.5, True, None]
    value = {"a": (shared, shared), 1: [], "empty": (), "nested": {"x": {}}}
    back = pickle.loads(write(value))
    assert back == value
    assert back["a"][0] is back["a"][1]
    space = NewObject(Global("fractions", "Fraction"), (1, 3))
    deque = Node(Global("collections", "deque"), ((), 2))
    deque.items = [1, 2, 3]
    table = Node(Global("collections", "OrderedDict"), ())
    table.pairs = [("b", 1), ("a", 2)]
    made = pickle.loads(write([space, deque, table]))
    assert str(made[0]) == "1/3"
    assert (list(made[1]), made[1].maxlen) == ([2, 3], 2)
    assert list(made[2].items()) == [("b", 1), ("a", 2)]
    assert isinstance(parse(write([deque]))[0], Node)
    with pytest.raises(TypeError, match="set"):
        write({1, 2})


def run_onnx(model, obs):
    onnxruntime = pytest.importorskip("onnxruntime")
    stream = io.BytesIO()
    export_onnx(model, stream)
    session = onnxruntime.InferenceSession(stream.getvalue())
    return session.run(None, obs if isinstance(obs, dict) else {"obs": obs})[0]


@pytest.mark.parametrize("name", CASES)
def test_onnx_acts_alike(name):
    model = make(name, steps=0)
    for count in (12, 1):
        obs = observations(model.observation_space, count)
        expected = model.predict(obs, deterministic=True)[0]
        actions = run_onnx(model, obs)
        assert (actions.dtype, actions.shape) == (expected.dtype, expected.shape)
        if actions.dtype.kind in "iu":
            np.testing.assert_array_equal(actions, expected)
        else:
            np.testing.assert_allclose(actions, expected, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "CELU",
        "ELU",
        "GELU",
        "LeakyReLU",
        "LogSigmoid",
        "Mish",
        "ReLU6",
        "SELU",
        "SiLU",
        "Sigmoid",
        "Softplus",
    ],
)
def test_onnx_activations(name):
    model = PPO("MlpPolicy", RandomEnv(VECTOR, MOVE), n_steps=8, batch_size=8)
    activation = getattr(nn, name)
    model = PPO(
        *("MlpPolicy", RandomEnv(VECTOR, spaces.Box(-100.0, 100.0, (2,)))),
        n_steps=8,
        batch_size=8,
        policy_kwargs={**SMALL, "activation_fn": activation, "ortho_init": False},
    )
    assert type(make_activation(activation)) is activation
    obs = observations(model.observation_space) * 3
    np.testing.assert_allclose(run_onnx(model, obs), model.predict(obs, deterministic=True)[0], atol=1e-5)


def test_onnx_actions_stay_in_their_space():
    low, high = np.array([[-0.01, 0.0]]), np.array([[0.01, 0.5]])
    space = spaces.Box(low, high, dtype=np.float64)
    model = PPO("MlpPolicy", RandomEnv(VECTOR, space), n_steps=8, batch_size=8)
    model.policy.action_net.bias = mx.array([5.0, -5.0])
    actions = run_onnx(model, observations(VECTOR))
    assert actions.dtype == np.float64
    np.testing.assert_array_equal(actions, np.broadcast_to([[[0.01, 0.0]]], (12, 1, 2)))
    assert space.contains(actions[0])


def test_onnx_codes_of_numbers_that_do_not_start_at_zero():
    spaces_of_numbers = spaces.Dict(
        {"one": spaces.Discrete(3, start=-1), "two": spaces.MultiDiscrete([2, 3])}
    )
    env = RandomEnv(spaces_of_numbers, spaces.Discrete(2))
    model = DQN("MultiInputPolicy", env, buffer_size=10, policy_kwargs=copy.copy(SMALL))
    obs = observations(spaces_of_numbers)
    np.testing.assert_array_equal(run_onnx(model, obs), model.predict(obs, deterministic=True)[0])


def test_onnx_images_can_be_left_unscaled():
    kwargs = {**SMALL, "normalize_images": False, "features_extractor_kwargs": {"features_dim": 8}}
    model = SAC("CnnPolicy", RandomEnv(IMAGE, MOVE), buffer_size=10, policy_kwargs=kwargs)
    obs = observations(IMAGE, 3)
    np.testing.assert_allclose(run_onnx(model, obs), model.predict(obs, deterministic=True)[0], atol=1e-4)


def test_what_onnx_does_not_have_is_named(tmp_path):
    with pytest.raises(NotInONNX, match=r"OwnExtractor"):
        export_onnx(small(features_extractor_class=OwnExtractor), tmp_path / "model")
    with pytest.raises(NotInONNX, match=r"OwnPolicy has its own _predict"):
        export_onnx(small(OwnPolicy), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_onnx_names_do_not_collide(tmp_path):
    def model(*keys):
        space = spaces.Dict(dict.fromkeys(keys, VECTOR))
        env = RandomEnv(space, spaces.Discrete(2))
        return DQN("MultiInputPolicy", env, buffer_size=10, policy_kwargs=copy.copy(SMALL))

    odd = model("cast_0", "constant_0", "policy")
    obs = observations(odd.observation_space)
    np.testing.assert_array_equal(run_onnx(odd, obs), odd.predict(obs, deterministic=True)[0])
    with pytest.raises(NotInONNX, match="a key 'actions'"):
        export_onnx(model("actions"), tmp_path / "model")


def test_onnx_file_gets_its_suffix(tmp_path):
    export_onnx(small(), tmp_path / "model")
    assert (tmp_path / "model.onnx").stat().st_size > 500


def test_onnx_is_asked_for_by_name():
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from mlx_baselines3 import PPO\nfrom mlx_baselines3.common.export import export_onnx\n"
        "try:\n    export_onnx(PPO('MlpPolicy', 'CartPole-v1'), 'never')\n"
        "except ImportError as error:\n    print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'mlx-baselines3[onnx]'" in out.stdout


def test_spaces_of_the_user_travel_by_pickle():
    class Even(gym.spaces.Discrete):
        """Importable by nobody, and pickled all the same, as SB3 does."""

    model = small()
    model.extra = Even(4)
    stream = io.BytesIO()
    export_sb3(model, stream)
    with zipfile.ZipFile(stream) as archive:
        assert ":serialized:" in json.loads(archive.read("data"))["extra"]
