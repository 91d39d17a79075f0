"""SAC: losses by hand, what the arguments do, and short runs from start to continued training."""

import gymnasium as gym
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.torch_layers import BaseFeaturesExtractor
from mlx_baselines3.sac import SAC, losses

SMALL = {"net_arch": [16, 16]}
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)


class BoxesEnv(gym.Env):
    """Random observations of a given space; two continuous actions; episodes of ten steps."""

    def __init__(self, observation_space: spaces.Space):
        self.observation_space = observation_space
        self.action_space = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 4.0], np.float32))
        self.count = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action.astype(np.float32))
        self.count += 1
        return self.observation_space.sample(), float(action.sum()), False, self.count == 10, {}


def column(*values: float) -> mx.array:
    return mx.array(values)[:, None]


def arrays(parameters: dict) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in parameters.items()}


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_losses_by_hand():
    q_values = [column(1.0, 4.0), column(2.0, 3.0)]
    smallest = losses.smallest(q_values)
    np.testing.assert_allclose(smallest, [[1.0], [3.0]])
    target = losses.soft_target(
        column(1.0, 1.0), column(0.0, 1.0), mx.array(0.5), smallest, column(-2.0, 7.0), mx.array(0.25)
    )
    # 1 + 0.5 (1 + 0.25 * 2) and, at the end of an episode, the reward alone
    np.testing.assert_allclose(target, [[1.75], [1.0]])
    # (0.75^2 + 3^2) / 4 + (0.25^2 + 2^2) / 4
    np.testing.assert_allclose(losses.critic_loss(q_values, target), 3.40625)
    # ((0.25 * -2 - 1) + (0.25 * 7 - 3)) / 2
    np.testing.assert_allclose(losses.actor_loss(column(-2.0, 7.0), smallest, mx.array(0.25)), -1.375)
    # -0.5 * ((-2 - 1) + (7 - 1)) / 2
    loss = losses.ent_coef_loss(mx.array([0.5]), column(-2.0, 7.0), mx.array(-1.0))
    np.testing.assert_allclose(loss, -0.75)


def test_n_step_discounts_are_used_row_by_row():
    target = losses.soft_target(
        column(0.0, 0.0),
        column(0.0, 0.0),
        column(0.5, 0.25),
        column(8.0, 8.0),
        column(0.0, 0.0),
        mx.array(1.0),
    )
    np.testing.assert_allclose(target, [[4.0], [2.0]])


def test_run_save_load_continue(tmp_path):
    model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=100, policy_kwargs=dict(SMALL), seed=1)
    start = arrays(model.policy.state_dict())
    model.learn(600)
    assert model._n_updates == 500
    assert changed(start, arrays(model.policy.state_dict())) == set(start)
    assert model.target_entropy == -1.0
    model.save(tmp_path / "sac")
    model.save_replay_buffer(tmp_path / "buffer")

    loaded = SAC.load(tmp_path / "sac", env=gym.make("Pendulum-v1"))
    loaded.load_replay_buffer(tmp_path / "buffer")
    obs = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -2.0]], np.float32)
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    np.testing.assert_array_equal(loaded.log_ent_coef, model.log_ent_coef)
    assert float(model.log_ent_coef.item()) < 0
    for one, other in zip(model.get_parameters().values(), loaded.get_parameters().values(), strict=True):
        assert changed(arrays(one), arrays(other)) == set()

    for each in (model, loaded):
        each.set_random_seed(3)
        each.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == loaded.num_timesteps == 620


def test_continued_updates_are_those_of_the_original(tmp_path):
    model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=10, policy_kwargs=dict(SMALL), seed=0)
    model.learn(30)
    model.save(tmp_path / "sac")
    loaded = SAC.load(tmp_path / "sac")
    loaded.replay_buffer = model.replay_buffer
    loaded.set_logger(model.logger)
    for each in (model, loaded):
        each._current_progress_remaining = 1.0
        np.random.seed(5)  # noqa: NPY002  what the buffer draws from
        mx.random.seed(5)
        each.train(gradient_steps=3, batch_size=16)
    assert changed(arrays(model.policy.state_dict()), arrays(loaded.policy.state_dict())) == set()
    np.testing.assert_array_equal(model.log_ent_coef, loaded.log_ent_coef)


def test_an_update_is_evaluated_once(monkeypatch, mlx_updates):
    model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=20, policy_kwargs=dict(SMALL))
    model.learn(20)
    model.train(gradient_steps=1, batch_size=8)
    calls = []
    evaluate = mx.eval
    monkeypatch.setattr(mx, "eval", lambda *arrays: calls.append(1) or evaluate(*arrays))
    model.train(gradient_steps=7, batch_size=8)
    # The second is that of the end of the call, of what another thread could not compute.
    assert len(calls) == 2


