"""torch's gradient steps as CUDA graphs: one replay a step, with the data on the device."""

import itertools
import math
import os
from collections.abc import Callable
from typing import Any

import torch  # noqa: TID251 - this is the peer
from torch import nn  # noqa: TID251
from worker import Job

_TF32 = os.environ.get("MLX_ENABLE_TF32") == "1"
torch.set_float32_matmul_precision("high" if _TF32 else "highest")
torch.backends.cudnn.allow_tf32 = _TF32
torch.backends.cudnn.benchmark = True
_DEVICE = "cuda"


def _mlp(*sides: int, activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sides):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1]).to(_DEVICE)


def _adam(module: nn.Module, rate: float, eps: float = 1e-8) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), rate, eps=eps, fused=True, capturable=True)


def _captured(step: Callable[[], Any]) -> Callable[[], None]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(kept: Any = step) -> None:
        # A graph does not keep alive what it reads: the step does.
        graph.replay()

    return replay


def _surrogate(log_prob: Any, entropy: Any, values: Any, columns: Any, metrics: Any) -> Any:
    old, advantages, returns = columns
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = log_prob - old
    ratio = log_ratio.exp()
    policy = -torch.min(advantages * ratio, advantages * ratio.clamp(0.8, 1.2)).mean()
    value = nn.functional.mse_loss(values, returns)
    with torch.no_grad():
        kl = (ratio - 1 - log_ratio).mean()
        fraction = ((ratio - 1).abs() > 0.2).float().mean()
        metrics.copy_(torch.stack([policy.detach(), value.detach(), -entropy.mean(), kl, fraction]))
    return policy + 0.5 * value


def _categorical(logits: Any, actions: Any) -> tuple[Any, Any]:
    logs = logits.log_softmax(-1)
    return logs.gather(1, actions[:, None])[:, 0], -(logs.exp() * logs).sum(-1)


