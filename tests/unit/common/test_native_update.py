"""Gradient steps in Rust give what MLX's give: parameters, optimizers and logged values."""

import copy
from typing import Any

import cloudpickle
import gymnasium as gym
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, _native
from mlx_baselines3.common.buffers import NStepReplayBuffer, RolloutBuffer
from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.native_actor import NotMirrored, blueprint
from mlx_baselines3.common.native_update import NativeOnPolicyUpdate
from mlx_baselines3.common.optimizers import RMSpropTFLike
from mlx_baselines3.common.parameter_optimizer import ParameterOptimizer

OBS = spaces.Box(-5, 5, (2, 3), np.float32)
BOX = spaces.Box(-1, 1, (2,), np.float32)
ROWS = 24
SETTING = "MLX_BASELINES3_UPDATES"


@pytest.fixture(autouse=True)
def _no_compiler():
    """The numbers are the same, and no case waits for g++."""
    mx.disable_compile()
    yield
    mx.enable_compile()


class Spaces(gym.Env[Any, Any]):
    """An environment of which only the spaces matter."""

    def __init__(self, action_space: spaces.Space, observation_space: spaces.Space = OBS):
        self.action_space, self.observation_space = action_space, observation_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def on_policy(cls, action_space=BOX, rows=ROWS, **kwargs) -> Any:
    """A model with numbers in its rollout."""
    kwargs = {"policy_kwargs": {"net_arch": [7, 5]}, "seed": 1, **kwargs}
    model = cls("MlpPolicy", Spaces(action_space), n_steps=rows, **kwargs)
    model.set_logger(Logger(None, []))
    rng, buffer = np.random.default_rng(3), model.rollout_buffer
    for array in (buffer.observations, buffer.values, buffer.advantages, buffer.returns):
        array[:] = rng.normal(size=array.shape)
    action_space.seed(4)
    buffer.actions[:] = np.array([action_space.sample() for _ in range(rows)]).reshape(buffer.actions.shape)
    # Near what the policy says, so that some rows are clipped and some are not.
    actions = mx.array(buffer.actions[:, 0])
    if isinstance(action_space, spaces.Discrete):
        actions = actions.flatten().astype(mx.int32)
    _, log_probs, _ = model.policy.evaluate_actions(mx.array(buffer.observations[:, 0]), actions)
    buffer.log_probs[:, 0] = np.array(log_probs) + 0.2 * rng.normal(size=rows)
    buffer.full = True
    return model


def off_policy(cls, rows=ROWS, **kwargs) -> Any:
    """A model with numbers in its replay buffer."""
    kwargs = {"policy_kwargs": {"net_arch": [7, 5]}, "seed": 1, "buffer_size": 50, **kwargs}
    action_space = spaces.Discrete(3) if cls is DQN else BOX
    model = cls("MlpPolicy", Spaces(action_space), batch_size=rows, **kwargs)
    model.set_logger(Logger(None, []))
    rng, buffer = np.random.default_rng(3), model.replay_buffer
    for _ in range(50):
        obs, next_obs = rng.normal(size=(2, 1, *OBS.shape))
        action = rng.integers(3, size=(1, 1)) if cls is DQN else rng.uniform(-1, 1, (1, 2))
        done = rng.random(1) < 0.2
        buffer.add(obs, next_obs, action, rng.normal(size=1), done, [{}])
    return model


def train(model: Any, steps: int) -> None:
    # Not that of the model's seed, which both would share.
    np.random.seed(5)  # noqa: NPY002
    mx.random.seed(6)
    if isinstance(model, (PPO, A2C)):
        for _ in range(steps):
            model.train()
    else:
        model.train(gradient_steps=steps, batch_size=model.batch_size)


def state_of(model: Any) -> dict[str, np.ndarray]:
    """Everything that an update changes, and what it logs."""
    state = {f"policy.{name}": value for name, value in model.policy.state_dict().items()}
    owners = [getattr(model.policy, name, None) for name in ("actor", "critic")]
    for owner in (model.policy, *owners, model):
        for name in ("optimizer", "ent_coef_optimizer"):
            if (optimizer := getattr(owner, name, None)) is not None:
                kind = type(owner).__name__
                state |= {f"{kind}.{key}": value for key, value in optimizer.state_dict().items()}
    state |= {f"log.{name}": np.array(value) for name, value in model.logger.name_to_value.items()}
    if getattr(model, "log_ent_coef", None) is not None:
        state["log_ent_coef"] = model.log_ent_coef
    return {name: np.array(value, np.float64) for name, value in state.items()}


