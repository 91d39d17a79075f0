"""Stacks of the last observations of each environment."""

import warnings
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

TObs = TypeVar("TObs", np.ndarray, dict[str, np.ndarray])


class StackedObservations(Generic[TObs]):
    """
    Concatenate the last ``n_stack`` observations of each environment along the channels, the newest last.

    Stacks are padded with zeros before the first observation of an episode.

    :param num_envs: number of environments
    :param n_stack: number of stacked observations
    :param observation_space: Box, or Dict of Boxes
    :param channels_order: ``"first"`` stacks along the first dimension, ``"last"`` along the last; None
        detects the channels of images and uses the last dimension otherwise. For a Dict space also a dict of
        these
    :raises TypeError: if the space is neither Box nor Dict, or if a Box is combined with a dict of orders
    """

    def __init__(
        self,
        num_envs: int,
        n_stack: int,
        observation_space: spaces.Box | spaces.Dict,
        channels_order: str | Mapping[str, str | None] | None = None,
    ) -> None:
        self.n_stack = n_stack
        self.observation_space = observation_space
        self.stacked_observation_space: spaces.Box | spaces.Dict
        if isinstance(observation_space, spaces.Dict):
            self._init_dict(num_envs, observation_space, channels_order)
        elif not isinstance(observation_space, spaces.Box):
            raise TypeError(
                f"StackedObservations only supports Box and Dict observation spaces, got {observation_space}."
            )
        elif isinstance(channels_order, Mapping):
            raise TypeError("When the observation space is Box, channels_order can't be a dict.")
        else:
            self._init_box(num_envs, observation_space, channels_order)

    def _init_dict(
        self, num_envs: int, space: spaces.Dict, channels_order: str | Mapping[str, str | None] | None
    ) -> None:
        orders = (
            channels_order
            if isinstance(channels_order, Mapping)
            else dict.fromkeys(space.spaces, channels_order)
        )
        self.sub_stacked_observations: dict[str, StackedObservations[np.ndarray]] = {}
        for key, subspace in space.spaces.items():
            box: Any = subspace
            self.sub_stacked_observations[key] = StackedObservations(num_envs, self.n_stack, box, orders[key])
        self.stacked_observation_space = spaces.Dict(
            {key: sub.stacked_observation_space for key, sub in self.sub_stacked_observations.items()}
        )

    def _init_box(self, num_envs: int, space: spaces.Box, channels_order: str | None) -> None:
        stacking = self.compute_stacking(self.n_stack, space, channels_order)
        self.channels_first, self.stack_dimension, self.stacked_shape, self.repeat_axis = stacking
        # Bounds are repeated elementwise, as in SB3, because saved models compare spaces.
        dtype: Any = space.dtype
        self.stacked_observation_space = spaces.Box(
            low=np.repeat(space.low, self.n_stack, axis=self.repeat_axis),
            high=np.repeat(space.high, self.n_stack, axis=self.repeat_axis),
            dtype=dtype,
        )
        self.stacked_obs = np.zeros((num_envs, *self.stacked_shape), dtype=dtype)

    @staticmethod
    def compute_stacking(
        n_stack: int, observation_space: spaces.Box, channels_order: str | None = None
    ) -> tuple[bool, int, tuple[int, ...], int]:
        """
        Determine the dimension to stack along.

        :param n_stack: number of stacked observations
        :param observation_space: space of one observation
        :param channels_order: ``"first"``, ``"last"`` or None, see the class
        :return: whether channels come first, the axis in a batch, the shape of a stack, the axis in a stack
        """
        allowed = (None, "last", "first")
        assert channels_order in allowed, f"`channels_order` must be one of {allowed}, got {channels_order!r}"
        if channels_order is None:
            channels_first = is_image_space(observation_space) and is_image_space_channels_first(
                observation_space
            )
        else:
            channels_first = channels_order == "first"
        stack_dimension = 1 if channels_first else -1
        repeat_axis = 0 if channels_first else -1
        shape = list(observation_space.shape)
        shape[repeat_axis] *= n_stack
        return channels_first, stack_dimension, tuple(shape), repeat_axis

    def reset(self, observation: TObs) -> TObs:
        """
        Clear the stacks and add the first observations of new episodes.

        :param observation: first observations, the environment index first
        :return: the stacks
        """
        if isinstance(observation, dict):
            subs = self.sub_stacked_observations
            return {key: subs[key].reset(obs) for key, obs in observation.items()}  # type: ignore[return-value]
        # A new array: the agent may still use the last one.
        self.stacked_obs = np.zeros_like(self.stacked_obs)
        self._newest(self.stacked_obs, observation)[...] = observation
        return self.stacked_obs

    def update(
        self, observations: TObs, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> tuple[TObs, list[dict[str, Any]]]:
        """
        Add the observations of a step. ``terminal_observation`` of ended episodes is stacked too.

        :param observations: new observations, the environment index first
        :param dones: which environments started a new episode ``(n_envs,)``
        :param infos: one info per environment, changed in place
        :return: the stacks, the infos
        """
        if isinstance(observations, dict):
            return self._update_dict(observations, dones, infos), infos  # type: ignore[return-value]
        older = self._without_oldest(self.stacked_obs, observations)
        for index in np.flatnonzero(dones):
            if "terminal_observation" in infos[index]:
                infos[index]["terminal_observation"] = np.concatenate(
                    (older[index], infos[index]["terminal_observation"]), axis=self.repeat_axis
                )
            else:
                warnings.warn(
                    "VecFrameStack wrapping a VecEnv without terminal_observation info", stacklevel=4
                )
        stacked = np.zeros_like(self.stacked_obs)
        self._oldest(stacked, observations)[...] = older
        stacked[np.asarray(dones, dtype=bool)] = 0
        self._newest(stacked, observations)[...] = observations
        self.stacked_obs = stacked
        return stacked, infos

    def _update_dict(
        self, observations: dict[str, np.ndarray], dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> dict[str, np.ndarray]:
        key_word = "terminal_observation"
        stacks = {}
        for key, obs in observations.items():
            sub_infos = [{key_word: info[key_word][key]} if key_word in info else {} for info in infos]
            stacks[key], sub_infos = self.sub_stacked_observations[key].update(obs, dones, sub_infos)
            for info, sub_info in zip(infos, sub_infos, strict=True):
                if key_word in sub_info:
                    info[key_word][key] = sub_info[key_word]
        return stacks

    def _slice(self, stack: np.ndarray, part: slice) -> np.ndarray:
        view: np.ndarray = stack[:, part] if self.channels_first else stack[..., part]
        return view

    def _newest(self, stack: np.ndarray, observation: np.ndarray) -> np.ndarray:
        return self._slice(stack, slice(-observation.shape[self.stack_dimension], None))

    def _oldest(self, stack: np.ndarray, observation: np.ndarray) -> np.ndarray:
        return self._slice(stack, slice(None, -observation.shape[self.stack_dimension]))

    def _without_oldest(self, stack: np.ndarray, observation: np.ndarray) -> np.ndarray:
        return self._slice(stack, slice(observation.shape[self.stack_dimension], None))
