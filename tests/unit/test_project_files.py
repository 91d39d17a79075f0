"""Files beside the code that say the same thing twice: versions, pins, Pythons, make's targets, links."""

import pathlib
import re

import pytest

import mlx_baselines3

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
HELPED = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M))


def test_one_version():
    assert re.findall(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M) == [
        mlx_baselines3.__version__
    ]
    assert re.findall(r"^version: (.*)", (ROOT / "CITATION.cff").read_text(), re.M) == [
        mlx_baselines3.__version__
    ]
    assert (
        re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)[0]
        == mlx_baselines3.__version__
    )


def test_hooks_run_the_linters_of_the_group():
    group = re.search(r"^lint = (\[.*\])", PROJECT, re.M)[1]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    pin = r"([a-z]+)(?:\[toml\])?==([\d.]+)"
    pinned = dict(re.findall(pin, group))
    hooked = set(re.findall(pin, hooks))
    assert {name for name, _ in hooked} == {"ruff", "codespell"}
    assert hooked <= set(pinned.items())


def test_every_supported_python_is_tested():
    named = re.findall(r'Python :: (3\.\d+)"', PROJECT)
    tested = re.search(r"python: (\[.*\])", (ROOT / ".github/workflows/tests.yml").read_text())[1]
    assert re.findall(r"3\.\d+", tested) == named
    assert f'requires-python = ">={named[0]}"' in PROJECT


def test_the_toolchain_that_contributors_need():
    needed = re.search(r'^rust-version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert f"Rust toolchain ({needed} or later)" in (ROOT / "CONTRIBUTING.md").read_text()


def test_help_lists_every_target():
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.M)[1].replace("\\\n", " ").split()
    assert set(phony) == HELPED


@pytest.mark.parametrize(
    "name", ["CONTRIBUTING.md", *sorted(p.name for p in (ROOT / ".github/workflows").iterdir())]
)
def test_targets_that_are_named_exist(name):
    path = ROOT / name if name.endswith(".md") else ROOT / ".github/workflows" / name
    text = path.read_text()
    commands = re.findall(r"^(make .*?)(?:#|$)", text, re.M) + re.findall(r"run: (make .*)", text)
    commands += re.findall(r"`(make [^`]+)`", text)
    assert commands or name == "wheels.yml"
    commands = [re.sub(r'"[^"]*"', "", command) for command in commands]
    targets = {word for command in commands for word in re.findall(r"(?<=[ ])[a-z][a-z-]+(?=[ ]|$)", command)}
    assert targets <= HELPED


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "findings/README.md"])
def test_links_lead_somewhere(name):
    path = ROOT / name
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_findings_have_their_form():
    scripts = sorted((ROOT / "findings").glob("*.sh"))
    assert scripts
    for path in scripts:
        lines = path.read_text().splitlines()
        assert lines[0] == "#!/usr/bin/env bash"
        head = "\n".join(lines[: lines.index("set -euo pipefail")])
        assert re.search(r"^# .*\d+\.\d+.*Seen \d{4}-\d{2}-\d{2}\.$", head, re.M), path.name
        assert re.search(r"^# Output seen.*:$", head, re.M), path.name
        assert "mlx_baselines3" not in path.read_text(), path.name
        assert path.stat().st_mode & 0o111, path.name
