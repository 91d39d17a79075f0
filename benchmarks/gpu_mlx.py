"""
The best structure that MLX alone was found to have for an update, in bare functions: all data on the device,
parameters in one vector for clip and Adam, networks of one shape stacked, one compiled function for a step.
"""

import itertools
import math
import os
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from worker import Job

Arrays = dict[str, mx.array]
Shapes = dict[str, tuple[int, ...]]

if "BENCHMARK_DEVICE" in os.environ:
    mx.set_default_device(mx.Device(getattr(mx, os.environ["BENCHMARK_DEVICE"])))


class Flat:
    """
    Arrays in one vector, each on a 16-byte boundary, which TF32 products need.

    :param shapes: name -> shape
    """

    def __init__(self, shapes: Shapes) -> None:
        self.places, start = {}, 0
        for name, shape in shapes.items():
            self.places[name] = (start, shape)
            start += -(-math.prod(shape) // 4) * 4
        self.size = start

    def split(self, vector: mx.array) -> Arrays:
        """
        :param vector: (size,)
        :return: views by name
        """
        return {
            name: mx.as_strided(vector, shape, offset=start) for name, (start, shape) in self.places.items()
        }

    def join(self, arrays: Arrays) -> mx.array:
        """
        :param arrays: all of them
        :return: (size,)
        """
        parts = []
        for name, (_, shape) in self.places.items():
            parts.append(arrays[name].reshape(-1))
            if gap := -math.prod(shape) % 4:
                parts.append(mx.zeros((gap,)))
        return mx.concatenate(parts)

    def random(self) -> mx.array:
        """:return: a vector of small numbers"""
        return mx.random.normal((self.size,)) * 0.05


def adam(
    vector: mx.array, state: Any, gradient: mx.array, rate: mx.array, eps: float
) -> tuple[mx.array, Any]:
    """One step of Adam with corrected bias: new parameters and (first moment, second moment, step)."""
    m, v, step = state
    step = step + 1
    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient * gradient
    root = mx.sqrt(v) * mx.rsqrt(1 - 0.999**step) + eps
    return vector - rate / (1 - 0.9**step) * m / root, (m, v, step)


def descent(flat: Flat, loss: Callable[[Arrays], Any], vector: mx.array) -> tuple[Any, mx.array]:
    """Loss and gradient at a vector. By its parts: the gradient of a view is a scatter."""
    value, gradients = mx.value_and_grad(loss)(flat.split(vector))
    return value, flat.join(gradients)


def clipped(gradient: mx.array, most: float) -> mx.array:
    """The gradient scaled to a norm of at most ``most``."""
    norm = mx.sqrt((gradient * gradient).sum())
    return gradient * mx.minimum(most / (norm + 1e-6), 1.0)


def fresh(vector: mx.array) -> tuple[mx.array, Any]:
    """Parameters with Adam's first state."""
    return vector, (mx.zeros_like(vector), mx.zeros_like(vector), mx.array(0.0))


def orders(total: int, rows: int) -> mx.array:
    """A permutation, cut into minibatches."""
    return mx.random.permutation(total).astype(mx.int32).reshape(-1, rows)


def surrogate(log_prob: mx.array, entropy: mx.array, values: mx.array, data: Arrays) -> tuple[mx.array, Any]:
    """PPO's loss and SB3's metrics."""
    advantages = data["advantages"]
    centred = advantages - advantages.mean()
    advantages = centred / (mx.sqrt((centred * centred).sum() / (advantages.size - 1)) + 1e-8)
    log_ratio = log_prob - data["log_probs"]
    ratio = mx.exp(log_ratio)
    policy = -mx.minimum(advantages * ratio, advantages * mx.clip(ratio, 0.8, 1.2)).mean()
    value = mx.square(values - data["returns"]).mean()
    kl = (ratio - 1 - log_ratio).mean()
    fraction = (mx.abs(ratio - 1) > 0.2).astype(mx.float32).mean()
    entropy_loss = -entropy.mean()
    return policy + 0.5 * value, mx.stack([policy, value, entropy_loss, kl, fraction])


def categorical(logits: mx.array, actions: mx.array) -> tuple[mx.array, mx.array]:
    """Log likelihoods of actions, and entropies."""
    logs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    taken = mx.take_along_axis(logs, actions.astype(mx.int32)[:, None], axis=1)[:, 0]
    return taken, -(mx.exp(logs) * logs).sum(axis=-1)


def on_policy(flat: Flat, loss: Callable[..., Any], data: Any, total: int, rows: int, epochs: int) -> Job:
    """Minibatches of a rollout, drawn by index on the device."""
    rate = mx.array(3e-4)

    def step(vector: mx.array, state: Any, data: Any, index: mx.array) -> Any:
        (_, metrics), gradient = descent(flat, lambda p: loss(p, data, index), vector)
        return *adam(vector, state, clipped(gradient, 0.5), rate, 1e-5), metrics

    run = mx.compile(step)
    held = [*fresh(flat.random())]
    mx.eval(data, held)

    def train() -> None:
        rows_of = []
        for _ in range(epochs):
            for index in orders(total, rows):
                *held[:], metrics = run(*held, data, index)
                rows_of.append(metrics)
            mx.async_eval(held, rows_of[-1])
        np.array(mx.stack(rows_of))
        mx.eval(held)

    return Job(train, epochs * (total // rows), finish=mx.synchronize)


def _layers(sides: tuple[int, ...], *stack: int) -> Flat:
    shapes: Shapes = {}
    for i, (a, b) in enumerate(itertools.pairwise(sides)):
        shapes |= {f"w{i}": (*stack, a, b), f"b{i}": (*stack, 1, b)}
    return Flat(shapes)


def ppo(total: int, rows: int, epochs: int, obs: int = 4, actions: int = 2, hidden: int = 64) -> Job:
    """PPO of an MLP policy. Policy and value network are one batched product; each row of data is one row."""
    layout = _layers((obs, hidden, hidden, max(actions, 4)), 2)
    numbers = mx.random.normal((total, obs + 4))
    choices = mx.random.randint(0, actions, (total, 1)).astype(mx.float32)
    packed = mx.concatenate([numbers[:, : obs + 3], choices], axis=1)

    def loss(p: Arrays, data: mx.array, index: mx.array) -> Any:
        batch = data[index]
        x = mx.broadcast_to(batch[None, :, :obs], (2, index.size, obs))
        x = mx.tanh(x @ p["w0"] + p["b0"])
        x = mx.tanh(x @ p["w1"] + p["b1"])
        x = x @ p["w2"] + p["b2"]
        names = ("log_probs", "advantages", "returns")
        columns = {name: batch[:, obs + i] for i, name in enumerate(names)}
        log_prob, entropy = categorical(x[0, :, :actions], batch[:, -1])
        return surrogate(log_prob, entropy, x[1, :, 0], columns)

    return on_policy(layout, loss, packed, total, rows, epochs)


def nature_shapes(channels: int, size: int) -> Shapes:
    """NatureCNN's weights in MLX's layout."""
    sides = [size]
    for kernel, stride in ((8, 4), (4, 2), (3, 1)):
        sides.append((sides[-1] - kernel) // stride + 1)
    return {
        "c0": (32, 8, 8, channels), "d0": (32,), "c1": (64, 4, 4, 32), "d1": (64,), "c2": (64, 3, 3, 64),
        "d2": (64,), "w": (512, sides[-1] ** 2 * 64), "b": (512,),
    }  # fmt: skip


def nature(p: Arrays, images: mx.array) -> mx.array:
    """Features of (batch, height, width, channels) uint8."""
    x = images.astype(mx.float32) * (1 / 255)
    for i, stride in enumerate((4, 2, 1)):
        x = mx.maximum(mx.conv2d(x, p[f"c{i}"], stride) + p[f"d{i}"], 0)
    return mx.maximum(mx.addmm(p["b"], x.reshape(x.shape[0], -1), p["w"].T), 0)


def ppo_cnn(total: int, rows: int, epochs: int, size: int = 84, actions: int = 6) -> Job:
    """PPO of NatureCNN."""
    heads = {"wp": (actions, 512), "bp": (actions,), "wv": (1, 512), "bv": (1,)}
    numbers = mx.random.normal((total, 3))
    data = {
        "observations": mx.random.randint(0, 256, (total, size, size, 4)).astype(mx.uint8),
        "columns": numbers,
        "actions": mx.random.randint(0, actions, (total,)),
    }

    def loss(p: Arrays, data: Arrays, index: mx.array) -> Any:
        x = nature(p, data["observations"][index])
        numbers = data["columns"][index]
        names = ("log_probs", "advantages", "returns")
        columns = {name: numbers[:, i] for i, name in enumerate(names)}
        logits = mx.addmm(p["bp"], x, p["wp"].T)
        log_prob, entropy = categorical(logits, data["actions"][index])
        return surrogate(log_prob, entropy, mx.addmm(p["bv"], x, p["wv"].T)[:, 0], columns)

    return on_policy(Flat(nature_shapes(4, size) | heads), loss, data, total, rows, epochs)


def dqn(batch: int, steps: int, capacity: int, size: int = 84, actions: int = 6) -> Job:
    """DQN of NatureCNN on a ring of images on the device."""
    flat = Flat(nature_shapes(4, size) | {"wq": (actions, 512), "bq": (actions,)})
    images = mx.random.randint(0, 256, (capacity, size, size, 4)).astype(mx.uint8)
    numbers = mx.concatenate(
        [mx.random.normal((capacity, 1)), mx.random.randint(0, actions, (capacity, 1)).astype(mx.float32),
         mx.zeros((capacity, 1))], axis=1
    )  # fmt: skip
    rate, target = mx.array(1e-4), flat.random()

    def values(p: Arrays, index: mx.array, images: mx.array) -> mx.array:
        return mx.addmm(p["bq"], nature(p, images[index]), p["wq"].T)

    def step(
        vector: mx.array, state: Any, target: mx.array, images: mx.array, numbers: mx.array, i: mx.array
    ) -> Any:
        rows = numbers[i]
        best = values(flat.split(target), (i + 1) % capacity, images).max(axis=1)
        goal = rows[:, 0] + 0.99 * (1 - rows[:, 2]) * best

        def loss(p: Arrays) -> mx.array:
            chosen = rows[:, 1].astype(mx.int32)[:, None]
            error = mx.take_along_axis(values(p, i, images), chosen, axis=1)[:, 0] - goal
            size = mx.abs(error)
            return mx.where(size < 1, 0.5 * error * error, size - 0.5).mean()

        value, gradient = descent(flat, loss, vector)
        return *adam(vector, state, clipped(gradient, 10.0), rate, 1e-8), value

    run = mx.compile(step)
    held = [*fresh(flat.random())]
    mx.eval(images, numbers, target, held)

    def train() -> None:
        rows = []
        for index in mx.random.randint(0, capacity, (steps, batch)):
            *held[:], value = run(*held, target, images, numbers, index)
            rows.append(value)
        mx.eval(held, rows)

    return Job(train, steps, finish=mx.synchronize)


def _mlp(p: Arrays, x: mx.array) -> mx.array:
    x = mx.maximum(x @ p["w0"] + p["b0"], 0)
    x = mx.maximum(x @ p["w1"] + p["b1"], 0)
    return x @ p["w2"] + p["b2"]


def _sample(p: Arrays, x: mx.array, noise: mx.array, act: int) -> tuple[mx.array, mx.array]:
    out = _mlp(p, x)
    mean, log_std = out[:, :act], mx.clip(out[:, act:], -20, 2)
    actions = mx.tanh(mean + mx.exp(log_std) * noise)
    normal = -0.5 * noise * noise - log_std - 0.5 * math.log(2 * math.pi)
    return actions, (normal - mx.log(1 - actions * actions + 1e-6)).sum(axis=1)


def _q_values(p: Arrays, x: mx.array, actions: mx.array) -> mx.array:
    both = mx.concatenate([x, actions], axis=1)
    return _mlp(p, mx.broadcast_to(both[None], (2, *both.shape)))[..., 0]


def _sac_step(actor: Flat, critic: Flat, obs: int, act: int) -> Callable[..., Any]:
    rate = mx.array(3e-4)

    def step(held: Any, data: mx.array, index: mx.array, noise: mx.array) -> Any:
        (pa, sa), (pc, sc), target, (log_alpha, se) = held
        rows = data[index]
        x, after, actions = rows[:, :obs], rows[:, obs : 2 * obs], rows[:, 2 * obs : 2 * obs + act]
        alpha = mx.exp(log_alpha)
        nexts, log_prob = _sample(actor.split(pa), after, noise[1], act)
        least = _q_values(critic.split(target), after, nexts).min(axis=0)
        goal = rows[:, -2] + 0.99 * (1 - (rows[:, -1] > 2)) * (least - alpha * log_prob)

        def critic_loss(p: Arrays) -> mx.array:
            return 0.5 * mx.square(_q_values(p, x, actions) - goal).mean(axis=1).sum()

        loss_c, gradient = descent(critic, critic_loss, pc)
        pc, sc = adam(pc, sc, gradient, rate, 1e-8)

        def actor_loss(p: Arrays) -> Any:
            new, log_prob = _sample(p, x, noise[0], act)
            return (alpha * log_prob - _q_values(critic.split(pc), x, new).min(axis=0)).mean(), log_prob

        (loss_a, log_prob), gradient = descent(actor, actor_loss, pa)
        pa, sa = adam(pa, sa, gradient, rate, 1e-8)
        wanted = -(log_prob - act).mean()
        log_alpha, se = adam(log_alpha, se, wanted, rate, 1e-8)
        target = target + 0.005 * (pc - target)
        return [(pa, sa), (pc, sc), target, (log_alpha, se)], mx.stack([loss_c, loss_a, alpha])

    return step


def sac(batch: int, steps: int, capacity: int, obs: int = 17, act: int = 6, hidden: int = 256) -> Job:
    """SAC with two critics, stacked in one batched product, and a learned weight of the entropy."""
    actor = _layers((obs, hidden, hidden, 2 * act))
    critic = _layers((obs + act, hidden, hidden, 1), 2)
    data = mx.random.normal((capacity, 2 * obs + act + 2))
    run = mx.compile(_sac_step(actor, critic, obs, act))
    first = critic.random()
    held = [fresh(actor.random()), fresh(first), first + 0, fresh(mx.array(0.0))]
    mx.eval(data, held)

    def train() -> None:
        rows = []
        noise = mx.random.normal((steps, 2, batch, act))
        index = mx.random.randint(0, capacity, (steps, batch))
        for i in range(steps):
            held[:], metrics = run(held, data, index[i], noise[i])
            rows.append(metrics)
        np.array(mx.stack(rows))
        mx.eval(held)

    return Job(train, steps, finish=mx.synchronize)
