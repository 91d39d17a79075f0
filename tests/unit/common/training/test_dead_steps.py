"""Steps that only reset: PPO and A2C neither learn from them nor across them."""

import gymnasium as gym
import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, PPO
from mlx_baselines3.common.buffers import RolloutBuffer
from mlx_baselines3.common.callbacks import BaseCallback
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.training import compiled_update
from mlx_baselines3.common.vec_env import GymVecEnv
from support.next_step_env import NextStep

SMALL = {"policy_kwargs": {"net_arch": [4]}, "seed": 0}
# Episodes of 2 and of 3 steps, each with a dead step behind it; in row 10 both end at once.
ELEVEN = np.zeros((11, 2), bool)
ELEVEN[[2, 5, 8], 0] = ELEVEN[[3, 7], 1] = True


class InMLX(ActorCriticPolicy):
    """A policy with a method of its own acts in MLX."""

    def forward(self, obs, deterministic=False):
        return super().forward(obs, deterministic)


def by_hand():
    """Four steps of two environments; the first one's episode ends in step 1, and step 2 resets."""
    space = spaces.Box(-1, 1, (1,), np.float32)
    buffer = RolloutBuffer(4, space, space, gamma=0.5, gae_lambda=0.5, n_envs=2)
    buffer.observations[..., 0] = np.arange(8).reshape(2, 4).T
    buffer.rewards[:] = np.transpose([[1, 3, 0, 3], [1, 1, 1, 1]])
    buffer.values[:] = np.transpose([[4, 2, 8, 1], [0, 0, 0, 0]])
    buffer.episode_starts[:] = np.transpose([[1, 0, 1, 1], [1, 0, 0, 0]])
    buffer.pos, buffer.full = 4, True
    buffer.dead_steps = np.zeros((4, 2), bool)
    buffer.dead_steps[2, 0] = True
    return buffer


@pytest.mark.parametrize("dead_value", [8.0, -1000.0])
def test_no_advantage_leaks_through_a_dead_step(dead_value):
    buffer = by_hand()
    buffer.values[2, 0] = dead_value
    buffer.compute_returns_and_advantage(np.array([6.0, 0.0]), np.zeros(2))
    # Backwards: 3 + 0.5 * 6 - 1; the dead step alone; 3 - 2; 1 + 0.5 * 2 - 4 + 0.25 * 1.
    np.testing.assert_array_equal(buffer.advantages[:, 0], [-1.75, 1, -dead_value, 5])
    np.testing.assert_array_equal(buffer.advantages[:, 1], [1.328125, 1.3125, 1.25, 1])
    minibatches = list(buffer.get(8))
    assert len(minibatches) == 1
    assert sorted(np.array(minibatches[0].advantages).tolist()) == [-1.75, 1, 1, 1.25, 1.3125, 1.328125, 5]


@pytest.mark.parametrize(("batch_size", "sizes"), [(3, [3, 3, 1]), (7, [7]), (8, [7]), (None, [7])])
def test_minibatches_are_drawn_from_the_live_rows(batch_size, sizes):
    buffer = by_hand()
    np.random.seed(3)  # noqa: NPY002
    drawn = [np.array(samples.observations)[:, 0] for samples in buffer.get(batch_size)]
    assert [len(rows) for rows in drawn] == sizes
    np.random.seed(3)  # noqa: NPY002
    order = np.random.permutation(8)  # noqa: NPY002
    # Environment after environment, so the dead step of the first is row 2.
    assert np.concatenate(drawn).tolist() == [row for row in order.tolist() if row != 2]
    buffer.reset()
    assert buffer.dead_steps is None
    assert sorted(buffer.shuffled_rows().tolist()) == list(range(8))


@pytest.mark.parametrize("policy", ["MlpPolicy", InMLX])
@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize(("cls", "kwargs"), [(PPO, {"batch_size": 11, "n_epochs": 2}), (A2C, {})])
def test_dead_rows_do_not_enter_the_loss(cls, kwargs, truncate, policy):
    """They hold nan here, and the update says that it is finite."""
    model = cls(policy, NextStep((2, 3), truncate), n_steps=11, normalize_advantage=True, **kwargs, **SMALL)
    model.learn(22)
    buffer = model.rollout_buffer
    assert model.num_timesteps == 22
    np.testing.assert_array_equal(buffer.dead_steps, ELEVEN)
    np.testing.assert_array_equal(buffer.rewards[ELEVEN] == 0, not truncate)
    for column in (buffer.advantages, buffer.returns, buffer.log_probs, buffer.values, buffer.observations):
        column[ELEVEN] = np.nan
    before = model.policy.parameters_to_vector()
    model.train()
    assert not np.array_equal(model.policy.parameters_to_vector(), before)
    assert np.isfinite(model.logger.name_to_value["train/explained_variance"])
    # Each of the others does.
    buffer.returns[0, 1] = np.nan
    with pytest.raises(FloatingPointError):
        model.train()


