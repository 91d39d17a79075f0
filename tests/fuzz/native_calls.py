"""Calls of ``_native``: right arguments for every function and method of its stub, and ways to spoil them."""

import copy
import gc
import itertools
import pickle
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

POOL = 6
INTS = [
    *(0, -1, 1, 2, 3, 7, 255, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63),
    *(2**64 - 1, 2**64, 2**128 - 1, 2**128, 10**40, -(2**31), -(2**63), -(10**40)),
]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-300, 1e30, 1e300, float("nan"), float("inf"), float("-inf"), 5e7]
DTYPES = ["f4", "f8", "f2", "i8", "i4", "u4", "u8", "u1", "?", ">f4", ">i8", "O", "c8", "U3", "M8[s]"]
# Numbers of an observation, numbers of an action or None for choices.
IDS: dict[str, tuple[int, int | None]] = {
    "CartPole-v1": (4, None),
    "Pendulum-v1": (3, 1),
    "Acrobot-v1": (6, None),
    "MountainCar-v0": (2, None),
    "MountainCarContinuous-v0": (2, 1),
}
FLAGS = ("weak_scalars", "pow_squares", "fused_uniform", "compensated_sum")
HEADS = [
    *("categorical", "multi_categorical", "bernoulli", "gaussian", "squashed_gaussian", "state_dependent"),
    *("squashed_state_dependent", "deterministic", "epsilon_greedy"),
]
CHOICES = ("categorical", "multi_categorical", "epsilon_greedy")
ACTIVATIONS = ["tanh", "relu", "identity", "elu", "leaky_relu", "silu", "gelu"]


class Liar(Sequence):  # type: ignore[type-arg]
    """A sequence that says something else about its length than is true."""

    def __init__(self, says: int):
        self.says = says

    def __len__(self) -> int:
        return self.says

    def __getitem__(self, index: Any) -> Any:
        if index > 3:
            raise IndexError
        return 0.5


class Spiteful:
    """Raises whenever it is asked for a number, and collects garbage before."""

    def __index__(self) -> int:
        gc.collect()
        raise ZeroDivisionError

    __float__ = __len__ = __index__  # type: ignore[assignment]


class Sub(np.ndarray):  # type: ignore[type-arg]
    """A subclass of an array."""


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


class Update(NamedTuple):
    """Gradient steps and the sizes of their networks."""

    core: Any
    kind: str
    sizes: tuple[int, ...]


def arrays_in(tree: Any) -> Iterator[np.ndarray]:
    """All arrays of nested lists, tuples and dicts."""
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, list | tuple | dict):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from arrays_in(item)


