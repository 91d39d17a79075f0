"""What ``net_arch`` may be, and what is said of anything else."""

import numpy as np
import pytest

from mlx_baselines3 import DQN, PPO, SAC, TD3
from mlx_baselines3.common.nn.layers import named_parameters

ON = {"n_steps": 16, "batch_size": 16, "n_epochs": 1}
OFF = {"learning_starts": 4, "buffer_size": 50, "batch_size": 4}


def learned(cls, net_arch):
    env = "CartPole-v1" if cls in (PPO, DQN) else "Pendulum-v1"
    kwargs = {"net_arch": net_arch}
    return cls("MlpPolicy", env, seed=0, policy_kwargs=kwargs, **(ON if cls is PPO else OFF)).learn(16)


WRONG = [
    ([0], ValueError, "holds 0"),
    ([-1], ValueError, "holds -1"),
    ([8, 0], ValueError, "holds 0"),
    ([64.0], TypeError, "holds 64.0"),
    (["64"], TypeError, "holds '64'"),
    ([None], TypeError, "holds None"),
    ([True], TypeError, "holds True"),
]


@pytest.mark.parametrize("cls", [PPO, DQN, SAC, TD3])
@pytest.mark.parametrize(("net_arch", "kind", "message"), WRONG)
def test_a_layer_that_is_none(cls, net_arch, kind, message):
    with pytest.raises(kind, match=rf"net_arch=\[.*\] {message}: expected .* at least 1"):
        learned(cls, net_arch)


@pytest.mark.parametrize(
    ("cls", "net_arch", "kind", "message"),
    [
        (PPO, "64", TypeError, "net_arch is '64'"),
        (PPO, 64, TypeError, "net_arch is 64"),
        (PPO, {"pi": [0], "vf": [4]}, ValueError, "holds 0"),
        (PPO, {"pi": [4], "vf": 4}, TypeError, "net_arch is 4"),
        (DQN, {"pi": [4]}, TypeError, "net_arch is {'pi'"),
        (DQN, 64, TypeError, "net_arch is 64"),
        (SAC, {"pi": 4, "qf": [4]}, TypeError, "net_arch is 4"),
        (SAC, {"pi": [4], "qf": [0]}, ValueError, "holds 0"),
    ],
)
def test_no_list(cls, net_arch, kind, message):
    with pytest.raises(kind, match=message):
        learned(cls, net_arch)


@pytest.mark.parametrize(
    ("cls", "net_arch", "first"),
    [
        (PPO, [], "action_net.weight"),
        (PPO, {}, "action_net.weight"),
        (PPO, {"pi": [], "vf": [8]}, "mlp_extractor.value_net.0.weight"),
        (PPO, {"pi": [8]}, "mlp_extractor.policy_net.0.weight"),
        (PPO, (8, 4), "mlp_extractor.policy_net.0.weight"),
        (PPO, [np.int64(8)], "mlp_extractor.policy_net.0.weight"),
        (DQN, [], "q_net.q_net.0.weight"),
        (DQN, (8,), "q_net.q_net.0.weight"),
        (SAC, [], "actor.mu.weight"),
        (SAC, {"pi": [], "qf": [8]}, "actor.mu.weight"),
        (TD3, [], "actor.mu.0.weight"),
    ],
)
def test_what_sb3_takes(cls, net_arch, first):
    assert next(iter(named_parameters(learned(cls, net_arch).policy))) == first
