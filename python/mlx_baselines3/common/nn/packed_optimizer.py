"""An optimizer and the arrays it works on.

Small arrays are merged into one vector: one clip and one Adam over one vector instead of one for each of
a dozen arrays. What that saves grows with their number and not with their size.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from mlx_baselines3.common.cuda import nvrtc, vectors
from mlx_baselines3.common.nn.interop import to_mlx
from mlx_baselines3.common.nn.optimizers import (
    Adam,
    ParameterGroup,
    clip_by_global_norm,
    corrects_bias,
    from_torch_state,
    is_elementwise,
    make_optimizer,
)
from mlx_baselines3.common.nn.structure import Structure

__all__ = ["Arrays", "ParameterOptimizer", "nothing_to_train", "trainable_names"]

Arrays = dict[str, mx.array]
SelfOptimizer = TypeVar("SelfOptimizer", bound="ParameterOptimizer")

# A tensor inside a flat vector starts on a 16-byte boundary: CUDA's TF32 products need it.
_ALIGNMENT = 4
# Merging saves a few microseconds for each array, and copies its gradient: from this size on not worth it.
_LARGE = 1 << 14
_MERGED = "merged"
_MISSED = "missed."


def trainable_names(module: nn.Module) -> list[str]:
    """
    :param module: any MLX module
    :return: names of the arrays that the optimizer may change, in SB3's order
    """
    return list(Structure(module).owners)


def nothing_to_train(what: str) -> RuntimeError:
    """
    :param what: whose parameters are all frozen
    :return: what to raise
    """
    return RuntimeError(
        f"All parameters of {what} are frozen, so there is nothing to train. Call unfreeze() on the modules "
        "that are to learn."
    )


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
        self._start(make_optimizer(optimizer_class, learning_rate, optimizer_kwargs or {}), module, names)

    @classmethod
    def around(cls: type[SelfOptimizer], module: nn.Module, optimizer: optim.Optimizer) -> SelfOptimizer:
        """
        :param module: the network; its trainable arrays are optimised
        :param optimizer: an MLX optimizer; what it has gathered about arrays of these names is kept
        :return: the two together
        """
        made = cls.__new__(cls)
        made._start(optimizer, module, None)
        # The caller has the optimizer and may read or change it at any time.
        made._handed_out = True
        return made

    def _start(self, bare: optim.Optimizer, module: nn.Module, names: list[str] | None) -> None:
        self.bare = bare
        self.is_elementwise = is_elementwise(bare)
        self._deferred: Callable[[], dict[str, Any]] | None = None
        self._handed_out = False
        self._only = None if names is None else set(names)
        # A GPU merges large arrays, too, and has the weights of convolutions as MLX convolves with them.
        self._on_gpu = False
        self._rate: tuple[float, mx.array] | None = None
        # The network as of the last look; unknown in a copy.
        self.structure: Structure | None = Structure(module)
        arrays, self._owners = self._followed(self.structure)
        # Steps that the optimizer made while an array was frozen or not there yet, where there are any.
        self.missed: dict[str, int] = {}
        # What it knows of frozen arrays, and the steps that they took part in.
        self._parked: dict[str, tuple[Any, int]] = {}
        self._order = self.structure.names
        self._layout: Any = None
        self._known_shapes: dict[str, tuple[int, ...]] = {}
        kept = {name: place for name in arrays if (place := _find(bare.state, name)) is not None}
        if kept:
            bare.state = {key: value for key, value in bare.state.items() if isinstance(value, mx.array)}
        self._lay_out(arrays, kept)

    def _followed(self, structure: Structure) -> tuple[Arrays, dict[str, nn.Module]]:
        """:return: the arrays that are optimised, and the modules that they belong to"""
        arrays, only = structure.arrays(), self._only
        owners = {name: owner for name, owner in structure.owners.items() if only is None or name in only}
        return {name: arrays[name] for name in owners}, owners

    def _lay_out(self, arrays: Arrays, kept: Mapping[str, Any]) -> None:
        """
        Work on these arrays from now on.

        :param arrays: name -> array
        :param kept: name -> what is known of some of them, as :meth:`_slots` gives it; the others start anew
        """
        self.names = list(arrays)
        self.shapes = {name: array.shape for name, array in arrays.items()}
        self._known_shapes |= self.shapes
        self._single = {name for name, array in arrays.items() if array.dtype == mx.float32}
        self._merged = {
            name: array.shape
            for name, array in arrays.items()
            if self.is_elementwise and name in self._single and (self._on_gpu or array.size < _LARGE)
        }
        # Merged arrays have missed the same steps.
        self._vectors: dict[str, list[str]] = {}
        for name in self._merged:
            missed = self.missed.get(name, 0)
            self._vectors.setdefault(f"{_MERGED}-{missed}" if missed else _MERGED, []).append(name)
        # Name, place and shape of each array that the optimizer works on, one after the other as in `pack`.
        parts = self._find_parts(), self.missed
        if parts != self._layout:
            self.parts, self._layout = parts[0], parts
        self.bare.init(self.pack(arrays))
        state = self.bare.state
        for name in kept.keys() - self._merged.keys():
            state[name] = kept[name]
        for vector, names in self._vectors.items():
            some = {name: kept[name] for name in names if name in kept}
            if some:
                fresh = {slot: self._split(vector, array) for slot, array in state[vector].items()}
                state[vector] = {
                    slot: self._merge([some[name][slot] if name in some else each[name] for name in names])
                    for slot, each in fresh.items()
                }

    def follow(self, module: nn.Module) -> None:
        """
        Take notice of what was frozen, thawed or replaced since, and of the device that is to compute. Frozen
        arrays keep their state until they are thawed; those of modules that are new begin without one.

        :param module: the network
        """
        self._settle(mx.default_device().type == mx.gpu)
        known = self.structure
        if known is not None and known.network is module and known.is_current():
            return
        structure = Structure(module)
        arrays, owners = self._followed(structure)
        if arrays.keys() == self.shapes.keys() and all(
            array.shape == self.shapes[name] and self._owners.get(name, owners[name]) is owners[name]
            for name, array in arrays.items()
        ):
            self._owners |= owners
        else:
            self._rearrange(arrays, owners, structure)
        self.structure = structure

    def _settle(self, on_gpu: bool) -> None:
        """Merge the arrays as it suits the device."""
        if self._on_gpu == on_gpu:
            return
        slots = self._slots() if self.is_elementwise else {}
        self._on_gpu = on_gpu
        if self.is_elementwise:
            self._forget_slots()
            single = self._single
            self._lay_out(
                {
                    name: mx.zeros(shape, mx.float32 if name in single else mx.float16)
                    for name, shape in self.shapes.items()
                },
                slots,
            )
            mx.eval(self.state)

    def _rearrange(self, arrays: Arrays, owners: dict[str, nn.Module], structure: Structure) -> None:
        """Work on other arrays than before."""
        step = _count(self.state["step"])
        slots = self._slots()
        known = {name: (slots[name], step - self.missed.get(name, 0)) for name in slots} | self._parked
        known = {
            name: state
            for name, state in known.items()
            if name in structure.names
            and (name not in arrays or self._is_same(name, arrays[name], owners[name]))
        }
        self._parked = {name: state for name, state in known.items() if name not in arrays}
        self._owners = {name: owner for name, owner in self._owners.items() if name in known} | owners
        self._order = structure.names
        counts = corrects_bias(self.bare)
        late = {name: step - known[name][1] if name in known else step for name in arrays}
        self.missed = {name: count for name, count in late.items() if count and counts}
        self._forget_slots()
        self._lay_out(arrays, {name: known[name][0] for name in arrays if name in known})

    def _is_same(self, name: str, array: mx.array, owner: nn.Module) -> bool:
        """Whether the array of that name is the one that the optimizer knows: it is in the same module."""
        return self._owners.get(name, owner) is owner and self._known_shapes.get(name) == array.shape

    def _forget_slots(self) -> None:
        parts = {name for name, _, _ in self.parts}
        self.state = {key: value for key, value in self.state.items() if key not in parts}

    @property
    def known_names(self) -> list[str]:
        """:return: names of all arrays that it has ever worked on and that are still there, in SB3's order"""
        known = {*self.names, *self._parked}
        return [name for name in self._order if name in known]

    def __getstate__(self) -> dict[str, Any]:
        self._materialize_state()
        # The modules are the network's; without them it is believed to have stayed the same.
        return {**self.__dict__, "_owners": {}, "structure": None}

    @property
    def optimizer(self) -> optim.Optimizer:
        """:return: MLX's optimizer; ``bare`` is the same without a look at whether its state is up to date"""
        self._materialize_state()
        # The caller may keep it, and read or change its state later.
        self._handed_out = True
        return self.bare

    def _materialize_state(self) -> None:
        if self._deferred is not None:
            state = self._deferred()
            # What is still to be computed could not be computed in another thread.
            mx.eval(state)
            self.bare.state = state
            self._deferred = None

    def defer_state(self, source: Callable[[], dict[str, Any]]) -> None:
        """
        Create the state when it is read; at once if a caller may hold MLX's optimizer.

        :param source: gives the state, as it is at that time
        """
        self._deferred = source
        if self._handed_out:
            self._materialize_state()

    def is_deferred_to(self, source: Callable[[], dict[str, Any]]) -> bool:
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
        if isinstance(value, mx.array):
            self.bare.state["learning_rate"] = value
            return
        if self._rate is None or self._rate[0] != value:
            self._rate = value, mx.array(value, dtype=mx.float32)
        self.bare.state["learning_rate"] = self._rate[1]

    @property
    def rate(self) -> float:
        """:return: the learning rate as a number; a GPU is not asked for one that was given as a number"""
        array = self.bare.learning_rate
        return self._rate[0] if self._rate is not None and self._rate[1] is array else float(array)

    @property
    def state(self) -> dict[str, Any]:
        """:return: the optimizer's state, a tree of arrays"""
        self._materialize_state()
        return self.bare.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._deferred = None
        self.bare.state = state

    @property
    def param_groups(self) -> list[ParameterGroup]:
        """:return: one group with all parameters, as torch has it: ``param_groups[0]["lr"]``"""
        return [ParameterGroup(self)]

    def pack(self, arrays: Mapping[str, mx.array]) -> Arrays:
        """
        :param arrays: name -> array (or its gradient), at least those that are optimised
        :return: what the optimizer works on: small arrays merged into one vector, large ones by themselves
        """
        packed = {name: arrays[name] for name in self.names if name not in self._merged}
        return packed | {
            vector: self._merge([arrays[name] for name in names]) for vector, names in self._vectors.items()
        }

    def _as_stored(self, array: mx.array) -> mx.array:
        return array.transpose(0, 2, 3, 1) if self._on_gpu and array.ndim == 4 else array

    def _merge(self, arrays: list[mx.array]) -> mx.array:
        arrays = [self._as_stored(array) for array in arrays]
        if nvrtc.usable() and len(arrays) <= vectors.MOST_ARRAYS:
            return vectors.pack(arrays, _ALIGNMENT)
        return _merge(arrays)

    def _split(self, vector: str, array: mx.array) -> Arrays:
        start, arrays = 0, {}
        for name in self._vectors[vector]:
            shape = self._merged[name]
            if self._on_gpu and len(shape) == 4:
                out, channels, height, width = shape
                stored = mx.as_strided(array, (out, height, width, channels), offset=start)
                arrays[name] = stored.transpose(0, 3, 1, 2)
            else:
                # One view where a slice and a reshape are two.
                arrays[name] = mx.as_strided(array, shape, offset=start)
            start += _padded(_size(shape))
        return arrays

    def unpack(self, packed: Mapping[str, mx.array]) -> Arrays:
        """
        :param packed: an answer of :meth:`pack`
        :return: name -> array
        """
        merged: Arrays = {}
        for vector in self._vectors:
            merged |= self._split(vector, packed[vector])
        return {name: merged[name] if name in merged else packed[name] for name in self.names}

    def _find_parts(self) -> list[tuple[str, int, tuple[int, ...]]]:
        start = 0
        parts: list[tuple[str, int, tuple[int, ...]]] = []
        for name, shape in self.shapes.items():
            if name not in self._merged:
                parts.append((name, start, shape))
                start += _size(shape)
        for vector, names in self._vectors.items():
            size = sum(_padded(_size(self._merged[name])) for name in names)
            parts.append((vector, start, (size,)))
            start += size
        return parts

    @property
    def size(self) -> int:
        """:return: how many numbers there are in all parts"""
        return sum(_size(shape) for _, _, shape in self.parts)

    def places(self) -> dict[str, int]:
        """:return: name -> where the parameter begins in the parts, one after the other"""
        known: dict[str, int] = {}
        for part, start, _ in self.parts:
            for name in self._vectors.get(part, [part]):
                known[name] = start
                start += _padded(_size(self.shapes[name]))
        return {name: known[name] for name in self.names}

    def descend(
        self, gradients: Arrays, packed: Arrays, state: dict[str, Any], max_norm: mx.array | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """
        One step of the optimizer, as a pure function.

        :param gradients: name -> gradient of each array
        :param packed: packed parameters
        :param state: the optimizer's state
        :param max_norm: clip the gradients to this 2-norm together
        :return: the new parameters and the new state
        """
        if self._has_kernels():
            return self._descend_by_kernels(gradients, packed, state, max_norm)
        merged = self.pack(gradients)
        if max_norm is not None:
            merged = clip_by_global_norm(merged, max_norm)
        return self.apply(merged, packed, state)

    def _has_kernels(self) -> bool:
        return (
            type(self.bare) is Adam
            and not self.bare._schedulers
            and not self.missed
            and len(self._single) == len(self.names) <= vectors.MOST_ARRAYS
            and nvrtc.usable()
        )

    def _descend_by_kernels(
        self, gradients: Arrays, packed: Arrays, state: dict[str, Any], max_norm: mx.array | None
    ) -> tuple[Arrays, dict[str, Any]]:
        stored = {name: self._as_stored(gradients[name]) for name in self.names}
        clip = None if max_norm is None else (vectors.squares([*stored.values()]), max_norm)
        b1, b2 = self.bare.betas
        numbers = float(b1), float(b2), float(self.bare.eps)
        after = dict(state)
        new: Arrays = {}
        for part, _, _ in self.parts:
            names = self._vectors.get(part)
            given = packed[part], state[part]["m"], state[part]["v"]
            outcome = vectors.adam(
                [stored[name] for name in names or [part]],
                _ALIGNMENT if names else 1,
                given,
                numbers,
                self.bare.bias_correction,
                state["learning_rate"],
                state["step"],
                clip,
            )
            *outcome, after["step"] = outcome
            new[part], m, v = (array.reshape(packed[part].shape) for array in outcome)
            after[part] = {"m": m, "v": v}
        return new, after

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
            if not self.missed:
                self.bare.state = tree_map(lambda leaf: leaf, state)
                return self.bare.apply_gradients(gradients, packed), self.bare.state
            return self._apply_by_age(gradients, packed, state)
        finally:
            self.bare.state = own

    def _apply_by_age(
        self, gradients: Arrays, packed: Arrays, state: dict[str, Any]
    ) -> tuple[Arrays, dict[str, Any]]:
        """As :meth:`apply`, where some arrays have taken part in fewer steps than others."""
        ages: dict[int, list[str]] = {}
        for part, _, _ in self.parts:
            ages.setdefault(self.missed.get(self._vectors.get(part, [part])[0], 0), []).append(part)
        shared = {key: value for key, value in state.items() if key not in packed}
        new: Arrays = {}
        after = dict(state)
        for missed, parts in ages.items():
            some = {**shared, **{part: state[part] for part in parts}, "step": state["step"] - missed}
            self.bare.state = tree_map(lambda leaf: leaf, some)
            new |= self.bare.apply_gradients({p: gradients[p] for p in parts}, {p: packed[p] for p in parts})
            after |= self.bare.state
        after["step"] = state["step"] + 1
        return new, after

    def _slots(self) -> dict[str, Any]:
        """:return: name -> what the optimizer knows of each array that it works on"""
        slots: dict[str, Any] = {}
        for part, _, _ in self.parts:
            value = self.state[part]
            if part not in self._vectors:
                slots[part] = value
                continue
            split = {slot: self._split(part, array) for slot, array in value.items()}
            for name in self._vectors[part]:
                slots[name] = {slot: arrays[name] for slot, arrays in split.items()}
        return slots

    def state_dict(self) -> Arrays:
        """
        :return: the state as named arrays: ``step``, ``learning_rate``, ``m.<parameter>``, …; for parameters
            that were frozen for a time ``missed.<parameter>``, the number of steps without them
        """
        arrays = {key: value for key, value in self.state.items() if isinstance(value, mx.array)}
        slots, missed = self._slots(), dict(self.missed)
        if self._parked:
            step = _count(self.state["step"])
            slots |= {name: state for name, (state, _) in self._parked.items()}
            missed |= {name: step - taken for name, (_, taken) in self._parked.items() if step > taken}
        for name, tree in slots.items():
            arrays |= {f"{slot}.{name}": array for slot, array in tree_flatten(tree)}
        return arrays | {f"{_MISSED}{name}": mx.array(count, mx.uint64) for name, count in missed.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """
        Replace the state. Nothing changes if anything is wrong.

        :param state_dict: as :meth:`state_dict` gives it, or a torch optimizer's, as SB3's files hold it
        :raises ValueError: if the names or shapes are not those of this optimizer
        """
        own = {name: value for name, value in self.state_dict().items() if not name.startswith(_MISSED)}
        if "param_groups" in state_dict:
            state_dict = {**own, **from_torch_state(state_dict, self.known_names)}
        given = {name: to_mlx(value) for name, value in state_dict.items()}
        known = self.known_names
        missed = {name: given.pop(key) for name in known if (key := f"{_MISSED}{name}") in given}
        wrong = sorted(own.keys() ^ given.keys()) or [k for k in own if own[k].shape != given[k].shape]
        wrong += [f"{_MISSED}{name}" for name, count in missed.items() if count.size != 1]
        if wrong:
            raise ValueError(
                f"The optimizer state does not fit {type(self.bare).__name__} over these parameters: "
                f"{', '.join(wrong[:5])}{', …' if len(wrong) > 5 else ''} missing, unknown or of another "
                "shape."
            )
        self._load(given, {name: _count(count) for name, count in missed.items()})
        mx.eval(self.state, self._parked)

    def _load(self, given: Arrays, missed: dict[str, int]) -> None:
        def loaded(name: str, tree: Any) -> Any:
            return tree_unflatten([(slot, given[f"{slot}.{name}"]) for slot, _ in tree_flatten(tree)])

        shared = {k: v for k, v in self.state.items() if isinstance(v, mx.array)}
        shared = {key: given[key].astype(value.dtype) for key, value in shared.items()}
        kept = {name: loaded(name, tree) for name, tree in self._slots().items()}
        step = _count(shared["step"])
        self._parked = {
            name: (loaded(name, tree), step - missed.get(name, 0)) for name, (tree, _) in self._parked.items()
        }
        self.missed = {name: missed[name] for name in self.names if missed.get(name)}
        self.state = shared
        # Everything is known of all arrays: their numbers do not matter.
        single = self._single
        self._lay_out(
            {
                name: mx.zeros(shape, mx.float32 if name in single else mx.float16)
                for name, shape in self.shapes.items()
            },
            kept,
        )


def _merge(arrays: list[mx.array]) -> mx.array:
    pieces = []
    for array in arrays:
        pieces.append(array.reshape(-1))
        if padding := _padded(array.size) - array.size:
            pieces.append(mx.zeros((padding,)))
    return mx.concatenate(pieces)


def _find(state: Any, name: str) -> Any:
    """What an optimizer that someone has initialised knows of an array; None if that is nothing."""
    place = state
    for key in name.split("."):
        if isinstance(place, list) and key.isdigit() and int(key) < len(place):
            place = place[int(key)]
        elif isinstance(place, dict) and key in place:
            place = place[key]
        else:
            return None
    return place if isinstance(place, dict) and place else None


def _count(scalar: mx.array) -> int:
    return int(np.asarray(scalar).item())


def _padded(size: int) -> int:
    return size + -size % _ALIGNMENT


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
