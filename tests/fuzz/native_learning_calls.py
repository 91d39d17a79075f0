"""Calls of ``_native`` that collect and learn."""

from typing import Any

import numpy as np
from native_values import Values


def affordable(arguments: list[Any], name: str) -> list[Any]:
    """
    :param arguments: those of a call, one of which is a plan
    :param name: the entry of the plan that says how often something is done
    :return: the same; so much work that it would be done for hours becomes less
    """
    for argument in arguments:
        if type(argument) is dict and type(argument.get(name)) is int:
            argument[name] = min(argument[name], 1000)
    return arguments


class LearningCalls(Values):
    """Whole iterations of ``learn()``; see ``Fuzzer`` for what these calls are made of."""

    def learned(self, size: int) -> dict[str, Any]:
        rule = self.trained(size)["rule"]
        first = size if rule["name"] == "adam" else 0
        moments = [{"exp_avg": self.f32(first), "exp_avg_sq": self.flags(size)} for _ in range(2)]
        vectors = {"parameters": self.f32(size), "parameters_before": self.f32(size)}
        return vectors | {
            "moments": moments[0],
            "next_moments": moments[1],
            "optimizer_steps": 3,
            "rule": rule,
        }

    def call_learn_q(self) -> None:
        envs = self.some("envs")
        net = self.actor_for(envs.dim, "epsilon_greedy", 2)
        layers, size = self.plans(envs.dim, net.hidden, 2)
        update = self.native.QUpdate(layers, size)

        def actions(*shape: int) -> np.ndarray:
            return self.ints(2, *shape)

        obs = self.f32(5, envs.n, envs.dim)
        columns = {"observations": obs, "next_observations": obs.copy(), "actions": actions(5, envs.n)}
        columns |= {name: self.f32(5, envs.n) for name in ("rewards", "dones", "timeouts")}
        returns = {"discounts": self.f32(2), "bootstraps": self.f32(3)}
        plan = {
            "steps": 2,
            "exploration_rates": self.numbers.random(6),
            "random_actions": actions(6, envs.n).reshape(-1),
            "gradient_steps": 1,
            "learning_rates": self.f32(3),
            "batch_size": 3,
            "gamma": 0.9,
            "multi_step": returns if self.rng.random() < 0.3 else None,
            "max_grad_norm": 10.0,
            "shares": (0.1, 0.9),
            "target_interval": 3,
            "steps_before": 1,
            "is_collected": False,
            "awaited_episode": self.rng.choice([None, 1]),
        }
        learned = {"network": self.learned(size), "target": self.f32(size), "update": update}
        columns = self.native.ReplayColumns(**columns)
        buffer = {"columns": columns, "cursor": {"capacity": 5, "pos": 3, "full": True}}
        arguments = self.args(envs.core, net.core, self.f32(envs.n, envs.dim), plan, buffer, learned)
        done = self.native.learn_q(*affordable(arguments, "gradient_steps"))
        self.read(done, *done.episodes)

    def call_learn_on_policy(self) -> None:
        envs = self.some("envs")
        width = 2 if envs.width is None else envs.width
        head = "categorical" if envs.width is None else "gaussian"
        actor, critic = self.actor_for(envs.dim, head, width), self.actor_for(envs.dim, "deterministic", 1)
        layers, middle = self.plans(envs.dim, actor.hidden, width)
        valued, log_std = self.plans(envs.dim, critic.hidden, 1, start=middle)
        size = log_std + width
        update = self.native.OnPolicyUpdate(layers, valued, head, [width], log_std, size)
        low = np.full(envs.width or 0, -1, np.float32)
        clips = self.f32(2) if self.rng.random() < 0.5 else None
        settings = {"clip_range": None, "clip_range_vf": None, "ent_coef": 0.01, "vf_coef": 0.5}
        settings |= {"max_grad_norm": 0.5, "target_kl": self.rng.choice([None, 0.01]), "normalize": True}
        plan = {
            "bounds": self.native.ActionBounds(low=low, high=-low),
            "gamma": 0.9,
            "advantage": (0.9, 0.9),
            "epochs": 2,
            "batch_size": self.rng.choice([None, 3]),
            "settings": settings,
            "learning_rates": self.f32(self.rng.choice([0, 2]) if clips is None else 2),
            "clip_ranges": clips,
            "clip_ranges_vf": None,
            "key": 5,
            "key_step": 3,
            "is_collected": self.rng.random() < 0.3,
        }
        actions = self.ints(2, 4, envs.n, 1) if envs.width is None else self.f32(4, envs.n, envs.width)
        columns = {"observations": self.f32(4, envs.n, envs.dim), "actions": actions}
        scalars = ("rewards", "episode_starts", "values", "log_probs", "advantages", "returns")
        columns |= {name: self.f32(4, envs.n) for name in scalars}
        current = {"obs": self.f32(envs.n, envs.dim), "episode_starts": np.ones(envs.n, bool)}
        parts = {"actor": actor.core, "critic": critic.core, "update": update}
        parts["network"] = self.learned(size)
        arguments = self.args(envs.core, current, plan, columns, parts)
        done = self.native.learn_on_policy(*affordable(arguments, "epochs"))
        self.read(done, done.metrics, *done.episodes)
