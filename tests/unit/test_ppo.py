"""PPO as a user meets it: its losses by hand, keys, schedules, early stopping, action spaces."""

import itertools

import gymnasium as gym
import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import PPO
from mlx_baselines3.common.buffers import RolloutBuffer
from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.vec_env import DummyVecEnv, NativeVecEnv
from mlx_baselines3.ppo import losses

SMALL = {"n_steps": 8, "batch_size": 4, "n_epochs": 2, "policy_kwargs": {"net_arch": [4]}}


class Recording(PPO):
    """Keeps what each update logged."""

    def train(self):
        super().train()
        self.__dict__.setdefault("updates", []).append(
            {key: value for key, value in self.logger.name_to_value.items() if key.startswith("train/")}
        )


class AnyEnv(gym.Env):
    """Random observations, reward 1 for the first component's side; episodes of five steps."""

    def __init__(self, action_space, observation_space=None):
        self.action_space = action_space
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,), np.float32)
        self.observation_space.seed(0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype))
        self.t += 1
        return self.observation_space.sample(), float(np.sum(action)), False, self.t == 5, {}


def array(*numbers):
    return mx.array(numbers, mx.float32)


def test_policy_loss_by_hand():
    """min(r A, clip(r) A): 1.2 * 1, 0.5 * 2 and -(1.5) * 1, 0.8 * -1."""
    ratio, advantages = array(1.5, 0.5, 1.5, 0.5), array(1.0, 2.0, -1.0, -1.0)
    loss = losses.policy_loss(ratio, advantages, mx.array(0.2))
    assert loss.item() == pytest.approx(-(1.2 + 1.0 - 1.5 - 0.8) / 4, rel=1e-6)


def test_policy_gradient_is_zero_where_clipped():
    gradient = mx.grad(lambda r: losses.policy_loss(r, array(1.0, 1.0, -1.0, -1.0), mx.array(0.2)))(
        array(1.5, 0.5, 1.5, 0.5)
    )
    np.testing.assert_allclose(np.array(gradient), [0, -0.25, 0.25, 0], atol=1e-7)


def test_value_losses_by_hand():
    assert losses.value_loss(array(1, 2), array(2, 5)).item() == 5.0
    clipped = losses.clipped_values(array(1.0, 2.0, 3.0), array(2.0, 2.0, 2.0), mx.array(0.5))
    assert clipped.tolist() == [1.5, 2.0, 2.5]


def test_normalised_advantages_by_hand():
    np.testing.assert_allclose(np.array(losses.normalize(array(1, 2, 3))), [-1, 0, 1], rtol=1e-6)
    assert losses.normalize(array(4)).tolist() == [4.0]


def test_diagnostics_by_hand():
    ratio = np.array([1.0, 1.1, 1.3, 0.7])
    kl = losses.approximate_kl(array(*ratio), array(*np.log(ratio)))
    assert kl.item() == pytest.approx(((ratio - 1) - np.log(ratio)).mean(), rel=1e-4)
    assert losses.clip_fraction(array(*ratio), mx.array(0.2)).item() == 0.5
    assert losses.entropy_loss(array(1, 2), array(7, 7)).item() == -1.5
    assert losses.entropy_loss(None, array(-1, -2)).item() == -1.5


TRAIN_KEYS = {
    f"train/{name}"
    for name in (
        "learning_rate", "entropy_loss", "policy_gradient_loss", "value_loss", "approx_kl", "clip_fraction",
        "loss", "explained_variance", "n_updates", "clip_range",
    )
}  # fmt: skip


def test_logged_keys_are_sb3s():
    model = PPO("MlpPolicy", "CartPole-v1", **SMALL).learn(8)
    assert set(model.logger.name_to_value) == TRAIN_KEYS
    assert model._n_updates == 2
    model = PPO("MlpPolicy", "CartPole-v1", clip_range_vf=0.2, **SMALL).learn(8)
    assert set(model.logger.name_to_value) == TRAIN_KEYS | {"train/clip_range_vf"}
    model = PPO("MlpPolicy", "Pendulum-v1", **SMALL).learn(8)
    assert set(model.logger.name_to_value) == TRAIN_KEYS | {"train/std"}


def test_table(capsys):
    """The second table holds all three groups in SB3's order."""
    PPO("MlpPolicy", AnyEnv(spaces.Discrete(2)), verbose=1, device="cpu", **SMALL).learn(16)
    second = capsys.readouterr().out.split("time/")[-1].splitlines()
    names = [line.split("|")[1].strip() for line in second if line.count("|") == 3]
    assert names == [
        "fps", "iterations", "time_elapsed", "total_timesteps", "train/", "approx_kl", "clip_fraction",
        "clip_range", "entropy_loss", "explained_variance", "learning_rate", "loss", "n_updates",
        "policy_gradient_loss", "value_loss",
    ]  # fmt: skip


