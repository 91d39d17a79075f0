"""The rules of docs/architecture.md: which module may import which, and how long files and functions are."""

import ast
import json
import pathlib
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name

import pytest

import mlx_baselines3
from mlx_baselines3._lazy_names import _ABBREVIATIONS

PACKAGE = pathlib.Path(mlx_baselines3.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# The modules that may import the Rust core.
NATIVE_IMPORTERS = {"_version.py", "_backend.py"}
ROOT = pathlib.Path(__file__).parents[2]
SOURCES = MODULES + sorted(
    path for folder in ("tests", "benchmarks", "examples", "docs") for path in (ROOT / folder).rglob("*.py")
)
ALGORITHMS = {"a2c", "ddpg", "dqn", "her", "ppo", "sac", "td3"}


def imported_modules(path: pathlib.Path, *, at_import_time: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_import_time else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def relative(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_torch_and_sb3_stay_outside(path):
    roots = {name.split(".")[0] for name in imported_modules(path)}
    assert not roots & {"torch", "stable_baselines3"}


# Ours and public.
OURS = {"export", "layers", "policy_checker"}
# What modules need of two of SB3's, `type_aliases` and `base_class`, that import them.
PRIVATE = {"_types", "_model"}


def test_common_shows_sb3s_modules():
    """What is ours lies in folders: nn, native, training, formats, saving."""
    recorded = json.loads((ROOT / "tests/data/sb3_namespaces.json").read_text())["names"]
    sb3 = {name.split(".")[2] for name in recorded if name.startswith("stable_baselines3.common.")}
    flat = {path.stem for path in MODULES if path.parent == PACKAGE / "common" and path.stem != "__init__"}
    assert flat - sb3 - OURS - PRIVATE == set()


def module_name(path: pathlib.Path) -> str:
    parts = ("mlx_baselines3", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in (*MODULES, PACKAGE / "_native.pyi")}


def packages_of(module: str) -> set[str]:
    parts = module.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))}


