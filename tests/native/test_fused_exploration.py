"""Off-policy chunks in Rust are single steps in Python, bit for bit, and callbacks see what SB3 shows."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3 import DDPG, DQN, SAC, TD3, _native
from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    ConvertCallback,
    EveryNTimesteps,
    ProgressBarCallback,
)
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.native.actor import native_actor
from mlx_baselines3.common.native.eligibility import can_store_natively
from mlx_baselines3.common.native.exploration import NativeCollector
from mlx_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from mlx_baselines3.common.vec_env import DummyVecEnv, NativeVecEnv, VecNormalize
from mlx_baselines3.dqn.policies import MlpPolicy

COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def small(**kwargs: Any) -> dict[str, Any]:
    settings = {"learning_starts": 40, "batch_size": 16, "buffer_size": 200, "device": "cpu", "seed": 3}
    return {**settings, "policy_kwargs": {"net_arch": [16]}, **kwargs}


class Watch(BaseCallback):
    """A user's callback: it keeps what it sees at every step."""

    def __init__(self, stop_at: int = 10**9) -> None:
        super().__init__()
        self.stop_at = stop_at
        self.seen: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        self.seen.append({**self.locals, "num_timesteps": self.num_timesteps})
        return self.n_calls < self.stop_at


class Pages(Logger):
    """Keeps what is written, except for the time."""

    def __init__(self) -> None:
        super().__init__(None, [])
        self.written: list[Any] = []

    def dump(self, step: int = 0) -> None:
        entry = {key: value for key, value in self.name_to_value.items() if key not in _TIMES}
        self.written.append((step, entry))
        super().dump(step)


_TIMES = ("time/fps", "time/time_elapsed")


