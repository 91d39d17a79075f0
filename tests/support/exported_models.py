"""Small models of every algorithm with every kind of policy, a little trained."""

import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from gymnasium import spaces

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from mlx_baselines3.common.envs import BitFlippingEnv
from mlx_baselines3.common.nn.optimizers import RMSpropTFLike
from mlx_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from mlx_baselines3.contrib import QRDQN, TQC, TRPO, CrossQ
from support.random_env import RandomEnv

VECTOR = spaces.Box(-2.0, 2.0, (3,))
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
MIXED = spaces.Dict({"img": IMAGE, "number": spaces.Discrete(3), "vec": VECTOR})
MOVE = spaces.Box(np.array([-2.0, -1.0], np.float32), np.array([1.0, 3.0], np.float32))
NORMAL = NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))
WALK = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2))
ROLLOUT = {"n_steps": 16, "batch_size": 8, "n_epochs": 1}
REPLAY = {"buffer_size": 100, "learning_starts": 8, "batch_size": 8}
SMALL = {"net_arch": [8]}
FEW = {**SMALL, "n_quantiles": 5}
CNN = {**SMALL, "features_extractor_kwargs": {"features_dim": 8}}
MIX = {**SMALL, "features_extractor_kwargs": {"cnn_output_dim": 8}}

