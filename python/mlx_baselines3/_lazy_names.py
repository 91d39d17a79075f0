"""
Lazy re-exports of names that SB3's module of the same name has.

Most re-exports are plain imports, ``X as X`` or in ``__all__``. These are lazy for one of three reasons: the
import would violate the layering (from ``common`` to an algorithm, from ``vec_env`` to code that needs MLX),
the package behind it is optional, or the module itself does not use the package.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

# Modules under their usual abbreviations, imported on first access.
_ABBREVIATIONS = {
    "np": "numpy",
    "gym": "gymnasium",
    "spaces": "gymnasium.spaces",
    "sb3": "mlx_baselines3",
    "cloudpickle": "cloudpickle",
}


def lazy_names(
    namespace: dict[str, Any],
    abbreviations: str = "",
    *,
    names: Mapping[str, str] | None = None,
    optional: Mapping[str, str] | None = None,
) -> Callable[[str], Any]:
    """
    Create a module's ``__getattr__``.

    :param namespace: the module's ``globals()``, where resolved names are cached
    :param abbreviations: modules under their usual names, separated by blanks, such as "np gym"
    :param names: targets of the other names, ``"module"`` or ``"module:attribute"``
    :param optional: the same for optional packages; without the package the name is None, as in SB3
    :return: the function to assign to ``__getattr__``
    """
    required = {name: _ABBREVIATIONS[name] for name in abbreviations.split()} | dict(names or {})
    may_be_missing = optional or {}

    def find(name: str) -> Any:
        if name in required:
            found = _look_up(required[name])
        elif name in may_be_missing:
            try:
                found = _look_up(may_be_missing[name])
            except ImportError:
                found = None
        else:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        return namespace.setdefault(name, found)

    return find


def _look_up(path: str) -> Any:
    module, _, attribute = path.partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found
