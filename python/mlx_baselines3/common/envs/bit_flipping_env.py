"""The environment that hindsight experience replay was invented on (https://arxiv.org/abs/1707.01495)."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Env, spaces
from gymnasium.envs.registration import EnvSpec

from mlx_baselines3.common._types import GymStepReturn


class BitFlippingEnv(Env[Any, Any]):
    """
    Flip bits until all are 1. The reward is -1 until then, and 0.

    :param n_bits: number of bits
    :param continuous: one continuous action for each bit, which is flipped if it is positive; else the action
        is the bit to flip
    :param max_steps: steps in an episode, ``n_bits`` by default
    :param discrete_obs_space: observe the bits as one number
    :param image_obs_space: observe the bits as the first pixels of a 36x36 image
    :param channel_first: axes of that image
    :param render_mode: ``"human"`` prints the bits, ``"rgb_array"`` returns them
    :raises ValueError: both kinds of observation are asked for
    """

    spec = EnvSpec("BitFlippingEnv-v0", "no-entry-point")
    state: np.ndarray
    observation_space: spaces.Dict

    def __init__(
        self,
        n_bits: int = 10,
        continuous: bool = False,
        max_steps: int | None = None,
        discrete_obs_space: bool = False,
        image_obs_space: bool = False,
        channel_first: bool = True,
        render_mode: str = "human",
    ) -> None:
        super().__init__()
        self.render_mode = render_mode
        self.image_shape = (1, 36, 36) if channel_first else (36, 36, 1)
        self.observation_space = self._make_observation_space(discrete_obs_space, image_obs_space, n_bits)
        # initial states are drawn from here, whatever is shown of them
        self._obs_space = spaces.MultiBinary(n_bits)
        self.action_space: spaces.Space[Any]
        if continuous:
            self.action_space = spaces.Box(-1, 1, shape=(n_bits,), dtype=np.float32)
        else:
            self.action_space = spaces.Discrete(n_bits)
        self.continuous = continuous
        self.discrete_obs_space = discrete_obs_space
        self.image_obs_space = image_obs_space
        self.desired_goal = np.ones((n_bits,), dtype=self.observation_space["desired_goal"].dtype)
        self.max_steps = n_bits if max_steps is None else max_steps
        self.current_step = 0

    def seed(self, seed: int) -> None:
        """
        Seed the initial states.

        :param seed: the seed
        """
        self._obs_space.seed(seed)

    def convert_if_needed(self, state: np.ndarray) -> int | np.ndarray:
        """
        Show bits the way the observation space wants them.

        :param state: the bits, ``(n_bits,)``
        :return: a number (the first bit counts 1, the second 2, the third 4, ...), an image, or the bits
        """
        if self.discrete_obs_space:
            return int(sum(int(bit) << i for i, bit in enumerate(state)))
        if self.image_obs_space:
            image = np.zeros(int(np.prod(self.image_shape)), dtype=np.uint8)
            image[: len(state)] = state.astype(np.uint8) * 255
            return image.reshape(self.image_shape)
        return state

    def convert_to_bit_vector(self, state: int | np.ndarray, batch_size: int) -> np.ndarray:
        """
        Read bits back from what is shown of them.

        :param state: an observation or a batch of them
        :param batch_size: how many
        :return: ``(batch_size, n_bits)``
        """
        n_bits = len(self.state)
        rows = np.asarray(state).reshape(batch_size, -1)
        if self.discrete_obs_space:
            # a replay buffer may hold the numbers as floats
            return (rows.astype(np.int64) >> np.arange(n_bits)) & 1
        return rows[:, :n_bits] / 255 if self.image_obs_space else rows

    def _make_observation_space(
        self, discrete_obs_space: bool, image_obs_space: bool, n_bits: int
    ) -> spaces.Dict:
        if discrete_obs_space and image_obs_space:
            raise ValueError("Cannot use both discrete and image observation spaces")

        def make() -> spaces.Space[Any]:
            if discrete_obs_space:
                return spaces.Discrete(2**n_bits)
            if image_obs_space:
                return spaces.Box(low=0, high=255, shape=self.image_shape, dtype=np.uint8)
            return spaces.MultiBinary(n_bits)

        return spaces.Dict({"observation": make(), "achieved_goal": make(), "desired_goal": make()})

    def _get_obs(self) -> dict[str, int | np.ndarray]:
        return {
            "observation": self.convert_if_needed(self.state.copy()),
            "achieved_goal": self.convert_if_needed(self.state.copy()),
            "desired_goal": self.convert_if_needed(self.desired_goal.copy()),
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, int | np.ndarray], dict[str, Any]]:
        if seed is not None:
            self._obs_space.seed(seed)
        self.current_step = 0
        self.state = self._obs_space.sample()
        return self._get_obs(), {}

    def step(self, action: np.ndarray | int) -> GymStepReturn:
        flipped: Any = np.asarray(action) > 0 if self.continuous else action
        self.state[flipped] = 1 - self.state[flipped]
        obs = self._get_obs()
        reward = float(self.compute_reward(obs["achieved_goal"], obs["desired_goal"], None).item())
        terminated = reward == 0
        self.current_step += 1
        return obs, reward, terminated, self.current_step >= self.max_steps, {"is_success": terminated}

    def _batch_size(self, goal: int | np.ndarray) -> int:
        axes_of_one = 3 if self.image_obs_space else 1
        return int(np.shape(goal)[0]) if np.ndim(goal) > axes_of_one else 1

    def compute_reward(
        self,
        achieved_goal: int | np.ndarray,
        desired_goal: int | np.ndarray,
        _info: dict[str, Any] | np.ndarray | None,
    ) -> np.ndarray:
        """
        Reward of reaching one goal while wanting another.

        :param achieved_goal: an observed state, or a batch
        :param desired_goal: the goal, or a batch of the same size
        :param _info: not used
        :return: 0 where they are equal, else -1; float32 ``(batch_size,)``
        """
        batch_size = self._batch_size(achieved_goal)
        desired = self.convert_to_bit_vector(desired_goal, batch_size)
        achieved = self.convert_to_bit_vector(achieved_goal, batch_size)
        wrong: np.ndarray = np.any(desired != achieved, axis=-1)
        return -wrong.astype(np.float32)

    def render(self) -> np.ndarray | None:
        """
        Show the bits.

        :return: them, in mode ``"rgb_array"``
        """
        if self.render_mode == "rgb_array":
            pixels: np.ndarray = self.state.copy()
            return pixels
        print(self.state)
        return None

    def close(self) -> None:
        """There is nothing to close."""