@pytest.mark.parametrize("cls", [PPO, A2C])
def test_the_update_is_that_of_the_live_rows_alone(cls):
    kwargs = {"normalize_advantage": True, "ent_coef": 0.1, **SMALL}
    whole = {"n_steps": 11, **({"batch_size": 22, "n_epochs": 1} if cls is PPO else {})}
    model = cls("MlpPolicy", NextStep((2, 3), False), **whole, **kwargs).learn(22)
    # The same rows as a rollout of one environment in which nothing was dead.
    whole = {"n_steps": 17, **({"batch_size": 17, "n_epochs": 1} if cls is PPO else {})}
    other = cls("MlpPolicy", NextStep((3,), False), **whole, **kwargs).learn(17)
    other.set_parameters(model.get_parameters())
    live = ~ELEVEN.T.reshape(-1)
    for name in ("observations", "actions", "advantages", "returns", "log_probs", "values"):
        column = getattr(model.rollout_buffer, name)
        getattr(other.rollout_buffer, name)[:, 0] = column.swapaxes(0, 1).reshape(22, *column.shape[2:])[live]
    assert other.rollout_buffer.dead_steps is None
    before = model.policy.parameters_to_vector()
    model.train()
    other.train()
    after = model.policy.parameters_to_vector()
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_allclose(other.policy.parameters_to_vector(), after, atol=2e-6)


class Sealed:
    """Gymnasium's vector behind a wall: nobody can ask some of its environments to reset."""

    def __init__(self, env):
        self._env = env

    @property
    def unwrapped(self):
        return self

    def reset(self, *, seed=None, options=None):
        assert not options
        return self._env.reset(seed=seed)

    def __getattr__(self, name):
        return getattr(self._env, name)


class Infos(BaseCallback):
    def __init__(self):
        super().__init__()
        self.dead = []

    def _on_step(self):
        self.dead.append(["autoreset_step" in info for info in self.locals["infos"]])
        return True


@pytest.mark.parametrize("cls", [PPO, A2C])
def test_a_vector_of_gymnasium_that_resets_in_the_next_step(cls):
    env = Sealed(gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 3))
    kwargs = {"batch_size": 64} if cls is PPO else {}
    infos = Infos()
    model = cls("MlpPolicy", env, n_steps=64, **kwargs, **SMALL).learn(192, callback=infos)
    x, _, angle, _ = np.moveaxis(model.rollout_buffer.observations, -1, 0)
    fallen = (np.abs(x) > 2.4) | (np.abs(angle) > 12 * np.pi / 180)
    # Gymnasium 0.29 resets in the same step.
    assert fallen.any() == (not gym.__version__.startswith("0."))
    np.testing.assert_array_equal(np.array(infos.dead), fallen)
    if fallen.any():
        np.testing.assert_array_equal(model.rollout_buffer.dead_steps, fallen)
    else:
        assert model.rollout_buffer.dead_steps is None
    drawn = np.concatenate([np.array(rows) for rows in _drawn(model)])
    np.testing.assert_array_equal(np.sort(drawn), np.flatnonzero(~fallen.T))


def _drawn(model):
    for minibatches in model._epochs(50, 1):
        for _, indices in minibatches:
            assert indices.size <= 50
            yield indices


@pytest.mark.parametrize(
    ("cls", "kwargs", "worth_it"), [(PPO, {"batch_size": 8, "n_epochs": 1}, {8}), (A2C, {}, set())]
)
def test_nothing_is_compiled_for_the_sizes_that_dead_steps_leave(
    monkeypatch, mlx_updates, cls, kwargs, worth_it
):
    """What MLX keeps for each size it does not give back."""
    compiled, live = [], set()
    compile_of_mlx = mx.compile

    def watching(function, *args, **options):
        run = compile_of_mlx(function, *args, **options)

        def record(state, batch, settings):
            _, indices = batch
            compiled.append(indices.size)
            return run(state, batch, settings)

        return record

    monkeypatch.setattr(compiled_update.mx, "compile", watching)
    model = cls("MlpPolicy", NextStep((2, 3, 5, 9), False), n_steps=10, **kwargs, **SMALL)
    for rollout in range(12):
        model.learn(40, reset_num_timesteps=False)
        live.add(40 - model.rollout_buffer.dead_steps.sum())
        assert model._n_updates == rollout + 1
    assert len(live) >= 4
    assert set(compiled) == worth_it


class Everything(RolloutBuffer):
    """A user's buffer that hands out all rows."""

    def get(self, batch_size=None):
        self.__dict__.update(self._flat_columns())
        self.generator_ready = True
        yield self._get_samples(np.arange(self.buffer_size * self.n_envs))


class LikeOurs(RolloutBuffer):
    def get(self, batch_size=None):
        yield from super().get(batch_size)


def test_a_users_get_that_hands_out_dead_steps_is_said_once():
    kwargs = {"n_steps": 11, "batch_size": 22, "n_epochs": 1, **SMALL}
    with pytest.warns(UserWarning, match=r"Everything.get hands them out: of 22 rows .* only 17 are") as said:
        PPO("MlpPolicy", NextStep((2, 3), False), rollout_buffer_class=Everything, **kwargs).learn(44)
    assert len(said) == 1
    assert said[0].filename == __file__
    # Nothing to say of one that asks ours, nor where no step was dead.
    PPO("MlpPolicy", NextStep((2, 3), False), rollout_buffer_class=LikeOurs, **kwargs).learn(44)
    PPO("MlpPolicy", GymVecEnv(NextStep((3, 3), False)), rollout_buffer_class=Everything, **kwargs).learn(44)
