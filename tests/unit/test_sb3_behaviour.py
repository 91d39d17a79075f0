"""What programs written for SB3 rely on across modules: order, counting, keys, output, arguments."""

import sys
import time

import gymnasium as gym
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DDPG, DQN, HER, PPO, SAC, TD3
from mlx_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from mlx_baselines3.common.logger import KVWriter, Logger
from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.torch_layers import BaseFeaturesExtractor
from mlx_baselines3.common.vec_env import DummyVecEnv, VecNormalize

SMALL = {"policy_kwargs": {"net_arch": [4]}}
ON_POLICY = {"n_steps": 4, **SMALL}
PPO_KWARGS = {**ON_POLICY, "batch_size": 4, "n_epochs": 1}
OFF_POLICY = {"buffer_size": 50, "learning_starts": 2, "batch_size": 4, **SMALL}


@pytest.fixture(autouse=True)
def own_policy_kwargs():
    """As in SB3, algorithms add to the dict that they are given: each test begins with the same."""
    yield
    SMALL["policy_kwargs"].clear()
    SMALL["policy_kwargs"]["net_arch"] = [4]


pytestmark = pytest.mark.usefixtures("uncompiled")


class Steps(gym.Env):
    """Episodes of `length` steps, each of reward 1; the observation counts the steps."""

    def __init__(self, action_space=None, length=2):
        self.observation_space = spaces.Box(0, 100, (1,), np.float32)
        self.action_space = action_space or spaces.Discrete(2)
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        info = {"is_success": True} if self.t == self.length else {}
        return np.full(1, self.t, np.float32), 1.0, self.t == self.length, False, info


BOX = spaces.Box(-2, 2, (1,), np.float32)


