"""Models in several threads of Python: made in one, going on in others."""

import asyncio
import copy
import io
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3 import PPO, SAC, HerReplayBuffer
from mlx_baselines3.common import utils
from mlx_baselines3.common.policies import ActorCriticPolicy
from support.thread_models import ACTIONS, MODELS, VECTORS, Drawn, in_thread, numbers, observation

# What Rust would update is tried both ways.
KINDS = [(name, "native") for name in MODELS] + [(name, "mlx") for name in ("ppo_box", "dqn", "sac", "td3")]


@pytest.fixture(params=["native", "mlx"])
def updates(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLX_BASELINES3_UPDATES", request.param)
    return str(request.param)


@pytest.fixture(params=KINDS, ids="-".join)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    name, updates = request.param
    monkeypatch.setenv("MLX_BASELINES3_UPDATES", updates)
    return MODELS[name]


def saved(model: Any) -> io.BytesIO:
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    return file


def test_made_here_and_used_in_other_threads(make: Any) -> None:
    model = make()
    obs = observation(model)
    in_thread(lambda: model.predict(obs))
    assert in_thread(lambda: model.learn(24).num_timesteps) == 24
    expected = model.predict(obs, deterministic=True)[0]
    for thread in (in_thread, lambda work: work()):
        np.testing.assert_array_equal(thread(lambda: model.predict(obs, deterministic=True)[0]), expected)
    file = in_thread(lambda: saved(model))
    loaded = in_thread(lambda: type(model).load(file, env=model.get_env()))
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], expected)
    for other in (loaded, copy.deepcopy(loaded), model):
        buffer = getattr(other, "replay_buffer", None)
        if isinstance(buffer, HerReplayBuffer) and buffer.env is None:
            other.replay_buffer.set_env(other.get_env())
        in_thread(lambda other=other: other.learn(16))
        other.learn(8, reset_num_timesteps=False)
        assert np.isfinite(numbers(other)).all()


def test_the_numbers_do_not_depend_on_the_threads(make: Any) -> None:
    def run(*threads: Any) -> tuple[np.ndarray, np.ndarray, float]:
        model, answers = make(), []
        obs = observation(model)
        for i, thread in enumerate(threads):
            answers.append(thread(lambda first=i == 0: model.learn(16, reset_num_timesteps=first)))
            answers[-1] = [np.ravel(thread(lambda: model.predict(obs)[0])) for _ in range(3)]
        return np.array(answers), numbers(model), random.random()

    def here(work: Any) -> Any:
        return work()

    alone = run(here, here, here)
    for threads in ((in_thread, in_thread, in_thread), (here, in_thread, here)):
        for one, other in zip(alone, run(*threads), strict=True):
            np.testing.assert_array_equal(one, other)


def test_made_in_a_thread_and_used_here() -> None:
    expected = numbers(MODELS["sac"]().learn(16))
    np.testing.assert_array_equal(numbers(in_thread(MODELS["sac"]).learn(16)), expected)


def test_a_checkpoint_of_one_thread_goes_on_in_another(updates: str) -> None:
    expected = MODELS["ppo"]().learn(16).learn(16, reset_num_timesteps=False)
    model, file = MODELS["ppo"]().learn(16), io.BytesIO()
    in_thread(lambda: model.save_checkpoint(file))
    file.seek(0)
    loaded = in_thread(lambda: PPO.load_checkpoint(file))
    in_thread(lambda: loaded.learn(16, reset_num_timesteps=False))
    np.testing.assert_array_equal(numbers(loaded), numbers(expected))


def test_calls_between_learns_leave_nothing_pending(updates: str) -> None:
    model, env = MODELS["sac_sde"](), Drawn(VECTORS, ACTIONS)
    in_thread(lambda: model.learn(8))

    def change() -> None:
        model.set_parameters(model.get_parameters())
        model.policy.load_from_vector(model.policy.parameters_to_vector() * 0.5)
        model.policy.reset_noise(2)
        model.set_random_seed(5)
        model.set_env(env)
        model.train(gradient_steps=1, batch_size=4)

    for _ in range(2):
        in_thread(change)
        model.predict(observation(model))
        model.learn(8, reset_num_timesteps=False)
    policy = in_thread(lambda: copy.deepcopy(model.policy))
    assert policy.predict(observation(model))[0].shape == (2,)


def test_asyncio_and_pools() -> None:
    model = MODELS["ppo_cnn"]()

    async def serve() -> list[Any]:
        await asyncio.to_thread(model.learn, 16)
        calls = [
            asyncio.to_thread(model.predict, observation(model, i), deterministic=True) for i in range(8)
        ]
        return list(await asyncio.gather(*calls))

    answers = asyncio.run(serve())
    for i, (action, _) in enumerate(answers):
        np.testing.assert_array_equal(action, model.predict(observation(model, i), deterministic=True)[0])


