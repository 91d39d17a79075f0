"""
Checks the size of the network that a file describes against the arrays in the file.

The description is JSON and can claim anything; the arrays are limited by the length of the file. So before a
network is created, its weights are counted from the description and compared with those in the file.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.formats.names import derives, find

__all__ = ["check_sizes"]

_LAYERS = "mlx_baselines3.common.torch_layers"
_SHARED = "policy_kwargs.net_arch"
# Number of weights that is always allowed: four megabytes.
_FREE = 2**20
_FREE_TENSORS = 256


def check_sizes(
    policy_class: type,
    observation_space: Any,
    action_space: Any,
    kwargs: Mapping[str, Any],
    params: Mapping[str, Any],
    label: str,
) -> None:
    """
    Reject a network description that is larger than the stored arrays.

    :param policy_class: class of the policy
    :param observation_space: the stored observation space
    :param action_space: the stored action space
    :param kwargs: the stored arguments of the policy
    :param params: the stored states: object name -> name -> array
    :param label: name of the file
    :raises ModelFileError: naming the argument that is too large
    """
    arrays = [array for array in _leaves(params.get("policy", {})) if hasattr(array, "shape")]
    stored = sum(math.prod(array.shape) for array in arrays)
    allowed, tensors = max(stored, _FREE), max(len(arrays), _FREE_TENSORS)
    claims = _claims(policy_class, observation_space, action_space, kwargs, allowed, tensors)
    for place, claimed, most in claims:
        if claimed > most:
            raise ModelFileError(
                f"{label}: data: {place} asks for {claimed} {'layers' if most == tensors else 'numbers'}, "
                f"but the stored policy has only {len(arrays)} arrays with {stored} numbers."
            )


def _leaves(state: Any) -> Iterator[Any]:
    if isinstance(state, Mapping):
        for item in state.values():
            yield from _leaves(item)
    else:
        yield state


def _claims(
    policy_class: type,
    observation_space: Any,
    action_space: Any,
    kwargs: Mapping[str, Any],
    allowed: int,
    tensors: int,
) -> Iterator[tuple[str, int, int]]:
    """Arguments that determine the size of the network: their place, claim and limit."""
    arguments = kwargs.get("features_extractor_kwargs") or {}
    if not isinstance(arguments, Mapping):
        raise ModelFileError("data: policy_kwargs.features_extractor_kwargs is not a table of arguments.")
    for name in ("n_critics", "n_quantiles"):
        yield f"policy_kwargs.{name}", _integer(f"policy_kwargs.{name}", kwargs.get(name, 1)), tensors
    extractor = kwargs.get("features_extractor_class")
    extractor = extractor or getattr(policy_class, "default_features_extractor_class", None)
    images, width_of_images = _images(observation_space, extractor), 1
    for name in ("features_dim", "cnn_output_dim"):
        if name in arguments:
            place = f"policy_kwargs.features_extractor_kwargs.{name}"
            width_of_images = _integer(place, arguments[name])
            yield place, width_of_images * max(1, images), allowed
    if kwargs.get("features_dim") is not None:
        yield "features_dim", _integer("features_dim", kwargs["features_dim"]), allowed
    if images and not arguments:
        yield "observation_space", 256 * images, allowed
    features, actions = _features(observation_space, extractor), _actions(action_space)
    yield "observation_space", features, allowed
    yield "action_space", actions, allowed
    lists = dict(_architectures(kwargs.get("net_arch"), strict=_is_ours(policy_class)))
    if not lists and _is_ours(policy_class) and features > 1:
        # No first layer of a policy is narrower.
        yield "observation_space", 64 * features, allowed
    for place, widths in lists.items():
        yield place, len(widths), tensors
        # A critic returns one number. Of several lists, only the first has the features as input.
        first = features if lists.keys() == {_SHARED} or isinstance(kwargs["net_arch"], Mapping) else 1
        chain = [first, *widths, 1 if place.endswith((".vf", ".qf")) else actions]
        yield place, sum(a * b for a, b in itertools.pairwise(chain)), allowed


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "mlx_baselines3"


def _integer(place: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ModelFileError(f"data: {place} is {value!r:.60}, expected an integer of at least 0.")
    return int(value)


def _architectures(net_arch: Any, strict: bool) -> Iterator[tuple[str, list[int]]]:
    """The lists of layer widths in a ``net_arch``, by place. A user's policy may define it differently."""
    if net_arch is None:
        return
    if isinstance(net_arch, (list, tuple)) and any(isinstance(item, Mapping) for item in net_arch):
        # SB3 before 1.8: shared layers, then a table for the rest.
        parts: dict[str, Any] = {"": [item for item in net_arch if not isinstance(item, Mapping)]}
        parts |= {key: item for part in net_arch if isinstance(part, Mapping) for key, item in part.items()}
    else:
        parts = dict(net_arch) if isinstance(net_arch, Mapping) else {"": net_arch}
    for key, widths in parts.items():
        where = f"{_SHARED}.{key!s:.40}" if key != "" else _SHARED
        try:
            if not isinstance(widths, (list, tuple)):
                raise ModelFileError(f"data: {where} is {widths!r:.60}, expected a list of integers.")
            yield where, [_integer(f"{where}.{index}", width) for index, width in enumerate(widths)]
        except ModelFileError:
            if strict:
                raise


def _features(space: Any, extractor: Any) -> int:
    """Lower bound of the first layer's input size."""
    if derives(extractor, find(f"{_LAYERS}:FlattenExtractor")):
        return max(1, _flattened(space))
    if derives(extractor, find(f"{_LAYERS}:CombinedExtractor")) and isinstance(space, spaces.Dict):
        return max(1, sum(_flattened(part) for part in space.spaces.values() if not _is_image(part)))
    return 1


def _flattened(space: Any) -> int:
    """Number of input features of an observation."""
    if isinstance(space, spaces.Dict):
        return sum(_flattened(part) for part in space.spaces.values())
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return _actions(space)


def _is_image(space: Any) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def _images(space: Any, extractor: Any) -> int:
    """Lower bound of the input size of the layer after this package's convolutions."""
    own = ("NatureCNN", "CombinedExtractor")
    if not any(derives(extractor, find(f"{_LAYERS}:{name}")) for name in own):
        return 0
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    shapes = [sorted(part.shape or ()) for part in parts if _is_image(part)]
    # Strides of 4 and 2, without padding; 64 channels.
    return sum(64 * math.prod(max(1, int(side) // 8 - 4) for side in shape[1:]) for shape in shapes)


def _actions(space: Any) -> int:
    """Number of outputs of a network per action."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.astype(object).sum())
    shape = getattr(space, "shape", None) or (1,)
    return math.prod(int(side) for side in shape)
