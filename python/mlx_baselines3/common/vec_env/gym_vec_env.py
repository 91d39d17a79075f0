"""Vectors of environments by Gymnasium, EnvPool and SuperSuit behind the interface of ``VecEnv``."""

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from mlx_baselines3.common.vec_env._vector_infos import final_info, split_infos
from mlx_baselines3.common.vec_env.abstract import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn
from mlx_baselines3.common.vec_env.util import is_wrapped, no_images


def _is_envpool(env: Any) -> bool:
    return all(hasattr(env, name) for name in ("all_env_ids", "config", "send", "recv"))


def is_vector_env(env: Any) -> bool:
    """
    Say whether an environment is a vector of environments, but no ``VecEnv``.

    :param env: anything
    :return: True for a ``gymnasium.vector.VectorEnv``, an EnvPool and a vector of SuperSuit's
    """
    # gymnasium.Wrapper answers for what it wraps, and in version 0.29 it warns about that.
    if isinstance(env, VecEnv | gym.Wrapper):
        return False
    # Gymnasium 0.29 has two classes of vector environments that know nothing of each other.
    names = ("single_action_space", "step", "num_envs")
    return all(hasattr(env, name) for name in names) or _is_envpool(env) or _is_supersuit(env)


def _is_supersuit(env: Any) -> bool:
    """
    SuperSuit's vectors have no ``single_action_space``: ``action_space`` is that of one agent. Their infos
    are a list of dicts, and they reset within the step in which all agents of a game have ended.
    """
    parts = ("reset", "step", "num_envs", "observation_space", "action_space")
    # A single environment may count itself, and Gymnasium 0.29's vectors are derived from its Env.
    single = isinstance(env, gym.Env) and not isinstance(env, gym.vector.VectorEnv)
    return (
        all(hasattr(env, name) for name in parts)
        and not hasattr(env, "single_action_space")
        and not (single or isinstance(env, VecEnv) or _is_envpool(env))
    )


def as_vec_env(env: Any) -> VecEnv:
    """
    Make a ``VecEnv`` of a vector of environments.

    :param env: a ``VecEnv``, which is handed back as it is, a ``gymnasium.vector.VectorEnv``, an EnvPool or a
        vector of SuperSuit's
    :return: the ``VecEnv``
    :raises TypeError: if it is none of these
    """
    if isinstance(env, VecEnv):
        return env
    if not is_vector_env(env):
        raise TypeError(
            f"Expected a VecEnv, a gymnasium.vector.VectorEnv or an EnvPool, got {type(env).__name__}. "
            "A single environment goes into DummyVecEnv([lambda: env])."
        )
    return GymVecEnv(env)


def _innermost(env: Any) -> Any:
    return getattr(env, "unwrapped", env)


def _reset_mode(env: Any, reset_mask: bool) -> str:
    """
    :param env: the vector of environments
    :param reset_mask: it is known to reset whom it is asked to
    :return: when a new episode begins: in the same "step" as the old one ends, in the "next" one, or when
        it is "asked" for; "supersuit" is as "step", with the last observation under SB3's name
    """
    if _is_envpool(env):
        return "asked"
    if _is_supersuit(env):
        return "supersuit"
    mode = env.metadata.get("autoreset_mode")
    if mode is None:
        # Before they said so: Gymnasium 0.29 reset in the same step, 1.0 in the next.
        next_step = "asked" if reset_mask else "next"
        return "step" if gym.__version__.startswith("0.") else next_step
    name = str(getattr(mode, "name", mode)).upper()
    if name == "NEXT_STEP" and (reset_mask or isinstance(_innermost(env), SyncVectorEnv | AsyncVectorEnv)):
        # Gymnasium's two reset whom they are asked to in every mode, and then do not do it again.
        name = "DISABLED"
    modes = {"SAME_STEP": "step", "NEXT_STEP": "next", "DISABLED": "asked"}
    if name not in modes:
        raise ValueError(f"Unknown autoreset_mode {mode!r} of {env}, expected one of {', '.join(modes)}.")
    return modes[name]