def both_ways(monkeypatch, make, steps: int = 3) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What Rust and what MLX make of the same model."""
    answers = []
    for who in ("native", "mlx"):
        monkeypatch.setenv(SETTING, who)
        model = make()
        before = state_of(model)
        train(model, steps)
        assert (model._update_step is None) == (who == "native")
        answers.append(state_of(model))
        changed = [name for name, value in before.items() if not np.array_equal(value, answers[-1][name])]
        assert len(changed) > len(before) // 2
    return answers[0], answers[1]


def assert_close(native: dict[str, np.ndarray], mlx: dict[str, np.ndarray], tolerance: float = 2e-5) -> None:
    assert native.keys() == mlx.keys()
    for name, value in native.items():
        np.testing.assert_allclose(value, mlx[name], rtol=tolerance, atol=tolerance, err_msg=name)


FAST = {"learning_rate": 1e-3}
PPO_CASES: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "choices": {"action_space": spaces.MultiDiscrete([3, 1, 4]), "ent_coef": 0.3},
    "one choice": {"action_space": spaces.Discrete(4), "ent_coef": 0.3, "clip_range_vf": 0.1},
    "coins": {"action_space": spaces.MultiBinary(3), "ent_coef": 0.3},
    "not normalised, clipped values": {"normalize_advantage": False, "clip_range_vf": 0.2},
    "a short last minibatch": {"batch_size": 7},
    "a last minibatch of one": {"batch_size": 23},
    "stops early": {"target_kl": 0.02, "batch_size": 4, "learning_rate": 0.01},
    "no hidden layers": {"policy_kwargs": {"net_arch": []}},
    "other depths": {"policy_kwargs": {"net_arch": {"pi": [9, 4, 3], "vf": [6]}}},
    "a tight clip": {"max_grad_norm": 1e-3},
    "pieces": {"rows": 300, "batch_size": 300},
}


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("case", PPO_CASES)
def test_ppo(monkeypatch, case):
    kwargs = {"n_epochs": 4, "batch_size": 8, "ent_coef": 0.01, **FAST, **PPO_CASES[case]}
    action_space = kwargs.pop("action_space", BOX)
    assert_close(*both_ways(monkeypatch, lambda: on_policy(PPO, action_space, **kwargs), 2))


@pytest.mark.parametrize(
    "activation_fn", [nn.Tanh, nn.ReLU, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Identity]
)
def test_activations(monkeypatch, activation_fn):
    kwargs = {"policy_kwargs": {"net_arch": [7, 5], "activation_fn": activation_fn}, **FAST}
    assert_close(*both_ways(monkeypatch, lambda: on_policy(PPO, batch_size=8, n_epochs=3, **kwargs), 1))


@pytest.mark.parametrize(
    "options", [{}, {"use_rms_prop": False}, {"normalize_advantage": True, "ent_coef": 0.1}]
)
def test_a2c(monkeypatch, options):
    assert_close(*both_ways(monkeypatch, lambda: on_policy(A2C, spaces.Discrete(3), **options)))


@pytest.mark.parametrize(
    ("optimizer_class", "optimizer_kwargs"),
    [
        (RMSpropTFLike, {"alpha": 0.9, "eps": 1e-5}),
        (optim.RMSprop, {"alpha": 0.8, "eps": 1e-3}),
        (optim.Adam, {"betas": (0.8, 0.9), "eps": 1e-3}),
        (optim.Adam, {"bias_correction": False}),
    ],
)
def test_optimizers(monkeypatch, optimizer_class, optimizer_kwargs):
    arch = {"net_arch": [7]}
    policy_kwargs = {"optimizer_class": optimizer_class, "optimizer_kwargs": optimizer_kwargs, **arch}
    assert_close(*both_ways(monkeypatch, lambda: on_policy(A2C, policy_kwargs=dict(policy_kwargs))))


OFF_POLICY_CASES: dict[str, tuple[type, dict[str, Any]]] = {
    "DQN": (DQN, {"max_grad_norm": 0.1}),
    "DQN of n steps": (DQN, {"n_steps": 3}),
    "DQN in pieces": (DQN, {"rows": 300}),
    "SAC": (SAC, {}),
    "SAC, fixed entropy": (SAC, {"ent_coef": 0.2, "target_update_interval": 2}),
    "SAC of n steps, three critics": (
        SAC,
        {"replay_buffer_class": NStepReplayBuffer, "policy_kwargs": {"net_arch": [7], "n_critics": 3}},
    ),
    "SAC in pieces": (SAC, {"rows": 300, "policy_kwargs": {"net_arch": [130, 140]}}),
    "TD3": (TD3, {}),
    "TD3 at each step": (TD3, {"policy_delay": 1, "target_policy_noise": 0.5, "target_noise_clip": 0.2}),
    "DDPG": (DDPG, {"tau": 0.1}),
}


@pytest.mark.parametrize("case", OFF_POLICY_CASES)
def test_off_policy(monkeypatch, case):
    cls, kwargs = OFF_POLICY_CASES[case]
    native, mlx = both_ways(monkeypatch, lambda: off_policy(cls, **copy.deepcopy(kwargs)), 5)
    # Adam's first steps are as long as the learning rate: where a gradient is near 0 its last bit decides.
    assert_close(native, mlx, 1e-4)


@pytest.mark.parametrize("make", [lambda: on_policy(PPO, batch_size=8), lambda: off_policy(SAC)])
def test_one_may_go_on_where_the_other_has_stopped(monkeypatch, make):
    """The state of the optimizers is the networks' own, whoever computes."""
    models = {}
    for name, turns in {"native": ["native"] * 3, "in turn": ["native", "mlx", "native"]}.items():
        models[name] = make()
        for who in turns:
            monkeypatch.setenv(SETTING, who)
            train(models[name], 2)
    assert_close(state_of(models["native"]), state_of(models["in turn"]), 1e-4)