def test_slow_copies_follow_every_target_update_interval():
    model = SAC(
        "MlpPolicy",
        "Pendulum-v1",
        target_update_interval=3,
        learning_starts=20,
        tau=1.0,
        policy_kwargs=dict(SMALL),
    )
    model.learn(20)
    for gradient_steps, equal in ((1, True), (3, False), (4, True)):
        model.train(gradient_steps=gradient_steps, batch_size=8)
        state = arrays(model.policy.state_dict())
        bias, slow = state["critic.qf0.4.bias"], state["critic_target.qf0.4.bias"]
        assert np.array_equal(bias, slow) is equal


def test_parameters_travel_between_models():
    one, other = (SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(SMALL), seed=s) for s in (0, 1))
    parameters = one.get_parameters()
    assert list(parameters) == ["policy", "actor.optimizer", "critic.optimizer", "ent_coef_optimizer"]
    other.set_parameters(parameters)
    assert changed(arrays(one.policy.state_dict()), arrays(other.policy.state_dict())) == set()
    with pytest.raises(ValueError, match="Names of parameters"):
        other.set_parameters({"policy": parameters["policy"]})
    with pytest.raises(RuntimeError, match="Missing key"):
        other.set_parameters({**parameters, "policy": {}})
    assert changed(arrays(one.policy.state_dict()), arrays(other.policy.state_dict())) == set()


@pytest.mark.parametrize(("ent_coef", "initial"), [("auto", 1.0), ("auto_0.1", 0.1)])
def test_learned_entropy_coefficient(ent_coef, initial):
    model = SAC("MlpPolicy", "Pendulum-v1", ent_coef=ent_coef, policy_kwargs=dict(SMALL))
    np.testing.assert_allclose(model.log_ent_coef, [np.log(initial)], rtol=1e-6)
    assert model._get_torch_save_params()[1] == ["log_ent_coef"]
    model.log_ent_coef = mx.array([-1.5])
    np.testing.assert_array_equal(model.log_ent_coef, [-1.5])


def test_fixed_entropy_coefficient(tmp_path):
    model = SAC("MlpPolicy", "Pendulum-v1", ent_coef=0.2, learning_starts=10, policy_kwargs=dict(SMALL))
    assert model.log_ent_coef is None
    assert model.ent_coef_optimizer is None
    model.learn(20)
    assert model.logger.name_to_value["train/ent_coef"] == pytest.approx(0.2)
    assert "train/ent_coef_loss" not in model.logger.name_to_value
    model.save(tmp_path / "sac")
    loaded = SAC.load(tmp_path / "sac")
    assert loaded.ent_coef_tensor.item() == pytest.approx(0.2)
    with pytest.raises(AssertionError, match="not learned"):
        model.log_ent_coef = mx.zeros(1)


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"ent_coef": "automatic"}, ValueError, "ent_coef"),
        ({"ent_coef": "auto_-1"}, AssertionError, "greater than 0"),
        ({"ent_coef": "large"}, ValueError, "'large'"),
        ({"target_entropy": "high"}, ValueError, "target_entropy"),
        ({"policy_kwargs": {"net_arch": {"pi": [8]}}}, AssertionError, "qf"),
    ],
)
def test_wrong_arguments(kwargs, error, text):
    with pytest.raises(error, match=text):
        SAC("MlpPolicy", "Pendulum-v1", **kwargs)


@pytest.mark.parametrize("network", ["policy", "actor"])
def test_networks_have_files_of_their_own(network, tmp_path):
    kwargs = {**SMALL, "features_extractor_kwargs": {"features_dim": 8}}
    model = SAC("CnnPolicy", BoxesEnv(IMAGE), buffer_size=50, policy_kwargs=kwargs)
    saved = getattr(model, network)
    saved.save(tmp_path / "network.zip")
    loaded = type(saved).load(tmp_path / "network.zip")
    obs = np.arange(36 * 36, dtype=np.uint8).reshape(1, 36, 36)
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )


def test_discrete_actions_are_refused():
    with pytest.raises(AssertionError, match="Box"):
        SAC("MlpPolicy", "CartPole-v1")


def test_parameter_names_and_shapes():
    kwargs = {"net_arch": {"pi": [8], "qf": [12, 6]}, "n_critics": 3}
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, target_entropy=-0.5)
    shapes = {name: value.shape for name, value in model.policy.state_dict().items()}
    assert model.target_entropy == -0.5
    assert shapes["actor.latent_pi.0.weight"] == (8, 3)
    assert shapes["actor.mu.weight"] == shapes["actor.log_std.weight"] == (1, 8)
    assert shapes["critic.qf2.0.weight"] == shapes["critic_target.qf2.0.weight"] == (12, 4)
    assert shapes["critic.qf0.4.bias"] == (1,)
    assert len(shapes) == 6 + 2 * 3 * 6


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("policy", ["CnnPolicy", "MultiInputPolicy"])
def test_image_policies(policy, share):
    space = IMAGE if policy == "CnnPolicy" else spaces.Dict({"img": IMAGE, "vec": spaces.Box(-1, 1, (3,))})
    size = "features_dim" if policy == "CnnPolicy" else "cnn_output_dim"
    model = SAC(
        policy,
        BoxesEnv(space),
        buffer_size=50,
        learning_starts=8,
        batch_size=4,
        policy_kwargs={
            **SMALL,
            "features_extractor_kwargs": {size: 8},
            "share_features_extractor": share,
        },
    )
    before = arrays(model.policy.state_dict())
    model.learn(12)
    after = arrays(model.policy.state_dict())
    assert changed(before, after) == set(before)
    theirs = {k.removeprefix("critic."): v for k, v in after.items() if k.startswith("critic.features_ext")}
    ours = {k.removeprefix("actor."): v for k, v in after.items() if k.startswith("actor.features_ext")}
    assert theirs.keys() == ours.keys()
    assert changed(theirs, ours) == (set() if share else set(theirs))