class GymVecEnv(VecEnv):
    """
    A ``gymnasium.vector.VectorEnv``, an EnvPool or a vector of SuperSuit's as a ``VecEnv``, with any
    autoreset mode.

    Where Gymnasium's ``SyncVectorEnv`` and ``AsyncVectorEnv``, an EnvPool or a vector environment of the mode
    ``DISABLED`` has ended an episode, it is asked to reset at once. Others of the mode ``NEXT_STEP`` reset in
    one more step, in which the action is ignored. Where all episodes end at once, as with one environment,
    that step is made here and nobody sees it. Otherwise the other environments need their next actions for
    it, so it is handed out: its info holds ``"autoreset_step": True``, its reward is 0, and it ends, as the
    episode before it did, in the observation where that one ended, so that nothing is carried over to the
    next episode.

    :param env: the vector of environments; an EnvPool must be made with ``env_type="gymnasium"``
    :param reset_mask: ``env`` is of the mode ``NEXT_STEP``, and ``env.reset(options={"reset_mask": mask})``
        resets the environments of the mask alone, which then do not spend a step on it
    :raises ValueError: if the autoreset mode is unknown, an EnvPool is asynchronous, or its spaces are not
        Gymnasium's
    """

    def __init__(self, env: Any, reset_mask: bool = False) -> None:
        self.env = env
        self._envpool = _is_envpool(env)
        if self._envpool:
            self._check_envpool()
        self._mode = _reset_mode(env, reset_mask)
        num_envs = int(env.config["num_envs"]) if self._envpool else env.num_envs
        # EnvPool and SuperSuit call the spaces of one environment so.
        single = self._envpool or self._mode == "supersuit"
        super().__init__(
            num_envs,
            env.observation_space if single else env.single_observation_space,
            env.action_space if single else env.single_action_space,
        )
        self.metadata = {**self.metadata, **(getattr(env, "metadata", None) or {})}
        # Which environments will spend the next step on resetting, and how their episodes ended.
        self._dead = np.zeros(num_envs, dtype=bool)
        self._dead_truncated = np.zeros(num_envs, dtype=bool)
        self._obs: VecEnvObs | None = None
        # Steps of single environments that were spent on resetting and handed out.
        self.n_dead_steps = 0

    def _check_envpool(self) -> None:
        if self.env.is_async:
            raise ValueError(
                "The EnvPool is asynchronous: its steps answer for some of the environments only. "
                "Make it with batch_size equal to num_envs."
            )
        for space in (self.env.observation_space, self.env.action_space):
            if not isinstance(space, spaces.Space):
                raise ValueError(
                    f"The EnvPool has a space of {type(space).__module__}: make it with env_type='gymnasium'."
                )

    def _common_render_mode(self) -> str | None:
        mode: str | None = getattr(self.env, "render_mode", None)
        return mode

    def reset(self) -> VecEnvObs:
        seeded = any(seed is not None for seed in self._seeds)
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError(
                f"A vector environment has one dict of options for all, got {self._options}. "
                "Pass one dict to set_options."
            )
        if self._envpool:
            if seeded:
                warnings.warn(
                    "An EnvPool is seeded when it is made (envpool.make(..., seed=0)): the seed "
                    f"{self._seeds[0]} is not used.",
                    stacklevel=2,
                )
            obs, infos = self.env.reset()
        else:
            given = {"options": dict(options)} if options else {}
            obs, infos = self.env.reset(seed=self._seed_of_all(), **given)
        self._obs = _copy(obs)
        self.reset_infos = split_infos(infos, self.num_envs)
        self._dead[:] = False
        self._reset_seeds()
        self._reset_options()
        return self._obs

    def _seed_of_all(self) -> int | list[int | None] | None:
        """
        What ``reset(seed=...)`` of the vector gets. Gymnasium's contract is one integer; that Sync- and
        AsyncVectorEnv take a list besides, and count on from an integer, is their own.
        """
        first = self._seeds[0]
        if first is None or self._seeds != [first + index for index in range(self.num_envs)]:
            return self._seeds if any(seed is not None for seed in self._seeds) else None
        return int(first)

    def step_async(self, actions: np.ndarray) -> None:
        if len(actions) != self.num_envs:
            raise ValueError(
                f"Expected one action for each of {self.num_envs} environments, got {len(actions)}."
            )
        self.actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, terminated, truncated, raw_infos = self.env.step(self.actions)
        before, obs = self._obs, _copy(obs)
        rewards = np.array(rewards, dtype=np.float32)
        terminated, truncated = np.array(terminated, dtype=bool), np.array(truncated, dtype=bool)
        dones = terminated | truncated
        infos = split_infos(raw_infos, self.num_envs)
        for index, info in enumerate(infos):
            info["TimeLimit.truncated"] = bool(truncated[index] and not terminated[index])
        if self._mode == "step":
            self._unpack_final(dones, infos)
        elif self._mode == "supersuit":
            # Where the game goes on without an agent, nothing was reset.
            for index in np.flatnonzero(dones).tolist():
                infos[index].setdefault("terminal_observation", _row(obs, index))
        elif self._mode == "asked":
            self._ask_for_reset(obs, dones, infos)
        elif dones.all() and not self._dead.any():
            self._reset_by_a_step(obs, infos)
        else:
            self._mark_dead_steps(before, obs, rewards, dones, infos)
        self._obs = obs
        return obs, rewards, dones, infos

    def _unpack_final(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        for index in np.flatnonzero(dones).tolist():
            truncated = infos[index].pop("TimeLimit.truncated")
            last, last_obs, self.reset_infos[index] = final_info(infos[index])
            infos[index] = {**last, "TimeLimit.truncated": truncated, "terminal_observation": last_obs}

    def _ask_for_reset(self, obs: VecEnvObs, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        ended = np.flatnonzero(dones)
        if not len(ended):
            return
        for index in ended.tolist():
            infos[index]["terminal_observation"] = _row(obs, index)
        if self._envpool:
            fresh, raw_infos = self.env.reset(ended.astype(np.int32))
            reset_infos = split_infos(raw_infos, len(ended))
        else:
            fresh, raw_infos = self.env.reset(options={"reset_mask": dones.copy()})
            fresh = _row(fresh, ended)
            reset_infos = [split_infos(raw_infos, self.num_envs)[index] for index in ended]
        _put_rows(obs, ended, fresh)
        for index, info in zip(ended.tolist(), reset_infos, strict=True):
            self.reset_infos[index] = info

    def _reset_by_a_step(self, obs: VecEnvObs, infos: list[dict[str, Any]]) -> None:
        for index, info in enumerate(infos):
            info["terminal_observation"] = _row(obs, index)
        fresh, *_, raw_infos = self.env.step(self.actions)
        _put_rows(obs, np.arange(self.num_envs), fresh)
        self.reset_infos = split_infos(raw_infos, self.num_envs)

    def _mark_dead_steps(
        self,
        before: VecEnvObs | None,
        obs: VecEnvObs,
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        for index in np.flatnonzero(dones).tolist():
            infos[index]["terminal_observation"] = _row(obs, index)
        dead = self._dead
        self.n_dead_steps += int(dead.sum())
        for index in np.flatnonzero(dead).tolist():
            assert before is not None
            self.reset_infos[index] = infos[index]
            infos[index] = {
                "TimeLimit.truncated": bool(self._dead_truncated[index]),
                "terminal_observation": _row(before, index),
                "autoreset_step": True,
            }
            rewards[index] = 0.0
        self._dead = dones & ~dead
        self._dead_truncated = np.array([info["TimeLimit.truncated"] for info in infos])
        dones |= dead

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        if self.render_mode != "rgb_array":
            return no_images(self)
        if self._envpool:
            return list(self.env.render(env_ids=np.arange(self.num_envs)))
        if self._mode == "supersuit":
            # One image for all agents of a game.
            return [self.env.render()]
        return list(self.env.call("render") if hasattr(self.env, "call") else self.env.render())

    def _members(self) -> Any:
        """The single environments, where they live in this process."""
        return getattr(_innermost(self.env), "envs", None)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        chosen = list(self._get_indices(indices))
        members = self._members()
        if members is not None:
            return [members[index].get_wrapper_attr(attr_name) for index in chosen]
        if isinstance(_innermost(self.env), AsyncVectorEnv):
            values = self.env.unwrapped.get_attr(attr_name)
            return [values[index] for index in chosen]
        # A vector environment that steps all of them at once has one value for all.
        return [getattr(self.env, attr_name)] * len(chosen)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        members = self._members()
        if members is not None:
            for index in self._get_indices(indices):
                setattr(members[index], attr_name, value)
            return
        self._refuse_some(indices, "set an attribute of")
        if isinstance(_innermost(self.env), AsyncVectorEnv):
            self.env.unwrapped.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        members = self._members()
        if members is not None:
            chosen = [members[index] for index in self._get_indices(indices)]
            return [env.get_wrapper_attr(method_name)(*method_args, **method_kwargs) for env in chosen]
        self._refuse_some(indices, "call a method of")
        if isinstance(_innermost(self.env), AsyncVectorEnv):
            return list(self.env.unwrapped.call(method_name, *method_args, **method_kwargs))
        return [getattr(self.env, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def _refuse_some(self, indices: VecEnvIndices, what: str) -> None:
        if list(self._get_indices(indices)) != list(range(self.num_envs)):
            raise NotImplementedError(
                f"{type(self.env).__name__} can {what} all its environments only, not of {indices}."
            )

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        chosen = list(self._get_indices(indices))
        members = self._members()
        if members is None:
            return [False] * len(chosen)
        return [is_wrapped(members[index], wrapper_class) for index in chosen]


def _copy(obs: Any) -> Any:
    # The environments may write the next observations into the same arrays.
    if isinstance(obs, dict):
        return {key: np.array(part) for key, part in obs.items()}
    return tuple(np.array(part) for part in obs) if isinstance(obs, tuple) else np.array(obs)


def _row(obs: Any, index: Any) -> Any:
    if isinstance(obs, dict):
        return {key: np.array(part[index]) for key, part in obs.items()}
    return tuple(np.array(part[index]) for part in obs) if isinstance(obs, tuple) else np.array(obs[index])


def _put_rows(obs: Any, rows: np.ndarray, fresh: Any) -> None:
    if isinstance(obs, np.ndarray):
        obs[rows] = fresh
        return
    for key in obs if isinstance(obs, dict) else range(len(obs)):
        obs[key][rows] = fresh[key]