class CountChunks:
    """Counts the calls that take steps in Rust, and the steps of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lengths: list[int] = []
        for name in ("collect_chunk", "learn"):
            monkeypatch.setattr(NativeCollector, name, self._counting(getattr(NativeCollector, name)))

    def _counting(self, original: Any) -> Any:
        def collect(collector: Any, *args: Any, **kwargs: Any) -> Any:
            done = original(collector, *args, **kwargs)
            self.lengths.append(done.n_steps)
            return done

        return collect


def normal() -> NormalActionNoise:
    return NormalActionNoise(np.zeros(1), np.full(1, 0.3))


def walk() -> OrnsteinUhlenbeckActionNoise:
    return OrnsteinUhlenbeckActionNoise(np.zeros(1), np.full(1, 0.5), dt=0.1)


def make_env(env_id: str, n_envs: int, native: bool, limit: int | None) -> Any:
    kwargs = {} if limit is None else {"max_episode_steps": limit}
    if native:
        return NativeVecEnv(env_id, n_envs, env_kwargs=kwargs)
    return make_vec_env(env_id, n_envs, vec_env_cls=DummyVecEnv, env_kwargs=kwargs)


def make_model(
    algorithm: Any, env_id: str, n_envs: int = 1, native: bool = True, limit: int | None = None, **kwargs: Any
) -> Any:
    kwargs = small(**kwargs)
    if "action_noise" in kwargs:
        kwargs["action_noise"] = kwargs["action_noise"]()
    return algorithm("MlpPolicy", make_env(env_id, n_envs, native, limit), **kwargs)


def outcome(model: Any) -> dict[str, Any]:
    """Everything that a run leaves behind."""
    buffer = model.replay_buffer
    result = {name: np.array(getattr(buffer, name)) for name in COLUMNS if hasattr(buffer, name)}
    result |= {f"policy/{name}": np.array(array) for name, array in model.policy.state_dict().items()}
    if buffer._terminal is not None:
        kept = buffer._terminal.export()
        result["terminal"], result["terminal_obs"] = kept["transitions"], kept["observations"]
    result["cursor"] = np.array([buffer.pos, buffer.full, model.num_timesteps, model._episode_num])
    result["present"], result["before"] = model._last_obs, model._last_original_obs
    result["episodes"] = np.array([(episode["r"], episode["l"]) for episode in model.ep_info_buffer])
    state = native_actor(model.policy).rng_state[0]
    result["generators"] = np.array([np.random.rand(), float(state)])  # noqa: NPY002
    result["sample"] = np.asarray(model.action_space.sample())
    return result


def run(case: dict[str, Any], native: bool, callback: Any, steps: int) -> tuple[dict[str, Any], Any]:
    model = make_model(native=native, **case)
    pages = Pages()
    model.set_logger(pages)
    model.learn(steps, callback, log_interval=3)
    return outcome(model), pages.written


CASES = {
    "dqn": {"algorithm": DQN, "env_id": "CartPole-v1", "train_freq": 7, "exploration_fraction": 0.8},
    "dqn, three environments, time limit, n steps": {
        "algorithm": DQN, "env_id": "CartPole-v1", "n_envs": 3, "limit": 9, "train_freq": 30, "n_steps": 3,
        "target_update_interval": 21,
    },
    "dqn, whole episodes": {"algorithm": DQN, "env_id": "CartPole-v1", "train_freq": (3, "episode")},
    "dqn, every observation once": {
        "algorithm": DQN, "env_id": "CartPole-v1", "n_envs": 2, "limit": 9, "train_freq": 11,
        "optimize_memory_usage": True, "n_steps": 2,
    },
    "dqn, time limits end": {
        "algorithm": DQN, "env_id": "CartPole-v1", "n_envs": 2, "limit": 9, "train_freq": 11,
        "replay_buffer_kwargs": {"handle_timeout_termination": False}, "optimize_memory_usage": True,
    },
    "sac": {"algorithm": SAC, "env_id": "Pendulum-v1", "n_envs": 2, "limit": 33, "train_freq": 9},
    "sac, single steps": {"algorithm": SAC, "env_id": "MountainCarContinuous-v0", "limit": 50},
    "td3, normal noise": {
        "algorithm": TD3, "env_id": "Pendulum-v1", "n_envs": 2, "limit": 33, "train_freq": 20,
        "action_noise": normal,
    },
    "td3, walks": {
        "algorithm": TD3, "env_id": "Pendulum-v1", "n_envs": 2, "limit": 33, "train_freq": 50,
        "action_noise": walk,
    },
    "ddpg, walk, whole episodes, every observation once": {
        "algorithm": DDPG, "env_id": "Pendulum-v1", "limit": 45, "train_freq": (1, "episode"),
        "action_noise": walk, "optimize_memory_usage": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_fused_stepwise_and_gymnasium_are_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    steps = 420 * case.get("n_envs", 1) // 2 + 200
    count = CountChunks(monkeypatch)
    fused, pages = run(case, True, None, steps)
    assert sum(count.lengths) * case.get("n_envs", 1) >= steps
    assert len(count.lengths) == sum(count.lengths) or max(count.lengths) > 4
    fused_calls = len(count.lengths)
    for native, callback in ((True, Watch()), (False, None)):
        other, other_pages = run(case, native, callback, steps)
        assert fused.keys() == other.keys()
        for key, value in fused.items():
            assert np.array_equal(value, other[key]), (key, native)
        assert pages == other_pages
    assert len(count.lengths) == fused_calls
    assert len(pages) > 1
    assert fused["cursor"][1], "the buffer should have come round"
    assert np.ptp(fused["actions"]) > 0
    assert fused["timeouts"].any() == ("limit" in case and "replay_buffer_kwargs" not in case)


def test_a_dump_in_the_middle_of_a_chunk_has_the_steps_of_its_episode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = CountChunks(monkeypatch)
    model = make_model(DQN, "CartPole-v1", train_freq=400, learning_starts=0, gradient_steps=0)
    pages = Pages()
    model.set_logger(pages)
    model.learn(400, log_interval=1)
    assert count.lengths == [400]
    ends = np.flatnonzero(np.concatenate([model.replay_buffer.dones[:, 0]])) + 1
    assert len(pages.written) == model._episode_num > 10
    # The buffer of 200 rows holds the second half of the run.
    assert [step for step, _ in pages.written if step > 200] == (ends + 200).tolist()
    for step, entry in pages.written:
        assert entry["time/total_timesteps"] == step
        assert entry["rollout/exploration_rate"] == pytest.approx(max(1 - 0.95 * step / 40, 0.05))


def test_a_users_callback_sees_every_step() -> None:
    watch = Watch()
    model = make_model(SAC, "Pendulum-v1", n_envs=2, learning_starts=10, gradient_steps=0, train_freq=5)
    model.learn(60, watch)
    buffer = model.replay_buffer
    assert [step["num_timesteps"] for step in watch.seen] == list(range(2, 62, 2))
    assert [step["num_collected_steps"] for step in watch.seen] == [1, 2, 3, 4, 5] * 6
    for row, step in enumerate(watch.seen):
        assert np.array_equal(step["buffer_actions"], buffer.actions[row])
        assert np.allclose(step["actions"], 2 * step["buffer_actions"], atol=1e-6)
        assert np.array_equal(step["new_obs"], buffer.next_observations[row])
        assert np.array_equal(step["rewards"], buffer.rewards[row])
        assert (step["dones"].shape, len(step["infos"]), step["self"]) == ((2,), 2, model)


def test_chunks_are_as_long_as_callbacks_allow(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    checkpoint = CheckpointCallback(6, str(tmp_path))
    cases = [
        (None, [10, 10]),
        (ProgressBarCallback(), [10, 10]),
        (ConvertCallback(lambda _locals, _globals: True), []),
        # The step that a callback has to see is one in Python.
        (checkpoint, [5, 4, 1, 5, 2]),
        (EveryNTimesteps(13, ConvertCallback(None)), [4, 4, 4, 4]),
    ]
    for callback, expected in cases:
        count = CountChunks(monkeypatch)
        model = make_model(DQN, "CartPole-v1", n_envs=3, train_freq=10, gradient_steps=0, learning_starts=0)
        model.learn(60, callback)
        assert count.lengths == expected, callback
        assert model.num_timesteps == 60
        assert model.replay_buffer.pos == 20
        if isinstance(callback, BaseCallback):
            assert (callback.n_calls, callback.num_timesteps) == (20, 60)
        monkeypatch.undo()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["rl_model_18_steps.zip", "rl_model_36_steps.zip", "rl_model_54_steps.zip"]


def test_a_callback_stops_the_rollout() -> None:
    for callback in (Watch(7), EveryNTimesteps(21, ConvertCallback(lambda _locals, _globals: False))):
        model = make_model(DQN, "CartPole-v1", n_envs=3, train_freq=40, gradient_steps=0)
        model.learn(1000, callback)
        # As in SB3: the step at which it was stopped counts, but is not stored.
        assert model.num_timesteps == 7 * 3
        assert model.replay_buffer.pos == 6
        model.learn(60)
        assert model.replay_buffer.pos == 46


def test_what_python_must_see_is_not_fused(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    class OwnBuffer(ReplayBuffer):
        pass

    class OwnNoise(NormalActionNoise):
        asked = 0

        def __call__(self) -> np.ndarray:
            self.asked += 1
            return super().__call__()

    class OwnDQN(DQN):
        def _on_step(self) -> None:
            super()._on_step()
            self.exploration_rate = 0.5

    cart = {"env_id": "CartPole-v1", "gradient_steps": 0, "train_freq": 10}
    count = CountChunks(monkeypatch)
    noise = OwnNoise(np.zeros(1), np.ones(1))
    models = [
        make_model(DQN, **cart, replay_buffer_class=OwnBuffer),
        make_model(OwnDQN, **cart),
        make_model(TD3, "Pendulum-v1", action_noise=lambda: noise, gradient_steps=0),
        make_model(
            TD3, "Pendulum-v1", action_noise=lambda: NormalActionNoise(np.zeros(1), np.ones(1), np.float64),
            gradient_steps=0,
        ),
    ]  # fmt: skip
    for env in (
        VecNormalize(NativeVecEnv("CartPole-v1")),
        NativeVecEnv("CartPole-v1", monitor_dir=str(tmp_path)),
    ):
        models.append(DQN("MlpPolicy", env, **small(gradient_steps=0, train_freq=10)))
    for model in models:
        model.learn(60)
        assert model.replay_buffer.pos == 60
    assert count.lengths == []
    assert noise.asked == 60
    assert models[1].exploration_rate == 0.5


@pytest.mark.parametrize(("algorithm", "env_id"), [(DQN, "CartPole-v1"), (SAC, "Pendulum-v1")])
def test_a_policy_gone_wrong_leaves_whole_steps(algorithm: Any, env_id: str) -> None:
    model = make_model(algorithm, env_id, gradient_steps=0, learning_starts=4, train_freq=20)
    if algorithm is DQN:
        model.exploration_schedule = lambda _progress: 0.0
    layer = model.policy.q_net.q_net[0] if algorithm is DQN else model.policy.actor.mu
    good = layer.bias
    layer.bias = mx.full(good.shape, float("nan"))
    with pytest.raises(ValueError, match="finite"):
        model.learn(60)
    # The random steps before it were taken, counted and stored.
    assert (model.num_timesteps, model.replay_buffer.pos) == (4, 4)
    assert np.array_equal(model.replay_buffer.next_observations[3], model._last_obs)
    assert not model.replay_buffer.observations[4:].any()
    layer.bias = good
    model.learn(60, reset_num_timesteps=False)
    assert model.replay_buffer.pos == 64
    assert np.array_equal(model.replay_buffer.observations[4], model.replay_buffer.next_observations[3])


def test_closed_environments_are_refused() -> None:
    model = make_model(DQN, "CartPole-v1", gradient_steps=0)
    model._setup_learn(1)
    model.env.close()
    with pytest.raises(RuntimeError, match="closed"):
        model.learn(60, reset_num_timesteps=False)


def test_new_weights_act_at_once_whoever_set_them() -> None:
    class Idle(DQN):
        def train(self, gradient_steps: int, batch_size: int = 100) -> None:
            self._n_updates += 1
            self.policy.q_net.q_net[2].bias[self._n_updates % 2] += 200.0

    model = make_model(Idle, "CartPole-v1", learning_starts=0, train_freq=5, exploration_initial_eps=0.0,
                       exploration_final_eps=0.0)  # fmt: skip
    model.learn(30)
    actions = model.replay_buffer.actions[5:30, 0, 0].reshape(5, 5)
    # The bias of one action and then of the other is raised in place: the first wins, then there is a tie.
    assert (actions[0] == 1).all()
    assert (actions[2] == 1).all()
    before = model.replay_buffer.pos
    model.policy.q_net.q_net[2].bias = mx.array([500.0, 0.0])
    model.gradient_steps = 0
    model.learn(10, reset_num_timesteps=False)
    assert not model.replay_buffer.actions[before : before + 10].any()


def test_a_callback_may_change_the_policy_at_the_ends_of_rollouts() -> None:
    class Choose(EveryNTimesteps):
        """Needs no step, and turns the policy round before every rollout."""

        best = 0

        def _on_rollout_start(self) -> None:
            self.best = 1 - self.best
            self.model.policy.q_net.q_net[2].bias[:] = mx.array([0.0, 500.0] if self.best else [500.0, 0.0])

    never = 10**6
    for callback in (Choose(never, ConvertCallback(None)), [Choose(never, ConvertCallback(None))]):
        model = make_model(DQN, "CartPole-v1", learning_starts=0, train_freq=5, gradient_steps=0,
                           exploration_initial_eps=0.0, exploration_final_eps=0.0)  # fmt: skip
        model.learn(20, callback)
        assert model.replay_buffer.actions[:20, 0, 0].tolist() == ([1] * 5 + [0] * 5) * 2


def test_it_says_once_why_mlx_infers(capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(SAC, "Pendulum-v1", use_sde=True, gradient_steps=0, verbose=1)
    model.actor.action_dist.learn_features = False
    capsys.readouterr()
    model.learn(20).learn(20)
    out = capsys.readouterr().out
    assert out.count("because the noise has other settings than SAC gives it.\n") == 1
    assert out.count("because") == 1


class OwnBuffer(ReplayBuffer):
    pass


class OwnNoise(NormalActionNoise):
    pass


class OwnDQN(DQN):
    def _store_transition(self, *args: Any) -> None:
        super()._store_transition(*args)


class OwnPolicy(MlpPolicy):
    def _predict(self, observation: mx.array, deterministic: bool = True) -> mx.array:
        return super()._predict(observation, deterministic)


def _own_method(model: Any) -> None:
    model._on_step = lambda: None


def _own_add(model: Any) -> None:
    model.replay_buffer.add = model.replay_buffer.add


def _noise(cls: Any, *args: Any) -> Any:
    return lambda _: {"action_noise": cls(np.zeros(1), np.ones(1), *args)}


CART, PENDULUM = "CartPole-v1", "Pendulum-v1"
# Algorithm, environments, arguments (from a folder), what is done to the model, and the reason.
STEPWISE: dict[str, tuple[Any, Any, Any, Any, str]] = {
    "wrapper": (DQN, lambda _: VecNormalize(NativeVecEnv(CART)), None, None,
                "the environments are wrapped in VecNormalize"),
    "files": (DQN, lambda path: NativeVecEnv(CART, monitor_dir=str(path)), None, None,
              "the environments write monitor files"),
    "method of a class": (OwnDQN, CART, None, None, "OwnDQN has its own _store_transition"),
    "method of a model": (DQN, CART, None, _own_method, "DQN has its own _on_step"),
    "buffer": (DQN, CART, lambda _: {"replay_buffer_class": OwnBuffer}, None,
               "the replay buffer is a OwnBuffer"),
    "method of a buffer": (DQN, CART, None, _own_add, "this ReplayBuffer was changed"),
    "noise": (TD3, PENDULUM, _noise(OwnNoise), None, "the action noise is a OwnNoise"),
    "noise of several": (TD3, lambda _: NativeVecEnv(PENDULUM, 2), _noise(OwnNoise), None,
                         "the action noise is a OwnNoise"),
    "noise in float64": (TD3, PENDULUM, _noise(NormalActionNoise, np.float64), None,
                         "this NormalActionNoise was changed or does not give float32 numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPWISE)
def test_it_says_once_why_python_takes_the_steps(
    name: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    algorithm, env, kwargs, change, reason = STEPWISE[name]
    model = algorithm(
        "MlpPolicy", env if isinstance(env, str) else env(tmp_path),
        **small(gradient_steps=0, verbose=1, **(kwargs(tmp_path) if kwargs else {})),
    )  # fmt: skip
    if change is not None:
        change(model)
    capsys.readouterr()
    model.learn(20).learn(20, Watch())
    out = capsys.readouterr().out
    assert out.count(f"Python takes each step of the rollouts, because {reason}.\n") == 1
    assert out.count("because") == 1


def test_it_says_nothing_where_there_is_nothing_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    python = make_env(CART, 1, native=False, limit=None)
    quiet = DQN("MlpPolicy", VecNormalize(NativeVecEnv(CART)), **small(gradient_steps=0))
    native = make_model(DQN, CART, gradient_steps=0, verbose=1)
    models = [
        native,
        make_model(DQN, CART, native=False, gradient_steps=0, verbose=1),
        # Python steps them anyway.
        OwnDQN("MlpPolicy", VecNormalize(python), **small(gradient_steps=0, verbose=1)),
        quiet,
    ]
    for model in models:
        model.learn(20)
    for model in models[1:]:
        model.learn(20, Watch())
    assert "because" not in capsys.readouterr().out
    native.learn(20, Watch())
    assert capsys.readouterr().out.count("because the callback is called at every step.\n") == 1


def test_a_reason_is_told_again_when_it_is_another(capsys: pytest.CaptureFixture[str]) -> None:
    env = NativeVecEnv(CART)
    model = DQN(OwnPolicy, VecNormalize(env), **small(gradient_steps=0, verbose=1))
    model.learn(20)
    out = capsys.readouterr().out
    assert "MLX infers each step of the rollouts, because OwnPolicy has its own _predict.\n" in out
    assert out.count("because") == 1
    model.policy = MlpPolicy(env.observation_space, env.action_space, lambda _: 1e-3)
    model.learn(20)
    assert "because the environments are wrapped in VecNormalize.\n" in capsys.readouterr().out
    model.set_env(env)
    model.learn(20)
    assert "because" not in capsys.readouterr().out


def test_a_file_does_not_hold_what_was_said(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = DQN("MlpPolicy", VecNormalize(NativeVecEnv(CART)), **small(gradient_steps=0, verbose=1))
    model.learn(20).save(tmp_path / "model")
    assert capsys.readouterr().out.count("because") == 1
    DQN.load(tmp_path / "model", VecNormalize(NativeVecEnv(CART))).learn(20)
    assert capsys.readouterr().out.count("because") == 1


def test_nothing_of_a_running_collection_is_saved(tmp_path: Any) -> None:
    class Save(BaseCallback):
        def _on_rollout_start(self) -> None:
            self.model.save(tmp_path / "model")

        def _on_step(self) -> bool:
            return True

    make_model(DQN, "CartPole-v1", gradient_steps=0).learn(20, Save())
    assert DQN.load(tmp_path / "model")._collector_choice is None


def test_arrays_that_do_not_fit_are_refused() -> None:
    model = make_model(DQN, "CartPole-v1", gradient_steps=0)
    model.learn(8)
    collector = NativeCollector(
        native_actor(model.policy), model.env._core, model.replay_buffer, model.action_space,
        lambda count: [True] * count,
    )  # fmt: skip
    with pytest.raises(ValueError, match="last observations"):
        collector.collect_chunk(np.zeros((2, 4), np.float32), 3)
    names = ("observations", "next_observations", "actions", "dones", "timeouts")
    columns = {name: getattr(model.replay_buffer, name) for name in names}
    collector._columns = _native.ReplayColumns(**columns, rewards=np.zeros((7, 1), np.float32))
    with pytest.raises(ValueError, match="rewards holds 7 numbers, expected 200"):
        collector.collect_chunk(model._last_obs, 3)
    assert model.replay_buffer.pos == 8
    assert not can_store_natively(model.replay_buffer, NativeVecEnv("Pendulum-v1").action_space)
