"""Actions as buffers store them: Box spaces of integers take fractions, n-step returns need their buffer."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from onnx.reference import ReferenceEvaluator

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from mlx_baselines3.common.buffers import DictReplayBuffer, DictRolloutBuffer, ReplayBuffer, RolloutBuffer
from mlx_baselines3.common.envs import BitFlippingEnv
from mlx_baselines3.common.export import export_onnx
from mlx_baselines3.common.vec_env import DummyVecEnv

SPACES = [
    spaces.Box(-10, 10, (1,), np.int32),
    spaces.Box(-128, 127, (1,), np.int8),
    spaces.Box(0, 255, (1,), np.uint8),
    spaces.Box(-1000, 1000, (1,), np.int64),
]


class Recording(gym.Env):
    """
    Remembers its actions.

    :param action_space: the action space
    """

    def __init__(self, action_space, as_dict=False):
        box = spaces.Box(-1, 1, (2,))
        self.observation_space = spaces.Dict(x=box) if as_dict else box
        self.as_dict, self.action_space, self.taken = as_dict, action_space, []

    def _obs(self):
        zeros = np.zeros(2, np.float32)
        return {"x": zeros} if self.as_dict else zeros

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action):
        self.taken.append(np.array(action))
        return self._obs(), 0.0, len(self.taken) % 5 == 0, False, {}


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.dtype.name)
@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("updates", ["native", "mlx"])
@pytest.mark.parametrize("cls", [PPO, A2C])
def test_on_policy(cls, updates, as_dict, space, monkeypatch):
    monkeypatch.setenv("MLX_BASELINES3_UPDATES", updates)
    env = Recording(space, as_dict)
    kwargs = {"batch_size": 16, "n_epochs": 1} if cls is PPO else {}
    policy = "MultiInputPolicy" if as_dict else "MlpPolicy"
    made = cls(policy, env, n_steps=16, seed=0, learning_rate=0.0, **kwargs).learn(16)
    buffer = made.rollout_buffer
    stored = buffer.actions.reshape(-1)
    assert buffer.actions.dtype == np.float32
    assert np.any(stored != np.round(stored))
    np.testing.assert_allclose(
        np.clip(stored, space.low[0], space.high[0]), np.ravel(env.taken), rtol=1e-6, atol=1e-6
    )
    # The likelihoods are those of the stored actions: nothing was learned, so a second look gives the same.
    flat = RolloutBuffer.swap_and_flatten
    observations = buffer.observations
    if as_dict:
        observations = {key: flat(value).reshape(-1, 2) for key, value in observations.items()}
    else:
        observations = flat(observations).reshape(-1, 2)
    tensors, _ = made.policy.obs_to_tensor(observations)
    _, log_prob, _ = made.policy.evaluate_actions(
        tensors, buffer.to_torch(flat(buffer.actions).reshape(-1, 1))
    )
    np.testing.assert_allclose(np.array(log_prob), buffer.log_probs.reshape(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.dtype.name)
@pytest.mark.parametrize("cls", [SAC, TD3, DDPG])
def test_off_policy(cls, space):
    env = Recording(space)
    made = cls("MlpPolicy", env, seed=0, learning_starts=8, buffer_size=100, batch_size=4).learn(24)
    taken, buffer = np.ravel(env.taken).astype(np.float64), made.replay_buffer
    assert buffer.actions.dtype == np.float32
    stored = buffer.actions[:24].reshape(-1)
    assert (np.abs(stored) <= 1).all()
    assert np.any(stored != np.round(stored))
    low, high = float(space.low[0]), float(space.high[0])
    np.testing.assert_allclose(low + (stored + 1) / 2 * (high - low), taken, rtol=1e-5, atol=1e-3)
    # Random ones come from the space, there and back in float32.
    np.testing.assert_allclose(taken[:8], np.round(taken[:8]), atol=1e-3)


@pytest.mark.parametrize("kind", [RolloutBuffer, DictRolloutBuffer, ReplayBuffer, DictReplayBuffer])
def test_other_spaces_keep_their_dtype(kind):
    obs = spaces.Dict(x=spaces.Box(-1, 1, (2,))) if "Dict" in kind.__name__ else spaces.Box(-1, 1, (2,))
    for space, dtype in [
        (spaces.Box(-1, 1, (1,)), np.float32),
        (spaces.Discrete(3), np.int64),
        (spaces.MultiBinary(2), np.int8),
        (SPACES[0], np.float32),
    ]:
        assert kind(4, obs, space).actions.dtype == dtype


def test_n_steps_that_are_ignored():
    """As SB3 says it; a model that was loaded has the class that its n_steps asked for."""
    env = DummyVecEnv([lambda: Recording(spaces.Box(-1, 1, (1,)))])
    with pytest.warns(
        UserWarning, match=r"`n_steps=3` is ignored because .* `replay_buffer_class` \(`ReplayBuffer`\)"
    ):
        SAC("MlpPolicy", env, n_steps=3, replay_buffer_class=ReplayBuffer, buffer_size=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TD3("MlpPolicy", env, n_steps=1, replay_buffer_class=ReplayBuffer, buffer_size=10)
        DDPG("MlpPolicy", env, n_steps=3, buffer_size=10)


def test_n_steps_of_a_loaded_model(tmp_path):
    model = SAC("MlpPolicy", "Pendulum-v1", n_steps=3, buffer_size=10)
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SAC.load(tmp_path / "model", env=model.get_env()).replay_buffer.n_steps == 3


@pytest.mark.parametrize("cls", [DQN, SAC])
def test_n_steps_with_hindsight(cls):
    env = BitFlippingEnv(n_bits=3, continuous=cls is SAC)
    with pytest.warns(UserWarning, match=r"`n_steps=2` is ignored because .*`HerReplayBuffer`"):
        cls("MultiInputPolicy", env, n_steps=2, replay_buffer_class=HerReplayBuffer, buffer_size=100)


@pytest.mark.parametrize("cls", [PPO, SAC])
def test_exported_models_give_the_same_fractions(cls, tmp_path):
    env = Recording(SPACES[0])
    model = cls("MlpPolicy", env, seed=0, **({"n_steps": 8, "batch_size": 8} if cls is PPO else {}))
    export_onnx(model, tmp_path / "model.onnx")
    evaluator = ReferenceEvaluator(str(tmp_path / "model.onnx"))
    observations = np.random.default_rng(0).uniform(-1, 1, (5, 2)).astype(np.float32)
    (actions,) = evaluator.run(None, {evaluator.input_names[0]: observations})
    expected, _ = model.predict(observations, deterministic=True)
    assert np.any(expected != np.round(expected))
    assert actions.dtype == expected.dtype
    np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-4)
