"""``mlx_baselines3.as_stable_baselines3``, seen from a package that knows stable_baselines3 alone."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

DATA = pathlib.Path(__file__).parents[1] / "data"
ACTIVATE = "import mlx_baselines3.as_stable_baselines3\n"


@pytest.fixture
def site(tmp_path):
    """A folder with a package that imports stable_baselines3, checks its version and extends its classes."""
    package = tmp_path / "third_party"
    package.mkdir()
    (package / "__init__.py").write_text(
        textwrap.dedent("""
            import importlib.metadata

            import stable_baselines3

            for version in (stable_baselines3.__version__, importlib.metadata.version("stable_baselines3")):
                if not (2, 0) <= tuple(map(int, version.split(".")[:2])) < (3, 0):
                    raise ImportError(f"needs stable_baselines3 2, not {version}")
        """)
    )
    (package / "callback.py").write_text(
        textwrap.dedent("""
            from stable_baselines3.common.callbacks import BaseCallback
            from stable_baselines3.common.policies import obs_as_tensor


            class Counter(BaseCallback):
                steps = 0

                def _on_step(self):
                    self.steps += 1
                    return True
        """)
    )
    (package / "env.py").write_text(
        textwrap.dedent("""
            import stable_baselines3.common.envs as envs


            class Env(envs.IdentityEnv):
                pass
        """)
    )
    return tmp_path


def python(site, *arguments, code=0):
    """
    :return: what the process wrote to stdout, or to stderr if it is to fail
    """
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "error", *arguments]
    out = subprocess.run(
        command, capture_output=True, text=True, cwd=site, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert out.returncode == code, out.stderr
    return out.stderr if code else out.stdout


def run(site, program, **kwargs):
    return python(site, "-c", textwrap.dedent(program), **kwargs)


def fake(site, name, version=None):
    """Install a package that says that it was imported."""
    (site / name).mkdir()
    (site / name / "__init__.py").write_text("print('the real one')\n")
    if version is not None:
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_package_that_imports_sb3_works_with_this_one(site):
    run(
        site,
        ACTIVATE
        + """
import mlx_baselines3
import third_party
from third_party.callback import BaseCallback, Counter
from third_party.env import Env
from stable_baselines3 import PPO
import stable_baselines3

counter = Counter()
model = PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1)
model.learn(16, callback=counter)
assert counter.steps == 16
assert isinstance(Env(dim=3), mlx_baselines3.common.envs.IdentityEnv)
assert PPO is mlx_baselines3.PPO is stable_baselines3.ppo.PPO
from mlx_baselines3.common import callbacks
assert BaseCallback is callbacks.BaseCallback
""",
    )


def test_modules_are_the_same_objects_and_keep_their_own_names(site):
    run(
        site,
        ACTIVATE
        + """
import importlib, inspect, pkgutil, sys
import mlx_baselines3, stable_baselines3

for info in pkgutil.walk_packages(mlx_baselines3.__path__, "mlx_baselines3."):
    if "as_stable_baselines3" in info.name:
        continue
    own = importlib.import_module(info.name)
    spec = own.__spec__
    alias = importlib.import_module(info.name.replace("mlx", "stable", 1))
    assert alias is own and own.__spec__ is spec and own.__name__ == spec.name == info.name
assert importlib.reload(stable_baselines3.common.running_mean_std).__name__.startswith("mlx_")
assert set(mlx_baselines3.__all__) == set(stable_baselines3.__all__) <= set(dir(stable_baselines3))
from stable_baselines3 import *
assert A2C is mlx_baselines3.A2C
assert inspect.getfile(stable_baselines3) == mlx_baselines3.__file__
""",
    )


def test_the_version_is_that_of_sb3s_interface(site):
    out = run(
        site,
        ACTIVATE
        + """
import importlib.metadata as metadata
import mlx_baselines3, stable_baselines3
from mlx_baselines3.as_stable_baselines3 import SB3_VERSION

