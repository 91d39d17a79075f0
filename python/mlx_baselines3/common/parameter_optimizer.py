"""An optimizer and the arrays it works on.

Small arrays are merged into one vector: one clip and one Adam over one vector instead of one for each of
a dozen arrays. What that saves grows with their number and not with their size.
"""

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from mlx_baselines3.common.layers import named_parameters
from mlx_baselines3.common.mlx_interop import to_mlx
from mlx_baselines3.common.optimizers import from_torch_state, is_elementwise, make_optimizer

__all__ = ["Arrays", "ParameterOptimizer", "trainable_names"]

Arrays = dict[str, mx.array]

# A tensor inside a flat vector starts on a 16-byte boundary: CUDA's TF32 products need it.
_ALIGNMENT = 4
# Merging saves a few microseconds for each array, and copies its gradient: from this size on not worth it.
_LARGE = 1 << 14
_MERGED = "merged"


def trainable_names(module: nn.Module) -> list[str]:
    """
    :param module: any MLX module
    :return: names of the arrays that the optimizer may change, in SB3's order
    """
    trainable = {name for name, _ in tree_flatten(module.trainable_parameters())}
    return [name for name in named_parameters(module) if name in trainable]


class ParameterOptimizer:
    """
    An MLX optimizer together with the parameters of the network it is for.

    :param module: the network; its trainable arrays are optimised
    :param optimizer_class: an MLX optimizer
    :param learning_rate: the first learning rate
    :param optimizer_kwargs: the other arguments of the optimizer, torch's names allowed
    :param names: optimise these arrays only (default: all that are trainable)
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer_class: type[optim.Optimizer],
        learning_rate: float,
        optimizer_kwargs: dict[str, Any] | None = None,
        names: list[str] | None = None,
    ):
        parameters = named_parameters(module)
        self.names = trainable_names(module) if names is None else names
        self.shapes = {name: parameters[name].shape for name in self.names}
        self.bare = make_optimizer(optimizer_class, learning_rate, optimizer_kwargs or {})
        self._deferred: Callable[[], dict[str, Any]] | None = None
        self._handed_out = False
        self.is_elementwise = is_elementwise(self.bare)
        self._merged = {
            name: parameters[name].shape
            for name in self.names
            if self.is_elementwise and parameters[name].dtype == mx.float32 and parameters[name].size < _LARGE
        }
        # Name, place and shape of each array that the optimizer works on, one after the other as in `pack`.
        self.parts = self._find_parts()
        self.bare.init(self.pack(parameters))

    def __getstate__(self) -> dict[str, Any]:
        self._catch_up()
        return self.__dict__

    @property
    def optimizer(self) -> optim.Optimizer:
        """:return: MLX's optimizer; ``bare`` is the same without a look at whether its state is up to date"""
        self._catch_up()
        # Whoever keeps it sees its state from now on, and may change it.
        self._handed_out = True
        return self.bare

    def _catch_up(self) -> None:
        if self._deferred is not None:
            state = self._deferred()
            # What is still to be computed could not be computed in another thread.
            mx.eval(state)
            self.bare.state = state
            self._deferred = None

    def defer_state(self, source: Callable[[], dict[str, Any]]) -> None:
        """
        Let the state be made when someone asks for it; at once if someone may hold MLX's optimizer.

        :param source: gives the state, as it is at that time
        """
        self._deferred = source
        if self._handed_out:
            self._catch_up()

    def defers_to(self, source: Callable[[], dict[str, Any]]) -> bool:
        """
        :param source: what may have been given to :meth:`defer_state`
        :return: whether the state is still to come from there
        """
        return self._deferred == source

    @property
    def learning_rate(self) -> mx.array:
        """:return: the learning rate, a scalar array"""
        return self.bare.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float | mx.array) -> None:
        # Not through MLX's setter: it makes a copy, which has to be computed before it can be read.
        rate = value if isinstance(value, mx.array) else mx.array(value, dtype=mx.float32)
        self.bare.state["learning_rate"] = rate

    @property
    def state(self) -> dict[str, Any]:
        """:return: the optimizer's state, a tree of arrays"""
        self._catch_up()
        return self.bare.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._deferred = None
        self.bare.state = state

    def pack(self, arrays: Mapping[str, mx.array]) -> Arrays:
        """
        :param arrays: name -> array (or its gradient), at least those that are optimised
        :return: what the optimizer works on: small arrays merged into one vector, large ones by themselves
        """
        packed = {name: arrays[name] for name in self.names if name not in self._merged}
        return packed | {_MERGED: self._merge(arrays)} if self._merged else packed

    def _merge(self, arrays: Mapping[str, mx.array]) -> mx.array:
        pieces = []
        for name in self._merged:
            pieces.append(arrays[name].reshape(-1))
            if padding := _padded(arrays[name].size) - arrays[name].size:
                pieces.append(mx.zeros((padding,)))
        return mx.concatenate(pieces)

    def _split(self, vector: mx.array) -> Arrays:
        start, arrays = 0, {}
        for name, shape in self._merged.items():
            size = _size(shape)
            # One view where a slice and a reshape are two.
            arrays[name] = mx.as_strided(vector, shape, offset=start)
            start += _padded(size)
        return arrays

    def unpack(self, packed: Mapping[str, mx.array]) -> Arrays:
        """
        :param packed: an answer of :meth:`pack`
        :return: name -> array
        """
        merged = self._split(packed[_MERGED]) if self._merged else {}
        return {name: merged[name] if name in merged else packed[name] for name in self.names}

    def _find_parts(self) -> list[tuple[str, int, tuple[int, ...]]]:
        start = 0
        parts: list[tuple[str, int, tuple[int, ...]]] = []
        for name, shape in self.shapes.items():
            if name not in self._merged:
                parts.append((name, start, shape))
                start += _size(shape)
        if self._merged:
            size = sum(_padded(_size(shape)) for shape in self._merged.values())
            parts.append((_MERGED, start, (size,)))
        return parts

    @property
    def size(self) -> int:
        """:return: how many numbers there are in all parts"""
        return sum(_size(shape) for _, _, shape in self.parts)

    def places(self) -> dict[str, int]:
        """:return: name -> where the parameter begins in the parts, one after the other"""
        known = {name: place for name, place, _ in self.parts}
        start = known.pop(_MERGED, 0)
        for name, shape in self._merged.items():
            known[name] = start
            start += _padded(_size(shape))
        return {name: known[name] for name in self.names}

    def apply(
        self, gradients: Arrays, packed: Arrays, state: dict[str, Any]
    ) -> tuple[Arrays, dict[str, Any]]:
        """
        One step of the optimizer, as a pure function.

        :param gradients: packed gradients
        :param packed: packed parameters
        :param state: the optimizer's state
        :return: the new parameters and the new state
        """
        own = self.state
        try:
            self.bare.state = tree_map(lambda leaf: leaf, state)
            return self.bare.apply_gradients(gradients, packed), self.bare.state
        finally:
            self.bare.state = own

    def state_dict(self) -> Arrays:
        """:return: the state as named arrays: ``step``, ``learning_rate``, ``m.<parameter>``, …"""
        arrays: Arrays = {}
        for key, value in self.state.items():
            if isinstance(value, mx.array):
                arrays[key] = value
            elif key == _MERGED:
                for slot, vector in value.items():
                    arrays |= {f"{slot}.{name}": a for name, a in self._split(vector).items()}
            else:
                arrays |= {f"{slot}.{key}": array for slot, array in tree_flatten(value)}
        return arrays

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """
        Replace the state. Nothing changes if anything is wrong.

        :param state_dict: as :meth:`state_dict` gives it, or a torch optimizer's, as SB3's files hold it
        :raises ValueError: if the names or shapes are not those of this optimizer
        """
        own = self.state_dict()
        if "param_groups" in state_dict:
            state_dict = {**own, **from_torch_state(state_dict, self.names)}
        given = {name: to_mlx(value) for name, value in state_dict.items()}
        wrong = sorted(own.keys() ^ given.keys()) or [k for k in own if own[k].shape != given[k].shape]
        if wrong:
            raise ValueError(
                f"The optimizer state does not fit {type(self.bare).__name__} over these parameters: "
                f"{', '.join(wrong[:5])}{', …' if len(wrong) > 5 else ''} missing, unknown or of another "
                "shape."
            )
        state = {key: self._loaded(key, value, given) for key, value in self.state.items()}
        mx.eval(state)
        self.state = state

    def _loaded(self, key: str, own: Any, given: Arrays) -> Any:
        """What stands in the state under a key after loading, in the form of what stands there now."""
        if isinstance(own, mx.array):
            return given[key].astype(own.dtype)
        if key != _MERGED:
            return {slot: given[f"{slot}.{key}"] for slot in own}
        return {slot: self._merge({name: given[f"{slot}.{name}"] for name in self._merged}) for slot in own}


def _padded(size: int) -> int:
    return size + -size % _ALIGNMENT


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