def _on_policy(
    module: nn.Module, forward: Callable[[Any], Any], data: Any, total: int, rows: int, epochs: int
) -> Job:
    index = torch.zeros(rows, dtype=torch.int64, device=_DEVICE)
    metrics = torch.zeros(5, device=_DEVICE)
    optimizer = _adam(module, 3e-4, 1e-5)
    images, columns, actions = data

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits, values = forward(images[index])
        log_prob, entropy = _categorical(logits, actions[index])
        _surrogate(log_prob, entropy, values, columns[index].unbind(1), metrics).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.5, foreach=True)
        optimizer.step()

    replay = _captured(step)
    seen = torch.zeros(epochs * (total // rows), 5, device=_DEVICE)

    def train() -> None:
        i = 0
        for _ in range(epochs):
            for some in torch.randperm(total, device=_DEVICE).view(-1, rows):
                index.copy_(some)
                replay()
                seen[i].copy_(metrics)
                i += 1
        seen.cpu()

    return Job(train, epochs * (total // rows), finish=torch.cuda.synchronize)


def _columns(total: int, actions: int) -> tuple[Any, Any]:
    numbers = torch.randn(total, 3, device=_DEVICE)
    return numbers, torch.randint(0, actions, (total,), device=_DEVICE)


def ppo(total: int, rows: int, epochs: int, obs: int = 4, actions: int = 2, hidden: int = 64) -> Job:
    """PPO of an MLP policy."""
    policy = _mlp(obs, hidden, hidden, actions, activation=nn.Tanh)
    value = _mlp(obs, hidden, hidden, 1, activation=nn.Tanh)
    data = (torch.randn(total, obs, device=_DEVICE), *_columns(total, actions))
    both = nn.ModuleList([policy, value])
    return _on_policy(both, lambda x: (policy(x), value(x)[:, 0]), data, total, rows, epochs)


class _Nature(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3),
            nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        with torch.no_grad():
            width = self.convolutions(torch.zeros(1, 4, size, size)).shape[1]
        self.linear = nn.Sequential(nn.Linear(width, 512), nn.ReLU())

    def forward(self, images: Any) -> Any:
        x = images.float().mul_(1 / 255)
        return self.linear(self.convolutions(x))


def _channels_last(module: nn.Module) -> nn.Module:
    return module.to(_DEVICE).to(memory_format=torch.channels_last)


def _images(total: int, size: int) -> Any:
    # Channels last in memory, as the convolutions like them.
    return torch.randint(0, 256, (total, size, size, 4), dtype=torch.uint8, device=_DEVICE).permute(
        0, 3, 1, 2
    )


def ppo_cnn(total: int, rows: int, epochs: int, size: int = 84, actions: int = 6) -> Job:
    """PPO of NatureCNN."""
    features = _channels_last(_Nature(size))
    heads = nn.Linear(512, actions + 1).to(_DEVICE)

    def forward(images: Any) -> tuple[Any, Any]:
        out = heads(features(images))
        return out[:, :actions], out[:, actions]

    data = (_images(total, size), *_columns(total, actions))
    return _on_policy(nn.ModuleList([features, heads]), forward, data, total, rows, epochs)


def dqn(batch: int, steps: int, capacity: int, size: int = 84, actions: int = 6) -> Job:
    """DQN of NatureCNN on a ring of images on the device."""
    net, target = (_channels_last(nn.Sequential(_Nature(size), nn.Linear(512, actions))) for _ in range(2))
    images, (columns, chosen) = _images(capacity, size), _columns(capacity, actions)
    index = torch.zeros(batch, dtype=torch.int64, device=_DEVICE)
    loss_now = torch.zeros((), device=_DEVICE)
    optimizer = _adam(net, 1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            best = target(images[(index + 1) % capacity]).max(1).values
            goal = columns[index, 0] + 0.99 * best
        taken = net(images[index]).gather(1, chosen[index][:, None])[:, 0]
        loss = nn.functional.smooth_l1_loss(taken, goal)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0, foreach=True)
        optimizer.step()
        loss_now.copy_(loss.detach())

    replay = _captured(step)

    def train() -> None:
        for some in torch.randint(0, capacity, (steps, batch), device=_DEVICE):
            index.copy_(some)
            replay()
        loss_now.item()

    return Job(train, steps, finish=torch.cuda.synchronize)


def _sample(actor: nn.Module, x: Any, act: int) -> tuple[Any, Any]:
    mean, log_std = actor(x).split(act, 1)
    log_std = log_std.clamp(-20, 2)
    noise = torch.randn_like(mean)
    actions = torch.tanh(mean + log_std.exp() * noise)
    normal = -0.5 * noise * noise - log_std - 0.5 * math.log(2 * math.pi)
    return actions, (normal - torch.log(1 - actions * actions + 1e-6)).sum(1)


def sac(batch: int, steps: int, capacity: int, obs: int = 17, act: int = 6, hidden: int = 256) -> Job:
    """SAC with two critics and a learned weight of the entropy."""
    actor = _mlp(obs, hidden, hidden, 2 * act, activation=nn.ReLU)
    made = [
        nn.ModuleList(_mlp(obs + act, hidden, hidden, 1, activation=nn.ReLU) for _ in range(2))
        for _ in range(2)
    ]
    critic, target = made
    log_alpha = nn.Parameter(torch.zeros((), device=_DEVICE))
    of_actor, of_critic = _adam(actor, 3e-4), _adam(critic, 3e-4)
    of_alpha = torch.optim.Adam([log_alpha], 3e-4, fused=True, capturable=True)
    data = torch.randn(capacity, 2 * obs + act + 2, device=_DEVICE)
    index = torch.zeros(batch, dtype=torch.int64, device=_DEVICE)
    metrics = torch.zeros(3, device=_DEVICE)
    pairs = [list(module.parameters()) for module in (target, critic)]

    def q_values(critics: Any, x: Any, actions: Any) -> Any:
        both = torch.cat([x, actions], 1)
        return [net(both)[:, 0] for net in critics]

    def step() -> None:
        x, after, actions, rewards, dones = data[index].split([obs, obs, act, 1, 1], 1)
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            nexts, log_prob = _sample(actor, after, act)
            least = torch.min(*q_values(target, after, nexts))
            goal = rewards[:, 0] + 0.99 * (1 - (dones[:, 0] > 2).float()) * (least - alpha * log_prob)
        loss_c = 0.5 * sum(nn.functional.mse_loss(q, goal) for q in q_values(critic, x, actions))
        of_critic.zero_grad(set_to_none=True)
        loss_c.backward()
        of_critic.step()
        new, log_prob = _sample(actor, x, act)
        loss_a = (alpha * log_prob - torch.min(*q_values(critic, x, new))).mean()
        of_actor.zero_grad(set_to_none=True)
        loss_a.backward(inputs=list(actor.parameters()))
        of_actor.step()
        of_alpha.zero_grad(set_to_none=True)
        (-(log_alpha * (log_prob.detach() - act)).mean()).backward()
        of_alpha.step()
        with torch.no_grad():
            torch._foreach_lerp_(*pairs, 0.005)
        metrics.copy_(torch.stack([loss_c.detach(), loss_a.detach(), alpha]))

    replay = _captured(step)

    def train() -> None:
        for some in torch.randint(0, capacity, (steps, batch), device=_DEVICE):
            index.copy_(some)
            replay()
        metrics.cpu()

    return Job(train, steps, finish=torch.cuda.synchronize)
