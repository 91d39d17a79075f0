"""The walls of docs/architecture.md: which module may import which, and how long files and functions are."""

import ast
import json
import pathlib
import subprocess
import sys

import pytest

import mlx_baselines3

PACKAGE = pathlib.Path(mlx_baselines3.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# The doors to the Rust core.
NATIVE_DOORS = {"_version.py", "_backend.py", "common/utils/system_info.py"}
ROOT = pathlib.Path(__file__).parents[2]
SOURCES = MODULES + sorted(
    path for room in ("tests", "benchmarks", "examples", "docs") for path in (ROOT / room).rglob("*.py")
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


# Ours and public, and the parts of the two families of algorithms.
OURS = {"export", "layers", "policy_checker"}
PARTS = {"_off_policy_steps"}


def test_common_shows_sb3s_modules():
    """What is ours lies in folders: nn, native, training, formats, saving."""
    recorded = json.loads((ROOT / "tests/data/sb3_namespaces.json").read_text())["names"]
    sb3 = {name.split(".")[2] for name in recorded if name.startswith("stable_baselines3.common.")}
    flat = {path.stem for path in MODULES if path.parent == PACKAGE / "common" and path.stem != "__init__"}
    assert flat - sb3 - OURS - PARTS == set()


# A module imports, when it is imported itself, only from its own line or those above. What functions import
# when they run, and what only type checkers read, may still point the other way.
FLOORS = [
    "_native _atomic _kernel_cache _lazy_names _tf32",
    "_version _backend common.monitor common.noise common.running_mean_std common.type_aliases",
    "common common.atari_wrappers common.envs common.logger common.results_plotter",
    "common.nn",
    "common.formats common.layers common.preprocessing common.sb2_compat common.utils",
    "common.distributions common.save_util common.torch_layers common.vec_env",
    "common.buffers common.env_checker common.env_util common.evaluation",
    "common.native her",
    "common.policies",
    "common.saving common.training",
    "common.callbacks common.policy_checker",
    "common.base_class",
    "common._off_policy_steps common.on_policy_algorithm",
    "common.off_policy_algorithm",
    "a2c ppo dqn sac td3",
    "ddpg",
    "export",
    "common.export __init__",
    "as_stable_baselines3",
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}


def room_of(module: str) -> str:
    parts = module.split(".")[1:] or ["__init__"]
    return ".".join(parts[:2]) if parts[0] == "common" else parts[0]


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_go_up_the_list(path):
    own = room_of(".".join(("mlx_baselines3", *path.relative_to(PACKAGE).with_suffix("").parts)))
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module in ("mlx_baselines3", "mlx_baselines3.common"):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [str(node.module)]
        else:
            continue
        for module in modules:
            if module.startswith("mlx_baselines3"):
                assert FLOOR_OF[room_of(module)] <= FLOOR_OF[own], f"{own} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_only_the_doors_import_the_rust_core(path):
    name = relative(path)
    if (
        name in NATIVE_DOORS
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
        "mlx_baselines3.common.type_aliases",
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
