"""Masks: where environments offer them, and that wrong ones are errors that say where."""

import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.envs import IdentityEnv
from mlx_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnvWrapper, VecMonitor
from mlx_baselines3.contrib import MaskablePPO
from mlx_baselines3.contrib.common.envs import InvalidActionEnvDiscrete
from mlx_baselines3.contrib.common.maskable.buffers import MaskableRolloutBuffer
from mlx_baselines3.contrib.common.maskable.evaluation import evaluate_policy
from mlx_baselines3.contrib.common.maskable.utils import (
    MaskSource,
    check_masks,
    get_action_masks,
    is_masking_supported,
    mask_groups,
)
from mlx_baselines3.contrib.common.wrappers import ActionMasker

SMALL = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": {"net_arch": [8]}, "seed": 0}


class OnlyRight(IdentityEnv):
    """Allows the right action only; tells by a method, an attribute or its infos."""

    def __init__(self, how="method", key="action_masks", ep_length=5):
        self.how, self.key = how, key
        super().__init__(dim=4, ep_length=ep_length)
        if how == "method":
            self.action_masks = self._mask

    def _mask(self):
        return np.arange(4) == self.state

    def _tell(self, info):
        if self.how == "attribute":
            self.action_masks = self._mask()
        return {**info, self.key: self._mask()} if self.how == "infos" else info

    def reset(self, **kwargs):
        obs, info = super().reset(**kwargs)
        return obs, self._tell(info)

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, self._tell(info)


class Whole(VecEnvWrapper):
    """Masks of all environments at once."""

    def reset(self):
        self.obs = self.venv.reset()
        return self.obs

    def step_wait(self):
        self.obs, *rest = self.venv.step_wait()
        return self.obs, *rest

    def action_masks(self):
        return np.arange(4) == np.reshape(self.obs, (-1, 1))


SOURCES = {
    "method": lambda: DummyVecEnv([OnlyRight] * 3),
    "attribute": lambda: DummyVecEnv([lambda: OnlyRight("attribute")] * 3),
    "infos": lambda: DummyVecEnv([lambda: OnlyRight("infos")] * 3),
    "gymnasium's key": lambda: DummyVecEnv([lambda: OnlyRight("infos", "action_mask")] * 3),
    "wrapper": lambda: DummyVecEnv([lambda: ActionMasker(OnlyRight("no"), "_mask")] * 3),
    "whole": lambda: Whole(DummyVecEnv([lambda: OnlyRight("no")] * 3)),
    "gymnasium's vector": lambda: gym.vector.SyncVectorEnv([OnlyRight] * 3),
}


@pytest.mark.parametrize("source", SOURCES)
def test_wherever_masks_are_only_allowed_actions_are_taken(source):
    """With one allowed action at each step, an untrained policy gets every reward, across episodes."""
    env = SOURCES[source]()
    model = MaskablePPO("MlpPolicy", env if source.startswith("gymnasium's v") else VecMonitor(env), **SMALL)
    model.learn(3 * 24)
    assert [info["r"] for info in model.ep_info_buffer] == [5.0] * len(model.ep_info_buffer)
    assert len(model.ep_info_buffer) == 12
    np.testing.assert_array_equal(model.rollout_buffer.action_masks.sum(axis=-1), 1)
    np.testing.assert_array_equal(model.rollout_buffer.log_probs, 0)
    assert evaluate_policy(model, SOURCES[source](), 6, warn=False) == (5.0, 0.0)


def test_masks_of_other_processes():
    env = SubprocVecEnv([OnlyRight, lambda: OnlyRight(ep_length=3)], start_method="fork")
    try:
        assert is_masking_supported(env)
        obs = env.reset()
        np.testing.assert_array_equal(get_action_masks(env), np.arange(4) == obs[:, None])
    finally:
        env.close()


def test_a_run_goes_on_with_the_masks_of_its_last_infos():
    env = VecMonitor(DummyVecEnv([lambda: OnlyRight("infos")] * 2))
    model = MaskablePPO("MlpPolicy", env, **SMALL)
    model.learn(16)
    model.learn(16, reset_num_timesteps=False)
    assert [info["r"] for info in model.ep_info_buffer] == [5.0] * 6


def test_without_masks_any_action_is_taken():
    env = VecMonitor(DummyVecEnv([OnlyRight] * 3))
    model = MaskablePPO("MlpPolicy", env, **SMALL).learn(72, use_masking=False)
    assert min(info["r"] for info in model.ep_info_buffer) < 5
    np.testing.assert_array_equal(model.rollout_buffer.action_masks, 1)
    options = {"deterministic": False, "warn": False, "use_masking": False}
    assert evaluate_policy(model, DummyVecEnv([OnlyRight]), 20, **options)[0] < 5