class Tables(KVWriter):
    """Keeps what is logged, and what of it TensorBoard does not get."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        hidden = {key for key, formats in key_excluded.items() if "tensorboard" in formats}
        self.rows.append((step, dict(key_values), hidden & set(key_values)))

    def close(self): ...


def logged(model, steps, **kwargs):
    tables = Tables()
    model.set_logger(Logger(None, [tables]))
    model.learn(steps, **kwargs)
    return tables.rows


ROLLOUT = {"rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/success_rate"}
TIME = {"time/fps", "time/time_elapsed", "time/total_timesteps"}
TRAIN = {"train/learning_rate", "train/n_updates"}
HIDDEN = {"time/time_elapsed", "time/total_timesteps", "train/n_updates"}


def named(group, names):
    return {f"{group}/{name}" for name in names.split()}


@pytest.mark.parametrize(
    ("make", "own"),
    [
        (
            lambda: A2C("MlpPolicy", Steps(BOX), **ON_POLICY),
            named("train", "explained_variance entropy_loss policy_loss value_loss std")
            | {"time/iterations"},
        ),
        (
            lambda: PPO("MlpPolicy", Steps(BOX), clip_range_vf=0.2, **PPO_KWARGS),
            named("train", "entropy_loss policy_gradient_loss value_loss approx_kl clip_fraction loss std")
            | named("train", "explained_variance clip_range clip_range_vf")
            | {"time/iterations"},
        ),
        (
            lambda: DQN("MlpPolicy", Steps(), **OFF_POLICY),
            {"rollout/exploration_rate", "train/loss", "time/episodes"},
        ),
        (
            lambda: SAC("MlpPolicy", Steps(BOX), **OFF_POLICY),
            named("train", "ent_coef ent_coef_loss actor_loss critic_loss") | {"time/episodes"},
        ),
        (
            lambda: SAC("MlpPolicy", Steps(BOX), use_sde=True, **OFF_POLICY),
            named("train", "ent_coef ent_coef_loss actor_loss critic_loss std") | {"time/episodes"},
        ),
        (
            lambda: TD3("MlpPolicy", Steps(BOX), **OFF_POLICY),
            named("train", "actor_loss critic_loss") | {"time/episodes"},
        ),
        (
            lambda: DDPG("MlpPolicy", Steps(BOX), **OFF_POLICY),
            named("train", "actor_loss critic_loss") | {"time/episodes"},
        ),
    ],
    ids=["a2c", "ppo", "dqn", "sac", "sac_sde", "td3", "ddpg"],
)
def test_logger_keys(make, own):
    _, keys, hidden = logged(make(), 16, log_interval=2)[-1]
    assert set(keys) == ROLLOUT | TIME | TRAIN | own
    assert hidden == HIDDEN | (own & {"time/iterations", "time/episodes"})
    assert keys["rollout/ep_rew_mean"] == keys["rollout/ep_len_mean"] == 2
    assert keys["rollout/success_rate"] == 1


def test_on_policy_logs_before_it_trains():
    first, second = logged(A2C("MlpPolicy", Steps(), **ON_POLICY), 8, log_interval=1)
    assert not any(key.startswith("train/") for key in first[1])
    assert second[1]["train/n_updates"] == 1
    assert [step for step, *_ in (first, second)] == [4, 8]


@pytest.mark.parametrize(("make", "steps"), [
    (lambda: PPO("MlpPolicy", Steps(), **PPO_KWARGS), [4, 8]),
    (lambda: A2C("MlpPolicy", Steps(), n_steps=1, **SMALL), [100]),
    (lambda: DQN("MlpPolicy", Steps(), **{**OFF_POLICY, "learning_starts": 1000}), [8, 16]),
], ids=["ppo", "a2c", "dqn"])  # fmt: skip
def test_default_log_intervals(make, steps):
    """Each rollout of PPO, each hundredth of A2C, each fourth episode off-policy."""
    assert [step for step, *_ in logged(make(), steps[-1])] == steps


def test_fps_counts_the_steps_of_this_call_only(monkeypatch):
    model = A2C("MlpPolicy", Steps(), **ON_POLICY).learn(4)
    model.num_timesteps = 20_000
    ticks = iter(range(10**6))
    monkeypatch.setattr(time, "time_ns", lambda: next(ticks) * 10**9)
    ((_, keys, _),) = logged(model, 4, log_interval=1, reset_num_timesteps=False)
    assert keys["time/total_timesteps"] == 20_004
    assert 0 <= keys["time/fps"] <= 4


def test_episodes_survive_a_call_that_goes_on():
    model = A2C("MlpPolicy", Steps(), **ON_POLICY).learn(4)
    assert len(model.ep_info_buffer) == len(model.ep_success_buffer) == 2
    model.learn(4, reset_num_timesteps=False)
    assert len(model.ep_info_buffer) == len(model.ep_success_buffer) == 4
    assert model._episode_num == 0
    model.learn(4)
    assert len(model.ep_info_buffer) == len(model.ep_success_buffer) == 2
    dqn = DQN("MlpPolicy", Steps(), **{**OFF_POLICY, "learning_starts": 1000}).learn(4)
    assert dqn._episode_num == 2
    assert dqn.learn(4, reset_num_timesteps=False)._episode_num == 4
    assert dqn.learn(4)._episode_num == 2


def test_tensorboard_folder_is_kept_by_a_call_that_goes_on(tmp_path):
    model = A2C("MlpPolicy", Steps(), tensorboard_log=str(tmp_path), **ON_POLICY)
    for fresh, folders in ((True, ["A2C_1"]), (False, ["A2C_1"]), (True, ["A2C_1", "A2C_2"])):
        model.learn(4, log_interval=1, reset_num_timesteps=fresh)
        model.logger.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == folders
    model.learn(4, tb_log_name="named")
    model.logger.close()
    assert (tmp_path / "named_1").is_dir()


def test_callback_is_called_once_for_each_vec_step_with_the_same_objects():
    class Child(BaseCallback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def _on_step(self):
            self.seen.append((self.num_timesteps, self.locals["infos"], self.locals["new_obs"]))
            return True

    one, other = Child(), Child()
    A2C("MlpPolicy", DummyVecEnv([Steps] * 3), **ON_POLICY).learn(12, CallbackList([one, other]))
    assert [steps for steps, *_ in one.seen] == [3, 6, 9, 12]
    assert one.n_calls == 4
    for (_, infos, obs), (_, same_infos, same_obs) in zip(one.seen, other.seen, strict=True):
        assert infos is same_infos
        assert obs is same_obs


def test_eval_callback_logs_and_syncs_normalisation():
    train = VecNormalize(DummyVecEnv([Steps]), norm_reward=False)
    evaluation = VecNormalize(DummyVecEnv([lambda: Monitor(Steps())]), training=False, norm_reward=False)
    model = A2C("MlpPolicy", train, **ON_POLICY)
    rows = logged(model, 8, callback=EvalCallback(evaluation, eval_freq=4, n_eval_episodes=2, verbose=0))
    written = {key: value for _, keys, _ in rows for key, value in keys.items() if key.startswith("eval/")}
    assert written == {"eval/mean_reward": 2.0, "eval/mean_ep_length": 2.0, "eval/success_rate": 1.0}
    np.testing.assert_allclose(evaluation.obs_rms.mean, train.obs_rms.mean)
    assert evaluation.obs_rms.count == train.obs_rms.count


@pytest.mark.parametrize(("action_space", "dtype"), [
    (spaces.Discrete(3), np.int64),
    (spaces.MultiDiscrete([2, 3]), np.int64),
    (spaces.Box(-1, 1, (2,), np.float32), np.float32),
])  # fmt: skip
def test_predict_answers_in_the_spaces_dtype(action_space, dtype):
    model = A2C("MlpPolicy", Steps(action_space), **SMALL)
    one, _ = model.predict(np.zeros(1, np.float32))
    many, _ = model.predict(np.zeros((4, 1), np.float32))
    assert one.shape == action_space.shape
    assert many.shape == (4, *action_space.shape)
    assert np.asarray(one).dtype == many.dtype == dtype


def test_nested_dictionaries_are_refused():
    env = Steps()
    env.observation_space = spaces.Dict({"a": spaces.Dict({"b": env.observation_space})})
    with pytest.raises(NotImplementedError, match="Nested"):
        A2C("MultiInputPolicy", env)


def test_infinite_actions_are_refused():
    with pytest.raises(AssertionError, match="finite lower and upper bound"):
        A2C("MlpPolicy", Steps(spaces.Box(-np.inf, np.inf, (1,), np.float32)))


def test_progress_bar_without_its_packages(monkeypatch):
    import mlx_baselines3.common.callbacks as callbacks

    monkeypatch.setattr(callbacks, "tqdm", None, raising=False)
    monkeypatch.setitem(sys.modules, "tqdm.rich", None)
    with pytest.raises(ImportError, match=r"mlx-baselines3\[extra\]"):
        A2C("MlpPolicy", Steps(), **ON_POLICY).learn(4, progress_bar=True)


@pytest.mark.parametrize("device", ["auto", "cpu", "gpu", "cuda", "cuda:0", "mps", mx.cpu, mx.Device(mx.cpu)])
def test_devices(device):
    model = A2C("MlpPolicy", Steps(), device=device, **SMALL)
    assert model.device.type in (mx.cpu, mx.gpu)
    assert model.policy.device == model.device


def test_activation_and_optimizer_classes_are_mlxs():
    kwargs = {
        "net_arch": [4],
        "activation_fn": nn.ReLU,
        "optimizer_class": optim.AdamW,
        "optimizer_kwargs": {"eps": 1e-6, "weight_decay": 0.1},
    }
    model = A2C("MlpPolicy", Steps(), use_rms_prop=False, policy_kwargs=kwargs, n_steps=4).learn(4)
    assert type(model.policy.mlp_extractor.policy_net[1]) is nn.ReLU
    with pytest.raises(ValueError, match=r"weight_decay.*mlx.optimizers.AdamW"):
        A2C("MlpPolicy", Steps(), use_rms_prop=False, policy_kwargs={**kwargs, "optimizer_class": optim.Adam})


@pytest.mark.parametrize("method", ["forward", "__call__"])
def test_a_features_extractor_says_forward_or_call(method):
    def run(self, observations):
        return mx.tanh(self.layer(observations))

    class Own(BaseFeaturesExtractor):
        def __init__(self, observation_space, features_dim=3):
            super().__init__(observation_space, features_dim)
            self.layer = nn.Linear(1, features_dim)

    setattr(Own, method, run)
    kwargs = {"features_extractor_class": Own, "features_extractor_kwargs": {"features_dim": 5}}
    model = A2C("MlpPolicy", Steps(), n_steps=4, policy_kwargs={**kwargs, "net_arch": [4]})
    before = np.array(model.policy.features_extractor.layer.weight)
    model.learn(8)
    assert before.shape == (5, 1)
    assert np.abs(np.array(model.policy.features_extractor.layer.weight) - before).max() > 0
    assert "features_extractor.layer.weight" in model.get_parameters()["policy"]


def test_the_dict_of_policy_kwargs_serves_load_as_well(tmp_path):
    """Programs hand the same dict to the constructor and to `load`; A2C has added its optimizer meanwhile."""
    kwargs = {"n_steps": 4, "policy_kwargs": {"net_arch": [4]}}
    A2C("MlpPolicy", Steps(), **kwargs).save(tmp_path / "model")
    assert A2C.load(tmp_path / "model", env=Steps(), **kwargs).policy.net_arch == [4]
    with pytest.raises(ValueError, match="policy kwargs do not equal"):
        A2C.load(tmp_path / "model", policy_kwargs={"net_arch": [5]})


def test_her_is_no_algorithm():
    with pytest.raises(ImportError, match=r"HerReplayBuffer.*documentation"):
        HER("MlpPolicy", Steps())


def test_the_advice_to_take_the_cpu_starts_with_sb3s_words():
    model = PPO("MlpPolicy", "Pendulum-v1")
    # A device may be named where there is none.
    model.device = mx.Device(mx.gpu, 0)
    with pytest.warns(UserWarning, match="You are trying to run PPO on the GPU"):
        model._maybe_recommend_cpu()
