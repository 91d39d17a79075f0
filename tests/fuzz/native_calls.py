"""Calls of ``_native``: right arguments for every function and method of its stub."""

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from native_buffer_calls import BufferCalls
from native_learning_calls import LearningCalls
from native_values import ACTIVATIONS, HEADS

# Numbers of an observation, numbers of an action or None for choices.
IDS: dict[str, tuple[int, int | None]] = {
    "CartPole-v1": (4, None),
    "Pendulum-v1": (3, 1),
    "Acrobot-v1": (6, None),
    "MountainCar-v0": (2, None),
    "MountainCarContinuous-v0": (2, 1),
    "mlx_baselines3/InvalidAction-v0": (80, None),
}
FLAGS = ("weak_scalars", "pow_squares", "fused_uniform", "compensated_sum")
CHOICES = ("categorical", "multi_categorical", "epsilon_greedy")


class Envs(NamedTuple):
    """Environments and their sizes."""

    core: Any
    id: str
    n: int
    dim: int
    width: int | None


class Net(NamedTuple):
    """An actor and its sizes."""

    core: Any
    head: str
    dim: int
    hidden: int
    width: int
    extracts: bool


STATE_HEADS = ("state_dependent", "squashed_state_dependent")


class Update(NamedTuple):
    """Gradient steps and the sizes of their networks."""

    core: Any
    kind: str
    sizes: tuple[int, ...]
    extracts: bool = False


