"""The policies of DDPG: those of TD3, under SB3's names."""

from mlx_baselines3.td3.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
