"""JAX's gradient steps: all of a call in one `lax.scan`, with the data on the device."""

import itertools
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
import jax
import jax.numpy as jnp
from worker import Job

if os.environ.get("MLX_ENABLE_TF32") != "1":
    jax.config.update("jax_default_matmul_precision", "highest")


def _layers(key: Any, *sides: int, stack: tuple[int, ...] = ()) -> list[Any]:
    keys = jax.random.split(key, len(sides))
    pairs = zip(keys, itertools.pairwise(sides), strict=False)
    return [(jax.random.normal(k, (*stack, a, b)) * 0.05, jnp.zeros((*stack, 1, b))) for k, (a, b) in pairs]


def _mlp(layers: Any, x: Any, activation: Callable[[Any], Any]) -> Any:
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        x = activation(x) if i + 1 < len(layers) else x
    return x


def _adam(parameters: Any, state: Any, gradients: Any, rate: float, eps: float) -> Any:
    m, v, step = state
    step = step + 1
    m = jax.tree.map(lambda a, g: 0.9 * a + 0.1 * g, m, gradients)
    v = jax.tree.map(lambda a, g: 0.999 * a + 0.001 * g * g, v, gradients)

    def moved(p: Any, m: Any, v: Any) -> Any:
        return p - rate * (m / (1 - 0.9**step)) / (jnp.sqrt(v / (1 - 0.999**step)) + eps)

    return jax.tree.map(moved, parameters, m, v), (m, v, step)


def _fresh(parameters: Any) -> Any:
    first, second = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
    return parameters, (first, second, jnp.zeros(()))


def _clipped(gradients: Any, most: float) -> Any:
    norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradients)))
    return jax.tree.map(lambda g: g * jnp.minimum(most / (norm + 1e-6), 1.0), gradients)


def _categorical(logits: Any, actions: Any) -> tuple[Any, Any]:
    logs = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(logs, actions[:, None], 1)[:, 0], -(jnp.exp(logs) * logs).sum(-1)


def _surrogate(log_prob: Any, entropy: Any, values: Any, columns: Any) -> Any:
    old, advantages, returns = columns[:, 0], columns[:, 1], columns[:, 2]
    advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
    log_ratio = log_prob - old
    ratio = jnp.exp(log_ratio)
    policy = -jnp.minimum(advantages * ratio, advantages * jnp.clip(ratio, 0.8, 1.2)).mean()
    value = jnp.square(values - returns).mean()
    kl, fraction = (ratio - 1 - log_ratio).mean(), (jnp.abs(ratio - 1) > 0.2).mean()
    return policy + 0.5 * value, jnp.stack([policy, value, -entropy.mean(), kl, fraction])


def _job(run: Callable[..., Any], held: Any, steps: int, *data: Any) -> Job:
    box = [held, jax.random.key(1)]

    def train() -> None:
        box[1], key = jax.random.split(box[1])
        box[0], metrics = run(box[0], key, *data)
        jax.device_get(metrics)

    return Job(train, steps, finish=lambda: jax.block_until_ready(box[0]))