@pytest.mark.parametrize("gradient_steps", [1, 5])
def test_a_network_that_rests(monkeypatch, gradient_steps):
    """The averages of the actor's optimizer are those of its last step, however many updates ago that was."""
    # A batch at a time: Rust is called for each gradient step.
    monkeypatch.setattr("mlx_baselines3.common._replay_batches.FLUSH_BYTES", 1)
    states = {}
    for who in ("native", "mlx"):
        monkeypatch.setenv(SETTING, who)
        model = off_policy(TD3, policy_delay=3)
        for _ in range(7):
            train(model, gradient_steps)
        states[who] = state_of(model)
    assert_close(states["native"], states["mlx"], 1e-4)


def test_an_update_that_ends_before_its_first_step(monkeypatch):
    states = {}
    for who in ("native", "mlx"):
        monkeypatch.setenv(SETTING, who)
        model = on_policy(PPO, batch_size=8, n_epochs=2)
        for target_kl in (None, 1e-9, None):
            model.target_kl = target_kl
            train(model, 1)
        states[who] = state_of(model)
    assert_close(states["native"], states["mlx"])


def test_the_optimizers_state_is_there_when_someone_looks():
    """It is made on demand, and looking at it changes nothing."""
    watched, left_alone, replaced = (off_policy(DQN) for _ in range(3))
    for model in (watched, left_alone, replaced):
        train(model, 3)
    optimizer = watched.policy.optimizer
    copies = [copy.deepcopy(optimizer), cloudpickle.loads(cloudpickle.dumps(left_alone.policy.optimizer))]
    for one in (optimizer, *copies):
        assert one.state["step"].item() == one.optimizer.state["step"].item() == 3
    before = optimizer.state_dict()
    kept = {name: np.array(array) for name, array in before.items()}
    replaced.policy.optimizer.load_state_dict(before)
    for model in (watched, left_alone, replaced):
        train(model, 2)
    for model in (watched, replaced):
        assert_close(state_of(model), state_of(left_alone), 0)
    # What was handed out stays what it was.
    for one in (before, *(one.state_dict() for one in copies)):
        for name, array in kept.items():
            np.testing.assert_array_equal(np.array(one[name]), array, err_msg=name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: on_policy(PPO, rows=2048, batch_size=1024, policy_kwargs={"net_arch": [64, 64]}),
        lambda: off_policy(SAC, rows=600, policy_kwargs={"net_arch": [256, 256]}),
        lambda: off_policy(DQN, rows=600, policy_kwargs={"net_arch": [256, 256]}),
    ],
    ids=["PPO", "SAC", "DQN"],
)
def test_the_number_of_threads_changes_nothing(make):
    states = []
    for threads in (1, 2, 5):
        _native.set_threads(threads)
        try:
            model = make()
            train(model, 2)
        finally:
            _native.set_threads(None)
        states.append(state_of(model))
    for other in states[1:]:
        for name, value in states[0].items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_mlx_is_asked_for_random_numbers_alone(monkeypatch):
    """No graph, no kernel, and one draw of noise however many steps there are."""
    models = [on_policy(PPO, batch_size=4), off_policy(DQN), off_policy(TD3)]
    for model in models:
        train(model, 1)
    for name in ("eval", "compile", "value_and_grad"):
        monkeypatch.delattr(mx, name)
    drawn: list[mx.array] = []
    monkeypatch.setattr(mx, "async_eval", drawn.append)
    for model in models:
        train(model, 4)
    assert [noise.shape for noise in drawn] == [(4, ROWS, 2)]


