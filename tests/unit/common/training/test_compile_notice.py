"""What a user is told while MLX compiles kernels."""

import time

import pytest

from mlx_baselines3 import DQN, PPO
from mlx_baselines3.common.training import compile_notice as _compile_notice
from mlx_baselines3.common.training.compile_notice import CompileNotice


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(_compile_notice, "kernel_folder", lambda: tmp_path / "mlx")
    monkeypatch.setattr(_compile_notice, "_PATIENCE", 0.0)
    monkeypatch.setattr(_compile_notice.shutil, "which", lambda name: "/usr/bin/g++")
    return tmp_path / "mlx"


def compiled(folder, name: str) -> None:
    (folder / "cpu").mkdir(parents=True, exist_ok=True)
    (folder / "cpu" / name).write_text("")


def until_looked(notice: CompileNotice) -> None:
    timer = notice._timer
    assert timer is not None
    timer.join(10)


def test_a_machine_that_never_compiled_is_told_at_once(folder, capsys):
    with CompileNotice(verbose=1) as notice:
        assert capsys.readouterr().out == ""
        for _ in range(2):
            notice.announce()
        assert capsys.readouterr().out == (
            f"MLX is compiling the kernels of the update. This happens once: they are kept in {folder}.\n"
        )


def test_nothing_on_the_console_without_verbose_or_compiler(folder, capsys, monkeypatch):
    with CompileNotice(verbose=0) as notice:
        notice.announce()
    monkeypatch.setattr(_compile_notice.shutil, "which", lambda name: None)
    with CompileNotice(verbose=1) as notice:
        notice.announce()
    assert capsys.readouterr().out == ""


def test_kernels_that_take_long_are_told_once_on_stderr(folder, capsys, monkeypatch):
    compiled(folder, "one.so")
    monkeypatch.setattr(_compile_notice, "_PATIENCE", 0.05)
    notice = CompileNotice(verbose=0)
    for name in ("two.so", "three.so"):
        with notice:
            compiled(folder, name)
            if notice._timer is not None:
                until_looked(notice)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("MLX is compiling kernels") == 1
    assert str(folder) in captured.err


def test_a_slow_update_that_compiles_nothing_is_no_news(folder, capsys):
    compiled(folder, "one.so")
    notice = CompileNotice(verbose=1)
    with notice:
        until_looked(notice)
    assert capsys.readouterr() == ("", "")


def test_a_quick_update_leaves_no_timer(folder, monkeypatch, capsys):
    monkeypatch.setattr(_compile_notice, "_PATIENCE", 0.05)
    compiled(folder, "one.so")
    with CompileNotice(verbose=1):
        compiled(folder, "two.so")
    time.sleep(0.1)
    assert capsys.readouterr() == ("", "")


def test_later_updates_are_not_watched(folder):
    notice = CompileNotice(verbose=0)
    for _ in range(3):
        with notice:
            assert notice._timer is not None
    with notice:
        assert notice._timer is None


@pytest.mark.parametrize("cls", [PPO, DQN])
def test_learn_watches_its_first_update(folder, capsys, updates, cls):
    """Only where MLX computes it."""
    kwargs = {"n_steps": 8, "n_epochs": 1} if cls is PPO else {"learning_starts": 4}
    cls("MlpPolicy", "CartPole-v1", batch_size=4, verbose=1, **kwargs).learn(8)
    told = "MLX is compiling the kernels of the update." in capsys.readouterr().out
    assert told == (updates == "mlx")
