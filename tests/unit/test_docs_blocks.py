"""The code blocks of README.md and docs/ run as they are written, page by page, from an empty folder."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

from support import run_page

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_PYTHON = [page for page in PAGES if "```python" in page.read_text()]


def relative(path):
    return path.relative_to(ROOT).as_posix()


def run(page, folder):
    # Readers have not set anything. Compiled kernels change the time alone.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MLX_BASELINES3_")}
    environment["MLX_DISABLE_COMPILE"] = "1"
    command = [sys.executable, run_page.__file__, str(page)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=relative)
def test_python_blocks_of_a_page(page, tmp_path):
    process = run(page, tmp_path)
    assert process.returncode == 0, process.stderr


def test_every_fence_is_known():
    """A block in another language, or indented, would not be run."""
    for page in PAGES:
        fences = re.findall(r"^[ \t]*```.*$", page.read_text(), re.MULTILINE)
        assert set(fences) <= {"```", "```python", "```sh", "```diff"}, relative(page)
        assert len(fences) % 2 == 0, relative(page)
        assert set(fences[1::2]) <= {"```"}, relative(page)


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        (["made = 1", "assert made == 1"], None),
        (["made = 1", "\nassert made == 2  # here"], "line 7"),
        (["assert not __import__('os').listdir()", "raise KeyError(5)  # here"], "KeyError: 5"),
        (["import warnings", "warnings.warn('loud')"], "UserWarning: loud"),
        (["import warnings", "warnings.warn('loud')  # warns: it is loud"], None),
        (["import warnings", "warnings.filterwarnings  # warns"], "no warning"),
    ],
)
def test_the_runner_tells_a_block_that_fails(tmp_path, blocks, said):
    page = tmp_path / "page.md"
    page.write_text("# Title\n" + "\n".join(f"```python\n{block}\n```" for block in blocks))
    (tmp_path / "empty").mkdir()
    process = run(page, tmp_path / "empty")
    assert (process.returncode == 0) is (said is None), process.stderr
    if said is not None:
        assert said in process.stderr
        assert "# here" in process.stderr or "warning" in process.stderr.lower()


def test_lines_that_a_diff_adds_are_imports_that_work():
    added = [
        line[1:].strip()
        for page in PAGES
        for block in re.findall(r"^```diff\n(.*?)^```", page.read_text(), re.M | re.S)
        for line in block.splitlines()
        if line.startswith("+")
    ]
    assert added
    for line in added:
        exec(line, {})


def test_the_index_lists_every_page():
    linked = set(re.findall(r"\]\(([^)#]+\.md)", (ROOT / "docs" / "README.md").read_text()))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]}
    notes = {page for page in pages if page.startswith("notes/")} - {"notes/README.md"}
    assert pages - linked - notes == {"README.md"}
    listed = (ROOT / "docs" / "notes" / "README.md").read_text()
    assert all(pathlib.PurePath(page).name in listed for page in notes)


def anchor(heading):
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target, _, fragment in re.findall(r"\]\(((?!https?:)[^)#\s]*)(#([^)\s]+))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), (relative(page), target)
        if fragment:
            name = fragment.removeprefix("#")
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            assert name in map(anchor, headings), (relative(page), target, name)


SHELL = {page: "\n".join(re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S)) for page in PAGES}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def test_targets_of_make_that_the_pages_name():
    for page in PAGES:
        inline = " ".join(re.findall(r"`(make [^`\n]+)`", page.read_text()))
        named = set(re.findall(r"\bmake ([a-z-]+)", SHELL[page] + "\n" + inline))
        assert named <= TARGETS, relative(page)


@pytest.mark.parametrize("page", [page for page in PAGES if "python " in SHELL[page]], ids=relative)
def test_programs_of_shell_blocks_and_their_options_exist(page):
    for line in re.findall(r"^\S*python .*$", SHELL[page], re.M):
        program, *options = line.partition("#")[0].split()[1:]
        if program == "-m":
            assert importlib.util.find_spec(options[0]) is not None, line
            continue
        source = "".join(file.read_text() for file in [ROOT / program, *(ROOT / program).parent.glob("*.py")])
        for option in options:
            assert not option.startswith("--") or f'"{option}"' in source, line


def test_extras_of_pip_that_the_pages_name():
    extras = re.search(r"optional-dependencies\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.S)[1]
    known = set(re.findall(r"^([a-z0-9]+) = ", extras, re.M))
    for page in PAGES:
        named = ",".join(re.findall(r"pip install '[\w.-]*\[([^\]]+)\]'", page.read_text()))
        assert set(filter(None, named.split(","))) <= known, relative(page)
