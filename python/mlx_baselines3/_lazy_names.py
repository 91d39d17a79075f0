"""
Names that a module offers because SB3's module of that name does, found when they are first asked for.

Most re-exports are plain imports, ``X as X`` or in ``__all__``. These are not, for one of three reasons: the
import would point upwards (from ``common`` to an algorithm, from ``vec_env`` to what needs MLX), the package
behind it is optional, or the module itself has no use for the package.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

# What a module offers under the usual abbreviations. Nothing here is imported before it is asked for.
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
    Make a module's ``__getattr__``.

    :param namespace: the module's ``globals()``; what was found is kept there
    :param abbreviations: modules under their usual names, separated by blanks, such as "np gym"
    :param names: where the others are, ``"module"`` or ``"module:attribute"``
    :param optional: the same for packages that need not be installed;
        the name is None without them, as in SB3
    :return: the function to be assigned to ``__getattr__``
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