def test_environments_without_masks_are_refused():
    env = DummyVecEnv([lambda: IdentityEnv(dim=2)])
    assert not is_masking_supported(env)
    assert not is_masking_supported(IdentityEnv(dim=2))
    model = MaskablePPO("MlpPolicy", env, **SMALL)
    with pytest.raises(ValueError, match=r"not support action masking\. Consider using ActionMasker wrapper"):
        model.learn(8)
    with pytest.raises(ValueError, match="use_masking=False"):
        evaluate_policy(model, env, 1, warn=False)
    env.reset()
    with pytest.raises(AttributeError, match="offer no action masks"):
        get_action_masks(env)
    with pytest.raises(AttributeError):
        get_action_masks(IdentityEnv(dim=2))


def test_an_error_in_the_method_is_shown():
    class Broken(OnlyRight):
        def _mask(self):
            raise RuntimeError("no board")

    with pytest.raises(RuntimeError, match="no board"):
        get_action_masks(DummyVecEnv([Broken]))


def test_an_info_that_lacks_its_mask_is_an_error():
    env = DummyVecEnv([lambda: OnlyRight("infos")])
    env.reset()
    source = MaskSource(env)
    with pytest.raises(KeyError, match="environment 0 has no action mask"):
        source.follow(np.array([False]), [{}])


def test_a_single_environment():
    env = InvalidActionEnvDiscrete(dim=5, n_invalid_actions=2)
    assert is_masking_supported(env)
    assert get_action_masks(env) == env.action_masks()


@pytest.mark.parametrize(
    ("space", "groups"),
    [
        (spaces.Discrete(3), [3]),
        (spaces.MultiDiscrete([2, 4]), [2, 4]),
        (spaces.MultiBinary(2), [2, 2]),
    ],
)
def test_choices_of_each_component(space, groups):
    assert mask_groups(space) == groups


@pytest.mark.parametrize(
    ("space", "error", "says"),
    [
        (spaces.Box(0, 1, (2,)), ValueError, "Unsupported action space Box"),
        (spaces.MultiBinary([2, 2]), AssertionError, "flatten it"),
        (spaces.MultiDiscrete([[2, 2]]), AssertionError, "flatten it"),
    ],
)
def test_other_actions_have_no_masks(space, error, says):
    with pytest.raises(error, match=says):
        mask_groups(space)


@pytest.mark.parametrize(
    "masks", [[[True, False, True, True]], [1, 0, 1, 1], np.array([[1.0, 0.0, 1.0, 1.0]]), [[[1, 0], [1, 1]]]]
)
def test_masks_of_any_shape_and_kind_of_numbers(masks):
    np.testing.assert_array_equal(check_masks(masks, [2, 2], 1), [[True, False, True, True]])


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        (np.ones((2, 5)), "have shape (2, 5), expected (2, 4)"),
        (np.ones((4, 2)), "have shape (4, 2), expected (2, 4)"),
        (np.ones(8), None),
        ([[1, 0, 1, 1], [1, 1, 0, 0]], "row 1 (of 2) allows no choice for component 1 of the action: all 2"),
        ([[1, 0, 1, 1], [1, 1, 2, 1]], "row 1 has 2 for choice 2"),
        ([[0.0, -np.inf, 0, 0], [0, 0, 0, 0]], "row 0 has -inf for choice 1"),
        ([["yes"] * 4] * 2, "dtype <U3, expected booleans"),
    ],
)
def test_wrong_masks_are_errors_that_say_where(masks, says):
    if says is None:
        assert check_masks(masks, [2, 2], 2).all()
        return
    with pytest.raises(ValueError, match=re.escape(says)):
        check_masks(masks, [2, 2], 2)


class Stuck(OnlyRight):
    """In the end no action is left."""

    def _mask(self):
        return np.ones(4) if self.current_step < 3 else np.zeros(4)


def test_training_stops_at_a_mask_that_allows_nothing():
    env = DummyVecEnv([OnlyRight, Stuck])
    model = MaskablePPO("MlpPolicy", env, **SMALL)
    with pytest.raises(ValueError, match=re.escape("row 1 (of 2) allows no choice: all 4 entries")):
        model.learn(16)


@pytest.mark.parametrize("masks", [np.zeros(4), np.ones(3), np.ones((2, 4))])
def test_predict_and_the_policy_refuse_wrong_masks(masks):
    model = MaskablePPO("MlpPolicy", DummyVecEnv([OnlyRight]), **SMALL)
    with pytest.raises(ValueError, match="action mask"):
        model.predict(np.array(1), action_masks=masks)
    obs, _ = model.policy.obs_to_tensor(np.array([1]))
    for method in (model.policy.get_distribution, lambda obs, masks: model.policy(obs, action_masks=masks)):
        with pytest.raises(ValueError, match="action mask"):
            method(obs, masks)
    buffer = MaskableRolloutBuffer(2, model.observation_space, model.action_space)
    row = [np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1)]
    with pytest.raises(ValueError, match="action mask"):
        buffer.add(*row, action_masks=masks)
    assert buffer.pos == 0
