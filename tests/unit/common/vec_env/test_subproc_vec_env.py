import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from support import TESTS
from support.vec_env_doubles import CountingEnv, DictEnv, EndingEnv, ImageEnv, NestedEnv, ReusingEnv, TupleEnv

ACTIONS = np.zeros(2, dtype=np.int64)


@pytest.fixture
def env():
    vec_env = SubprocVecEnv([lambda: CountingEnv(2), lambda: Monitor(CountingEnv(3))])
    yield vec_env
    vec_env.close()


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(a, b)


@pytest.mark.parametrize("vec_env_class", [DummyVecEnv, SubprocVecEnv])
def test_an_episode_that_reached_its_end_was_not_cut_short(vec_env_class):
    """Not even if the time limit was reached in the same step."""
    env = vec_env_class([EndingEnv])
    try:
        env.reset()
        steps = [env.step(np.zeros(1, dtype=np.int64)) for _ in range(3)]
    finally:
        env.close()
    assert [dones.tolist() for _, _, dones, _ in steps] == [[True]] * 3
    assert [infos[0]["TimeLimit.truncated"] for *_, infos in steps] == [True, False, False]


@pytest.mark.parametrize("env_class", [CountingEnv, DictEnv, TupleEnv, ImageEnv, ReusingEnv])
def test_agrees_with_dummy_vec_env(env_class):
    ours, dummy = SubprocVecEnv([env_class] * 2), DummyVecEnv([env_class] * 2)
    try:
        assert same(ours.reset(), dummy.reset())
        for _ in range(5):
            obs, rewards, dones, infos = ours.step(ACTIONS)
            obs_2, rewards_2, dones_2, infos_2 = dummy.step(ACTIONS)
            assert same(obs, obs_2)
            assert np.array_equal(rewards, rewards_2)
            assert np.array_equal(dones, dones_2)
            for info, info_2 in zip(infos, infos_2, strict=True):
                assert same(info.pop("terminal_observation", ()), info_2.pop("terminal_observation", ()))
                assert info == info_2
    finally:
        ours.close()


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_seeded_like_dummy_with_every_start_method(start_method):
    kwargs = {"vec_env_cls": SubprocVecEnv, "vec_env_kwargs": {"start_method": start_method}}
    ours, dummy = make_vec_env("Pendulum-v1", 2, seed=3, **kwargs), make_vec_env("Pendulum-v1", 2, seed=3)
    assert same(ours.reset(), dummy.reset())
    actions = np.array([[0.5], [-1.0]], dtype=np.float32)
    assert same(ours.step(actions)[0], dummy.step(actions)[0])
    ours.close()


def test_observations_are_not_overwritten_by_later_steps(env):
    first = env.reset()
    second = env.step(ACTIONS)[0]
    env.step(ACTIONS)
    assert first.tolist() == [[0, 0], [0, 0]]
    assert second.tolist() == [[1, 10], [1, 10]]


def test_attributes_methods_and_images(env):
    env.reset()
    assert env.get_attr("length") == [2, 3]
    assert env.env_method("add", 1, b=2, indices=[1]) == [6]
    env.set_attr("extra", "x", indices=-1)
    assert not env.has_attr("extra")
    env.set_attr("extra", "y", indices=0)
    assert env.get_attr("extra") == ["y", "x"]
    assert env.env_is_wrapped(Monitor) == [False, True]
    assert env.render().shape == (4, 3, 3)
    assert env.has_attr("unpicklable")
    env.seed(4)
    env.set_options({"a": 1})
    env.reset()
    assert env.get_attr("last_seed") == [4, 5]
    assert env.get_attr("last_options") == [{"a": 1}] * 2
    assert env.reset_infos == [{"seeded": 4}, {"seeded": 5}]


def test_an_exception_names_environment_and_cause_and_leaves_all_usable(env):
    env.reset()
    with pytest.raises(
        RuntimeError, match=r"Environment 1 failed during 'step'(.|\n)*action nine is forbidden"
    ):
        env.step(np.array([0, 9]))
    with pytest.raises(AttributeError, match="Environment 0"):
        env.get_attr("nothing")
    with pytest.raises(RuntimeError, match="Environment 0 failed during 'env_method'"):
        env.env_method("unpicklable")
    with pytest.raises(ValueError, match="2 environments, got 1"):
        env.step(ACTIONS[:1])
    assert env.reset().tolist() == [[0, 0], [0, 0]]
    assert env.step(ACTIONS)[0].tolist() == [[1, 10], [1, 10]]