@pytest.mark.parametrize("cls", [DQN, SAC, TD3])
def test_nan_changes_nothing(cls):
    model = off_policy(cls)
    train(model, 2)
    before = state_of(model)
    sound = model.replay_buffer.rewards.copy()
    model.replay_buffer.rewards[:] = np.nan
    with pytest.raises(FloatingPointError, match=r"the parameters of .*Nothing was changed"):
        train(model, 2)
    for name, value in state_of(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    # With sound numbers the same model learns on.
    model.replay_buffer.rewards[:] = sound
    train(model, 2)
    assert all(np.isfinite(value).all() for value in state_of(model).values())


def test_an_action_that_is_none():
    model = on_policy(PPO, spaces.Discrete(3), batch_size=8)
    before = model.policy.parameters_to_vector()
    model.rollout_buffer.actions[5] = 7
    with pytest.raises(ValueError, match="an action is 7, expected a choice from 0 to 2"):
        train(model, 1)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)


def test_a_wrong_setting_is_an_error(monkeypatch):
    model = on_policy(A2C)
    monkeypatch.setenv(SETTING, "torch")
    with pytest.raises(ValueError, match="MLX_BASELINES3_UPDATES is 'torch', expected 'native' or 'mlx'"):
        train(model, 1)


class OwnLoss(PPO):
    def _loss(self, batch, settings):
        return super()._loss(batch, settings)


class OwnBuffer(RolloutBuffer):
    pass


SMALL = {"net_arch": [4]}
REASONS = [
    (lambda: on_policy(OwnLoss, batch_size=8, verbose=1), "OwnLoss has its own _loss"),
    (lambda: on_policy(A2C, rollout_buffer_class=OwnBuffer, verbose=1), "the rollout buffer is a OwnBuffer"),
    (
        lambda: on_policy(PPO, batch_size=8, use_sde=True, verbose=1),
        "there is no native gradient of a state_dependent policy",
    ),
    (
        lambda: on_policy(A2C, verbose=1, policy_kwargs={"optimizer_class": optim.AdamW, **SMALL}),
        "there is no native AdamW with these arguments",
    ),
    (
        lambda: on_policy(
            A2C,
            verbose=1,
            policy_kwargs={
                "optimizer_class": RMSpropTFLike,
                "optimizer_kwargs": {"momentum": 0.5},
                **SMALL,
            },
        ),
        "there is no native RMSpropTFLike with these arguments",
    ),
    (
        lambda: on_policy(A2C, verbose=1, policy_kwargs={"activation_fn": nn.Softplus, **SMALL}),
        "there is no native Softplus layer",
    ),
    (lambda: off_policy(SAC, use_sde=True, verbose=1), "gSDE is used"),
]


@pytest.mark.parametrize(("make", "reason"), REASONS)
def test_a_line_says_why_mlx_computes(capsys, make, reason):
    model = make()
    capsys.readouterr()
    for _ in range(2):
        train(model, 1)
    assert capsys.readouterr().out == f"MLX computes the gradient steps, because {reason}.\n"
    assert model._update_step is not None


def test_parameters_that_are_not_trained_are_mlx_s():
    policy = on_policy(A2C).policy
    some = [name for name in policy.optimizer.names if not name.startswith("value_net")]
    optimizer = ParameterOptimizer(policy, optim.Adam, 1e-3, names=some)
    with pytest.raises(NotMirrored, match="some of its parameters are not trained"):
        NativeOnPolicyUpdate(policy, optimizer, blueprint(policy))


def test_other_networks_are_noticed():
    """A model whose policy or optimizer is replaced trains the new one."""
    model, other = on_policy(A2C), on_policy(A2C, seed=9)
    train(model, 1)
    model.policy = other.policy
    before = model.policy.parameters_to_vector()
    train(model, 1)
    assert not np.array_equal(model.policy.parameters_to_vector(), before)
