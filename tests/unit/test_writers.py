"""Every place where the package writes a file is listed here, and a file is replaced as a whole."""

import ast
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import mlx_baselines3
from mlx_baselines3 import _atomic
from mlx_baselines3._atomic import atomic_open, atomic_path
from support import writer_cases

PACKAGE = pathlib.Path(mlx_baselines3.__file__).parent
APPENDS = "a log: rows are appended as they come, and flushed; SB3 starts it anew with every run"
STREAM = "writes to a stream that is given"
ATOMIC = "the way by which files are replaced as a whole"
# Where files are opened to write, or given to what opens them, and why that is right. Those of the last kind
# have cases in support/writer_cases.py.
WRITERS = {
    "_atomic.py:atomic_open open": "a device or a pipe, which cannot be replaced",
    "_atomic.py:_temporary open": ATOMIC,
    "_atomic.py:_remove_if_abandoned open": "only to lock it",
    "_atomic.py:atomic_open replace": ATOMIC,
    "_atomic.py:atomic_path replace": ATOMIC,
    "common/formats/archive.py:write_entries ZipFile": STREAM,
    "common/formats/paths.py:open_path_pathlib open": "SB3's, for users; the package hands it streams",
    "common/logger/formats.py:HumanOutputFormat.__init__ open": APPENDS,
    "common/logger/formats.py:JSONOutputFormat.__init__ open": APPENDS,
    "common/logger/formats.py:CSVOutputFormat.__init__ open": APPENDS,
    "common/logger/formats.py:CSVOutputFormat._add_columns open": "goes on at the end of the new file",
    "common/logger/tensorboard.py:SummaryWriter.__init__ EventFileWriter": APPENDS,
    "common/monitor.py:ResultsWriter.__init__ open": APPENDS,
    "common/save_util.py:save_to_pkl dump": STREAM,
    "common/callbacks/evaluation.py:EvalCallback._save_log savez": STREAM,
    "common/vec_env/vec_video_recorder.py:VecVideoRecorder._stop_recording write_videofile": ATOMIC,
}
# Who hands a path to `atomic_open`, and the cases that hold it to that.
REPLACERS = {
    "common/save_util.py:save_to_zip_file": {"model.zip", "checkpoint.zip", "policy.zip", "arrays.zip"},
    "common/save_util.py:save_to_pkl": {"object.pkl"},
    "common/saving/to_sb3.py:export_sb3": {"sb3.zip", "exported.zip"},
    "common/saving/to_sb3.py:export_replay_buffer": {"buffer_sb3.pkl"},
    "common/formats/vec_normalize.py:export_vec_normalize": {"normalize_sb3.pkl", "normalize_exported.pkl"},
    "export/onnx.py:export_onnx": {"model.onnx"},
    "common/saving/replay.py:save_replay_buffer": {"buffer.pkl"},
    "common/formats/vec_normalize.py:save_vec_normalize": {"normalize.pkl"},
    "common/cuda/nvrtc.py:_store": {"kernel.cubin"},
    "common/callbacks/evaluation.py:EvalCallback._save_log": {"evaluations.npz"},
    "common/logger/formats.py:CSVOutputFormat._add_columns": {"progress.csv"},
    "common/vec_env/vec_video_recorder.py:VecVideoRecorder._stop_recording": {"video.mp4"},
}
# Names of functions and methods that write a file, but for `open`, whose mode counts.
WRITING = {
    *("write_text", "write_bytes", "savez", "savez_compressed", "savetxt", "savefig", "tofile", "memmap"),
    *("write_videofile", "imwrite", "imsave", "to_csv", "to_pickle", "save_safetensors", "save_gguf"),
    *("EventFileWriter", "ZipFile", "TarFile", "mkstemp", "NamedTemporaryFile", "TemporaryFile", "fdopen"),
    *("rename", "copy2", "copyfile", "copytree", "move"),
}
# Methods of other things have these names too, so the module counts.
OF_MODULES = {("os", "replace"), ("np", "save"), ("mx", "save"), ("pickle", "dump"), ("json", "dump")}
OF_MODULES |= {("mx", "savez"), ("cloudpickle", "dump"), ("os", "open"), ("shutil", "copy")}


def mode_of(call):
    """The mode of a call of ``open``; None if it is not known before it runs."""
    position = (
        1 if isinstance(call.func, ast.Name) or ast.unparse(call.func) in ("io.open", "os.fdopen") else 0
    )
    given = call.args[position : position + 1] + [word.value for word in call.keywords if word.arg == "mode"]
    if not given:
        return "r"
    return given[0].value if isinstance(given[0], ast.Constant) else None


def writes(call):
    name = ast.unparse(call.func)
    owner, _, last = name.rpartition(".")
    if (owner, last) in OF_MODULES or last in WRITING:
        is_text = last == "truncate" or (
            last == "ZipFile" and not any(w.arg == "mode" for w in call.keywords)
        )
        # Not os.open for reading: the folder that is flushed.
        return not is_text and "O_RDONLY" not in ast.unparse(call)
    if last != "open" or owner in ("self._zip", "archive", "self._archive"):
        return False
    mode = mode_of(call)
    return mode is None or not isinstance(mode, str) or bool(set(mode) & set("wax+"))


def calls(path):
    """Names of functions, with their classes, and the calls in them."""

    def visit(node, place):
        for child in ast.iter_child_nodes(node):
            inner = place
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = [*place, child.name]
            elif isinstance(child, ast.Call):
                yield f"{path.relative_to(PACKAGE).as_posix()}:{'.'.join(place)}", child
            yield from visit(child, inner)

    return visit(ast.parse(path.read_text()), [])


ALL = [item for path in sorted(PACKAGE.rglob("*.py")) for item in calls(path)]