def test_other_commands_wait_for_step_wait(env):
    env.reset()
    env.step_async(ACTIONS)
    with pytest.raises(RuntimeError, match="Call step_wait first"):
        env.get_attr("length")
    assert env.step_wait()[0].tolist() == [[1, 10], [1, 10]]
    env.step_async(ACTIONS)
    env.close()
    assert not any(process.is_alive() for process in env.processes)


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_dead_worker_is_an_error(env, end):
    env.reset()
    if end == "kill":
        os.kill(env.processes[1].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=rf"environment 1 died .*exit code {3 if end == 'exit' else -9}"):
        env.step(np.array([0, 8]))
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()
    assert not any(process.is_alive() for process in env.processes)
    env.close()


def test_an_environment_that_cannot_be_made_is_an_error():
    before = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match=r"Environment 1 failed during 'make'(.|\n)*ZeroDivisionError"):
        SubprocVecEnv([CountingEnv, lambda: 1 / 0])
    with pytest.raises(NotImplementedError, match="Nested"):
        SubprocVecEnv([NestedEnv])
    with pytest.raises(ValueError, match="at least one"):
        SubprocVecEnv([])
    with pytest.raises(ValueError, match="illegal"):
        SubprocVecEnv([CountingEnv], start_method="illegal")
    assert set(multiprocessing.active_children()) == before


def test_collection_ends_the_processes():
    vec_env = SubprocVecEnv([CountingEnv])
    process = vec_env.processes[0]
    del vec_env
    assert not process.is_alive()


def _alive(pid):
    if not os.path.isdir("/proc/self"):
        return subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode == 0
    # A process that nobody has waited for is still listed, as a zombie.
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal\n"
        "from mlx_baselines3.common.env_util import make_vec_env\n"
        "from mlx_baselines3.common.vec_env import SubprocVecEnv\n"
        "if __name__ == '__main__':\n"
        "    env = make_vec_env('CartPole-v1', 2, vec_env_cls=SubprocVecEnv)\n"
        "    print(*[process.pid for process in env.processes], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    pids = [int(pid) for pid in result.stdout.split()]
    assert len(pids) == 2, result.stderr
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_alive(pid) for pid in pids)


@pytest.fixture
def interrupted_soon():
    """Ctrl-C in this process alone, as a notebook's stop button."""

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.2)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_an_interrupted_command_leaves_no_stale_reply(env, interrupted_soon):
    env.reset()
    interrupted_soon()
    with pytest.raises(KeyboardInterrupt):
        env.env_method("sleep", 0.5)
    assert env.get_attr("length") == [2, 3]
    assert env.step(ACTIONS)[0].tolist() == [[1, 10], [1, 10]]


def test_an_interrupted_step_can_be_followed_by_a_reset(env, interrupted_soon, monkeypatch):
    env.reset()
    env.step_async(ACTIONS)
    interrupted_soon()
    with monkeypatch.context() as patch:
        # The workers answer, but the parent is interrupted before it looks.
        patch.setattr(env, "_receive", lambda *_: time.sleep(5))
        with pytest.raises(KeyboardInterrupt):
            env.step_wait()
    assert env.reset().tolist() == [[0, 0], [0, 0]]
    assert env.step(ACTIONS)[0].tolist() == [[1, 10], [1, 10]]
    env.close()
    assert not any(process.is_alive() for process in env.processes)


CTRL_C = """
import signal, sys
# A shell's background job ignores Ctrl-C, and so would this program in the test run of one.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {folder!r})
from support.vec_env_doubles import CountingEnv
from mlx_baselines3.common.vec_env import SubprocVecEnv

if __name__ == "__main__":
    env = SubprocVecEnv([CountingEnv, CountingEnv], start_method="spawn")
    try:
        env.reset()
        print(*(process.pid for process in env.processes), flush=True)
        env.env_method("sleep", 60)
    finally:
        env.close()
"""


def test_ctrl_c_ends_the_program_and_its_workers(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(CTRL_C.format(folder=str(TESTS)))
    program = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = [int(pid) for pid in program.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(0.5)  # the workers are asleep by now, or will be interrupted on the way there
    # A terminal's Ctrl-C reaches the whole group.
    os.killpg(program.pid, signal.SIGINT)
    _, err = program.communicate(timeout=60)
    assert program.returncode != 0
    assert err.count("KeyboardInterrupt") == 1
    assert not any(_alive(pid) for pid in workers)
