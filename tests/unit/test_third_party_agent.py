"""A program that keeps a model inside its own class and trades with it: only its imports were renamed."""

import pathlib

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DQN, PPO, SAC
from mlx_baselines3.common.base_class import BaseAlgorithm
from mlx_baselines3.common.callbacks import BaseCallback
from mlx_baselines3.common.env_checker import check_env
from mlx_baselines3.common.vec_env import DummyVecEnv, VecNormalize


class TradingEnv(gym.Env):
    """
    One asset. The observation holds the last returns and the position; the action is the position to take,
    and the reward is the profit of the step less the costs of changing the position.
    """

    metadata = {"render_modes": ["human"]}

    def __init__(self, prices, window=4, cost=0.001, continuous=False, render_mode=None):
        self.prices, self.window, self.cost = np.asarray(prices, float), window, cost
        self.render_mode = render_mode
        self.continuous = continuous
        self.observation_space = spaces.Box(-np.inf, np.inf, shape=(window + 1,), dtype=np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32) if continuous else spaces.Discrete(3)

    def _obs(self):
        prices = self.prices[self.now - self.window : self.now + 1]
        return np.append(np.diff(np.log(prices)), self.position).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now, self.position, self.worth = self.window, 0.0, 1.0
        return self._obs(), {"worth": self.worth}

    def step(self, action):
        target = float(action[0]) if self.continuous else float(action) - 1
        paid = self.cost * abs(target - self.position)
        self.position = target
        self.now += 1
        gain = self.position * (self.prices[self.now] / self.prices[self.now - 1] - 1) - paid
        self.worth *= 1 + gain
        ended = bool(self.worth < 0.5)
        return self._obs(), gain, ended, self.now == len(self.prices) - 1, {"worth": self.worth}


class WorthLogger(BaseCallback):
    """Logs what the portfolio was worth at the end of each episode."""

    def __init__(self):
        super().__init__(verbose=0)
        self.worths = []

    def _on_step(self):
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if done:
                self.worths.append(info["worth"])
                self.logger.record("trading/worth", info["worth"])
        return True


class Agent:
    """
    :param cls: the algorithm
    :param env: the environment to trade in
    :param kwargs: arguments of the algorithm
    """

    def __init__(self, cls, env, **kwargs):
        self.model = cls("MlpPolicy", env, **kwargs)

    def train(self, steps, **kwargs):
        self.model.learn(total_timesteps=steps, tb_log_name="agent", **kwargs)
        return self

    def act(self, observation):
        action, _states = self.model.predict(observation, deterministic=True)
        return action

    def trade(self, env):
        observation, info = env.reset()
        worths, over = [info["worth"]], False
        while not over:
            observation, _, terminated, truncated, info = env.step(self.act(observation))
            worths.append(info["worth"])
            over = terminated or truncated
        return np.array(worths)

    def save(self, path):
        self.model.save(path)

    @classmethod
    def load(cls, path, algorithm: type[BaseAlgorithm], env):
        agent = cls.__new__(cls)
        agent.model = algorithm.load(path, env=env)
        return agent


PRICES = 100 * 1.02 ** np.arange(25)
KWARGS = {
    A2C: {"n_steps": 8},
    PPO: {"n_steps": 16, "batch_size": 16, "n_epochs": 1},
    DQN: {"learning_starts": 8, "buffer_size": 100, "batch_size": 8},
    SAC: {"learning_starts": 8, "buffer_size": 100, "batch_size": 8},
}


def make_env(cls=PPO):
    return TradingEnv(PRICES, continuous=cls is SAC)


def test_the_environment_keeps_to_the_interface():
    check_env(make_env())
    check_env(make_env(SAC))


@pytest.mark.parametrize("cls", KWARGS)
def test_train_trade_save_load_and_go_on(cls, tmp_path: pathlib.Path):
    watch = WorthLogger()
    agent = Agent(cls, make_env(cls), seed=1, policy_kwargs={"net_arch": [8]}, **KWARGS[cls])
    agent.train(64, callback=watch)
    assert len(watch.worths) == agent.model.num_timesteps // 20
    worths = agent.trade(make_env(cls))
    assert len(worths) == 21

    agent.save(str(tmp_path / "agent"))
    assert (tmp_path / "agent.zip").is_file()
    again = Agent.load(tmp_path / "agent", cls, make_env(cls))
    assert type(again.model) is cls
    np.testing.assert_array_equal(again.trade(make_env(cls)), worths)

    before = again.model.num_timesteps
    again.train(16, reset_num_timesteps=False)
    assert again.model.num_timesteps >= before + 16


def test_an_agent_in_normalised_environments(tmp_path: pathlib.Path):
    env = VecNormalize(DummyVecEnv([make_env] * 2))
    agent = Agent(PPO, env, **KWARGS[PPO]).train(64)
    agent.save(tmp_path / "agent.zip")
    env.save(tmp_path / "statistics.pkl")

    loaded_env = VecNormalize.load(tmp_path / "statistics.pkl", DummyVecEnv([make_env]))
    loaded_env.training = loaded_env.norm_reward = False
    loaded = Agent.load(tmp_path / "agent.zip", PPO, loaded_env)
    np.testing.assert_allclose(loaded_env.obs_rms.mean, env.obs_rms.mean)
    observation = loaded_env.reset()
    assert loaded.act(observation).shape == (1,)
    np.testing.assert_array_equal(loaded.act(observation), agent.act(observation))


def test_long_positions_pay_where_prices_rise():
    always_long = Agent.__new__(Agent)
    always_long.act = lambda observation: 2
    worths = always_long.trade(make_env())
    assert worths[-1] == pytest.approx((1.02 - 0.001) * 1.02**19)