class Fuzzer(LearningCalls, BufferCalls):
    """
    Makes calls on a pool of objects. Each method ``call_...`` is a target, ``__`` standing for a point.

    :param native: the extension
    :param seed: decides all of them
    """

    def __init__(self, native: Any, seed: int):
        super().__init__(native, seed)
        names = [name for name in dir(type(self)) if name.startswith("call_")]
        self.targets: dict[str, Callable[[], Any]] = {name[5:]: getattr(self, name) for name in names}

    def call(self) -> None:
        """One call of a target; what it raises is the caller's."""
        name = self.rng.choice(list(self.targets))
        self.last = (name,)
        self.targets[name]()

    # Objects

    def layers(self, *widths: int) -> list[Any]:
        return [
            {"inputs": a, "outputs": b, "activation": self.rng.choice(ACTIVATIONS), "parameter": 0.1}
            for a, b in itertools.pairwise(widths)
        ]

    def new_envs(self) -> Envs:
        name, n = self.rng.choice(list(IDS)), self.rng.choice([1, 1, 2, 3, 17])
        core = self.native.EnvBatch(name, n, **{flag: self.rng.random() < 0.5 for flag in FLAGS})
        core.reset([[i, 7] for i in range(n)], [None] * n)
        return Envs(core, name, n, *IDS[name])

    def branches(self, start: int = 0) -> tuple[list[Any], int]:
        """A features extractor of images and of vectors of 3 numbers, and where its parameters end."""
        convolution = {
            "input": [2, 5, 4],
            "channels": 3,
            "kernel": [3, 2],
            "stride": [2, 1],
            "padding": [1, 0],
        }
        convolution |= {"weights": start, "bias": start + 36, "activation": "relu", "parameter": 0.1}
        middle = start + 39
        linear = {"inputs": 27, "outputs": 4, "weights": middle, "bias": middle + 108}
        linear |= {"activation": self.rng.choice(ACTIVATIONS), "parameter": 0.1}
        image = {
            "column": 0,
            "inputs": 40,
            "scale": 1 / 255,
            "convolutions": [convolution],
            "linears": [linear],
        }
        vector = {"column": 1, "inputs": 3, "scale": 1.0, "convolutions": [], "linears": []}
        return [image, vector], middle + 112

    def columns(self, *rows: int) -> list[Any]:
        """Observations for it."""
        images = self.bytes(math.prod(rows) * 40).reshape(*rows, 40)
        return [self.rng.choice([images, images.astype(np.float32)]), self.f32(*rows, 3)]

    def flat_columns(self, rows: int, extracted: bool) -> list[Any]:
        """Observations for it, or vectors, as updates take them."""
        return [part.reshape(-1) for part in (self.columns(rows) if extracted else [self.f32(rows, 3)])]

    def new_actor(self) -> Net:
        return self.actor_for(
            self.rng.choice([2, 3, 4, 6]),
            self.rng.choice(HEADS),
            self.rng.choice([1, 2, 3]),
            self.rng.random() < 0.5,
        )

    def obs_for(self, actor: Net, rows: int) -> Any:
        return self.columns(rows) if actor.extracts else self.f32(rows, actor.dim)

    def actor_for(self, dim: int, head: str, width: int, extracts: bool = False) -> Net:
        hidden = self.rng.choice([1, 5, 16])
        outputs = {"multi_categorical": 5, "squashed_gaussian": 2 * width}.get(head, width)
        numbers = {"gaussian": [0.5] * outputs, "epsilon_greedy": [0.3]}.get(head, [])
        if "state_dependent" in head:
            numbers = [0.2] * (hidden * outputs)
        branches = None
        if extracts:
            (branches, end), dim = self.branches(), 7
        core = self.native.Actor(self.layers(dim, hidden, outputs), head, [3, 2], numbers, branches)
        core.load(0, self.f32(hidden, dim), self.f32(hidden))
        if extracts:
            core.load_extractor(self.f32(end))
        width = {"multi_categorical": 2, "categorical": 1, "epsilon_greedy": 1}.get(head, width)
        return Net(core, head, dim, hidden, width, extracts)

    def new_storage(self) -> Any:
        return self.native.Storage(self.rng.choice([0, 1, 5]), {"a": 4, "b": 3, "c": 0})

    def new_terminal(self) -> Any:
        return self.native.TerminalObs(np.array([1, 3]), self.bytes(16))

    def new_infos(self) -> Any:
        if self.rng.random() < 0.5:
            return self.native.Infos([{}, {"TimeLimit.truncated": True}])
        envs = self.some("envs")
        return envs.core.step(self.actions(envs))[3]

    def actions(self, envs: Envs) -> np.ndarray:
        return self.ints(2, envs.n) if envs.width is None else self.f32(envs.n, envs.width)

    def plans(self, *widths: int, start: int = 0) -> tuple[list[Any], int]:
        """Layers whose parameters lie one after the other, and where they end."""
        plans = []
        for inputs, outputs in itertools.pairwise(widths):
            end = start + inputs * outputs
            part = {"outputs": outputs, "weights": start, "bias": end}
            activation = self.rng.choice(ACTIVATIONS)
            plans.append({"inputs": inputs, "parts": [part], "activation": activation, "parameter": 0.1})
            start = end + outputs
        return plans, start

    def new_on_policy(self) -> Update:
        extracts = self.rng.random() < 0.5
        inputs = 7 if extracts else 3
        (actor, middle) = self.plans(inputs, 4, 2)
        critic, log_std = self.plans(inputs, 4, 1, start=middle)
        # Two logarithms, or those of a matrix of four features.
        size, extractors = log_std + 8, None
        if extracts:
            first, middle = self.branches(size)
            second, size = self.branches(middle)
            extractors = self.rng.choice([[first], [first, second]])
        head = self.rng.choice(["categorical", "bernoulli", "gaussian", *STATE_HEADS])
        deviations = self.state_noise(log_std, 2) if head in STATE_HEADS else log_std
        core = self.native.OnPolicyUpdate(actor, critic, head, [2], deviations, size, extractors)
        return Update(core, head, (size,), extracts)

    def new_q(self) -> Update:
        extracts = self.rng.random() < 0.5
        layers, size = self.plans(7 if extracts else 3, 4, 2)
        branches = None
        if extracts:
            branches, size = self.branches(size)
        return Update(self.native.QUpdate(layers, size, branches), "q", (size,), extracts)

    def new_actor_critic(self) -> Update:
        kind = self.rng.choice(["plain", "squashed", "states"])
        sees = self.rng.choice(["observations", "features", "shared features"])
        width = 3 if sees == "observations" else 7
        actor, size = self.plans(width, 4, 2 if kind == "squashed" else 1)
        noise = self.state_noise(size, 1) if kind == "states" else None
        size += 4
        first, middle = self.plans(width + 1, 4, 1)
        second, end = self.plans(width + 1, 4, 1, start=middle)
        branches = None
        if sees != "observations":
            of_actor, size = self.branches(size)
            of_critics, end = self.branches(end) if sees == "features" else (None, end)
            branches = of_actor, of_critics
        core = self.native.ActorCriticUpdate(
            actor,
            [first, second],
            kind != "plain",
            actor_size=size,
            critic_size=end,
            noise=noise,
            branches=branches,
        )
        return Update(core, f"{kind}, {sees}", (size, end), sees != "observations")

    def state_noise(self, log_std: int, actions: int) -> dict[str, Any]:
        """Noise of four features."""
        full, expln = (self.rng.random() < 0.5 for _ in range(2))
        return {"log_std": log_std, "features": 4, "actions": actions, "full": full, "expln": expln}

    def trained(self, size: int) -> dict[str, Any]:
        rule = self.rng.choice(["adam", "rmsprop", "rmsprop_tf"])
        first = size if rule == "adam" else 0
        previous = {"exp_avg": self.f32(first), "exp_avg_sq": self.flags(size)}
        return {
            "parameters": self.f32(size),
            "exp_avg": self.f32(first),
            "exp_avg_sq": self.flags(size),
            "previous": previous if self.rng.random() < 0.5 else None,
            "before": self.f32(size) if self.rng.random() < 0.5 else None,
            "steps": 3,
            "learning_rate": 0.01,
            "rule": {
                "name": rule,
                "betas": [0.9, 0.99],
                "alpha": 0.99,
                "eps": 1e-5,
                "bias_correction": True,
            },
        }

    # Targets: buffers

    def call_EnvBatch__new(self) -> None:
        arguments = self.args(self.rng.choice(list(IDS)), 2, *[True] * 4)
        self.native.EnvBatch(*arguments[:2], **dict(zip(FLAGS, arguments[2:], strict=True)))

    def call_EnvBatch__reset(self) -> None:
        envs = self.some("envs")
        envs.core.reset(*self.args([[1, 2]] * envs.n, [(-0.01, 0.01)] * envs.n))

    def call_EnvBatch__step(self) -> None:
        envs = self.some("envs")
        envs.core.step(*self.args(self.actions(envs)))

    def call_EnvBatch__action_masks(self) -> None:
        self.some("envs").core.action_masks()

    def call_EnvBatch__get_state(self) -> None:
        self.some("envs").core.get_state(*self.args(0))

    def call_EnvBatch__set_state(self) -> None:
        core = self.some("envs").core
        core.set_state(*self.args(0, core.get_state(0)))

    def call_EnvBatch__set_param(self) -> None:
        core = self.some("envs").core
        name = self.rng.choice(list(core.get_state(0)["params"]))
        core.set_param(*self.args(0, name, 0.02))

    def call_EnvBatch__has_rng(self) -> None:
        self.some("envs").core.has_rng(*self.args(0))

    def call_EnvBatch__close(self) -> None:
        if self.rng.random() < 0.1:
            self.some("envs").core.close()

    def call_EnvBatch__t_start(self) -> None:
        core = self.some("envs").core
        (core.t_start,) = self.args(core.t_start)

    def call_EnvBatch__time_limit(self) -> None:
        core = self.some("envs").core
        (core.time_limit,) = self.args(core.time_limit)

    def call_env_specs(self) -> None:
        self.native.env_specs()

    def call_Infos__new(self) -> None:
        self.native.Infos(*self.args([{}, {}]))

    def call_Infos__methods(self) -> None:
        infos = self.some("infos")
        name = self.rng.choice([name for name in dir(list) if name not in ("__class__", "__init_subclass__")])
        number, item = self.rng.choice([0, 1, -1]), {"a": 1}
        kinds: list[tuple[str, list[Any]]] = [
            ("append remove count index __contains__", [item]),
            ("extend __add__ __iadd__ __eq__ __lt__", [[item]]),
            ("pop __getitem__ __delitem__ __mul__ __imul__ __rmul__", [number]),
            ("insert __setitem__", [number, self.rng.choice([item, infos])]),
        ]
        arguments: list[Any] = next((right for names, right in kinds if name in names.split()), [])
        if name in ("__mul__", "__imul__", "__rmul__") or len(infos) > 50:
            self.pool["infos"].clear()
        getattr(infos, name)(*self.args(*arguments))
        self.rng.choice([repr, copy.copy, pickle.dumps, len, list, copy.deepcopy])(infos)

    # Targets: policies

    def call_Actor__new(self) -> None:
        head = self.rng.choice(HEADS)
        numbers = [0.5] * self.rng.choice([5, 20])
        branches, _ = self.branches()
        self.native.Actor(*self.args(self.layers(7, 4, 5), head, [3, 2], numbers, branches))

    def call_Actor__load(self) -> None:
        actor = self.some("actor")
        actor.core.load(*self.args(0, self.f32(actor.hidden, actor.dim), self.f32(actor.hidden)))

    def call_Actor__load_extractor(self) -> None:
        self.some("actor").core.load_extractor(*self.args(self.f32(151)))

    def call_Actor__set_matrices(self) -> None:
        actor = self.some("actor")
        count = self.rng.choice([1, 2, 4]) * actor.hidden * actor.width
        actor.core.set_matrices(*self.args(self.f32(count)))

    def call_Actor__changed(self) -> None:
        self.some("actor").core.changed(*self.args([self.f32(3, 2), self.f32(4)]))

    def call_Copies__new(self) -> None:
        self.native.Copies(*self.args([self.f32(3, 2), self.f32(4)]))

    def call_Copies__count_same(self) -> None:
        arrays = [self.f32(3, 2), self.f32(4)]
        self.native.Copies(arrays).count_same(*self.args(arrays))

    def call_Snapshot__new(self) -> None:
        holders, methods = [{"a": self.f32(3), "b": 1}, {}], [(dict, "get"), (list, "pop")]
        self.native.Snapshot(*self.args(holders, frozenset("b"), np.ndarray, methods))

    def call_Snapshot__is_current(self) -> None:
        self.changed_snapshot().is_current()

    def call_Snapshot__is_same(self) -> None:
        snapshot = self.changed_snapshot()
        snapshot.is_same() or snapshot.is_same()

    def changed_snapshot(self) -> Any:
        holder = {"a": self.f32(3), "b": 1}
        snapshot = self.native.Snapshot([holder], frozenset(), np.ndarray, [(dict, "get")])
        (changed,) = self.args(holder)
        if isinstance(changed, dict):
            holder |= changed
        return snapshot

    def call_Actor__set_numbers(self) -> None:
        self.some("actor").core.set_numbers(*self.args([0.5] * self.rng.choice([1, 2, 3])))

    def call_Actor__seed(self) -> None:
        self.some("actor").core.seed(*self.args(3))

    def call_Actor__rng_state(self) -> None:
        core = self.some("actor").core
        (core.rng_state,) = self.args(core.rng_state)

    def observed(self, name: str, *rest: Any) -> None:
        actor = self.some("actor")
        rows = self.rng.choice([0, 1, 2, 5])
        getattr(actor.core, name)(*self.args(self.obs_for(actor, rows), *rest))

    def call_Actor__outputs(self) -> None:
        self.observed("outputs")

    def call_Actor__features(self) -> None:
        self.observed("features")

    def call_Actor__extract(self) -> None:
        self.observed("extract")

    def call_Actor__choose(self) -> None:
        self.observed("choose", self.rng.random() < 0.5)

    def lstm(self, start: int = 0) -> tuple[dict[str, Any], int]:
        """An LSTM of two layers from 3 numbers to 4, and where its parameters end."""
        layers = []
        for inputs in (3, 4):
            places = [start, start + 16 * inputs, start + 16 * (inputs + 4), start + 16 * (inputs + 5)]
            layers.append(dict(zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), places, strict=True)))
            start = places[-1] + 16
        return {"inputs": 3, "hidden": 4, "layers": layers}, start

    def call_Lstm__new(self) -> None:
        self.native.Lstm(*self.args(self.lstm()[0]))

    def call_Lstm__load(self) -> None:
        spec, end = self.lstm()
        self.native.Lstm(spec).load(*self.args(self.f32(end)))

    def call_Lstm__step(self) -> None:
        spec, end = self.lstm()
        lstm = self.native.Lstm(spec)
        lstm.load(self.f32(end))
        lstm.step(*self.args(self.f32(5, 3), self.f32(2, 5, 4), self.f32(2, 5, 4)))

    def recurrent(self) -> tuple[list[Any], int]:
        """Arguments of a recurrent update, and the length of its vector of parameters."""
        actor, end = self.lstm()
        own, end = self.lstm(end)
        layers, end = self.plans(4, 2, start=end)
        values, end = self.plans(4, 1, start=end)
        critic = self.rng.choice([own, None])
        return [actor, layers, critic, values, critic is None, "categorical", [2], 0, end], end

    def call_RecurrentUpdate__new(self) -> None:
        self.native.RecurrentUpdate(*self.args(*self.recurrent()[0]))

    def call_RecurrentUpdate__epoch(self) -> None:
        arguments, size = self.recurrent()
        rows = 6
        names = ("values", "log_probs", "advantages", "returns")
        rollout: dict[str, Any] = {name: self.f32(rows) for name in names}
        rollout |= {"observations": [self.f32(rows * 3)], "actions": self.flags(rows)}
        rollout["masks"] = self.rng.choice([None, self.flags(rows * 2)])
        states = ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf")
        memory: dict[str, Any] = {name: self.f32(rows * 2 * 4) for name in states}
        memory |= {"episode_starts": self.flags(rows), "env_rows": 3}
        order = np.arange(rows, dtype=np.uint32)
        settings = {"clip_range": 0.2, "clip_range_vf": None, "ent_coef": 0.01, "vf_coef": 0.5}
        settings |= {"max_grad_norm": 0.5, "target_kl": None, "normalize": True}
        rest = self.args(rollout, memory, order, 4, settings, self.trained(size))
        self.read(self.native.RecurrentUpdate(*arguments).epoch(*rest))

    def call_Actor__act(self) -> None:
        self.observed("act", self.rng.random() < 0.5)

    def call_Actor__log_probs(self) -> None:
        actor = self.some("actor")
        self.last = (*self.last, actor.head)
        actor.core.log_probs(*self.args(self.obs_for(actor, 3), self.flags(3 * actor.width)))

    def call_Actor__reset_noise(self) -> None:
        self.some("actor").core.reset_noise(*self.args(2, 3))

    def call_Actor__draws(self) -> None:
        _ = self.some("actor").core.draws

    def call_Actor__matrices(self) -> None:
        self.some("actor").core.matrices()

    # Targets: chunks of steps

    def match(self) -> tuple[Envs, Any, dict[str, np.ndarray], Any]:
        """Environments, an actor for them, bounds, and what makes columns of actions."""
        envs = self.some("envs")
        if envs.width is None:
            actor = self.actor_for(envs.dim, self.rng.choice(["categorical", "epsilon_greedy"]), 2)
            bounds = {"low": self.f32(0), "high": self.f32(0)}
            return envs, actor.core, bounds, lambda *shape: self.ints(2, *shape, 1)
        actor = self.actor_for(envs.dim, self.rng.choice(["gaussian", "squashed_gaussian"]), envs.width)
        low = np.full(envs.width, -1, np.float32)
        return envs, actor.core, {"low": low, "high": -low}, lambda *shape: self.f32(*shape, envs.width)

    def call_ActionBounds__new(self) -> None:
        (bounds,) = self.args({"low": self.f32(2), "high": self.f32(2)})
        self.native.ActionBounds(**bounds)

    def call_ReplayColumns__new(self) -> None:
        names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
        (columns,) = self.args({name: self.f32(5, 2) for name in names})
        self.native.ReplayColumns(**columns)

    def call_collect_rollout(self) -> None:
        envs, actor, bounds, actions = self.match()
        columns = {
            "observations": self.f32(4, envs.n, envs.dim),
            "actions": actions(4, envs.n),
            "rewards": self.f32(4, envs.n),
            "episode_starts": self.f32(4, envs.n),
            "masks": self.rng.choice([None, self.f32(4, envs.n, 80), self.f32(4, envs.n, 2)]),
        }
        current = {"obs": self.f32(envs.n, envs.dim), "episode_starts": np.ones(envs.n, bool)}
        core, actor, bounds, *rest = self.args(envs.core, actor, bounds, current, columns)
        done = self.native.collect_rollout(core, actor, self.native.ActionBounds(**bounds), *rest)
        self.read(done, *done.episodes, *done.timeouts)

    def call_collect_transitions(self) -> None:
        envs, actor, bounds, actions = self.match()
        random = [self.rng.random() < 0.5 for _ in range(3)]
        noise = self.f32(3, envs.n, envs.width) if envs.width and self.rng.random() < 0.5 else None
        obs = self.f32(5, envs.n, envs.dim)
        after = self.native.TerminalObs() if self.rng.random() < 0.5 else obs.copy()
        columns = {"observations": obs, "next_observations": after, "actions": actions(5, envs.n)}
        columns |= {name: self.f32(5, envs.n) for name in ("rewards", "dones", "timeouts")}
        plan = {
            "is_random": random,
            "random_actions": actions(sum(random), envs.n),
            "noise": noise,
            "until_end": self.rng.random() < 0.5,
        }
        cursor = {"capacity": 5, "pos": 3, "full": True}
        core, actor, bounds, last, plan, columns, cursor = self.args(
            envs.core, actor, bounds, self.f32(envs.n, envs.dim), plan, columns, cursor
        )
        known = self.native.ActionBounds(**bounds), self.native.ReplayColumns(**columns)
        done = self.native.collect_transitions(core, actor, known[0], last, plan, known[1], cursor)
        self.read(done, done.last, *done.episodes)

    def call_evaluate_candidates(self) -> None:
        name, (dim, width) = self.rng.choice(list(IDS.items()))
        batch = self.native.EnvBatch(name, 1, **dict.fromkeys(FLAGS, True))
        obs = batch.reset([[1, 2]], [None])
        outputs = width or 2
        plans, size = self.plans(dim, 4, outputs)
        actor = self.actor_for(dim, "categorical" if width is None else "deterministic", outputs)
        high = np.ones(width or 0, np.float32)
        candidates = {
            "layers": plans,
            "parameters": self.f32(3, size),
            "episodes": 1,
            "bounds": {"low": -high, "high": high},
            "squashed": False,
        }
        self.native.evaluate_candidates(
            *self.args(batch, actor.core, np.asarray(obs, np.float32), candidates)
        )

    # Targets: threads and BLAS

    def call_threads_count(self) -> None:
        self.native.threads_count()

    def call_set_threads(self) -> None:
        self.native.set_threads(*self.args(self.rng.choice([None, 1, 2])))
        self.native.set_threads(2)

    def call_blas_calls(self) -> None:
        self.native.blas_calls()

    # Targets: gradient steps

    def call_OnPolicyUpdate__new(self) -> None:
        (actor, middle) = self.plans(3, 4, 2)
        critic, end = self.plans(3, 4, 1, start=middle)
        deviations = self.rng.choice([("gaussian", end), (STATE_HEADS[0], self.state_noise(end, 2))])
        head, log_std = deviations
        self.native.OnPolicyUpdate(*self.args(actor, critic, head, [2], log_std, end + 8))

    def call_OnPolicyUpdate__epoch(self) -> None:
        update = self.some("on_policy")
        rows, width = 7, 1 if update.kind == "categorical" else 2
        names = ("values", "log_probs", "advantages", "returns")
        rollout: dict[str, Any] = {"observations": self.flat_columns(rows, update.extracts)}
        rollout["actions"] = self.flags(rows * width)
        rollout |= {name: self.f32(rows) for name in names}
        masks = [None, self.flags(rows * 2), self.flags(rows * 5), self.flags(rows * 3)]
        rollout["masks"] = self.rng.choice(masks)
        order = self.numbers.permutation(rows).astype(np.uint32)
        settings = {
            "clip_range": 0.2,
            "clip_range_vf": None,
            "ent_coef": 0.01,
            "vf_coef": 0.5,
            "max_grad_norm": 0.5,
            "target_kl": self.rng.choice([None, 0.01]),
            "normalize": True,
        }
        self.read(update.core.epoch(*self.args(rollout, order, 3, settings, self.trained(*update.sizes))))

    def batches(self, count: int, rows: int, extracted: bool = False) -> dict[str, Any]:
        of = count * rows
        return {
            "observations": self.flat_columns(of, extracted),
            "next_observations": self.flat_columns(of, extracted),
            "actions": self.flags(of),
            "rewards": self.f32(of),
            "dones": self.flags(of),
            "discounts": self.flags(self.rng.choice([count, of])),
        }

    def call_QUpdate__new(self) -> None:
        layers, middle = self.plans(7, 4, 2)
        branches, end = self.branches(middle)
        self.native.QUpdate(*self.args(layers, end, branches))

    def call_QUpdate__run(self) -> None:
        update = self.some("q")
        (size,) = update.sizes
        arguments = self.args(
            self.batches(2, 3, update.extracts), 2, 10.0, self.f32(size), self.trained(size)
        )
        self.read(update.core.run(*arguments))

    def call_ActorCriticUpdate__new(self) -> None:
        actor, size = self.plans(3, 4, 2)
        critic, end = self.plans(4, 4, 1)
        noise = self.rng.choice([None, self.state_noise(size, 2)])
        *networks, actor_size, critic_size, noise = self.args(
            actor, [critic, critic], True, size + 8, end, noise
        )
        self.native.ActorCriticUpdate(*networks, actor_size=actor_size, critic_size=critic_size, noise=noise)

    def call_ActorCriticUpdate__load_actor(self) -> None:
        update = self.some("actor_critic")
        squashed = update.kind.startswith("squashed")
        head = "squashed_gaussian" if squashed else "deterministic"
        layers = self.layers(7 if update.extracts else 3, 4, 2 if squashed else 1)
        actor = self.native.Actor(layers, head, [], [])
        update.core.load_actor(*self.args(self.f32(update.sizes[0]), actor))

    def call_polyak_average(self) -> None:
        self.native.polyak_average(*self.args(self.f32(5), self.f32(5), 0.1))

    def call_ActorCriticUpdate__run(self) -> None:
        update = self.some("actor_critic")
        actor, critic = update.sizes
        kind, sees = update.kind.split(", ")
        plain = kind == "plain"
        count = 8 if kind == "states" else 6
        noise = self.f32(0 if plain else count)
        batches = {"transitions": self.batches(2, 3, update.extracts), "noise": noise}
        batches["next_noise"] = self.f32(count)
        settings = {"tau": 0.1, "target_policy_noise": 0.2, "target_noise_clip": 0.5}
        settings |= {"ent_coef": 0.1, "target_entropy": -1.0}
        has_target = plain or sees == "shared features"
        targets = {"actor": self.f32(actor if has_target else 0), "critic": self.f32(critic)}
        trained = {"actor": self.trained(actor), "critic": self.trained(critic)}
        trained["ent_coef"] = self.trained(1) if self.rng.random() < 0.5 else None
        flags = [dict.fromkeys(("update_actor", "update_targets"), flag) for flag in (True, False)]
        self.read(update.core.run(*self.args(batches, flags, settings, targets, trained)))