def named_in_call(call: ast.Call) -> set[str]:
    """Modules whose paths are strings in a call of `import_module` or `lazy_names`."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if function not in ("import_module", "lazy_names"):
        return set()
    texts = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
    paths = [text.partition(":")[0] for text in texts if isinstance(text, str)]
    if function == "lazy_names":
        paths += [_ABBREVIATIONS.get(word, "") for path in paths for word in path.split()]
    return set(paths)


def imported_files(module: str, source: str | None = None) -> set[str]:
    """
    The files of the package that a file imports: at its top, in functions, under TYPE_CHECKING, and by paths
    in strings. A name imported from a package counts as its ``__init__``. So does a module of it, for files
    outside the package.

    :param module: its name
    :param source: its text
    """
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    wanted: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text() if source is None else source)):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            names = {f"{origin}.{alias.name}" for alias in node.names}
            wanted |= {name if name in FILES else origin for name in names}
        elif isinstance(node, ast.Call):
            wanted |= named_in_call(node)
    wanted &= FILES.keys()
    passed = set().union(*map(packages_of, wanted)) - packages_of(module)
    return (wanted | passed) - {module}


# SB3's modules have these names because they import them. Here they are looked up when somebody asks for
# them, and the modules themselves do not use them.
UPWARD = {
    ("mlx_baselines3.common.utils", "mlx_baselines3"): "sb3",
    ("mlx_baselines3.common.save_util", "mlx_baselines3"): "sb3",
    ("mlx_baselines3.common.vec_env.vec_normalize", "mlx_baselines3.common.utils"): "utils",
    ("mlx_baselines3.common.evaluation", "mlx_baselines3.common.type_aliases"): "type_aliases",
}
ARROWS = {
    module: {target for target in imported_files(module) if (module, target) not in UPWARD}
    for module in FILES
}

# A module imports from its own folder and from the lines above its own, not from others on its line.
FLOORS = [
    "common _atomic _kernel_cache _lazy_names _native _tf32",
    "_backend _version",
    "_system_info common._types common.cuda common.logger common.monitor common.noise",
    "common.running_mean_std",
    "common.atari_wrappers common.envs common.nn common.results_plotter",
    "common.formats common.layers common.preprocessing common.sb2_compat",
    "common.distributions common.save_util common.vec_env",
    "common.env_checker common.env_util common.evaluation common.utils",
    "common.buffers common.torch_layers",
    "common.native her",
    "common.policies",
    "common._model",
    "common.saving common.training",
    "common.callbacks common.policy_checker",
    "common.type_aliases",
    "common.base_class",
    "common.off_policy_algorithm common.on_policy_algorithm",
    "a2c dqn ppo sac td3",
    "contrib ddpg",
    "export",
    "cohorts distributed",
    "__init__ common.export",
    "as_stable_baselines3",
    "zoo",
    "cli",
]
# Not there yet: many runs at once and runs on several machines above the algorithms (cohorts, distributed);
# trained agents and the command on top (zoo, cli).
PLANNED = {"cohorts", "distributed", "zoo", "cli"}
FLOOR_OF = {place: floor for floor, places in enumerate(FLOORS) for place in places.split()}


def place_of(module: str) -> str:
    parts = module.split(".")[1:] or ["__init__"]
    return ".".join(parts[:2]) if parts[0] == "common" else parts[0]


def not_below(module: str, targets: set[str]) -> set[str]:
    """:return: those of the imported files that are neither in the same folder nor on a line above"""
    own = place_of(module)
    places = {target: place_of(target) for target in targets}
    return {target for target, place in places.items() if place != own and FLOOR_OF[place] >= FLOOR_OF[own]}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_every_place_has_its_floor():
    assert {place_of(module) for module in FILES} == FLOOR_OF.keys() - PLANNED


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down_the_floors(module):
    assert not_below(module, ARROWS[module]) == set()


def test_no_circle_between_files():
    assert circle(ARROWS) == []


@pytest.mark.parametrize(("module", "target"), UPWARD)
def test_a_name_that_points_upward_is_there_for_sb3s_path_alone(module, target):
    assert target in imported_files(module)
    name = UPWARD[module, target]
    recorded = json.loads((ROOT / "tests/data/sb3_namespaces.json").read_text())["names"]
    sb3 = module.replace("mlx_baselines3", "stable_baselines3")
    assert recorded[sb3][name] == f"module {target.replace('mlx_baselines3', 'stable_baselines3')}"
    # Not in the module's namespace before somebody asks, so the module itself cannot use it.
    assert name not in {
        node.id for node in ast.walk(ast.parse(FILES[module].read_text())) if isinstance(node, ast.Name)
    }


@pytest.mark.parametrize(
    "source",
    [
        "from mlx_baselines3.ppo import PPO",
        "import mlx_baselines3.ppo.ppo",
        "from mlx_baselines3 import ppo",
        "def late():\n    from mlx_baselines3.ppo.ppo import PPO",
        "if TYPE_CHECKING:\n    from mlx_baselines3.ppo.policies import MlpPolicy",
        "from ...ppo import PPO",
        "ppo = importlib.import_module('mlx_baselines3.ppo')",
        "__getattr__ = lazy_names(globals(), names={'PPO': 'mlx_baselines3.ppo.ppo:PPO'})",
        "__getattr__ = lazy_names(globals(), 'np sb3')",
        "import mlx_baselines3",
    ],
)
def test_the_tests_of_imports_see_every_kind(source):
    module = "mlx_baselines3.common.vec_env.util"
    targets = imported_files(module, source)
    assert not_below(module, targets) == targets != set()
    assert module in circle({**ARROWS, module: targets})


def test_an_import_from_the_own_package_counts_as_one_of_its_init():
    module = "mlx_baselines3.common.vec_env.util"
    targets = imported_files(module, "from mlx_baselines3.common.vec_env import VecEnv")
    assert targets == {"mlx_baselines3.common.vec_env"}
    assert not_below(module, targets) == set()
    assert module in circle({**ARROWS, module: targets})


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_few_modules_import_the_rust_core(path):
    name = relative(path)
    if (
        name in NATIVE_IMPORTERS
        or name.startswith(("common/buffers/", "common/native/"))
        or "native" in path.stem
    ):
        return
    assert "mlx_baselines3._native" not in imported_modules(path)


@pytest.mark.parametrize("path", [p for p in MODULES if "vec_env" in p.parts], ids=relative)
def test_environments_do_not_need_mlx(path):
    assert "mlx" not in {name.split(".")[0] for name in imported_modules(path)}


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "losses.py"], ids=relative)
def test_losses_are_mlx_alone(path):
    allowed = {
        "mlx.core",
        "mlx.nn",
        "__future__",
        "typing",
        "collections.abc",
        "mlx_baselines3.common.training.losses",
        "mlx_baselines3.common.nn.sums",
    }
    assert {n for n in imported_modules(path) if not n.startswith(tuple(allowed))} == set()


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name in ALGORITHMS], ids=relative)
def test_algorithms_do_not_import_each_other(path):
    own = path.parent.name
    others = {
        name.split(".")[1]
        for name in imported_modules(path)
        if name.startswith("mlx_baselines3.") and name.split(".")[1] in ALGORITHMS - {own}
    }
    # DDPG is TD3 with other settings.
    assert others <= ({"td3"} if own == "ddpg" else set())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-3:]))
def test_files_are_one_topic_and_functions_fit_a_screen(path):
    text = path.read_text()
    assert len(text.splitlines()) < 700
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1
            assert length <= 50, f"{node.name} has {length} lines"


def test_no_two_test_modules_share_a_name():
    """pytest imports them by their file names, without folders, and so do processes that a test spawns."""
    names = [path.stem for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_import_needs_no_extra():
    extras = ("pandas", "matplotlib", "tensorboard", "tqdm", "rich", "pygame", "torch", "stable_baselines3")
    code = (
        f"import sys\nfor name in {extras!r}: sys.modules[name] = None\n"
        "import mlx_baselines3\nprint(sorted(m for m in sys.modules if sys.modules[m] is not None "
        f"and m.split('.')[0] in {extras!r}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