def _on_policy(
    forward: Callable[..., Any], parameters: Any, data: Any, total: int, rows: int, epochs: int
) -> Job:
    def loss(parameters: Any, index: Any, data: Any) -> Any:
        observations, columns, actions = data
        logits, values = forward(parameters, observations[index])
        return _surrogate(*_categorical(logits, actions[index]), values, columns[index])

    def step(data: Any, held: Any, index: Any) -> Any:
        gradients, metrics = jax.grad(loss, has_aux=True)(held[0], index, data)
        return _adam(*held, _clipped(gradients, 0.5), 3e-4, 1e-5), metrics

    @partial(jax.jit, donate_argnums=0)
    def run(held: Any, key: Any, data: Any) -> Any:
        orders = [jax.random.permutation(k, total).reshape(-1, rows) for k in jax.random.split(key, epochs)]
        return jax.lax.scan(partial(step, data), held, jnp.concatenate(orders))

    return _job(run, _fresh(parameters), epochs * (total // rows), data)


def _columns(total: int, actions: int) -> tuple[Any, Any]:
    key = jax.random.key(0)
    return jax.random.normal(key, (total, 3)), jax.random.randint(key, (total,), 0, actions)


def ppo(total: int, rows: int, epochs: int, obs: int = 4, actions: int = 2, hidden: int = 64) -> Job:
    """PPO of an MLP policy."""
    keys = jax.random.split(jax.random.key(0), 3)
    parameters = [_layers(k, obs, hidden, hidden, out) for k, out in zip(keys, (actions, 1), strict=False)]
    data = (jax.random.normal(keys[2], (total, obs)), *_columns(total, actions))

    def forward(p: Any, x: Any) -> Any:
        return _mlp(p[0], x, jnp.tanh), _mlp(p[1], x, jnp.tanh)[:, 0]

    return _on_policy(forward, parameters, data, total, rows, epochs)


def _nature(key: Any, size: int) -> Any:
    keys, side, convolutions = jax.random.split(key, 4), size, []
    for k, (inputs, outputs, kernel, stride) in zip(
        keys, ((4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)), strict=False
    ):
        convolutions.append(
            (jax.random.normal(k, (kernel, kernel, inputs, outputs)) * 0.05, jnp.zeros(outputs))
        )
        side = (side - kernel) // stride + 1
    return convolutions, (jax.random.normal(keys[3], (side * side * 64, 512)) * 0.02, jnp.zeros(512))


def _features(parameters: Any, images: Any) -> Any:
    convolutions, (weight, bias) = parameters
    x = images.astype(jnp.float32) / 255
    for (kernel, shift), stride in zip(convolutions, (4, 2, 1), strict=True):
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + shift)
    return jax.nn.relu(x.reshape(x.shape[0], -1) @ weight + bias)


def _images(total: int, size: int) -> Any:
    return jax.random.randint(jax.random.key(2), (total, size, size, 4), 0, 256, jnp.uint8)


def ppo_cnn(total: int, rows: int, epochs: int, size: int = 84, actions: int = 6) -> Job:
    """PPO of NatureCNN."""
    parameters = _nature(jax.random.key(0), size), *_layers(jax.random.key(1), 512, actions + 1)
    data = (_images(total, size), *_columns(total, actions))

    def forward(p: Any, images: Any) -> Any:
        out = _features(p[0], images) @ p[1][0] + p[1][1]
        return out[:, :actions], out[:, actions]

    return _on_policy(forward, parameters, data, total, rows, epochs)


def dqn(batch: int, steps: int, capacity: int, size: int = 84, actions: int = 6) -> Job:
    """DQN of NatureCNN on a ring of images on the device."""
    parameters = _nature(jax.random.key(0), size), *_layers(jax.random.key(1), 512, actions)
    target = jax.tree.map(lambda array: array + 0.01, parameters)
    data = (_images(capacity, size), *_columns(capacity, actions), target)

    def values(p: Any, images: Any) -> Any:
        return _features(p[0], images) @ p[1][0] + p[1][1]

    def step(data: Any, held: Any, index: Any) -> Any:
        images, columns, actions, target = data
        best = values(target, images[(index + 1) % capacity]).max(1)
        goal = columns[index, 0] + 0.99 * best

        def loss(p: Any) -> Any:
            taken = jnp.take_along_axis(values(p, images[index]), actions[index][:, None], 1)[:, 0]
            size = jnp.abs(taken - goal)
            return jnp.where(size < 1, 0.5 * size * size, size - 0.5).mean()

        value, gradients = jax.value_and_grad(loss)(held[0])
        return _adam(*held, _clipped(gradients, 10.0), 1e-4, 1e-8), value

    @partial(jax.jit, donate_argnums=0)
    def run(held: Any, key: Any, data: Any) -> Any:
        return jax.lax.scan(partial(step, data), held, jax.random.randint(key, (steps, batch), 0, capacity))

    return _job(run, _fresh(parameters), steps, data)


def _sample(layers: Any, x: Any, noise: Any) -> tuple[Any, Any]:
    mean, log_std = jnp.split(_mlp(layers, x, jax.nn.relu), 2, 1)
    log_std = jnp.clip(log_std, -20, 2)
    actions = jnp.tanh(mean + jnp.exp(log_std) * noise)
    normal = -0.5 * noise * noise - log_std - 0.5 * math.log(2 * math.pi)
    return actions, (normal - jnp.log(1 - actions * actions + 1e-6)).sum(1)


def _q_values(layers: Any, x: Any, actions: Any) -> Any:
    return _mlp(layers, jnp.concatenate([x, actions], 1)[None], jax.nn.relu)[..., 0]


def _sac_step(data: Any, obs: int, act: int, held: Any, drawn: Any) -> Any:
    actor, critic, target, alpha_state = held
    index, noise = drawn
    x, after, actions, rewards, dones = jnp.split(
        data[index], (obs, 2 * obs, 2 * obs + act, 2 * obs + act + 1), 1
    )
    alpha = jnp.exp(alpha_state[0])
    nexts, log_prob = _sample(actor[0], after, noise[1])
    least = _q_values(target, after, nexts).min(0)
    goal = rewards[:, 0] + 0.99 * (1 - (dones[:, 0] > 2)) * (least - alpha * log_prob)

    def critic_loss(p: Any) -> Any:
        return 0.5 * jnp.square(_q_values(p, x, actions) - goal).mean(1).sum()

    loss_c, gradients = jax.value_and_grad(critic_loss)(critic[0])
    critic = _adam(*critic, gradients, 3e-4, 1e-8)

    def actor_loss(p: Any) -> Any:
        new, log_prob = _sample(p, x, noise[0])
        return (alpha * log_prob - _q_values(critic[0], x, new).min(0)).mean(), log_prob

    (loss_a, log_prob), gradients = jax.value_and_grad(actor_loss, has_aux=True)(actor[0])
    actor = _adam(*actor, gradients, 3e-4, 1e-8)
    alpha_state = _adam(*alpha_state, -(log_prob - act).mean(), 3e-4, 1e-8)
    target = jax.tree.map(lambda t, p: t + 0.005 * (p - t), target, critic[0])
    return (actor, critic, target, alpha_state), jnp.stack([loss_c, loss_a, alpha])


def sac(batch: int, steps: int, capacity: int, obs: int = 17, act: int = 6, hidden: int = 256) -> Job:
    """SAC with two critics, stacked, and a learned weight of the entropy."""
    keys = jax.random.split(jax.random.key(0), 3)
    critic = _layers(keys[1], obs + act, hidden, hidden, 1, stack=(2,))
    actor = _fresh(_layers(keys[0], obs, hidden, hidden, 2 * act))
    held = (actor, _fresh(critic), jax.tree.map(jnp.copy, critic), _fresh(jnp.zeros(())))
    data = jax.random.normal(keys[2], (capacity, 2 * obs + act + 2))

    @partial(jax.jit, donate_argnums=0)
    def run(held: Any, key: Any, data: Any) -> Any:
        drawn = (
            jax.random.randint(key, (steps, batch), 0, capacity),
            jax.random.normal(key, (steps, 2, batch, act)),
        )
        return jax.lax.scan(partial(_sac_step, data, obs, act), held, drawn)

    return _job(run, held, steps, data)
