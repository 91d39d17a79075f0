"""Values for calls of ``_native``, right ones and ways to spoil them."""

import gc
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

POOL = 6
INTS = [
    *(0, -1, 1, 2, 3, 7, 255, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63),
    *(2**64 - 1, 2**64, 2**128 - 1, 2**128, 10**40, -(2**31), -(2**63), -(10**40)),
]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-300, 1e30, 1e300, float("nan"), float("inf"), float("-inf"), 5e7]
DTYPES = ["f4", "f8", "f2", "i8", "i4", "u4", "u8", "u1", "?", ">f4", ">i8", "O", "c8", "U3", "M8[s]"]
HEADS = [
    *("categorical", "multi_categorical", "bernoulli", "gaussian", "squashed_gaussian", "state_dependent"),
    *("squashed_state_dependent", "deterministic", "epsilon_greedy"),
]
ACTIVATIONS = ["tanh", "relu", "identity", "elu", "leaky_relu", "silu", "gelu", "hard_tanh"]


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


def arrays_in(tree: Any) -> Iterator[np.ndarray]:
    """All arrays of nested lists, tuples and dicts."""
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, list | tuple | dict):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from arrays_in(item)


class Values:
    """
    Draws values, and spoils some of the arguments of a call.

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
