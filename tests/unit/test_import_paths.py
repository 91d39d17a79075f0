"""Every name that can be imported from a module of SB3 can be imported from the same module here."""

import abc
import ast
import collections.abc
import importlib
import json
import pathlib
import subprocess
import sys
import types
import typing

import numpy.typing
import pytest

RECORDED = json.loads((pathlib.Path(__file__).parents[1] / "data" / "sb3_namespaces.json").read_text())
NAMES: dict[str, dict[str, str]] = RECORDED["names"]
ALL: dict[str, list[str]] = RECORDED["all"]
TYPING = (typing, collections.abc, abc, numpy.typing)


def ours(module: str) -> str:
    return module.replace("stable_baselines3", "mlx_baselines3", 1)


def left_out(module: str, name: str, origin: str) -> str | None:
    """
    :return: why this name need not be here; None if it must be
    """
    path = origin.removeprefix("module ")
    root = path.partition(".")[0]
    if root == "torch":
        return "torch, and what is made of torch alone: there is none"
    if name.startswith("_"):
        return "private: how SB3 does it, not what it offers"
    if name.startswith("Self") or name == "T":
        return "type variables for the annotations of SB3's own methods"
    if not origin.startswith("module ") and any(hasattr(where, name) for where in TYPING):
        return "typing names: they are typing's, and mean nothing more here"
    # aliases such as `GymEnv` seem to come from typing, and constants from builtins
    is_alias = path in ("typing", "collections.abc", "builtins")
    if root in sys.stdlib_module_names and not is_alias:
        return "the standard library's, which SB3 merely uses"
    if (module, name) == ("stable_baselines3", "version_file"):
        return "a variable of the lines that read SB3's version from a file"
    return None


WANTED = [
    (module, name, origin)
    for module, names in NAMES.items()
    for name, origin in names.items()
    if left_out(module, name, origin) is None
]


def test_the_rules_leave_little_out():
    wanted = {(module.removeprefix("stable_baselines3."), name) for module, name, _ in WANTED}
    assert len(wanted) > 0.55 * sum(map(len, NAMES.values()))
    assert {
        ("common.policies", "obs_as_tensor"),
        ("common.policies", "PyTorchObs"),
        ("common.policies", "Schedule"),
        ("common.policies", "np"),
        ("common.callbacks", "tqdm"),
        ("common.base_class", "Logger"),
        ("common.base_class", "GymEnv"),
        ("common.buffers", "psutil"),
        ("common.results_plotter", "plt"),
        ("common.results_plotter", "X_TIMESTEPS"),
        ("common.atari_wrappers", "AtariStepReturn"),
        ("sac.policies", "LOG_STD_MAX"),
    } <= wanted


@pytest.mark.parametrize("module", NAMES, ids=lambda name: name.removeprefix("stable_baselines3."))
def test_names_are_importable_from_the_same_module(module):
    here = importlib.import_module(ours(module))
    missing = [name for where, name, _ in WANTED if where == module and not _importable(here, name)]
    assert missing == []


def _importable(module: types.ModuleType, name: str) -> bool:
    try:
        exec(f"from {module.__name__} import {name}", {})
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("module", NAMES, ids=lambda name: name.removeprefix("stable_baselines3."))
def test_a_name_means_the_same_object_wherever_it_is_imported_from(module):
    here = importlib.import_module(ours(module))
    for where, name, origin in WANTED:
        if where != module:
            continue
        if origin.startswith("module "):
            path = ours(origin.removeprefix("module "))
            # A module inside a package is its attribute once somebody has imported it.
            assert _importable(here, name), name
            assert getattr(here, name) in (None, sys.modules.get(path)), name
        elif origin.startswith("stable_baselines3."):
            home = importlib.import_module(ours(origin))
            # `a2c.policies.CnnPolicy` is called otherwise where it is defined
            if name in NAMES[origin]:
                assert getattr(here, name) is getattr(home, name), name
        elif name in NAMES["stable_baselines3.common.type_aliases"]:
            home = importlib.import_module("mlx_baselines3.common.type_aliases")
            assert getattr(here, name) is getattr(home, name), name


