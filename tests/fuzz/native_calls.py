"""Calls of ``_native``: right arguments for every function and method of its stub."""

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from native_values import ACTIVATIONS, HEADS, Values

# Numbers of an observation, numbers of an action or None for choices.
IDS: dict[str, tuple[int, int | None]] = {
    "CartPole-v1": (4, None),
    "Pendulum-v1": (3, 1),
    "Acrobot-v1": (6, None),
    "MountainCar-v0": (2, None),
    "MountainCarContinuous-v0": (2, 1),
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


class Update(NamedTuple):
    """Gradient steps and the sizes of their networks."""

    core: Any
    kind: str
    sizes: tuple[int, ...]
    extracts: bool = False


class Fuzzer(Values):
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
        size, extractors = log_std + 2, None
        if extracts:
            first, middle = self.branches(size)
            second, size = self.branches(middle)
            extractors = self.rng.choice([[first], [first, second]])
        head = self.rng.choice(["categorical", "bernoulli", "gaussian"])
        core = self.native.OnPolicyUpdate(actor, critic, head, [2], log_std, size, extractors)
        return Update(core, head, (size,), extracts)

    def new_q(self) -> Update:
        extracts = self.rng.random() < 0.5
        layers, size = self.plans(7 if extracts else 3, 4, 2)
        branches = None
        if extracts:
            branches, size = self.branches(size)
        return Update(self.native.QUpdate(layers, size, branches), "q", (size,), extracts)

    def new_actor_critic(self) -> Update:
        squashed = self.rng.random() < 0.5
        actor, size = self.plans(3, 4, 2 if squashed else 1)
        first, middle = self.plans(4, 4, 1)
        second, end = self.plans(4, 4, 1, start=middle)
        core = self.native.ActorCriticUpdate(
            actor, [first, second], squashed, actor_size=size, critic_size=end
        )
        return Update(core, "squashed" if squashed else "plain", (size, end))

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

    def call_Storage__new(self) -> None:
        self.native.Storage(*self.args(5, {"a": 4, "b": 12}))

    def call_Storage__column(self) -> None:
        column = self.some("storage").column(*self.args("a"))
        column[:] = 7

    def call_Storage__address(self) -> None:
        self.some("storage").address(*self.args("a"))

    def call_Storage__row(self) -> None:
        self.some("storage").row(*self.args("a", 0))

    def call_Storage__nbytes(self) -> None:
        _ = self.some("storage").nbytes

    def call_gae(self) -> None:
        names = ("rewards", "values", "episode_starts", "advantages", "returns")
        rollout = {name: self.f32(5, 3) for name in names}
        rollout |= {"last_values": self.f32(3), "dones": self.flags(3), "gamma": 0.99, "gae_lambda": 0.95}
        (arguments,) = self.args(rollout)
        self.native.gae(**arguments)

    def call_flatten_env_major(self) -> None:
        self.native.flatten_env_major(*self.args(self.bytes(24), self.bytes(24), 3, 2))

    def call_gather(self) -> None:
        sources, targets = [self.bytes(40), self.bytes(10)], [self.bytes(12), self.bytes(3)]
        self.native.gather(*self.args(sources, targets, self.ints(10, 3)))

    def call_randint(self) -> None:
        self.native.randint(*self.args(0, 7, 5))

    def call_n_step_spans(self) -> None:
        rows, envs = self.ints(5, 4), self.ints(2, 4)
        flags, cursor = [self.flags(5, 2), self.flags(5, 2)], {"capacity": 5, "pos": 2, "full": True}
        self.native.n_step_spans(*self.args(*flags, cursor, 3, rows, envs))

    def buffer(self) -> dict[str, Any]:
        """The attributes of a replay buffer."""
        rows, n_envs, kept = 6, 2, self.rng.random() < 0.4
        observations: Any = self.f32(rows, n_envs, 3)
        following: Any = self.f32(rows, n_envs, 3)
        if self.rng.random() < 0.3 and not kept:
            observations, following = ({"a": x, "b": x.copy()} for x in (observations, following))
        terminal = self.native.TerminalObs(np.array([1]), self.bytes(12)) if kept else None
        return {
            "buffer_size": rows,
            "pos": 2,
            "full": self.rng.random() < 0.5,
            "n_envs": n_envs,
            "observations": observations,
            "next_observations": following,
            "_terminal": terminal,
            "actions": self.ints(2, rows, n_envs, 1),
            "rewards": self.f32(rows, n_envs),
            "dones": self.flags(rows, n_envs),
            "timeouts": self.flags(rows, n_envs),
            "handle_timeout_termination": True,
        }

    def call_sample_batches(self) -> None:
        self.read(self.native.sample_batches(*self.args(self.buffer(), 2, 3, self.rng.random() < 0.5)))

    def call_store_step(self) -> None:
        buffer = self.buffer()
        is_dict = isinstance(buffer["observations"], dict)
        obs: Any = {"a": self.f32(2, 3), "b": self.f32(2, 3)} if is_dict else self.f32(2, 3)
        infos = self.rng.choice([[{}, {"TimeLimit.truncated": True}], self.some("infos")])
        step = [obs, copy.deepcopy(obs), self.ints(2, 2, 1), self.f32(2), np.array([True, False]), infos]
        self.native.store_step(*self.args(buffer, *step))

    def call_take_batch(self) -> None:
        columns, targets = [self.f32(6, 2, 3), self.flags(6, 2)], [self.f32(4, 3), self.f32(4)]
        self.native.take_batch(*self.args(columns, targets, self.ints(9, 4), self.ints(2, 4), 6, 2))

    # Targets: observations kept apart

    def call_TerminalObs__new(self) -> None:
        self.native.TerminalObs(*self.args(np.array([1, 4]), self.bytes(8)))

    def call_TerminalObs__len(self) -> None:
        len(self.some("terminal"))

    def call_TerminalObs__before_write(self) -> None:
        cursor = {"capacity": 3, "pos": self.rng.randrange(3), "full": self.rng.random() < 0.5}
        self.some("terminal").before_write(*self.args(cursor, self.bytes(48), self.bytes(16), 2))

    def call_TerminalObs__patch(self) -> None:
        self.some("terminal").patch(*self.args(np.array([3, 1]), self.bytes(16)))

    def call_TerminalObs__clear(self) -> None:
        self.some("terminal").clear()

    def call_TerminalObs__export(self) -> None:
        kept = self.some("terminal")
        kept.export()
        copy.deepcopy(kept)

    # Targets: environments

    def call_EnvBatch__new(self) -> None:
        arguments = self.args(self.rng.choice(list(IDS)), 2, *[True] * 4)
        self.native.EnvBatch(*arguments[:2], **dict(zip(FLAGS, arguments[2:], strict=True)))

    def call_EnvBatch__reset(self) -> None:
        envs = self.some("envs")
        envs.core.reset(*self.args([[1, 2]] * envs.n, [(-0.01, 0.01)] * envs.n))

    def call_EnvBatch__step(self) -> None:
        envs = self.some("envs")
        envs.core.step(*self.args(self.actions(envs)))

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
        self.native.OnPolicyUpdate(*self.args(actor, critic, "gaussian", [2], end, end + 2))

    def call_OnPolicyUpdate__epoch(self) -> None:
        update = self.some("on_policy")
        rows, width = 7, 1 if update.kind == "categorical" else 2
        names = ("values", "log_probs", "advantages", "returns")
        rollout: dict[str, Any] = {"observations": self.flat_columns(rows, update.extracts)}
        rollout["actions"] = self.flags(rows * width)
        rollout |= {name: self.f32(rows) for name in names}
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
        rule = self.trained(size)["rule"]
        first = size if rule["name"] == "adam" else 0
        moments = [{"exp_avg": self.f32(first), "exp_avg_sq": self.flags(size)} for _ in range(2)]
        vectors = {"parameters": self.f32(size), "parameters_before": self.f32(size)}
        vectors |= {"moments": moments[0], "next_moments": moments[1], "optimizer_steps": 3, "rule": rule}
        learned = {"network": vectors, "target": self.f32(size), "update": update}
        columns = self.native.ReplayColumns(**columns)
        buffer = {"columns": columns, "cursor": {"capacity": 5, "pos": 3, "full": True}}
        arguments = self.args(envs.core, net.core, self.f32(envs.n, envs.dim), plan, buffer, learned)
        done = self.native.learn_q(*arguments)
        self.read(done, *done.episodes)

    def call_ActorCriticUpdate__new(self) -> None:
        actor, size = self.plans(3, 4, 2)
        critic, end = self.plans(4, 4, 1)
        *networks, actor_size, critic_size = self.args(actor, [critic, critic], True, size, end)
        self.native.ActorCriticUpdate(*networks, actor_size=actor_size, critic_size=critic_size)

    def call_ActorCriticUpdate__load_actor(self) -> None:
        update = self.some("actor_critic")
        head = "squashed_gaussian" if update.kind == "squashed" else "deterministic"
        layers = self.layers(3, 4, 2 if update.kind == "squashed" else 1)
        actor = self.native.Actor(layers, head, [], [])
        update.core.load_actor(*self.args(self.f32(update.sizes[0]), actor))

    def call_polyak_average(self) -> None:
        self.native.polyak_average(*self.args(self.f32(5), self.f32(5), 0.1))

    def call_ActorCriticUpdate__run(self) -> None:
        update = self.some("actor_critic")
        (actor, critic), squashed = update.sizes, update.kind == "squashed"
        noise = self.f32(6 if squashed else 0)
        batches = {"transitions": self.batches(2, 3), "noise": noise, "next_noise": self.f32(6)}
        settings = {"tau": 0.1, "target_policy_noise": 0.2, "target_noise_clip": 0.5}
        settings |= {"ent_coef": 0.1, "target_entropy": -1.0}
        targets = {"actor": self.f32(0 if squashed else actor), "critic": self.f32(critic)}
        trained = {"actor": self.trained(actor), "critic": self.trained(critic)}
        trained["ent_coef"] = self.trained(1) if self.rng.random() < 0.5 else None
        flags = [dict.fromkeys(("update_actor", "update_targets"), flag) for flag in (True, False)]
        self.read(update.core.run(*self.args(batches, flags, settings, targets, trained)))