def test_schedules_take_effect():
    kwargs = {
        "learning_rate": lambda p: 1e-3 * p,
        "clip_range": lambda p: 0.4 * p,
        "clip_range_vf": lambda p: p,
    }
    model = Recording("MlpPolicy", "CartPole-v1", **kwargs, **SMALL).learn(32)
    for i, logged in enumerate(model.updates):
        progress = 1 - (i + 1) / 4
        assert logged["train/learning_rate"] == pytest.approx(1e-3 * progress)
        assert logged["train/clip_range"] == pytest.approx(0.4 * progress)
        assert logged["train/clip_range_vf"] == pytest.approx(progress)
    assert model.policy.optimizer.learning_rate.item() == 0.0


def test_a_learning_rate_of_zero_changes_nothing():
    model = PPO("MlpPolicy", "CartPole-v1", learning_rate=lambda p: 0.0, seed=0, **SMALL)
    before = model.policy.parameters_to_vector()
    model.learn(8)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)


def test_schedules_are_compiled_once():
    traces = []

    class Traced(PPO):
        def _loss(self, batch, settings):
            traces.append(sorted(settings))
            return super()._loss(batch, settings)

    kwargs = {"learning_rate": lambda p: 1e-3 * p, "clip_range": lambda p: 0.4 * p, "ent_coef": 0.1}
    model = Traced("MlpPolicy", "CartPole-v1", **kwargs, **SMALL).learn(32)
    assert len(traces) == 1
    model.ent_coef, model.clip_range = 0.2, 0.3
    model.learn(8)
    assert len(traces) == 1
    # What changes the graph is compiled anew, and used.
    model.clip_range_vf = 0.1
    model.learn(8)
    assert traces[1:] == [["clip_range", "clip_range_vf", "ent_coef", "max_grad_norm", "vf_coef"]]
    model.normalize_advantage = False
    model.learn(8)
    assert len(traces) == 3


class Whole(RolloutBuffer):
    """Any class of one's own is filled by MLX, so that it sees the same actions as the next one."""


class OneMinibatch(RolloutBuffer):
    def get(self, batch_size=None):
        yield next(super().get(batch_size))


def test_target_kl_stops(capsys):
    """The first minibatch moves the policy, the second sees it and stops: one step was made."""
    kwargs = {**SMALL, "learning_rate": 0.1, "seed": 3}
    changes = {"rollout_buffer_class": Whole, "n_epochs": 5, "target_kl": 1e-9, "verbose": 1}
    stopped = Recording("MlpPolicy", "CartPole-v1", **{**kwargs, **changes}).learn(8)
    changes = {"rollout_buffer_class": OneMinibatch, "n_epochs": 1}
    one_step = PPO("MlpPolicy", "CartPole-v1", **{**kwargs, **changes}).learn(8)
    np.testing.assert_allclose(
        stopped.policy.parameters_to_vector(), one_step.policy.parameters_to_vector(), atol=1e-6
    )
    assert stopped.policy.optimizer.state_dict()["step"].item() == 1
    assert stopped._n_updates == 1
    logged = stopped.updates[0]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Early")]
    # The first minibatch has no divergence, the logged value is the mean of both.
    kl = 2 * logged["train/approx_kl"]
    assert printed == [f"Early stopping at step 0 due to reaching max kl: {kl:.2f}"]
    assert kl > 1e-9


def test_target_kl_out_of_reach_changes_nothing(capsys):
    vectors = [
        PPO("MlpPolicy", "CartPole-v1", target_kl=target_kl, seed=3, verbose=1, **SMALL)
        .learn(8)
        .policy.parameters_to_vector()
        for target_kl in (None, 1e9)
    ]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-7)
    assert "Early stopping" not in capsys.readouterr().out


def test_sizes_that_do_not_divide_warn():
    """The last minibatch has one row, whose advantage is then not normalised."""
    with pytest.warns(
        UserWarning,
        match=r"mini-batch size of 4, .*`n_steps \* n_envs = 9`, after every 2 untruncated mini-batches, "
        "there will be a truncated mini-batch of size 1",
    ):
        model = PPO("MlpPolicy", "CartPole-v1", **{**SMALL, "n_steps": 9})
    model.learn(9)
    assert model.policy.optimizer.state_dict()["step"].item() == 2 * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "`batch_size` must be greater than 1 .* got 1"),
        ({"n_steps": 1}, "`n_steps [*] n_envs` must be greater than 1 .* n_steps=1 and n_envs=1"),
        ({"clip_range_vf": -0.1}, "`clip_range_vf` must be positive, got -0.1; pass `None`"),
        ({"clip_range_vf": 0}, "`clip_range_vf` must be positive"),
    ],
)
def test_numbers_that_cannot_be(changes, message):
    with pytest.raises(AssertionError, match=message):
        PPO("MlpPolicy", "CartPole-v1", **{**SMALL, **changes})


def test_minibatches_of_one_without_normalisation():
    model = PPO("MlpPolicy", "CartPole-v1", normalize_advantage=False, **{**SMALL, "batch_size": 1})
    assert model.batch_size == 1