names = [found.metadata["Name"] for found in metadata.distributions()]
assert names.count("stable-baselines3") == 1
metadata.entry_points()
assert mlx_baselines3.__version__ != SB3_VERSION
print(SB3_VERSION, stable_baselines3.__version__)
print(metadata.version("stable_baselines3"), metadata.version("stable-baselines3"))
print(metadata.requires("stable-baselines3"), metadata.version("numpy") != SB3_VERSION)
""",
    )
    version = json.loads((DATA / "sb3_namespaces.json").read_text())["sb3_version"]
    assert out.split() == [version] * 4 + ["None", "True"]


def test_modules_that_are_nowhere_are_reported_as_always(site):
    out = run(
        site,
        ACTIVATE
        + """
import importlib.util
print(importlib.util.find_spec("stable_baselines3.common.nowhere"))
for line in ("import stable_baselines3.common.nowhere", "from stable_baselines3 import Nowhere"):
    try:
        exec(line)
    except ImportError as error:
        print(str(error).split(" (")[0])
""",
    )
    assert out.splitlines() == [
        "None",
        "No module named 'stable_baselines3.common.nowhere'",
        "cannot import name 'Nowhere' from 'stable_baselines3'",
    ]


def test_nothing_happens_unless_it_is_asked_for(site):
    fake(site, "stable_baselines3", "1.2.3")
    out = run(
        site,
        """
        import importlib.metadata
        import mlx_baselines3
        print(importlib.metadata.version("stable_baselines3"))
        import stable_baselines3
        """,
    )
    assert out.split("\n") == ["1.2.3", "the real one", ""]


def test_an_installed_sb3_is_passed_over_with_a_warning(site):
    fake(site, "stable_baselines3", "1.2.3")
    out = run(
        site,
        """
        import importlib.metadata, warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import mlx_baselines3.as_stable_baselines3
        import stable_baselines3
        print(importlib.metadata.version("stable_baselines3"), stable_baselines3.PPO.__module__)
        print([str(one.message) for one in caught if "stable_baselines3" in str(one.message)])
        """,
    )
    first, second = out.splitlines()
    assert first == "2.9.2 mlx_baselines3.ppo.ppo"
    assert "stable_baselines3 is installed" in second
    assert str(site / "stable_baselines3" / "__init__.py") in second


def test_an_imported_sb3_is_not_replaced(site):
    fake(site, "stable_baselines3")
    out = run(site, "import stable_baselines3\n" + ACTIVATE, code=1)
    assert "ImportError: stable_baselines3 itself is already imported, from " in out
    assert str(site / "stable_baselines3") in out
    assert "first, at the top of the program" in out


def test_it_can_be_undone_and_done_again(site):
    fake(site, "stable_baselines3")
    out = run(
        site,
        """
        import sys, warnings
        warnings.simplefilter("ignore")
        from mlx_baselines3 import as_stable_baselines3 as alias
        import stable_baselines3.common.policies as policies
        assert alias.is_active()
        alias.activate()
        alias.deactivate()
        assert not alias.is_active() and not any(name.startswith("stable_") for name in sys.modules)
        alias.deactivate()
        assert sys.modules["mlx_baselines3.common.policies"] is policies
        import stable_baselines3
        assert not hasattr(stable_baselines3, "PPO")
        del sys.modules["stable_baselines3"]
        alias.activate()
        import stable_baselines3
        print(stable_baselines3.PPO.__name__)
        """,
    )
    assert out.splitlines() == ["the real one", "PPO"]


def test_what_is_pickled_under_the_alias_is_read_without_it(site):
    run(
        site,
        ACTIVATE
        + """
import pickle
from stable_baselines3 import PPO
from stable_baselines3.common.running_mean_std import RunningMeanStd
with open("pickled", "wb") as file:
    pickle.dump([PPO, RunningMeanStd(shape=(2,))], file)