@pytest.mark.parametrize("module", NAMES, ids=lambda name: name.removeprefix("stable_baselines3."))
def test_star_imports_give_what_sb3_gives(module):
    given: dict[str, object] = {}
    exec(f"from {ours(module)} import *", given)
    del given["__builtins__"]
    if module in ALL:
        expected = set(ALL[module])
    else:
        # a star gives what is in the module already: no modules under abbreviations, no upward import
        expected = {
            name
            for where, name, origin in WANTED
            if where == module
            and origin.startswith(("stable_baselines3.", "builtins", "typing", "collections.abc"))
            and (module, name) != ("stable_baselines3.common.off_policy_algorithm", "HerReplayBuffer")
        }
    assert expected - given.keys() == set()
    assert all(not name.startswith("__") for name in given)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("common.base_class", "Logger"),
        ("common.buffers", "RolloutBufferSamples"),
        ("common.buffers", "VecNormalize"),
        ("common.buffers", "psutil"),
        ("common.callbacks", "evaluate_policy"),
        ("common.callbacks", "tqdm"),
        ("common.off_policy_algorithm", "HerReplayBuffer"),
        ("common.on_policy_algorithm", "obs_as_tensor"),
        ("common.policies", "BaseFeaturesExtractor"),
        ("common.policies", "obs_as_tensor"),
        ("sac.sac", "polyak_update"),
        ("td3.policies", "get_actor_critic_arch"),
    ],
)
def test_type_checkers_see_the_name_as_exported(module, name):
    """In ``__all__``, or imported as itself: nothing else is exported, to strict checkers."""
    here = importlib.import_module(f"mlx_baselines3.{module}")
    assert here.__file__ is not None
    imports = [
        alias
        for node in ast.walk(ast.parse(pathlib.Path(here.__file__).read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert name in getattr(here, "__all__", ()) or any(one.name == one.asname == name for one in imports)


def test_the_package_exports_sb3s_names_and_no_others():
    package = importlib.import_module("mlx_baselines3")
    assert sorted(package.__all__) == sorted(ALL["stable_baselines3"])


@pytest.mark.parametrize("module", ["common.callbacks", "common.buffers", "common.vec_env.vec_normalize"])
def test_a_name_that_is_nowhere_is_still_an_error(module):
    here = importlib.import_module(f"mlx_baselines3.{module}")
    with pytest.raises(AttributeError, match=f"module 'mlx_baselines3.{module}' has no attribute 'tqmd'"):
        _ = here.tqmd
    assert not _importable(here, "tqmd")


def test_optional_packages_are_none_without_them_and_imported_only_when_asked_for():
    code = """
import sys
import mlx_baselines3
from mlx_baselines3.common import atari_wrappers, buffers, callbacks, logger
packages = ("tqdm", "rich", "psutil", "pandas", "matplotlib", "cv2")
print(sorted(set(packages) & set(sys.modules)))
for name in packages:
    sys.modules[name] = None
from mlx_baselines3.common.atari_wrappers import cv2
from mlx_baselines3.common.buffers import psutil
from mlx_baselines3.common.callbacks import tqdm
print(cv2, psutil, tqdm, logger.tqdm)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == ["[]", "None None None None"]


def _in_a_new_process(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_an_algorithm_is_imported_when_it_is_asked_for():
    loaded = _in_a_new_process(
        "import sys\nfrom mlx_baselines3 import PPO\nprint(*sys.modules, sep='\\n')"
    ).split()
    assert "mlx_baselines3.ppo.ppo" in loaded
    others = {"sac", "td3", "ddpg", "dqn", "a2c", "contrib"}
    assert not [name for name in loaded if name.split(".")[1:2] and name.split(".")[1] in others]
    # Kernels for a GPU, and what a program may never need.
    assert not {"mlx_baselines3.common.cuda.program", "concurrent.futures.thread"} & set(loaded)


def test_all_names_and_packages_are_there_without_a_further_import():
    script = (
        "import mlx_baselines3 as m\n"
        "print(m.sac.SAC is m.SAC, m.common.utils.get_system_info is m.get_system_info)\n"
        "print(set(m.__all__) <= set(dir(m)))\n"
        "exec('from mlx_baselines3 import *')\n"
        "print(HerReplayBuffer is m.her.HerReplayBuffer, DDPG.__name__)"
    )
    assert _in_a_new_process(script).split() == ["True", "True", "True", "True", "DDPG"]


@pytest.mark.parametrize("algorithm", ["a2c", "ddpg", "dqn", "ppo", "sac", "td3"])
def test_a_file_of_an_algorithm_is_read_before_the_algorithm_is_imported(algorithm):
    folder = pathlib.Path(__file__).parents[1] / "data" / "archives" / "0.1.0"
    script = (
        "import sys\n"
        "from mlx_baselines3.common.save_util import load_from_zip_file\n"
        "assert 'mlx_baselines3.sac' not in sys.modules\n"
        "data, _, _ = load_from_zip_file(sys.argv[1])\n"
        "print(data['policy_class'].__name__)"
    )
    assert _in_a_new_process(script, str(folder / f"{algorithm}.zip")).strip().endswith("Policy")