@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(2),
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Box(-1, 1, (2, 1), np.float32),
    ],
    ids=str,
)
def test_action_spaces(action_space):
    env = DummyVecEnv([lambda: AnyEnv(action_space)] * 2)
    model = PPO("MlpPolicy", env, ent_coef=0.01, seed=0, **{**SMALL, "n_epochs": 1})
    before = model.policy.parameters_to_vector()
    model.learn(32)
    after = model.policy.parameters_to_vector()
    assert np.isfinite(after).all()
    assert (after != before).mean() > 0.9


@pytest.mark.parametrize(
    ("observation_space", "n_features"),
    [
        (spaces.Discrete(4), 4),
        (spaces.MultiDiscrete([2, 3]), 5),
        (spaces.MultiBinary(3), 3),
        (spaces.Box(0, 9, (2, 2), np.int64), 4),
    ],
    ids=str,
)
def test_observation_spaces(observation_space, n_features):
    model = PPO("MlpPolicy", AnyEnv(spaces.Discrete(2), observation_space), **{**SMALL, "n_epochs": 1}).learn(
        8
    )
    assert model.policy.features_dim == n_features


def test_dict_observations_learn():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(2)})
    model = PPO("MultiInputPolicy", AnyEnv(spaces.Discrete(2), space), **{**SMALL, "n_epochs": 1}).learn(8)
    assert model.predict({"a": np.zeros((3, 2), np.float32), "b": np.zeros(3, np.int64)})[0].shape == (3,)


def test_native_and_gymnasiums_environments_give_the_same_network():
    def monitored():
        return Monitor(gym.make("CartPole-v1"))

    vectors = [
        PPO("MlpPolicy", env, seed=9, **{**SMALL, "n_steps": 32}).learn(192).policy.parameters_to_vector()
        for env in (NativeVecEnv("CartPole-v1", n_envs=2), DummyVecEnv([monitored, monitored]))
    ]
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_a_registered_environment_of_ones_own():
    gym.register("TestPpoOwn-v0", entry_point=lambda: AnyEnv(spaces.Discrete(2)))
    try:
        model = PPO("MlpPolicy", "TestPpoOwn-v0", **SMALL).learn(8)
    finally:
        del gym.registry["TestPpoOwn-v0"]
    assert model.num_timesteps == 8
    assert model.ep_info_buffer[0]["l"] == 5


class NanAfterTwo(AnyEnv):
    """From the third step on the observations or the rewards are nan."""

    def __init__(self, where):
        super().__init__(spaces.Discrete(2))
        self.where = where
        self.n_steps = 0

    def step(self, action):
        obs, reward, *rest = super().step(action)
        self.n_steps += 1
        if self.n_steps < 3:
            return obs, reward, *rest
        return (obs * np.nan, reward, *rest) if self.where == "observation" else (obs, np.nan, *rest)


@pytest.mark.parametrize(
    ("where", "buffer", "seen"),
    [
        ("observation", None, r"an observation that is nan or infinite: \[\[nan nan nan\]\]"),
        ("observation", Whole, r"loss of minibatch 0 \(of 2\) was nan"),
        ("reward", None, r"loss of minibatch 0 \(of 2\) was nan"),
    ],
)
def test_nan_stops_the_training_and_spoils_nothing(where, buffer, seen):
    env = NanAfterTwo(where)
    model = PPO("MlpPolicy", env, seed=0, rollout_buffer_class=buffer, **{**SMALL, "n_epochs": 1})
    before = model.policy.parameters_to_vector()
    with pytest.raises(FloatingPointError, match=rf"{seen}.*VecCheckNan\(env"):
        model.learn(64)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)
    assert model.num_timesteps <= 8
    assert model._n_updates == 0
    assert model.policy.optimizer.state_dict()["step"].item() == 0
    # With a sound environment the same model learns on.
    model.set_env(AnyEnv(spaces.Discrete(2)))
    assert np.isfinite(model.learn(8).policy.parameters_to_vector()).all()


class UsersOwn(optim.SGD):
    """Nothing is known of it: it gets the parameters tensor by tensor."""


@pytest.mark.parametrize("optimizer_class", [optim.AdamW, UsersOwn])
def test_other_optimizers(optimizer_class):
    kwargs = {"net_arch": [4], "optimizer_class": optimizer_class}
    model = PPO("MlpPolicy", "CartPole-v1", **{**SMALL, "policy_kwargs": kwargs, "n_epochs": 1})
    before = model.policy.parameters_to_vector()
    model.learn(8)
    assert not np.array_equal(model.policy.parameters_to_vector(), before)


def test_sde_keeps_its_noise_between_draws():
    seen = []
    model = PPO("MlpPolicy", "Pendulum-v1", use_sde=True, sde_sample_freq=4, **{**SMALL, "n_epochs": 1})

    def watch(local_variables, global_variables):
        seen.append(np.array(model.policy.action_dist.exploration_mat))
        return True

    model.learn(8, callback=watch)
    same = [np.array_equal(a, b) for a, b in itertools.pairwise(seen)]
    assert same == [True, True, True, False, True, True, True]