# name: algorithm, policy, observation space, action space, arguments
CASES = {
    "ppo_discrete": (PPO, "MlpPolicy", VECTOR, spaces.Discrete(3), {**ROLLOUT, "policy_kwargs": SMALL}),
    "ppo_box": (
        *(PPO, "MlpPolicy", VECTOR, MOVE),
        {**ROLLOUT, "clip_range_vf": 0.2, "policy_kwargs": {"net_arch": {"pi": [8], "vf": [4, 4]}}},
    ),
    "ppo_sde": (PPO, "MlpPolicy", VECTOR, MOVE, {**ROLLOUT, "use_sde": True, "policy_kwargs": SMALL}),
    "ppo_squashed": (
        *(PPO, "MlpPolicy", VECTOR, MOVE),
        {**ROLLOUT, "use_sde": True, "policy_kwargs": {**SMALL, "squash_output": True, "full_std": False}},
    ),
    "ppo_cnn": (PPO, "CnnPolicy", IMAGE, spaces.Discrete(4), {**ROLLOUT, "policy_kwargs": CNN}),
    "ppo_mixed": (PPO, "MultiInputPolicy", MIXED, MOVE, {**ROLLOUT, "policy_kwargs": MIX}),
    "ppo_multidiscrete": (
        *(PPO, "MlpPolicy", spaces.MultiDiscrete([3, 2]), spaces.MultiDiscrete([2, 4])),
        {**ROLLOUT, "policy_kwargs": {**SMALL, "activation_fn": nn.ReLU, "optimizer_class": optim.AdamW}},
    ),
    "ppo_multibinary": (
        *(PPO, "MlpPolicy", spaces.MultiBinary(4), spaces.MultiBinary(3)),
        {**ROLLOUT, "learning_rate": lambda progress: 1e-3 * progress, "policy_kwargs": SMALL},
    ),
    "ppo_sgd": (
        *(PPO, "MlpPolicy", VECTOR, spaces.Discrete(3)),
        {
            **ROLLOUT,
            "policy_kwargs": {
                **SMALL,
                "optimizer_class": optim.SGD,
                "optimizer_kwargs": {"momentum": 0.9, "dampening": 0.1},
            },
        },
    ),
    "ppo_apart": (
        *(PPO, "CnnPolicy", IMAGE, spaces.Discrete(2)),
        {**ROLLOUT, "policy_kwargs": {**CNN, "share_features_extractor": False}},
    ),
    "a2c_box": (A2C, "MlpPolicy", VECTOR, MOVE, {"policy_kwargs": SMALL}),
    "a2c_discrete_obs": (
        *(A2C, "MlpPolicy", spaces.Discrete(5), spaces.Discrete(3)),
        {"policy_kwargs": {**SMALL, "optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}},
    ),
    "dqn_mlp": (DQN, "MlpPolicy", VECTOR, spaces.Discrete(3), {**REPLAY, "policy_kwargs": SMALL}),
    "dqn_cnn": (DQN, "CnnPolicy", IMAGE, spaces.Discrete(3), {**REPLAY, "policy_kwargs": CNN}),
    "dqn_mixed": (DQN, "MultiInputPolicy", MIXED, spaces.Discrete(2), {**REPLAY, "policy_kwargs": MIX}),
    "dqn_her": (
        *(DQN, "MultiInputPolicy", None, None),
        {**REPLAY, "replay_buffer_class": HerReplayBuffer, "policy_kwargs": SMALL},
    ),
    "qrdqn_mlp": (QRDQN, "MlpPolicy", VECTOR, spaces.Discrete(3), {**REPLAY, "policy_kwargs": FEW}),
    "qrdqn_cnn": (
        *(QRDQN, "CnnPolicy", IMAGE, spaces.Discrete(3)),
        {**REPLAY, "policy_kwargs": {**CNN, "n_quantiles": 5}},
    ),
    "qrdqn_mixed": (
        *(QRDQN, "MultiInputPolicy", MIXED, spaces.Discrete(2)),
        {**REPLAY, "policy_kwargs": {**MIX, "n_quantiles": 5}},
    ),
    "sac_auto": (SAC, "MlpPolicy", VECTOR, MOVE, {**REPLAY, "policy_kwargs": SMALL}),
    "sac_fixed": (SAC, "MlpPolicy", VECTOR, MOVE, {**REPLAY, "ent_coef": 0.1, "policy_kwargs": SMALL}),
    "sac_sde": (SAC, "MlpPolicy", VECTOR, MOVE, {**REPLAY, "use_sde": True, "policy_kwargs": SMALL}),
    "sac_cnn": (SAC, "CnnPolicy", IMAGE, MOVE, {**REPLAY, "policy_kwargs": CNN}),
    "sac_mixed": (SAC, "MultiInputPolicy", MIXED, MOVE, {**REPLAY, "n_steps": 1, "policy_kwargs": MIX}),
    "crossq_mlp": (CrossQ, "MlpPolicy", VECTOR, MOVE, {**REPLAY, "policy_kwargs": SMALL}),
    "crossq_fixed": (
        *(CrossQ, "MlpPolicy", VECTOR, MOVE),
        {**REPLAY, "ent_coef": 0.1, "policy_kwargs": {**SMALL, "n_critics": 3}},
    ),
    "trpo_box": (TRPO, "MlpPolicy", VECTOR, MOVE, {"n_steps": 16, "batch_size": 8, "policy_kwargs": SMALL}),
    "trpo_mixed": (
        *(TRPO, "MultiInputPolicy", MIXED, spaces.Discrete(3)),
        {"n_steps": 16, "batch_size": 8, "policy_kwargs": MIX},
    ),
    "tqc_auto": (TQC, "MlpPolicy", VECTOR, MOVE, {**REPLAY, "policy_kwargs": FEW}),
    "tqc_sde": (TQC, "MlpPolicy", VECTOR, MOVE, {**REPLAY, "use_sde": True, "policy_kwargs": FEW}),
    "tqc_cnn": (
        *(TQC, "CnnPolicy", IMAGE, MOVE),
        {**REPLAY, "ent_coef": 0.1, "policy_kwargs": {**CNN, "n_quantiles": 5}},
    ),
    "tqc_mixed": (
        *(TQC, "MultiInputPolicy", MIXED, MOVE),
        {**REPLAY, "policy_kwargs": {**MIX, "n_quantiles": 5, "share_features_extractor": True}},
    ),
    "td3_mlp": (
        *(TD3, "MlpPolicy", VECTOR, MOVE),
        {**REPLAY, "n_steps": 3, "action_noise": NORMAL, "policy_kwargs": SMALL},
    ),
    "td3_shared": (
        *(TD3, "CnnPolicy", IMAGE, MOVE),
        {**REPLAY, "policy_kwargs": {**CNN, "share_features_extractor": True}},
    ),
    "ddpg_mlp": (
        *(DDPG, "MlpPolicy", VECTOR, MOVE),
        {**REPLAY, "action_noise": WALK, "policy_kwargs": SMALL},
    ),
}  # fmt: skip


def make(name, steps=32):
    """
    :param name: a key of ``CASES``
    :param steps: environment steps to train for
    :return: the model
    """
    algorithm, policy, observation_space, action_space, kwargs = CASES[name]
    env = (
        BitFlippingEnv(n_bits=4) if observation_space is None else RandomEnv(observation_space, action_space)
    )
    # A copy: some algorithms write into it.
    kwargs = {**kwargs, "policy_kwargs": dict(kwargs["policy_kwargs"])}
    model = algorithm(policy, env, seed=1, **kwargs)
    return model.learn(steps) if steps else model


def observations(space, count=12):
    """
    :param space: an observation space
    :param count: how many
    :return: a batch of samples, always the same
    """
    space.seed(5)
    samples = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in space.spaces}
    return np.stack(samples)
