"""Programs whose threads use models end with the status 0; forked children answer or say why not."""

import os
import subprocess
import sys

import pytest

from support import TESTS

SETUP = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import multiprocessing, os, threading, time
import numpy as np
from support.thread_models import IN_RUST, MODELS, in_thread, numbers, observation
from mlx_baselines3 import PPO, SAC, _native
"""
FORK = """
def forked(work):
    # 0 for an answer, 3 for the error that names the way out, None for a child that hangs.
    def run():
        try:
            work()
        except RuntimeError as error:
            print(error)
            sys.exit(3 if "'spawn'" in str(error) else 4)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(60)
    status = child.exitcode
    child.kill()
    return status
"""


def output(code: str, updates: str = "native", timeout: int = 240) -> str:
    """What a program of this package prints; it has to end with the status 0, and in time."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SETUP + code],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "MLX_BASELINES3_UPDATES": updates},
    )
    # On a machine without MLX's kernels the first update says that it compiles them.
    told = [line for line in done.stderr.splitlines() if "MLX is compiling kernels" not in line]
    assert (done.returncode, " ".join(told)[-500:]) == (0, ""), done.stdout
    return done.stdout.strip()


# The threads of one program end at about the same time as the program: each is one more chance to fail.
ENDS = """
def work():
    {work}

threads = [threading.Thread(target=work) for _ in range({count})]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.parametrize("name", ["ppo", "ppo_box", "ppo_cnn", "a2c", "dqn", "sac", "sac_sde", "td3"])
def test_a_program_ends_well_after_predictions_in_threads(name: str) -> None:
    made = f"model = MODELS[{name!r}](); obs = observation(model)\n"
    for _ in range(3):
        output(made + ENDS.format(work="model.predict(obs)", count=6))


@pytest.mark.parametrize("updates", ["native", "mlx"])
@pytest.mark.parametrize("name", ["ppo", "a2c", "dqn", "sac", "td3"])
def test_a_program_ends_well_after_learning_in_threads(name: str, updates: str) -> None:
    output(ENDS.format(work=f"MODELS[{name!r}]().learn(8)", count=3), updates)


def test_a_program_of_mlx_alone_that_leaves_its_generator_to_a_thread() -> None:
    """What is done at the end of a thread is enough for MLX: else about a third of such programs fail."""
    code = "import mlx.core as mx, threading\n" + ENDS.format(
        work="mx.random.state[0]; mx.clear_streams()", count=8
    )
    statuses = {
        subprocess.run([sys.executable, "-c", code], capture_output=True).returncode for _ in range(5)
    }
    assert statuses == {0}


def test_a_forked_child_predicts() -> None:
    code = """
for name in IN_RUST:
    model = MODELS[name]()
    obs = observation(model)
    model.predict(obs) if name == "sac" else None

    def same():
        answer = model.predict(obs, deterministic=True)[0]
        np.testing.assert_array_equal(answer, expected)
        for _ in range(3): model.predict(obs)

    expected = in_thread(lambda: model.predict(obs, deterministic=True)[0]) if name == "ppo" else None
    if expected is None:
        expected = type(model).load(saved(model)).predict(obs, deterministic=True)[0]
    print(name, forked(same))
"""
    saved = """
import io
def saved(model):
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    return file
"""
    lines = output(FORK + saved + code).splitlines()
    assert len(lines) == 12
    assert all(line.endswith(" 0") for line in lines), lines


@pytest.mark.parametrize("updates", ["native", "mlx"])
def test_a_forked_child_learns_as_its_parent_would(updates: str) -> None:
    code = """
def go_on(queue, model):
    model.learn(16, reset_num_timesteps=False)
    model.save(os.devnull)
    queue.put(numbers(model))

for name in ("ppo", "sac", "ppo_cnn"):
    model, twin = MODELS[name](), MODELS[name]()
    for learned in (False, True):
        if learned:
            model.learn(8)
        queue = multiprocessing.get_context("fork").Queue()
        child = multiprocessing.get_context("fork").Process(target=go_on, args=(queue, model))
        child.start()
        answer = queue.get(timeout=120)
        child.join(60)
        print(name, child.exitcode, bool(np.isfinite(answer).all()))
    model.learn(16, reset_num_timesteps=False)
    np.testing.assert_allclose(numbers(model), answer)
"""
    assert set(output(code, updates).splitlines()) == {f"{n} 0 True" for n in ("ppo", "sac", "ppo_cnn")}


def test_a_child_forked_while_another_thread_learns_says_why_it_cannot_learn() -> None:
    code = """
model, other = MODELS["ppo"](), MODELS["sac_sde"]()
noisy = MODELS["sac_sde"]()
learning = threading.Event()
done = threading.Event()
callback = lambda *_: learning.set() or not done.is_set()
thread = threading.Thread(target=lambda: other.learn(10**6, callback=callback))
thread.start()
learning.wait()
obs = observation(model)
print(forked(lambda: model.learn(8)))
print(forked(lambda: noisy.predict(observation(noisy))))
print(forked(lambda: MODELS["ppo"]()))
print(forked(lambda: model.train()))
print(forked(lambda: model.predict(obs)))
done.set()
thread.join()
"""
    lines = output(FORK + code).splitlines()
    assert [line for line in lines if line.isdigit()] == ["3", "3", "3", "3", "0"]
    assert "another thread was computing" in lines[0]


def test_children_draw_their_own_numbers_unless_there_is_a_seed() -> None:
    code = """
def weights(queue):
    queue.put(PPO("MlpPolicy", "CartPole-v1").policy.parameters_to_vector())

def drawn(queue, model):
    queue.put(np.array([model.predict(obs)[0] for _ in range(40)]))

def children(method, target, *args):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    answers = []
    for _ in range(2):
        child = context.Process(target=target, args=(queue, *args))
        child.start()
        answers.append(queue.get(timeout=120))
        child.join()
    return bool(np.array_equal(*answers))

obs = np.zeros(4, np.float32)
print(children("fork", weights))
print(children("fork", drawn, PPO("MlpPolicy", "CartPole-v1")))
print(children("fork", drawn, PPO("MlpPolicy", "CartPole-v1", seed=1)))
print(children("fork", weights))
"""
    assert output(code).splitlines() == ["False", "False", "True", "True"]


def test_workers_forked_after_learning_step_environments() -> None:
    code = """
from mlx_baselines3.common.vec_env import SubprocVecEnv
import gymnasium as gym
MODELS["ppo"]().learn(16)
if __name__ == "__main__":
    envs = SubprocVecEnv([lambda: gym.make("CartPole-v1")] * 2, start_method="fork")
    print(PPO("MlpPolicy", envs, n_steps=8, batch_size=8, n_epochs=1).learn(16).num_timesteps)
    envs.close()
"""
    assert output(code) == "16"


def test_native_updates_and_environments_use_threads_of_their_own_in_a_forked_child() -> None:
    code = """
from mlx_baselines3.common.vec_env.native_vec_env import NativeVecEnv
_native.set_threads(2)
envs = NativeVecEnv("Pendulum-v1", 2400, seed=0)
model = PPO("MlpPolicy", envs, n_steps=8, batch_size=2400, n_epochs=1, seed=0)
model.learn(1)
print(forked(lambda: model.learn(1)))
"""
    assert output(FORK + code) == "0"