def test_every_writer_is_listed():
    found = {f"{place} {ast.unparse(call.func).rpartition('.')[2]}" for place, call in ALL if writes(call)}
    assert found == set(WRITERS)


def test_whoever_replaces_a_file_is_listed_with_cases():
    names = ("atomic_open", "atomic_path")
    found = {place for place, call in ALL if ast.unparse(call.func) in names}
    assert found == set(REPLACERS)
    assert set.union(*REPLACERS.values()) == set(writer_cases.CASES)


# Where something is unpickled, and why it is no way for a file to run code unasked.
UNPICKLING = {
    "common/save_util.py:load_from_pkl pickle.load": "SB3's function for users, told that it runs code",
    "common/formats/model_data.py:_opened cloudpickle.loads": "allow_pickle=True, with a warning",
    "common/vec_env/base_vec_env.py:CloudpickleWrapper.__setstate__ cloudpickle.loads": "own processes",
    "common/vec_env/_subproc_worker.py:_Worker.__init__ cloudpickle.loads": "own processes",
    "common/vec_env/_subproc_worker.py:run_worker cloudpickle.loads": "own processes",
    "contrib/common/vec_env/async_eval.py:_worker cloudpickle.loads": "own processes",
}


def test_every_place_that_unpickles_is_listed():
    modules, names = ("pickle", "cloudpickle", "dill"), ("load", "loads", "Unpickler")
    found = set()
    for place, call in ALL:
        owner, _, last = ast.unparse(call.func).rpartition(".")
        if owner in modules and last in names:
            found.add(f"{place} {owner}.{last}")
    assert found == set(UNPICKLING)
    users = {place for place, call in ALL if ast.unparse(call.func) in ("load_from_pkl", "save_to_pkl")}
    assert users == set()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("open(p, 'w')", True),
        ("open(p, mode='ab')", True),
        ("open(p, 'w' if x else 'a')", True),
        ("p.open('r+b')", True),
        ("open(p)", False),
        ("p.open('rb')", False),
        ("np.save(p, a)", True),
        ("os.replace(a, b)", True),
        ("text.replace(a, b)", False),
        ("plt.savefig(p)", True),
        ("zipfile.ZipFile(p)", False),
    ],
)
def test_what_counts_as_writing(code, expected):
    assert writes(ast.parse(code, mode="eval").body) is expected


def run(*arguments):
    command = [sys.executable, writer_cases.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    ran = run("full", tmp_path)
    assert ran.returncode == 0, ran.stderr
    fine = {"said": "OSError", "kept": True, "others": []}
    assert json.loads(ran.stdout.splitlines()[-1]) == dict.fromkeys(writer_cases.CASES, fine)


@pytest.mark.parametrize("name", writer_cases.CASES)
def test_a_kill_leaves_the_old_file_and_the_next_writer_tidies_up(tmp_path, name):
    ran = run("killed", tmp_path, name)
    assert ran.returncode == -signal.SIGXFSZ, ran.stderr
    path = tmp_path / name
    assert path.read_bytes() == (tmp_path / "before").read_bytes()
    left = {other.name for other in tmp_path.iterdir()} - {name, "before"}
    assert len(left) == 1
    assert left.pop().startswith(f".{name}.")
    with atomic_open(path) as stream:
        stream.write(b"new")
    assert {other.name for other in tmp_path.iterdir()} == {name, "before"}
    assert path.read_bytes() == b"new"


def left_behind(folder, name, host=None, age=0.0):
    path = folder / f".{name}.{host or _atomic._host()}.1.01234567.tmp"
    path.write_bytes(b"part")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_the_files_of_writers_that_live_are_left_alone(tmp_path):
    path = tmp_path / "file.bin"
    dead = left_behind(tmp_path, "file.bin")
    with atomic_open(path) as first:
        assert not dead.exists()
        first.write(b"first")
        with atomic_open(path) as second:
            second.write(b"second")
        # The first one's temporary file is still there, though another writer has looked.
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_other_machines_and_of_other_targets_are_left_alone(tmp_path):
    elsewhere = left_behind(tmp_path, "file.bin", "89abcdef", age=3600)
    older = left_behind(tmp_path, "file.bin", "01abcdef", age=2 * 24 * 3600)
    other = left_behind(tmp_path, "file.bin.bak")
    own = tmp_path / ".file.bin.notes.tmp"
    own.write_bytes(b"")
    with atomic_open(tmp_path / "file.bin") as stream:
        stream.write(b"new")
    assert elsewhere.exists()
    assert other.exists()
    assert own.exists()
    assert not older.exists()


def test_a_writer_whose_file_was_taken_for_abandoned_begins_again(tmp_path, monkeypatch):
    taken = []
    lock = _atomic._lock

    def unlucky(stream, wait):
        if wait and not taken:
            taken.append(stream.name)
            os.unlink(stream.name)
        return lock(stream, wait)

    monkeypatch.setattr(_atomic, "_lock", unlucky)
    with atomic_open(tmp_path / "file.bin") as stream:
        stream.write(b"new")
    assert taken
    assert (tmp_path / "file.bin").read_bytes() == b"new"


def test_programs_that_open_the_file_themselves(tmp_path):
    with atomic_path(tmp_path / "film.mp4") as path:
        assert path.suffix == ".mp4"
        path.write_bytes(b"frames")
        assert not (tmp_path / "film.mp4").exists()
    assert [other.name for other in tmp_path.iterdir()] == ["film.mp4"]
    with pytest.raises(NotADirectoryError), atomic_path(tmp_path / "film.mp4") as path:
        (path / "no folder").write_bytes(b"others")
    assert [other.read_bytes() for other in tmp_path.iterdir()] == [b"frames"]