@pytest.mark.parametrize("name", ["ppo_box", "ppo_cnn", "sac", "dqn", "sac_dict"])
def test_four_threads_predict_at_the_same_time(name: str) -> None:
    model = MODELS[name]()
    model.learn(8)
    observations = [observation(model, i) for i in range(40)]
    expected = [model.predict(obs, deterministic=True)[0] for obs in observations]
    start = threading.Barrier(4)

    def answer(part: int) -> list[np.ndarray]:
        start.wait()
        model.predict(observations[part])
        return [model.predict(obs, deterministic=True)[0] for obs in observations]

    with ThreadPoolExecutor(4) as pool:
        for answers in pool.map(answer, range(4)):
            np.testing.assert_array_equal(answers, expected)


@pytest.mark.parametrize("name", ["ppo_box", "sac_dict"])
def test_threads_draw_different_actions_at_the_same_time(name: str) -> None:
    model = MODELS[name]()
    if name == "ppo_box":
        # Narrow, so that no two actions are clipped to the same bounds.
        model.policy.log_std = mx.array([-3.0, -3.0])
    obs, start = observation(model), threading.Barrier(4)

    def draw() -> list[tuple[float, ...]]:
        start.wait()
        return [tuple(model.predict(obs)[0].tolist()) for _ in range(25)]

    with ThreadPoolExecutor(4) as pool:
        drawn = [action for actions in [pool.submit(draw) for _ in range(4)] for action in actions.result()]
    assert len(set(drawn)) == 100


@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_one_thread_learns_while_others_predict(name: str, updates: str) -> None:
    model = MODELS[name]()
    obs, done = observation(model), threading.Event()

    def predict(_: int) -> int:
        count = 0
        while not done.is_set() or count < 5:
            action = model.predict(obs, deterministic=count % 2 == 0)[0]
            assert model.action_space.contains(action if action.ndim else int(action))
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        counts = [pool.submit(predict, i) for i in range(2)]
        try:
            pool.submit(lambda: [model.learn(16) for _ in range(4)]).result()
        finally:
            done.set()
        assert min(count.result() for count in counts) >= 5
    assert np.isfinite(numbers(model)).all()


def test_two_models_learn_at_the_same_time(updates: str) -> None:
    models = [MODELS["ppo_cnn"](), MODELS["sac"](), MODELS["ppo"]()]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda model: model.learn(64), models))
    for model in models:
        assert model.num_timesteps == 64
        assert np.isfinite(numbers(model)).all()


def test_unseeded_models_of_new_threads_differ() -> None:
    def weights() -> np.ndarray:
        return PPO("MlpPolicy", "CartPole-v1").policy.parameters_to_vector()

    drawn = [in_thread(weights) for _ in range(3)]
    policies = [in_thread(lambda: standalone().parameters_to_vector()) for _ in range(2)]
    for first, second in ((drawn[0], drawn[1]), (drawn[1], drawn[2]), policies):
        assert np.abs(first - second).max() > 1e-3


def standalone() -> ActorCriticPolicy:
    return ActorCriticPolicy(VECTORS, ACTIONS, lambda _: 1e-3)


@pytest.mark.parametrize("seed", [mx.random.seed, utils.set_random_seed])
def test_a_seed_given_before_counts_for_models_without_one(seed: Any) -> None:
    def weights() -> np.ndarray:
        seed(11)
        return PPO("MlpPolicy", "CartPole-v1").policy.parameters_to_vector()

    first = weights()
    np.testing.assert_array_equal(weights(), first)
    np.testing.assert_array_equal(in_thread(weights), first)


def test_a_seed_given_in_the_thread_of_a_call_counts() -> None:
    model = PPO("MlpPolicy", Drawn(VECTORS, ACTIONS), seed=1)
    obs = observation(model)

    def draw() -> np.ndarray:
        mx.random.seed(4)
        return np.array([model.predict(obs)[0] for _ in range(2)])

    first = in_thread(draw)
    in_thread(lambda: model.predict(obs))
    np.testing.assert_array_equal(in_thread(draw), first)
    np.testing.assert_array_equal(draw(), first)


def test_a_call_inside_another_models_call_draws_its_numbers() -> None:
    inner = SAC("MlpPolicy", "Pendulum-v1", seed=1)
    in_thread(lambda: inner.predict(observation(inner)))

    def learned(with_inner: bool) -> np.ndarray:
        model = MODELS["ppo_cnn"]()
        model.learn(8, callback=lambda *_: [with_inner and inner.policy.predict(observation(inner))])
        return numbers(model)

    assert np.isfinite(learned(True)).all()
    np.testing.assert_array_equal(learned(False), learned(False))
