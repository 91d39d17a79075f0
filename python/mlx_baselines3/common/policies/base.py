"""Base classes of networks and policies."""

import copy
import io
import pathlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common._types import PyTorchObs
from mlx_baselines3.common.formats.model_data import Attributes
from mlx_baselines3.common.formats.model_fields import check_fields, reading
from mlx_baselines3.common.formats.model_sizes import check_sizes
from mlx_baselines3.common.native.actor import predict_natively
from mlx_baselines3.common.nn.interop import to_mlx, to_numpy
from mlx_baselines3.common.nn.layer_hints import explained, refuse_torch
from mlx_baselines3.common.nn.layers import Conv2d, Module, named_parameters, orthogonal, set_named_parameters
from mlx_baselines3.common.nn.optimizers import mlx_kwargs
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer, nothing_to_train
from mlx_baselines3.common.nn.threads import GeneratorPlace, computing, tracing, use_mlx
from mlx_baselines3.common.preprocessing import is_image_space, maybe_transpose, preprocess_obs
from mlx_baselines3.common.save_util import ModelFileError, load_from_zip_file, save_to_zip_file
from mlx_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from mlx_baselines3.common.utils import get_device, is_vectorized_observation, obs_as_tensor

_EXTRACTOR_BASE = "mlx_baselines3.common.torch_layers.BaseFeaturesExtractor"

SelfBaseModel = TypeVar("SelfBaseModel", bound="BaseModel")


