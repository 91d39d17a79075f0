"""TD3: losses by hand, what the arguments do, and a run from start to continued training."""

import gymnasium as gym
import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.noise import NormalActionNoise
from mlx_baselines3.common.vec_env import DummyVecEnv
from mlx_baselines3.td3 import TD3, losses

SMALL = {"net_arch": [16, 16]}
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)


class PictureEnv(gym.Env):
    """Random pictures; two continuous actions; episodes of ten steps."""

    observation_space = IMAGE
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.count += 1
        return self.observation_space.sample(), float(action.sum()), False, self.count == 10, {}


def column(*values: float) -> mx.array:
    return mx.array(values)[:, None]


def arrays(model: TD3) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in model.policy.state_dict().items()}


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


def networks(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def fed(model: TD3, steps: int) -> TD3:
    """The model with that many steps in its replay buffer, and no update yet."""
    model.learning_starts = steps
    return model.learn(steps)


def test_losses_by_hand():
    smoothed = losses.smoothed(
        mx.array([[0.9, 0.0], [-0.9, 0.2]]), mx.array([[1.0, 9.0], [-4.0, 0.5]]), mx.array(0.2), mx.array(0.5)
    )
    # 0.9 + 0.2 is too much for an action, 0.2 * 9 too much for the noise, 0.2 * -4 for both
    np.testing.assert_allclose(smoothed, [[1.0, 0.5], [-1.0, 0.3]], rtol=1e-6)
    q_values = [column(1.0, 4.0), column(2.0, 3.0)]
    smallest = losses.smallest(q_values)
    np.testing.assert_allclose(smallest, [[1.0], [3.0]])
    target = losses.td_target(column(1.0, 1.0), column(0.0, 1.0), mx.array(0.5), smallest)
    np.testing.assert_allclose(target, [[1.5], [1.0]])
    # (0.5^2 + 3^2) / 2 + (0.5^2 + 2^2) / 2
    np.testing.assert_allclose(losses.critic_loss(q_values, target), 6.75)
    np.testing.assert_allclose(losses.actor_loss(smallest), -2.0)


def test_run_save_load_continue(tmp_path):
    noise = NormalActionNoise(mean=np.zeros(1), sigma=0.1 * np.ones(1))
    model = TD3("MlpPolicy", "Pendulum-v1", action_noise=noise, policy_kwargs=dict(SMALL), seed=1)
    start = arrays(model)
    model.learn(400)
    assert model._n_updates == 300
    assert changed(start, arrays(model)) == set(start)
    model.save(tmp_path / "td3")

    loaded = TD3.load(tmp_path / "td3", env=gym.make("Pendulum-v1"))
    obs = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -2.0]], np.float32)
    # A deterministic policy is deterministic whatever is asked for.
    np.testing.assert_array_equal(loaded.predict(obs)[0], model.predict(obs, deterministic=True)[0])
    assert list(loaded.get_parameters()) == ["policy", "actor.optimizer", "critic.optimizer"]
    for name, one in model.get_parameters().items():
        other = loaded.get_parameters()[name]
        assert one.keys() == other.keys()
        assert all(mx.array_equal(one[key], other[key]) for key in one)
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 420


def test_parameter_names_and_default_sizes():
    model = TD3("MlpPolicy", "Pendulum-v1")
    shapes = {name: value.shape for name, value in model.policy.state_dict().items()}
    assert shapes["actor.mu.0.weight"] == shapes["actor_target.mu.0.weight"] == (400, 3)
    assert shapes["actor.mu.4.weight"] == (1, 300)
    assert shapes["critic.qf1.0.weight"] == shapes["critic_target.qf1.0.weight"] == (400, 4)
    assert [*dict.fromkeys(name.split(".")[0] for name in shapes)] == [
        "actor",
        "actor_target",
        "critic",
        "critic_target",
    ]


