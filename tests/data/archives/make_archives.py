"""Write one model of each algorithm, and two checkpoints, as the present version does."""

import pathlib

import numpy as np

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, __version__
from mlx_baselines3.common.noise import NormalActionNoise
from mlx_baselines3.common.utils import LinearSchedule
from mlx_baselines3.common.vec_env import NativeVecEnv, VecNormalize

SMALL = {"policy_kwargs": {"net_arch": [4]}}
REPLAY = {"buffer_size": 64, "learning_starts": 8, "batch_size": 8, **SMALL}
NOISE = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
MODELS = {
    "ppo": (
        PPO,
        "CartPole-v1",
        {"n_steps": 16, "batch_size": 8, "clip_range": LinearSchedule(0.3, 0.1, 0.5)},
    ),
    "a2c": (A2C, "Pendulum-v1", {"use_sde": True}),
    "dqn": (DQN, "CartPole-v1", REPLAY),
    "sac": (SAC, "Pendulum-v1", REPLAY),
    "td3": (TD3, "Pendulum-v1", {**REPLAY, "action_noise": NOISE}),
    "ddpg": (DDPG, "Pendulum-v1", {**REPLAY, "train_freq": (2, "step")}),
}


def main():
    folder = pathlib.Path(__file__).parent / __version__
    folder.mkdir()
    for name, (algorithm, env_id, kwargs) in MODELS.items():
        kwargs = {**SMALL, **kwargs}
        model = algorithm("MlpPolicy", env_id, seed=0, **kwargs).learn(48)
        model.save(folder / name)
        obs = np.random.default_rng(0).uniform(-1, 1, (8, *model.observation_space.shape)).astype(np.float32)
        actions = model.predict(obs, deterministic=True)[0]
        total = model.policy.parameters_to_vector().astype(np.float64).sum()
        np.savez(folder / f"{name}.npz", obs=obs, actions=actions, total=total)
    for name in ("ppo", "sac"):
        algorithm, env_id, kwargs = MODELS[name]
        env = VecNormalize(NativeVecEnv(env_id, 2, seed=0))
        model = algorithm("MlpPolicy", env, seed=0, **{**SMALL, **kwargs}).learn(64)
        model.save_checkpoint(folder / f"checkpoint_{name}")


if __name__ == "__main__":
    main()