class BaseModel(Module):
    """
    Base class of networks with observations as input: policies and critics.

    :param observation_space: space of one observation
    :param action_space: space of one action
    :param features_extractor_class: class of the module that turns observations into features
    :param features_extractor_kwargs: its arguments after the observation space
    :param features_extractor: an existing extractor, shared with another network
    :param normalize_images: divide uint8 images by 255
    :param optimizer_class: an MLX optimizer
    :param optimizer_kwargs: its arguments, except for the learning rate
    """

    optimizer: Any

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        features_extractor: BaseFeaturesExtractor | None = None,
        normalize_images: bool = True,
        optimizer_class: type[optim.Optimizer] = optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ):
        use_mlx()
        super().__init__()
        refuse_torch(optimizer_class, "optimizer_class", "mlx.optimizers.Optimizer")
        refuse_torch(features_extractor_class, "features_extractor_class", _EXTRACTOR_BASE)
        self._device = mx.default_device()
        # Aliases of child modules, as in SB3's state_dict: alias -> name.
        self._parameter_aliases: dict[str, str] = {}
        # Child modules that belong to another network, which lists, trains and saves them.
        self._borrowed: tuple[str, ...] = ()
        self.observation_space = observation_space
        self.action_space = action_space
        self.features_extractor = features_extractor
        self.normalize_images = normalize_images
        self.optimizer_class = optimizer_class
        # Kept for creating another optimizer.
        self.optimizer_kwargs = mlx_kwargs(optimizer_class, optimizer_kwargs or {})
        self.features_extractor_class = features_extractor_class
        self.features_extractor_kwargs = dict(features_extractor_kwargs or {})
        if not normalize_images and issubclass(features_extractor_class, (NatureCNN, CombinedExtractor)):
            self.features_extractor_kwargs["normalized_image"] = True

    def __setattr__(self, key: str, value: Any) -> None:
        if key == "optimizer":
            if isinstance(value, optim.Optimizer):
                value = self._optimizer_of(value)
            elif not isinstance(value, ParameterOptimizer):
                raise TypeError(
                    f"The optimizer of a {type(self).__name__} must be one of mlx.optimizers, got {value!r}."
                )
        super().__setattr__(key, value)

    def _optimizer_of(self, optimizer: optim.Optimizer) -> ParameterOptimizer:
        """:return: a user's optimizer with its parameters"""
        return ParameterOptimizer.around(self, optimizer)

    def settle_optimizers(self) -> None:
        """
        Update the optimizer for parameters frozen, thawed or replaced since the last update.

        :raises RuntimeError: if everything is frozen
        """
        self.optimizer.follow(self)
        if not self.optimizer.names:
            raise nothing_to_train("the policy")

    def _update_features_extractor(
        self, net_kwargs: dict[str, Any], features_extractor: BaseFeaturesExtractor | None = None
    ) -> dict[str, Any]:
        """
        :param net_kwargs: arguments of a network
        :param features_extractor: the extractor to share; a new one is created by default
        :return: the arguments with the extractor and its number of features
        """
        if features_extractor is None:
            features_extractor = self.make_features_extractor()
        return {
            **net_kwargs,
            "features_extractor": features_extractor,
            "features_dim": features_extractor.features_dim,
        }

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """:return: a new features extractor of the class given at construction"""
        with explained():
            return self.features_extractor_class(self.observation_space, **self.features_extractor_kwargs)

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> mx.array:
        """
        :param obs: (batch, ...) observations, a dictionary of them for a Dict space
        :param features_extractor: the module to use
        :return: (batch, features_dim)
        """
        batch = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        with explained():
            return features_extractor(batch)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """:return: the arguments that create an equal network, without its weights"""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "normalize_images": self.normalize_images,
        }

    @property
    def device(self) -> mx.Device:
        """:return: the device that the network computes on"""
        return self._device

    def to(self: SelfBaseModel, device: mx.Device | str) -> SelfBaseModel:
        """
        Compute on ``device`` from now on. MLX arrays are not tied to a device, so nothing is copied.

        :param device: 'auto', 'cpu', 'gpu' or an ``mx.Device``
        :return: self
        """
        self._device = get_device(device)
        return self

    def state_dict(self) -> dict[str, mx.array]:
        """:return: all arrays of the network by SB3's names, shared modules under each of their names"""
        parameters = self._named_parameters()
        for alias, name in self._parameter_aliases.items():
            shared = {k: v for k, v in parameters.items() if k.startswith(f"{name}.")}
            parameters.update({alias + k.removeprefix(name): v for k, v in shared.items()})
        return parameters

    def __delattr__(self, key: str) -> None:
        # A removed alias is missing in state_dict too, as in SB3.
        vars(self).get("_parameter_aliases", {}).pop(key, None)
        super().__delattr__(key)

    def borrow(self, name: str, module: nn.Module) -> None:
        """
        Use a module of another network, as critics use their actor's features extractor. It is part of the
        parameters of both, but only of the other network's optimizer and file.

        :param name: the attribute
        :param module: the module
        """
        self.set_alias(name, module)
        self._borrowed = (*self._borrowed, name)

    def parameters(self) -> dict[str, Any]:
        """:return: a tree of all arrays, those of borrowed modules first, as if the network owned them"""
        return {**{name: getattr(self, name).parameters() for name in self._borrowed}, **super().parameters()}

    def update(self, parameters: dict[str, Any], strict: bool = True) -> "BaseModel":
        """
        Replace arrays, including those of borrowed modules.

        :param parameters: a tree like that of :meth:`parameters`, or a part of it
        :param strict: unknown names are an error
        :return: this network
        :raises ValueError: a name is unknown, and ``strict``
        """
        rest = dict(parameters)
        for name in self._borrowed:
            if name in rest:
                getattr(self, name).update(rest.pop(name), strict=strict)
        super().update(rest, strict=strict)
        return self

    def _named_parameters(self) -> dict[str, mx.array]:
        borrowed = {
            f"{name}.{part}": array
            for name in self._borrowed
            for part, array in named_parameters(getattr(self, name)).items()
        }
        return {**borrowed, **named_parameters(self)}

    def _set_named_parameters(self, parameters: Mapping[str, mx.array]) -> None:
        own = dict(parameters)
        for name in self._borrowed:
            theirs = {key: own.pop(key) for key in parameters if key.startswith(f"{name}.")}
            module = getattr(self, name)
            set_named_parameters(module, {k.removeprefix(f"{name}."): v for k, v in theirs.items()})
        set_named_parameters(self, own)

    def _own_name(self, name: str) -> str:
        for alias, target in self._parameter_aliases.items():
            if name.startswith(f"{alias}."):
                return target + name.removeprefix(alias)
        return name

    def save(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Write the network to a file, without the algorithm.

        :param path: the file
        """
        save_to_zip_file(path, data=self._get_constructor_parameters(), params={"policy": self.state_dict()})

    @classmethod
    def load(
        cls: type[SelfBaseModel],
        path: str | pathlib.Path | io.BufferedIOBase,
        device: mx.Device | str = "auto",
    ) -> SelfBaseModel:
        """
        Read a network written by :meth:`save`.

        :param path: the file
        :param device: device to compute on
        :return: the network
        :raises ModelFileError: if the file is corrupted, or does not contain such a network
        """
        label = str(path) if isinstance(path, (str, pathlib.Path)) else "the file"
        data, params, _ = load_from_zip_file(path, device=device)
        if data is None or "policy" not in params:
            raise ModelFileError(
                f"{label} contains no network, it lacks its arguments or parameters: `{cls.__name__}.save` "
                "writes such files, and a model's file is loaded by its algorithm."
            )
        spaces = data.get("observation_space"), data.get("action_space")
        with reading(label, f"a {cls.__name__}"):
            check_fields(Attributes(data))
            check_sizes(cls, *spaces, data, params, label)
            model = cls._from_constructor_parameters(data).to(device)
            model.load_state_dict(params["policy"])
        return model

    @classmethod
    def _from_constructor_parameters(cls: type[SelfBaseModel], parameters: dict[str, Any]) -> SelfBaseModel:
        """:return: a network with the arguments of :meth:`_get_constructor_parameters`"""
        return cls(**parameters)

    def load_from_vector(self, vector: np.ndarray) -> None:
        """
        Set all parameters from one vector.

        :param vector: (number of parameters,), in the order of :meth:`parameters_to_vector`
        :raises ValueError: if the length differs
        """
        parameters = self._named_parameters()
        total = sum(array.size for array in parameters.values())
        if len(vector) != total:
            raise ValueError(f"The vector has {len(vector)} numbers, the network has {total} parameters.")
        new, start = {}, 0
        for name, array in parameters.items():
            new[name] = to_mlx(np.asarray(vector[start : start + array.size], np.float32)).reshape(
                array.shape
            )
            start += array.size
        mx.eval(new)
        self._set_named_parameters(new)

    def parameters_to_vector(self) -> np.ndarray:
        """:return: (number of parameters,) float32, all parameters concatenated"""
        return np.concatenate([to_numpy(array).ravel() for array in self._named_parameters().values()])

    def set_training_mode(self, mode: bool) -> None:
        """
        Set training or evaluation mode, which affects dropout and batch normalisation only.

        :param mode: True for training
        """
        # Traversing all modules at every predict() would cost more than a small network.
        if self.training != mode:
            self.train(mode)

    def is_vectorized_observation(self, observation: np.ndarray | dict[str, np.ndarray]) -> bool:
        """
        :param observation: one observation or a batch; images may be channel-last
        :return: True for a batch
        """
        if isinstance(observation, dict):
            return self._dict_batch(observation)[1]
        return is_vectorized_observation(
            maybe_transpose(observation, self.observation_space), self.observation_space
        )

    def _with_spaces(self, observation: dict[str, np.ndarray]) -> list[tuple[np.ndarray, spaces.Space[Any]]]:
        assert isinstance(self.observation_space, spaces.Dict), (
            f"The observation is a dict, but the observation space is {self.observation_space}."
        )
        return [(obs, self.observation_space.spaces[key]) for key, obs in observation.items()]

    def _dict_batch(self, observation: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], bool]:
        """
        :param observation: one observation or a batch
        :return: a batch, and whether the input was a batch
        :raises ValueError: a shape fits neither
        """
        batches, odd = {}, {}
        rows: set[int] = set()
        for key, (obs, space) in zip(observation, self._with_spaces(observation), strict=True):
            try:
                batches[key], is_batch = _as_batch(obs, space)
            except ValueError as error:
                batches[key], odd[key] = np.asarray(obs), (error, space)
            else:
                rows |= {len(batches[key])} if is_batch else set()
        for key, (refusal, space) in odd.items():
            # If other keys determine the number of rows, an additional axis of length one is allowed.
            array, shape = batches[key], space.shape or ()
            if (
                len(rows) != 1
                or array.ndim == 0
                or {len(array)} != rows
                or _lengths(array.shape[1:]) != _lengths(shape)
            ):
                raise refusal
            batches[key] = array.reshape(-1, *shape)
        return batches, bool(rows)

    def obs_to_tensor(self, observation: np.ndarray | dict[str, np.ndarray]) -> tuple[PyTorchObs, bool]:
        """
        Convert the observation passed to ``predict`` to a batch for the network.

        :param observation: one observation or a batch; images may be channel-last
        :return: the batch, and whether the input was a batch
        :raises ValueError: if a shape fits neither one observation nor a batch, or the keys of a Dict
            have different numbers of rows
        """
        use_mlx()
        batch, vectorized = self._batch_of(observation)
        return obs_as_tensor(batch, self.device), vectorized

    def _batch_of(
        self, observation: np.ndarray | dict[str, np.ndarray]
    ) -> tuple[np.ndarray | dict[str, np.ndarray], bool]:
        """:return: (batch, ...) observations of NumPy, and whether they were a batch"""
        if not isinstance(observation, dict):
            return _as_batch(observation, self.observation_space)
        batches, vectorized = self._dict_batch(observation)
        if len({len(batch) for batch in batches.values()}) > 1:
            lengths = ", ".join(f"{key!r} has {len(batch)}" for key, batch in batches.items())
            raise ValueError(f"The keys of the observation differ in their number of rows: {lengths}.")
        return batches, vectorized


def _as_batch(observation: np.ndarray, space: spaces.Space[Any]) -> tuple[np.ndarray, bool]:
    if is_image_space(space):
        observation = maybe_transpose(observation, space)
    observation = np.asarray(observation)
    vectorized = is_vectorized_observation(observation, space)
    return observation.reshape((-1, *(space.shape or ()))), vectorized


def _lengths(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes longer than one."""
    return tuple(length for length in shape if length != 1)


def _refuse_reset_answer(observation: Any) -> None:
    if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict):
        raise ValueError(
            "predict() got a tuple instead of a NumPy array or a dict. You are probably mixing Gym API "
            "with the VecEnv API: `obs, info = env.reset()` (Gymnasium), `obs = vec_env.reset()` "
            "(VecEnv)."
        )