def test_targets_start_as_copies():
    state = arrays(TD3("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(SMALL)))
    for name, value in state.items():
        network, _, rest = name.partition(".")
        np.testing.assert_array_equal(state[f"{network.removesuffix('_target')}_target.{rest}"], value)


def test_actor_and_targets_wait_for_policy_delay():
    model = fed(TD3("MlpPolicy", "Pendulum-v1", policy_delay=3, policy_kwargs=dict(SMALL)), 20)
    model.set_logger(Logger(None, []))
    before = arrays(model)
    model.train(gradient_steps=2, batch_size=8)
    assert networks(changed(before, arrays(model))) == {"critic"}
    assert "train/actor_loss" not in model.logger.name_to_value
    model.train(gradient_steps=1, batch_size=8)
    assert networks(changed(before, arrays(model))) == {"critic", "actor", "actor_target", "critic_target"}
    assert "train/actor_loss" in model.logger.name_to_value
    assert model._n_updates == 3


def test_slow_copies_move_by_tau():
    model = fed(TD3("MlpPolicy", "Pendulum-v1", policy_delay=1, tau=0.25, policy_kwargs=dict(SMALL)), 20)
    before = arrays(model)
    model.train(gradient_steps=1, batch_size=8)
    after = arrays(model)
    for name in ("actor_target.mu.0.weight", "critic_target.qf1.2.bias"):
        expected = 0.25 * after[name.replace("_target", "")] + 0.75 * before[name]
        np.testing.assert_allclose(after[name], expected, atol=1e-7)


def test_a_shared_extractor_is_the_actors_and_its_slow_copy_moves_twice():
    kwargs = {**SMALL, "features_extractor_kwargs": {"features_dim": 8}, "share_features_extractor": True}
    model = TD3("CnnPolicy", PictureEnv(), buffer_size=50, policy_delay=2, tau=0.25, policy_kwargs=kwargs)
    fed(model, 10)
    before = arrays(model)
    model.train(gradient_steps=1, batch_size=4)
    # The critics' loss leaves the extractor alone.
    assert {n.split(".")[1] for n in changed(before, arrays(model))} == {"qf0", "qf1"}
    model.train(gradient_steps=1, batch_size=4)
    after = arrays(model)
    layer = "features_extractor.linear.0.weight"
    np.testing.assert_array_equal(after[f"critic.{layer}"], after[f"actor.{layer}"])
    np.testing.assert_array_equal(after[f"critic_target.{layer}"], after[f"actor_target.{layer}"])
    old, new = before[f"actor_target.{layer}"], after[f"actor.{layer}"]
    assert not np.array_equal(old, new)
    np.testing.assert_allclose(after[f"actor_target.{layer}"], 0.75**2 * old + (1 - 0.75**2) * new, atol=1e-7)


def test_optimizer_of_borrowing_critics_reads_torchs_numbering():
    kwargs = {**SMALL, "features_extractor_kwargs": {"features_dim": 8}, "share_features_extractor": True}
    model = TD3("CnnPolicy", PictureEnv(), buffer_size=50, policy_kwargs=kwargs)
    optimizer = model.critic.optimizer
    # torch counts the extractor's eight arrays first, and gives them no state.
    state = {
        8 + i: {
            "step": 5.0,
            "exp_avg": np.full(shape, i, np.float32),
            "exp_avg_sq": np.ones(shape, np.float32),
        }
        for i, shape in enumerate(optimizer.shapes.values())
    }
    group = {"lr": 0.5, "params": list(range(8 + len(state)))}
    optimizer.load_state_dict({"state": state, "param_groups": [group]})
    loaded = optimizer.state_dict()
    assert loaded["step"].item() == 5
    assert loaded["learning_rate"].item() == 0.5
    np.testing.assert_array_equal(loaded["m.qf0.0.weight"], np.zeros((16, 10)))
    np.testing.assert_array_equal(loaded["m.qf1.4.bias"], [11.0])
    with pytest.raises(ValueError, match="parameters"):
        optimizer.load_state_dict({"state": state, "param_groups": [{"lr": 0.5, "params": [0, 1]}]})
    assert optimizer.state_dict()["step"].item() == 5


def test_several_environments():
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)
    noise = NormalActionNoise(mean=np.zeros(1), sigma=0.1 * np.ones(1))
    model = TD3(
        "MlpPolicy", env, learning_starts=20, action_noise=noise, gradient_steps=-1, policy_kwargs=dict(SMALL)
    )
    model.learn(40)
    # The ten updates after step 20 have a gradient step for each of two environments.
    assert model._n_updates == 20
    assert np.abs(model.replay_buffer.actions[:20]).max() <= 1


@pytest.mark.parametrize(("n_steps", "has_discounts"), [(1, False), (3, True)])
def test_n_step_returns(n_steps, has_discounts):
    model = fed(TD3("MlpPolicy", "Pendulum-v1", n_steps=n_steps, policy_kwargs=dict(SMALL)), 20)
    assert ("discounts" in next(model._batches(1, 4))) is has_discounts
    before = arrays(model)
    model.train(gradient_steps=2, batch_size=4)
    assert changed(before, arrays(model)) == set(before)


@pytest.mark.parametrize("network", ["policy", "actor"])
def test_networks_have_files_of_their_own(network, tmp_path):
    kwargs = {**SMALL, "features_extractor_kwargs": {"features_dim": 8}}
    model = TD3("CnnPolicy", PictureEnv(), buffer_size=50, policy_kwargs=kwargs)
    saved = getattr(model, network)
    saved.save(tmp_path / "network.zip")
    loaded = type(saved).load(tmp_path / "network.zip")
    obs = np.arange(36 * 36, dtype=np.uint8).reshape(1, 36, 36)
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )


def test_discrete_actions_are_refused():
    with pytest.raises(AssertionError, match="Box"):
        TD3("MlpPolicy", "CartPole-v1")