class Fuzzer:
    """
    Makes calls on a pool of objects. Each method ``call_...`` is a target, ``__`` standing for a point.

    :param native: the extension
    :param seed: decides all of them
    """

    def __init__(self, native: Any, seed: int):
        self.native = native
        self.rng = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.pool: dict[str, list[Any]] = {}
        self.shared = bytearray(1024)
        self.last: Any = None
        names = [name for name in dir(type(self)) if name.startswith("call_")]
        self.targets: dict[str, Callable[[], Any]] = {name[5:]: getattr(self, name) for name in names}

    def call(self) -> None:
        """One call of a target; what it raises is the caller's."""
        name = self.rng.choice(list(self.targets))
        self.last = (name,)
        self.targets[name]()

    # Values

    def f32(self, *shape: int) -> np.ndarray:
        return self.numbers.standard_normal(shape).astype(np.float32)

    def bytes(self, count: int) -> np.ndarray:
        return self.numbers.integers(0, 256, count).astype(np.uint8)

    def ints(self, high: int, *shape: int) -> np.ndarray:
        return self.numbers.integers(0, high, shape)

    def flags(self, *shape: int) -> np.ndarray:
        return self.ints(2, *shape).astype(np.float32)

    def some(self, kind: str) -> Any:
        """An object of the pool, a new one now and then."""
        known = self.pool.setdefault(kind, [])
        if known and self.rng.random() < 0.02:
            known.pop(self.rng.randrange(len(known)))
        if not known or (len(known) < POOL and self.rng.random() < 0.1):
            known.append(getattr(self, f"new_{kind}")())
        return self.rng.choice(known)

    def read(self, *answers: Any) -> None:
        """All attributes of what calls gave."""
        for answer in answers:
            for name in dir(answer):
                getattr(answer, name)

    # Ways to spoil them

    def args(self, *args: Any) -> list[Any]:
        """The arguments of a call; half of all calls get them as they are."""
        chance = self.rng.choice([0.0, 0.0, 0.03, 0.15])
        others = list(arrays_in(args))
        mutated = [self.mutated(item, others, chance) for item in args]
        self.last = (*self.last[:1], mutated)
        return mutated

    def mutated(self, tree: Any, others: list[Any], chance: float) -> Any:
        """The tree with some of its leaves, and now and then a branch, replaced."""
        if self.rng.random() < chance:
            return self.spoiled(tree, others)
        if isinstance(tree, list | tuple):
            items = [self.mutated(item, others, chance) for item in tree]
            return items if isinstance(tree, list) else tuple(items)
        if isinstance(tree, dict):
            kept = {key: self.mutated(item, others, chance) for key, item in tree.items()}
            if kept and self.rng.random() < chance / 2:
                kept.pop(self.rng.choice(list(kept)))
            return kept
        return tree

    def spoiled(self, value: Any, others: list[Any]) -> Any:
        """Something else in its place. ``others`` are the arrays of the same call."""
        if isinstance(value, np.ndarray) and self.rng.random() < 0.85:
            return self.spoiled_array(value, others)
        choices: list[Any] = [
            None,
            self.rng.choice(INTS),
            self.rng.choice(FLOATS),
            "x",
            "\ud800",
            b"",
            [],
            {},
        ]
        if isinstance(value, bool | int):
            choices += self.rng.choices([*INTS, True, np.int64(3), np.uint8(2), Spiteful()], k=24)
        elif isinstance(value, float):
            choices += self.rng.choices([*FLOATS, 10**400, np.float32(2), Spiteful()], k=24)
        elif isinstance(value, str):
            choices += ["", *HEADS, *ACTIVATIONS, "adam", "rmsprop", "\0", "x" * 10**4]
        elif isinstance(value, list | tuple):
            longer = [*value, *value]
            choices += [list(value)[1:], longer, tuple(longer), Liar(2**40), Liar(2**62), range(10**15)]
            choices += [Liar(0), Liar(-1), iter(value), list(value)[::-1], [value], {0: value}]
        else:
            choices += [kept.core for kind in ("envs", "actor") for kept in self.pool.get(kind, [])]
        return self.rng.choice(choices)

    def spoiled_array(self, array: np.ndarray, others: list[Any]) -> Any:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            ways = [self.aliased, self.strided, self.owned_elsewhere, self.with_other_numbers, self.shaped]
            return self.rng.choice(ways)(array, others)

    def aliased(self, array: np.ndarray, others: list[Any]) -> Any:
        other = self.rng.choice(others)
        views = [other, other.reshape(-1)[: array.size], other.reshape(-1)[array.size // 2 :]]
        return self.rng.choice([*views, np.frombuffer(other.tobytes(), np.uint8)])

    def strided(self, array: np.ndarray, others: list[Any]) -> Any:
        if not array.ndim:
            return array
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
        ways = [np.repeat(array, 2, -1)[..., ::2], array[..., ::-1], np.asfortranarray(array)]
        ways.append(raw.view(array.dtype).reshape(array.shape))
        if array.size:
            ways.append(np.broadcast_to(array.reshape(-1)[:1], array.shape))
        return self.rng.choice(ways)

    def owned_elsewhere(self, array: np.ndarray, others: list[Any]) -> Any:
        read_only = array.copy()
        read_only.setflags(write=False)
        # Owned by what nobody holds any more.
        lent = self.native.Storage(1, {"x": array.nbytes}).column("x").view(array.dtype)
        ways = [read_only, lent.reshape(array.shape), array.view(Sub), np.ma.array(array), array.tolist()]
        if array.nbytes <= len(self.shared):
            # Views of one buffer that do not know of each other.
            view = np.frombuffer(memoryview(self.shared), array.dtype, array.size)
            ways += [view.reshape(array.shape)] * 3
        return self.rng.choice(ways)

    def with_other_numbers(self, array: np.ndarray, others: list[Any]) -> Any:
        if self.rng.random() < 0.3:
            return np.zeros(array.shape, self.rng.choice(DTYPES))
        wild = array.copy()
        number = self.rng.choice([-1, 0, 3, 127, 10**6, -(2**31), np.nan, np.inf, -np.inf, 3e38])
        wild.reshape(-1)[:: self.rng.randint(1, 5)] = np.array(number).astype(array.dtype)
        return wild

    def shaped(self, array: np.ndarray, others: list[Any]) -> Any:
        flat = array.reshape(-1)
        longer = np.concatenate([flat, flat])
        return self.rng.choice([flat, flat[1:], flat[:0], array[None], array[..., None], longer, flat[:1]])

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

    def new_actor(self) -> Net:
        return self.actor_for(
            self.rng.choice([2, 3, 4, 6]), self.rng.choice(HEADS), self.rng.choice([1, 2, 3])
        )

    def actor_for(self, dim: int, head: str, width: int) -> Net:
        hidden = self.rng.choice([1, 5, 16])
        outputs = {"multi_categorical": 5, "squashed_gaussian": 2 * width}.get(head, width)
        numbers = {"gaussian": [0.5] * outputs, "epsilon_greedy": [0.3]}.get(head, [])
        if "state_dependent" in head:
            numbers = [0.2] * (hidden * outputs)
        core = self.native.Actor(self.layers(dim, hidden, outputs), head, [3, 2], numbers)
        core.load(0, self.f32(hidden, dim), self.f32(hidden))
        width = {"multi_categorical": 2, "categorical": 1, "epsilon_greedy": 1}.get(head, width)
        return Net(core, head, dim, hidden, width)

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
        (actor, middle) = self.plans(3, 4, 2)
        critic, end = self.plans(3, 4, 1, start=middle)
        head = self.rng.choice(["categorical", "bernoulli", "gaussian"])
        core = self.native.OnPolicyUpdate(actor, critic, head, [2], end, end + 2)
        return Update(core, head, (end + 2,))

    def new_q(self) -> Update:
        layers, size = self.plans(3, 4, 2)
        return Update(self.native.QUpdate(layers, size), "q", (size,))

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
            "steps": 3,
            "learning_rate": 0.01,
            "rule": rule,
            "betas": [0.9, 0.99],
            "alpha": 0.99,
            "eps": 1e-5,
            "bias_correction": True,
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
        self.native.Actor(*self.args(self.layers(3, 4, 5), head, [3, 2], [0.5] * self.rng.choice([5, 20])))

    def call_Actor__load(self) -> None:
        actor = self.some("actor")
        actor.core.load(*self.args(0, self.f32(actor.hidden, actor.dim), self.f32(actor.hidden)))

    def call_Actor__changed(self) -> None:
        self.some("actor").core.changed(*self.args([self.f32(3, 2), self.f32(4)]))

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
        getattr(actor.core, name)(*self.args(self.f32(rows, actor.dim), *rest))

    def call_Actor__outputs(self) -> None:
        self.observed("outputs")

    def call_Actor__features(self) -> None:
        self.observed("features")

    def call_Actor__choose(self) -> None:
        self.observed("choose", self.rng.random() < 0.5)

    def call_Actor__act(self) -> None:
        self.observed("act", self.rng.random() < 0.5)

    def call_Actor__log_probs(self) -> None:
        actor = self.some("actor")
        self.last = (*self.last, actor.head)
        actor.core.log_probs(*self.args(self.f32(3, actor.dim), self.flags(3 * actor.width)))

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

    def call_collect_rollout(self) -> None:
        envs, actor, bounds, actions = self.match()
        columns = {
            "observations": self.f32(4, envs.n, envs.dim),
            "actions": actions(4, envs.n),
            "rewards": self.f32(4, envs.n),
            "episode_starts": self.f32(4, envs.n),
        }
        current = {"obs": self.f32(envs.n, envs.dim), "episode_starts": np.ones(envs.n, bool)}
        done = self.native.collect_rollout(*self.args(envs.core, actor, bounds, current, columns))
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
            "bounds": bounds,
            "until_end": self.rng.random() < 0.5,
        }
        cursor = {"capacity": 5, "pos": 3, "full": True}
        done = self.native.collect_transitions(
            *self.args(envs.core, actor, self.f32(envs.n, envs.dim), plan, columns, cursor)
        )
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
        rollout = {"observations": self.f32(rows * 3), "actions": self.flags(rows * width)}
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

    def batches(self, count: int, rows: int) -> dict[str, Any]:
        of = count * rows
        return {
            "observations": self.f32(of * 3),
            "next_observations": self.f32(of * 3),
            "actions": self.flags(of),
            "rewards": self.f32(of),
            "dones": self.flags(of),
            "discounts": self.flags(self.rng.choice([count, of])),
        }

    def call_QUpdate__new(self) -> None:
        self.native.QUpdate(*self.args(*self.plans(3, 4, 2)))

    def call_QUpdate__run(self) -> None:
        update = self.some("q")
        (size,) = update.sizes
        arguments = self.args(self.batches(2, 3), 2, 10.0, self.f32(size), self.trained(size))
        self.read(update.core.run(*arguments))

    def call_ActorCriticUpdate__new(self) -> None:
        actor, size = self.plans(3, 4, 2)
        critic, end = self.plans(4, 4, 1)
        *networks, actor_size, critic_size = self.args(actor, [critic, critic], True, size, end)
        self.native.ActorCriticUpdate(*networks, actor_size=actor_size, critic_size=critic_size)

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
