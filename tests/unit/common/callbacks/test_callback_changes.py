"""What a callback changes in place in ``self.locals`` reaches the buffer and the next step, as in SB3."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3 import A2C, DQN, PPO, SAC
from mlx_baselines3.common.callbacks import BaseCallback
from mlx_baselines3.common.torch_layers import BaseFeaturesExtractor

STEPS = 32
ON = {"n_steps": STEPS, "seed": 3, "gamma": 0.9, "policy_kwargs": {"net_arch": [8]}}
OFF = {"learning_starts": 8, "batch_size": 4, "buffer_size": 100, "seed": 3}


class Plain(BaseFeaturesExtractor):
    """Keeps the policy out of Rust."""

    def __init__(self, space):
        super().__init__(space, space.shape[0])

    def forward(self, observations):
        return observations


class Do(BaseCallback):
    """
    :param change: called with the locals and the number of the step, from 0 on
    """

    def __init__(self, change):
        super().__init__()
        self.change = change

    def _on_step(self):
        self.change(self.locals, self.n_calls - 1)
        return True


@pytest.fixture(params=["fused", "python", "mlx"])
def collect(request, monkeypatch):
    """The three ways of collecting: environments and policy in Rust, the policy alone, neither."""
    if request.param != "fused":
        monkeypatch.setenv("MLX_BASELINES3_NATIVE_ENVS", "0")

    def run(cls, env, change, **kwargs):
        settings = {**(ON if cls in (PPO, A2C) else OFF), **kwargs}
        if cls is PPO:
            settings |= {"batch_size": STEPS, "n_epochs": 1}
        if request.param == "mlx":
            own = {**settings.get("policy_kwargs", {}), "features_extractor_class": Plain}
            settings["policy_kwargs"] = own
        return cls("MlpPolicy", env, **settings).learn(STEPS, callback=Do(change))

    return run


def nothing(names, step):
    pass


def column(model, name):
    return np.array(getattr(model.rollout_buffer, name)).reshape(STEPS, -1)


@pytest.mark.parametrize(("cls", "env"), [(PPO, "CartPole-v1"), (A2C, "CartPole-v1"), (PPO, "Pendulum-v1")])
def test_rewards(collect, cls, env):
    def change(names, step):
        names["rewards"][:] = step

    np.testing.assert_array_equal(
        column(collect(cls, env, change), "rewards")[:, 0], np.arange(STEPS, dtype=np.float32)
    )


def test_actions_but_not_their_likelihoods(collect):
    def change(names, step):
        if step == 5:
            names["actions"][:] = 1 - names["actions"]

    changed, plain = collect(PPO, "CartPole-v1", change), collect(PPO, "CartPole-v1", nothing)
    row = np.zeros((STEPS, 1))
    row[5] = 1
    np.testing.assert_array_equal(column(changed, "actions") != column(plain, "actions"), row)
    for name in ("log_probs", "values", "observations"):
        np.testing.assert_allclose(column(changed, name), column(plain, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["values", "log_probs"])
def test_estimates(collect, name):
    def change(names, step):
        if step == 7:
            names[name][:] = -9.0

    changed, plain = collect(PPO, "Pendulum-v1", change), collect(PPO, "Pendulum-v1", nothing)
    expected = column(plain, name).copy()
    expected[7] = -9.0
    np.testing.assert_allclose(column(changed, name), expected, rtol=1e-5, atol=1e-6)


def test_dones(collect):
    def change(names, step):
        if step in (3, STEPS - 1):
            names["dones"][:] = True
            names["infos"][0].pop("terminal_observation", None)

    changed, plain = collect(PPO, "CartPole-v1", change), collect(PPO, "CartPole-v1", nothing)
    expected = column(plain, "episode_starts").copy()
    expected[4] = 1.0
    np.testing.assert_array_equal(column(changed, "episode_starts"), expected)
    # Nothing follows the last step: its advantage is the reward less the value.
    last = column(changed, "rewards")[-1] - column(changed, "values")[-1]
    np.testing.assert_allclose(column(changed, "advantages")[-1], last, rtol=1e-5)


def test_new_observations(collect):
    def change(names, step):
        if step == 3:
            names["new_obs"][:] = 0.25

    model = collect(PPO, "CartPole-v1", change)
    np.testing.assert_array_equal(column(model, "observations")[4], np.full(4, 0.25, np.float32))
    assert not np.array_equal(column(model, "observations")[5], np.full(4, 0.25, np.float32))


def test_the_last_observation_is_the_one_before_the_step(collect):
    seen = []

    def change(names, step):
        last = names["self"]._last_obs
        seen.append(
            (np.array(last), np.array(names["self"]._last_episode_starts), np.array(names["new_obs"]))
        )
        if step == 6:
            last[:] = 0.125

    model = collect(PPO, "CartPole-v1", change)
    observations = column(model, "observations")
    for step, (last, starts, new) in enumerate(seen):
        if step != 6:
            np.testing.assert_array_equal(observations[step], last[0])
        np.testing.assert_array_equal(column(model, "episode_starts")[step], starts)
        assert not np.array_equal(last, new)
    np.testing.assert_array_equal(observations[6], np.full(4, 0.125, np.float32))


def ends(model):
    """Steps that end an episode."""
    return np.flatnonzero(column(model, "episode_starts")[1:, 0])


def test_an_end_becomes_a_time_limit(collect):
    last_seen = {}

    def change(names, step):
        if names["dones"][0]:
            names["infos"][0]["TimeLimit.truncated"] = True
            last_seen[step] = np.array(names["infos"][0]["terminal_observation"])
            last_seen[-1 - step] = float(
                np.array(names["self"].policy.predict_values(mx.array(last_seen[step][None]))).item()
            )

    model = collect(PPO, "CartPole-v1", change)
    rewards = column(model, "rewards")[:, 0]
    steps = ends(model)
    assert len(steps) > 0
    for step in range(STEPS):
        extra = 0.9 * last_seen[-1 - step] if step in last_seen else 0.0
        assert rewards[step] == pytest.approx(1.0 + extra, rel=1e-5)


def test_a_time_limit_becomes_an_end(collect):
    def change(names, step):
        names["rewards"][:] = 1.0
        for info in names["infos"]:
            if info.pop("TimeLimit.truncated", False):
                cut.append(step)

    cut: list[int] = []
    kwargs = {"n_steps": STEPS}
    model = collect(PPO, "Pendulum-v1", nothing, **kwargs)
    env = model.get_env()
    if hasattr(env, "envs"):
        for wrapper in time_limits(env):
            wrapper._max_episode_steps = 10
    else:
        env.set_attr("_max_episode_steps", 10)
    model.learn(STEPS, callback=Do(change))
    assert len(cut) == 3
    np.testing.assert_array_equal(column(model, "rewards"), np.ones((STEPS, 1)))


def time_limits(env):
    for wrapped in env.envs:
        while hasattr(wrapped, "env"):
            if type(wrapped).__name__ == "TimeLimit":
                yield wrapped
            wrapped = wrapped.env


def test_success_of_an_episode(collect):
    def change(names, step):
        names["infos"][0]["is_success"] = True

    model = collect(PPO, "CartPole-v1", change)
    assert list(model.ep_success_buffer) == [True] * len(model.ep_info_buffer)
    assert len(model.ep_info_buffer) > 0


@pytest.mark.parametrize(("cls", "env"), [(DQN, "CartPole-v1"), (SAC, "Pendulum-v1")])
def test_replay_buffers(collect, cls, env):
    def change(names, step):
        names["rewards"][:] = step
        if step == 12:
            names["buffer_actions"][:] = 1
        if step == 13:
            names["new_obs"][:] = 0.25
        if step == 14:
            names["dones"][:] = True
        if step == 15:
            names["dones"][:] = True
            names["infos"][0]["TimeLimit.truncated"] = True
            names["infos"][0]["terminal_observation"] = np.full(names["new_obs"].shape[1], 0.5, np.float32)

    buffer = collect(cls, env, change).replay_buffer
    np.testing.assert_array_equal(buffer.rewards[:STEPS, 0], np.arange(STEPS))
    assert buffer.actions[12].item() == 1
    assert (buffer.next_observations[13] == 0.25).all()
    assert (buffer.observations[14] == 0.25).all()
    assert buffer.dones[14].item() == 1
    assert buffer.timeouts[15].item() == 1
    assert (buffer.next_observations[15] == 0.5).all()
