"""
Runs for the tests of checkpoints. As a program, ``python checkpoint_runs.py CASE FOLDER STEP`` is a run that
saves checkpoints and kills itself with SIGKILL at an environment step; 0 waits for somebody else to do it.
"""

import io
import json
import os
import pathlib
import signal
import sys

import numpy as np

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from mlx_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from mlx_baselines3.common.utils import LinearSchedule
from mlx_baselines3.common.vec_env import NativeVecEnv, VecNormalize
from mlx_baselines3.contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO

SMALL = {"policy_kwargs": {"net_arch": [8]}}
ROLLOUT = {"n_steps": 16, "batch_size": 8, "n_epochs": 2, **SMALL}
REPLAY = {"buffer_size": 150, "learning_starts": 20, "batch_size": 8, **SMALL}
WALK = OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.5 * np.ones(1))
MEMORY = {"net_arch": [8], "lstm_hidden_size": 8, "n_lstm_layers": 2}
SLOPES = {"learning_rate": LinearSchedule(5e-3, 1e-4, 0.9), "clip_range": LinearSchedule(0.3, 0.1, 1.0)}
DECLINE = LinearSchedule(0.1, 0.01, 1.0)
# name: algorithm, environment, number of them, whether they are normalised, arguments, total steps
CASES = {
    "ppo": (PPO, "CartPole-v1", 3, False, {**ROLLOUT, **SLOPES}, 336),
    "ppo_normalized": (PPO, "Pendulum-v1", 2, True, {**ROLLOUT, "use_sde": True, "sde_sample_freq": 4}, 320),
    "maskable_ppo": (MaskablePPO, "mlx_baselines3/InvalidAction-v0", 3, False, ROLLOUT, 336),
    "recurrent_ppo": (RecurrentPPO, "CartPole-v1", 3, False, {**ROLLOUT, "policy_kwargs": MEMORY}, 336),
    "trpo": (TRPO, "CartPole-v1", 3, False, {"n_steps": 16, "batch_size": 8, **SMALL}, 336),
    "ars": (ARS, "Pendulum-v1", 2, True, {"n_delta": 3, "n_top": 2, **SMALL, "delta_std": DECLINE}, 3600),
    "a2c": (A2C, "CartPole-v1", 2, False, SMALL, 240),
    "dqn": (
        *(DQN, "CartPole-v1", 2, False),
        {**REPLAY, "target_update_interval": 30, "exploration_fraction": 0.6},
        300,
    ),
    "qrdqn": (
        *(QRDQN, "CartPole-v1", 2, False),
        {**REPLAY, "policy_kwargs": {"net_arch": [8], "n_quantiles": 5}, "target_update_interval": 30},
        300,
    ),
    "crossq": (
        *(CrossQ, "Pendulum-v1", 2, False),
        {**REPLAY, "policy_kwargs": {"net_arch": [8], "renorm_warmup_steps": 40}},
        240,
    ),
    "tqc": (TQC, "Pendulum-v1", 1, True, {**REPLAY, "train_freq": 7, "gradient_steps": 3}, 420),
    "sac": (SAC, "Pendulum-v1", 1, True, {**REPLAY, "train_freq": 7, "gradient_steps": 3}, 420),
    "sac_sde": (SAC, "Pendulum-v1", 2, False, {**REPLAY, "use_sde": True}, 240),
    "td3": (TD3, "Pendulum-v1", 2, False, {**REPLAY, "action_noise": WALK}, 440),
    "ddpg": (
        *(DDPG, "MountainCarContinuous-v0", 1, False),
        {**REPLAY, "train_freq": (1, "episode"), "gradient_steps": 4},
        2200,
    ),
}


class Rows:
    """An output of the logger that keeps what it gets, but for the times."""

    def __init__(self, path=None):
        self.rows, self.path = [], path

    def write(self, row, excluded, step=0):
        times = ("time/fps", "time/time_elapsed")
        self.rows.append([step, {key: float(value) for key, value in row.items() if key not in times}])
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(self.rows[-1]) + "\n")

    def close(self):
        pass


def make(case):
    """
    :param case: a key of ``CASES``
    :return: the model, not trained
    """
    algorithm, env_id, n_envs, normalized, kwargs, _ = CASES[case]
    env = NativeVecEnv(env_id, n_envs, seed=3)
    kwargs = {**kwargs, "policy_kwargs": dict(kwargs["policy_kwargs"])}
    policy = "MlpLstmPolicy" if algorithm is RecurrentPPO else "MlpPolicy"
    return algorithm(policy, VecNormalize(env) if normalized else env, seed=1, **kwargs)


def learn(model, steps, callback=None, fresh=True, path=None):
    """
    :param model: a model
    :param steps: how long to train
    :param callback: passed on
    :param fresh: start counting at zero
    :param path: a file for the log
    :return: the rows of the log
    """
    rows = Rows(path)
    model.set_logger(Logger(None, [rows]))
    model.learn(steps, callback=callback, log_interval=1, reset_num_timesteps=fresh)
    return rows.rows


def assert_same_parameters(first, second):
    """
    :param first: a model
    :param second: a model that must have the same parameters, bit for bit
    """
    ours, theirs = first.get_parameters(), second.get_parameters()
    for name, arrays in ours.items():
        for key, value in arrays.items():
            np.testing.assert_array_equal(
                np.array(theirs[name][key]), np.array(value), err_msg=f"{name} {key}"
            )


def saved(model):
    """
    :param model: a model
    :return: its checkpoint, an open file
    """
    stream = io.BytesIO()
    model.save_checkpoint(stream)
    stream.seek(0)
    return stream


class Killer(BaseCallback):
    """Ends the process as nothing can be done about."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def _on_step(self):
        if self.num_timesteps >= self.step > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return True


def main(case, folder, step):
    saver = CheckpointCallback(11, folder, name_prefix=case, resumable=True)
    total = CASES[case][-1] if step > 0 else 10**9
    learn(make(case), total, [saver, Killer(step)], path=pathlib.Path(folder) / "log.jsonl")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