def test_only_the_policy_loss_trains_a_shared_extractor():
    model = SAC(
        "CnnPolicy",
        BoxesEnv(IMAGE),
        buffer_size=50,
        policy_kwargs={
            **SMALL,
            "features_extractor_kwargs": {"features_dim": 8},
            "share_features_extractor": True,
        },
    )
    assert not [name for name in model.critic.optimizer.names if "features_extractor" in name]
    obs, actions = mx.random.uniform(shape=(2, 1, 36, 36)) * 255, mx.zeros((2, 2))
    extractor = model.actor.features_extractor
    loss = nn.value_and_grad(extractor, lambda: sum(q.sum() for q in model.critic(obs, actions)))
    _, gradients = loss()
    assert not any(
        mx.any(g).item() for g in [gradients["linear"]["0"]["weight"], gradients["linear"]["0"]["bias"]]
    )


class NormalisingExtractor(BaseFeaturesExtractor):
    """A batch normalisation and nothing else."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space, observation_space.shape[0])
        self.norm = nn.BatchNorm(observation_space.shape[0])

    def forward(self, observations: mx.array) -> mx.array:
        return self.norm(observations)


def test_running_statistics_of_the_slow_copy_are_copied():
    model = SAC(
        "MlpPolicy",
        BoxesEnv(spaces.Box(-1, 1, (3,))),
        buffer_size=50,
        learning_starts=8,
        batch_size=4,
        policy_kwargs={**SMALL, "features_extractor_class": NormalisingExtractor},
    )
    model.learn(12)
    state = arrays(model.policy.state_dict())
    for name in ("running_mean", "running_var"):
        np.testing.assert_array_equal(
            state[f"critic_target.features_extractor.norm.{name}"],
            state[f"critic.features_extractor.norm.{name}"],
        )
    assert np.any(state["critic.features_extractor.norm.running_mean"] != 0)
    weight = "features_extractor.norm.weight"
    assert np.any(state[f"critic_target.{weight}"] != state[f"critic.{weight}"])


@pytest.mark.parametrize("use_sde_at_warmup", [False, True])
def test_gsde_run(use_sde_at_warmup, tmp_path):
    model = SAC(
        "MlpPolicy",
        "Pendulum-v1",
        learning_starts=20,
        use_sde=True,
        sde_sample_freq=4,
        use_sde_at_warmup=use_sde_at_warmup,
        train_freq=8,
        gradient_steps=-1,
        policy_kwargs={**SMALL, "use_expln": True, "log_std_init": -2, "clip_mean": 1.0},
        seed=0,
    )
    model.learn(64)
    # Updates follow the steps 24, 32, …, 64, each with as many gradient steps as steps.
    assert model._n_updates == 48
    assert model.actor.get_std().shape == (16, 1)
    state = model.policy.state_dict()
    assert state["actor.log_std"].shape == (16, 1)
    assert state["actor.mu.0.weight"].shape == (1, 16)
    model.save(tmp_path / "sde")
    loaded = SAC.load(tmp_path / "sde")
    obs = np.zeros(3, np.float32)
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    assert model.predict(obs)[0].shape == (1,)


def test_gsde_methods_need_gsde():
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(SMALL))
    with pytest.raises(AssertionError, match="use_sde=True"):
        model.actor.get_std()
    with pytest.raises(AssertionError, match="use_sde=True"):
        model.policy.reset_noise()


def test_actions_are_stored_scaled_and_played_unscaled():
    # BoxesEnv checks that what it gets is inside its own bounds, [-2, 2] x [0, 4].
    model = SAC(
        "MlpPolicy", BoxesEnv(spaces.Box(-1, 1, (3,))), buffer_size=60, learning_starts=30, batch_size=4
    )
    model.learn(50)
    stored = model.replay_buffer.actions[:50]
    assert stored.min() >= -1
    assert stored.max() <= 1
    assert stored[..., 1].min() < 0
    action, _ = model.predict(np.zeros(3, np.float32))
    assert model.action_space.contains(action)
