"""State dictionaries of modules, with torch's interface."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_baselines3.common.nn.interop import to_mlx
from mlx_baselines3.common.nn.named_arrays import named_parameters, set_named_parameters

__all__ = ["IncompatibleKeys", "StateDict"]


class IncompatibleKeys(NamedTuple):
    """
    Names ignored by ``load_state_dict(strict=False)``.

    :param missing_keys: names of the module that were not given
    :param unexpected_keys: given names that the module does not have
    """

    missing_keys: list[str]
    unexpected_keys: list[str]


class StateDict:
    """Mixin with torch's methods for a module's arrays."""

    def state_dict(self) -> dict[str, mx.array]:
        """:return: all arrays of the module by SB3's names"""
        return named_parameters(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """
        Replace arrays by name; after an error nothing has changed.

        :param state_dict: name -> array (MLX or NumPy)
        :param strict: every array must be given, and nothing else
        :return: the ignored names, none if ``strict``
        :raises RuntimeError: if names are missing or unknown (only when ``strict``) or a shape differs
        """
        own = self.state_dict()
        missing, unknown = sorted(own.keys() - state_dict.keys()), sorted(state_dict.keys() - own.keys())
        problems = []
        if strict and missing:
            problems.append(f"Missing key(s) in state_dict: {', '.join(missing)}.")
        if strict and unknown:
            problems.append(f"Unexpected key(s) in state_dict: {', '.join(unknown)}.")
        known = {name: to_mlx(value) for name, value in state_dict.items() if name in own}
        problems += [
            f"size mismatch for {name}: the value has shape {value.shape}, the network {own[name].shape}."
            for name, value in known.items()
            if value.shape != own[name].shape
        ]
        if problems:
            raise RuntimeError(f"Cannot load the state of {type(self).__name__}: " + " ".join(problems))
        # Copies: shared arrays could be changed in place through either network.
        new = {self._own_name(name): mx.array(value.astype(own[name].dtype)) for name, value in known.items()}
        mx.eval(new)
        self._set_named_parameters(new)
        return IncompatibleKeys(missing, unknown)

    def _set_named_parameters(self, parameters: Mapping[str, mx.array]) -> None:
        set_named_parameters(self, parameters)

    def _own_name(self, name: str) -> str:
        """:return: the module's name of the array that ``state_dict`` calls ``name``"""
        return name

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, mx.array]]:
        """
        :param prefix: prefix of each name, separated by a dot
        :param recurse: include the arrays of child modules
        :return: name and array of each parameter, without running statistics
        """
        for name, array in named_parameters(self).items():
            if "running_" not in name and (recurse or "." not in name):
                yield (f"{prefix}.{name}" if prefix else name), array
