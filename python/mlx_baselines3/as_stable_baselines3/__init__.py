"""
Let packages that import ``stable_baselines3`` and ``sb3_contrib`` find this package.

>>> import mlx_baselines3.as_stable_baselines3  # before anything imports stable_baselines3
>>> from stable_baselines3 import PPO  # mlx_baselines3's
>>> from sb3_contrib import MaskablePPO  # mlx_baselines3.contrib's

From then on ``stable_baselines3.x.y`` is the module ``mlx_baselines3.x.y``, and ``sb3_contrib.x.y`` is
``mlx_baselines3.contrib.x.y``: classes are the same under both names, and ``isinstance`` agrees. Only the two
packages themselves are separate modules, because their version differs: it is that of the SB3 release whose
interface is implemented, for programs that require ``>=2.0``. ``importlib.metadata.version`` returns the same
version.

To run a program unchanged, start it with

``python -m mlx_baselines3.as_stable_baselines3 program.py ...`` or ``... -m module ...``.

The alias is active only if this module is imported.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import mlx_baselines3
from mlx_baselines3.common.saving.to_sb3 import SB3_VERSION
from mlx_baselines3.common.vec_env._subproc_worker import worker_initializers

__all__ = ["SB3_VERSION", "activate", "deactivate", "is_active"]

_ALIAS = "stable_baselines3"
# Alias -> the package that it stands for. Both are released together, under one version.
_PACKAGES = {_ALIAS: "mlx_baselines3", "sb3_contrib": "mlx_baselines3.contrib"}


class _Package(types.ModuleType):
    """One of the aliases: the attributes of what it stands for, with SB3's version."""

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(_stands_for(self.__name__), name)
        except AttributeError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(_stands_for(self.__name__))})


def _stands_for(alias: str) -> types.ModuleType:
    return importlib.import_module(_PACKAGES[alias])


def _project(alias: str) -> str:
    """:return: the name of the alias's distribution"""
    return alias.replace("_", "-")


class _Distribution(importlib.metadata.Distribution):
    """
    Metadata of an alias, for ``importlib.metadata.version``.

    :param alias: the alias
    """

    def __init__(self, alias: str) -> None:
        self._project = _project(alias)

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        summary = "Stand-in of mlx-baselines3 (mlx_baselines3.as_stable_baselines3)"
        return f"Metadata-Version: 2.1\nName: {self._project}\nVersion: {SB3_VERSION}\nSummary: {summary}\n"

    def locate_file(self, path: Any) -> Path:
        return Path(mlx_baselines3.__file__).parent.parent / path


class _Loader(importlib.abc.Loader):
    """
    Returns a module that exists already under another name.

    :param target: its name
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.spec: importlib.machinery.ModuleSpec | None = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        if spec.name in _PACKAGES:
            return _Package(spec.name, _stands_for(spec.name).__doc__)
        module = importlib.import_module(self.target)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        if isinstance(module, _Package):
            original = _stands_for(module.__name__)
            module.__file__ = original.__file__
            vars(module).update(__version__=SB3_VERSION, __all__=original.__all__)
        else:
            # The import system has just overwritten these attributes with the alias's.
            module.__spec__ = self.spec


class _Finder(importlib.abc.MetaPathFinder):
    """First on ``sys.meta_path``; handles SB3's names only."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        root, _, rest = name.partition(".")
        if root not in _PACKAGES:
            return None
        real_name = f"{_PACKAGES[root]}.{rest}" if rest else _PACKAGES[root]
        real = importlib.util.find_spec(real_name)
        if real is None:
            return None
        spec = importlib.machinery.ModuleSpec(name, _Loader(real_name), origin=real.origin)
        spec.submodule_search_locations = real.submodule_search_locations
        return spec

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterable[importlib.metadata.Distribution]:
        """
        :param context: which distributions are asked for; all of them if None, or if it has no name
        :return: those of the aliases that are requested
        """
        name = getattr(context, "name", None)
        wanted = None if name is None else name.replace("_", "-").replace(".", "-").lower()
        for alias in _PACKAGES:
            if wanted in (None, _project(alias)):
                yield _Distribution(alias)


_finder = _Finder()


def _find_elsewhere(name: str) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        if finder is not _finder:
            spec = finder.find_spec(name, None)
            if spec is not None:
                return spec
    return None


def is_active() -> bool:
    """
    :return: whether the aliases stand for this package now
    """
    return _finder in sys.meta_path


def activate() -> None:
    """
    Make ``stable_baselines3`` and ``sb3_contrib`` aliases of this package. Importing this module calls it;
    further calls have no effect.

    Installed packages of these names are ignored, with a warning.

    :raises ImportError: one of the two is already imported
    """
    if is_active():
        return
    for alias in _PACKAGES:
        if (present := sys.modules.get(alias)) is not None:
            raise ImportError(
                f"{alias} itself is already imported, from {getattr(present, '__file__', None)}. "
                "Import mlx_baselines3.as_stable_baselines3 first, at the top of the program.",
                name=alias,
            )
    installed = {alias: _find_elsewhere(alias) for alias in _PACKAGES}
    sys.meta_path.insert(0, _finder)
    # The modules of environments may import the name in the processes that step them.
    worker_initializers.append(activate)
    for alias, spec in installed.items():
        if spec is not None:
            warnings.warn(
                f"{alias} is installed ({spec.origin}), but in this process the name stands for "
                f"{_PACKAGES[alias]}.",
                stacklevel=2,
            )


def deactivate() -> None:
    """Undo :func:`activate` for later imports. Modules that are already imported stay."""
    if not is_active():
        return
    sys.meta_path.remove(_finder)
    worker_initializers.remove(activate)
    for name in [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]:
        del sys.modules[name]


activate()