class BasePolicy(BaseModel, ABC):
    """
    Base class of networks that return actions.

    :param args: as in :class:`BaseModel`
    :param squash_output: actions are squashed by tanh, and unscaled to the action space
    :param kwargs: as in :class:`BaseModel`
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(self, *args: Any, squash_output: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._squash_output = squash_output
        self._generator_place = GeneratorPlace()

    @staticmethod
    def _dummy_schedule(progress_remaining: float) -> float:
        """A learning rate for a policy that is only loaded to predict."""
        return 0.0

    @property
    def squash_output(self) -> bool:
        """:return: whether actions are squashed by tanh"""
        return self._squash_output

    @staticmethod
    def init_weights(module: nn.Module, gain: float = 1) -> None:
        """
        Set orthogonal weights and zero biases of a linear or convolutional layer; others are not changed.

        :param module: the layer
        :param gain: factor on the weights
        """
        if isinstance(module, (nn.Linear, nn.Conv2d, Conv2d)):
            module.weight = orthogonal(module.weight.shape, gain)
            if "bias" in module:
                module.bias = mx.zeros_like(module.bias)

    @abstractmethod
    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> mx.array:
        """
        :param observation: (batch, ...) observations
        :param deterministic: return the most likely actions instead of samples
        :return: (batch, ...) actions, before clipping or unscaling
        """

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions for one observation or a batch.

        :param observation: one observation or a batch, a dictionary of them for a Dict space; images may
            be channel-first or channel-last
        :param state: returned unchanged (used by recurrent policies)
        :param episode_start: not used (used by recurrent policies)
        :param deterministic: return the most likely actions instead of samples
        :return: one action or a batch of them, inside the action space; and ``state``
        :raises ValueError: if the observation is a tuple (the result of a Gymnasium ``reset``) or has
            a shape that does not fit the observation space
        """
        return self._act_on(observation, deterministic), state

    def _act_on(
        self, observation: np.ndarray | dict[str, np.ndarray], deterministic: bool, **extras: Any
    ) -> np.ndarray:
        """
        :param observation: one observation or a batch
        :param deterministic: return the most likely actions instead of samples
        :param extras: further arguments of :meth:`_predict`
        :return: one action or a batch of them, inside the action space
        """
        self.set_training_mode(False)
        _refuse_reset_answer(observation)
        raw, vectorized = self._choose(observation, deterministic, **extras)
        actions = raw.reshape((-1, *(self.action_space.shape or ())))
        if isinstance(self.action_space, spaces.Box):
            if self.squash_output:
                actions = self.unscale_action(actions)
            else:
                actions = np.clip(actions, self.action_space.low, self.action_space.high)
        return actions if vectorized else actions.squeeze(axis=0)

    def _choose(
        self, observation: np.ndarray | dict[str, np.ndarray], deterministic: bool, **extras: Any
    ) -> tuple[np.ndarray, bool]:
        """:return: (batch, action_dim) actions before clipping, and whether the observation was a batch"""
        draw = self._generator_place.draw
        answer = draw(not deterministic, lambda: self._choose_natively(observation, deterministic, **extras))
        if answer is not None:
            return answer
        actions, vectorized = draw(
            not deterministic, lambda: self._pending(observation, deterministic, **extras)
        )
        with computing():
            return to_numpy(actions), vectorized

    def _choose_natively(
        self, observation: np.ndarray | dict[str, np.ndarray], deterministic: bool, **extras: Any
    ) -> tuple[np.ndarray, bool] | None:
        """:return: what :meth:`_choose` gives, from Rust; None if only MLX can tell"""
        return None if extras else predict_natively(self, observation, deterministic)

    def _pending(
        self, observation: np.ndarray | dict[str, np.ndarray], deterministic: bool, **extras: Any
    ) -> tuple[mx.array, bool]:
        # Another thread may be tracing an update of these networks.
        with computing(), mx.stream(self.device), tracing:
            batch, vectorized = self.obs_to_tensor(observation)
            return self._predict(batch, deterministic=deterministic, **extras), vectorized

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """
        :param action: (..., action_dim) inside the Box action space
        :return: the same in [-1, 1]
        """
        low, high = self._bounds("scale")
        return 2.0 * ((action - low) / (high - low)) - 1.0

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """
        :param scaled_action: (..., action_dim) in [-1, 1]
        :return: the same inside the Box action space
        """
        low, high = self._bounds("unscale")
        return low + (0.5 * (scaled_action + 1.0) * (high - low))

    def _bounds(self, verb: str) -> tuple[np.ndarray, np.ndarray]:
        assert isinstance(self.action_space, spaces.Box), (
            f"Only actions of a Box space have bounds to {verb} to, not those of {self.action_space}."
        )
        # The difference of two small integers may overflow their dtype.
        kind = np.result_type(self.action_space.dtype, np.float32)
        return self.action_space.low.astype(kind), self.action_space.high.astype(kind)

    def __deepcopy__(self: SelfBaseModel, memo: dict[int, Any]) -> SelfBaseModel:
        # A module is a dict with additional attributes; copy both, aliases included.
        clone = self.__class__.__new__(self.__class__)
        memo[id(self)] = clone
        for key, value in self.items():
            dict.__setitem__(clone, key, copy.deepcopy(value, memo))
        for key, value in self.__dict__.items():
            object.__setattr__(clone, key, copy.deepcopy(value, memo))
        return clone
