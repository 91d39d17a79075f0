"""Where ``device="auto"`` computes, on machines with and without a GPU."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_baselines3 import A2C, DQN, PPO, SAC, TD3
from mlx_baselines3.common import base_class
from mlx_baselines3.common.training.device_choice import choose_device

GPU = mx.Device(mx.gpu)
SMALL = {"n_steps": 8, "batch_size": 4}


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU, up to the point where something would be computed on it."""
    monkeypatch.setattr(
        base_class, "get_device", lambda device: mx.Device(mx.cpu) if device == "cpu" else GPU
    )
    stream = mx.stream
    monkeypatch.setattr(mx, "stream", lambda device: stream(mx.cpu))
    monkeypatch.setattr(base_class.BasePolicy, "to", lambda self, device: self)


@pytest.mark.parametrize(
    ("width", "rows", "device", "reason"),
    [
        # 6 operations for each weight and row
        (100, 4999, mx.cpu, "about 300 million operations, less than the 300 million that pay"),
        (100, 5000, mx.gpu, "about 300 million operations"),
        (10, 64, mx.cpu, "about 0 million operations, less"),
        (1000, 64, mx.gpu, "about 384 million operations"),
    ],
)
def test_work_decides(width, rows, device, reason):
    choice = choose_device(nn.Linear(width, width, bias=False), rows)
    assert choice.device.type == device
    assert reason in choice.reason


def test_convolutions_go_to_the_gpu():
    choice = choose_device(nn.Conv2d(1, 1, 2), 1)
    assert choice.device == GPU
    assert choice.reason == "the network has convolutions"


def test_a_small_network_stays_on_the_cpu_and_says_why(gpu, capsys):
    model = PPO("MlpPolicy", "CartPole-v1", verbose=1, **SMALL)
    assert model.device.type == mx.cpu
    assert model.rollout_buffer.device.type == mx.cpu
    printed = capsys.readouterr().out
    assert "Using gpu device" not in printed
    # 9155 numbers, 4 rows
    assert "Using cpu device: a gradient step is about 0 million operations, less than" in printed


@pytest.mark.parametrize("cls", [PPO, A2C, DQN, SAC, TD3])
def test_training_outside_of_learn_computes_on_the_models_device(monkeypatch, cls):
    on_policy = cls in (PPO, A2C)
    env = "Pendulum-v1" if cls in (SAC, TD3) else "CartPole-v1"
    kwargs = {"n_steps": 8} if on_policy else {"learning_starts": 8}
    kwargs |= {"batch_size": 8} if cls is PPO else {}
    model = cls("MlpPolicy", env, device="cpu", **kwargs)
    model.learn(8)
    stream, asked = mx.stream, []
    monkeypatch.setattr(mx, "stream", lambda where: (asked.append(where), stream(where))[1])
    model.train(*(() if on_policy else (1, 4)))
    assert asked[0] == model.device


def test_advice_to_take_the_cpu_is_for_those_who_chose_the_gpu(gpu):
    large = {"n_steps": 256, "batch_size": 256, "policy_kwargs": {"net_arch": [512, 512]}}
    # A warning would be an error here.
    assert PPO("MlpPolicy", "CartPole-v1", **large).device == GPU
    with pytest.warns(UserWarning, match="usually faster on the CPU"):
        PPO("MlpPolicy", "CartPole-v1", device="gpu", **SMALL)


def test_a_large_batch_goes_to_the_gpu(gpu, capsys):
    net = {"net_arch": [512, 512]}
    model = DQN("MlpPolicy", "CartPole-v1", batch_size=256, policy_kwargs=net, verbose=1, buffer_size=300)
    assert model.device == GPU
    assert "Using gpu device: a gradient step is about" in capsys.readouterr().out


def test_silent_without_verbose(gpu, capsys):
    PPO("MlpPolicy", "CartPole-v1", **SMALL)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["gpu", "cuda"])
def test_a_name_forces_the_gpu(gpu, capsys, name):
    with pytest.warns(UserWarning, match="usually faster on the CPU"):
        model = PPO("MlpPolicy", "CartPole-v1", device=name, verbose=1, **SMALL)
    assert model.device == GPU
    assert "Using gpu device\n" in capsys.readouterr().out


def test_a_name_forces_the_cpu(gpu, capsys):
    net = {"net_arch": [512, 512]}
    model = DQN("MlpPolicy", "CartPole-v1", 1e-4, 300, 1, 4096, device="cpu", policy_kwargs=net, verbose=1)
    assert model.device.type == mx.cpu
    assert "Using cpu device\n" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_explained(monkeypatch, capsys):
    monkeypatch.setattr(base_class, "get_device", lambda device: mx.Device(mx.cpu))
    model = PPO("MlpPolicy", "CartPole-v1", verbose=1, **SMALL)
    assert model.device.type == mx.cpu
    assert "Using cpu device\n" in capsys.readouterr().out