""",
    )
    out = run(
        site,
        """
        import pickle, sys
        with open("pickled", "rb") as file:
            PPO, statistics = pickle.load(file)
        print(PPO.__module__, statistics.mean.shape, "mlx_baselines3.as_stable_baselines3" in sys.modules)
        """,
    )
    assert out.strip() == "mlx_baselines3.ppo.ppo (2,) False"


def test_sb3_contrib_is_an_alias_too(site):
    out = run(
        site,
        ACTIVATE
        + """
import importlib.metadata
import sb3_contrib
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
import mlx_baselines3.contrib
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
assert MaskablePPO is mlx_baselines3.contrib.MaskablePPO and issubclass(MaskablePPO, OnPolicyAlgorithm)
assert set(dir(sb3_contrib)) >= set(sb3_contrib.__all__) == set(mlx_baselines3.contrib.__all__)
print(sb3_contrib.__version__, importlib.metadata.version("sb3_contrib"), get_action_masks.__module__)
print(sb3_contrib.__doc__.partition(":")[0], sb3_contrib.__file__.endswith("contrib/__init__.py"))
try:
    from sb3_contrib import Absent
except ImportError as error:
    print(error)
""",
    )
    version, doc, error = out.splitlines()
    assert version == "2.9.2 2.9.2 mlx_baselines3.contrib.common.maskable.utils"
    assert doc == "sb3-contrib's algorithms True"
    assert "cannot import name 'Absent' from 'sb3_contrib'" in error


def test_an_installed_sb3_contrib_is_ignored_with_a_warning(site):
    fake(site, "sb3_contrib")
    out = run(
        site,
        """
        import warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import mlx_baselines3.as_stable_baselines3
        print(caught[0].message)
        from sb3_contrib import MaskablePPO
        print(MaskablePPO.__module__)
        """,
    )
    said, module = out.splitlines()
    assert said.startswith("sb3_contrib is installed (")
    assert said.endswith("but in this process the name stands for mlx_baselines3.contrib.")
    assert module == "mlx_baselines3.contrib.ppo_mask.ppo_mask"


PROGRAM = """
import sys
from third_party.env import Env
from stable_baselines3.common.vec_env import SubprocVecEnv


class Own(Env):
    pass


if __name__ == "__main__":
    print(sys.argv[1:], __name__, __file__.endswith("program.py"), "_load" in globals())
    envs = SubprocVecEnv([lambda: Own(dim=3), lambda: Env(dim=3)])
    print(envs.reset().shape, envs.get_attr("num_resets"))
    envs.close()
"""


@pytest.mark.parametrize("start", [["program.py"], ["-m", "program"]])
def test_programs_run_as_they_are(site, start):
    """Their worker processes, too: the modules of the environments import stable_baselines3 there."""
    (site / "program.py").write_text(PROGRAM)
    out = python(site, "-m", "mlx_baselines3.as_stable_baselines3", *start, "one", "-m")
    assert out.splitlines() == ["['one', '-m'] __main__ True False", "(2,) [1, 1]"]


def test_a_program_with_the_import_has_workers_too(site):
    (site / "program.py").write_text(ACTIVATE + PROGRAM)
    assert python(site, "program.py").splitlines()[-1] == "(2,) [1, 1]"


def test_a_package_runs_by_its_main_module(site):
    (site / "third_party" / "__main__.py").write_text(
        "from . import env\nprint(env.Env.__base__.__module__)\n"
    )
    out = python(site, "-W", "ignore", "-m", "mlx_baselines3.as_stable_baselines3", "-m", "third_party")
    assert out.strip() == "mlx_baselines3.common.envs.identity_env"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: python -m mlx_baselines3.as_stable_baselines3 (program.py | -m module) [arguments]"),
        (["-m"], "usage: python -m mlx_baselines3.as_stable_baselines3 (program.py | -m module) [arguments]"),
        (["-m", "nowhere"], "no runnable module named nowhere"),
        (["nowhere.py"], "cannot open nowhere.py: No such file or directory"),
    ],
)
def test_a_program_that_is_not_there_is_reported(site, arguments, message):
    assert message in python(site, "-m", "mlx_baselines3.as_stable_baselines3", *arguments, code=1)
