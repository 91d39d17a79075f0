"""
Let packages that import ``stable_baselines3`` find this package.

>>> import mlx_baselines3.as_stable_baselines3  # before anything imports stable_baselines3
>>> from stable_baselines3 import PPO  # mlx_baselines3's

From then on ``stable_baselines3.x.y`` is the module ``mlx_baselines3.x.y`` itself: classes are the same under
both names, and ``isinstance`` agrees. Only ``stable_baselines3`` is a module of its own, since its version is
another: that of the SB3 release whose interface this package has, for programs that ask for ``>=2.0``.
``importlib.metadata.version`` says the same.

A program that cannot be changed is started with the alias in place by

``python -m mlx_baselines3.as_stable_baselines3 program.py ...`` or ``... -m module ...``.

Nothing of it happens unless this module is imported.
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
_CONTRIB = "sb3_contrib"


class _Package(types.ModuleType):
    """``stable_baselines3``: what ``mlx_baselines3`` has, with SB3's version."""

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(mlx_baselines3, name)
        except AttributeError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(mlx_baselines3)})


class _Distribution(importlib.metadata.Distribution):
    """What is asked for the version of an installed package."""

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        summary = "Stand-in of mlx-baselines3 (mlx_baselines3.as_stable_baselines3)"
        return f"Metadata-Version: 2.1\nName: stable-baselines3\nVersion: {SB3_VERSION}\nSummary: {summary}\n"

    def locate_file(self, path: Any) -> Path:
        return Path(mlx_baselines3.__file__).parent.parent / path


class _Loader(importlib.abc.Loader):
    """
    Gives a module that exists already under another name.

    :param target: its name
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.spec: importlib.machinery.ModuleSpec | None = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        if spec.name == _ALIAS:
            return _Package(_ALIAS, mlx_baselines3.__doc__)
        module = importlib.import_module(self.target)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        if isinstance(module, _Package):
            module.__file__ = mlx_baselines3.__file__
            vars(module).update(__version__=SB3_VERSION, __all__=mlx_baselines3.__all__)
        else:
            # the import system has just written the alias's into the module
            module.__spec__ = self.spec


class _Finder(importlib.abc.MetaPathFinder):
    """Stands first on ``sys.meta_path``, and answers for SB3's names alone."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == _CONTRIB:
            return _find_contrib()
        root, _, rest = name.partition(".")
        if root != _ALIAS:
            return None
        real_name = f"mlx_baselines3.{rest}" if rest else "mlx_baselines3"
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
        :return: SB3's, if it is asked for
        """
        name = getattr(context, "name", None)
        if name is None or name.replace("_", "-").replace(".", "-").lower() == "stable-baselines3":
            yield _Distribution()


_finder = _Finder()


def _find_elsewhere(name: str) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        if finder is not _finder:
            spec = finder.find_spec(name, None)
            if spec is not None:
                return spec
    return None


def _find_contrib() -> importlib.machinery.ModuleSpec:
    # here belongs the alias for mlx_baselines3.contrib, as soon as there is one
    spec = _find_elsewhere(_CONTRIB)
    if spec is None:
        raise ModuleNotFoundError(
            "sb3_contrib is not installed, and mlx_baselines3, which stands for stable_baselines3 here, has "
            "none of its algorithms (TQC, QRDQN, RecurrentPPO, MaskablePPO, TRPO, ARS, CrossQ).",
            name=_CONTRIB,
        )
    warnings.warn(
        f"sb3_contrib ({spec.origin}) is written for torch, but in this process mlx_baselines3 stands for "
        "stable_baselines3: its algorithms will not work. What is not made of torch may.",
        stacklevel=2,
    )
    return spec


def is_active() -> bool:
    """
    :return: whether ``stable_baselines3`` stands for this package now
    """
    return _finder in sys.meta_path


def activate() -> None:
    """
    Make ``stable_baselines3`` stand for this package. Importing this module does it; more calls do nothing.

    An installed SB3 is left where it is and not imported any more; a warning says so.

    :raises ImportError: SB3 itself has been imported already
    """
    if is_active():
        return
    present = sys.modules.get(_ALIAS)
    if present is not None:
        raise ImportError(
            f"stable_baselines3 itself is already imported, from {getattr(present, '__file__', None)}. "
            "Import mlx_baselines3.as_stable_baselines3 first, at the top of the program.",
            name=_ALIAS,
        )
    installed = _find_elsewhere(_ALIAS)
    sys.meta_path.insert(0, _finder)
    # The modules of environments may import the name in the processes that step them.
    worker_initializers.append(activate)
    if installed is not None:
        warnings.warn(
            f"stable_baselines3 is installed ({installed.origin}), but in this process the name stands for "
            "mlx_baselines3.",
            stacklevel=2,
        )


def deactivate() -> None:
    """Undo :func:`activate` for imports to come. What was imported stays where it was imported to."""
    if not is_active():
        return
    sys.meta_path.remove(_finder)
    worker_initializers.remove(activate)
    for name in [name for name in sys.modules if name.partition(".")[0] == _ALIAS]:
        del sys.modules[name]


activate()
