"""Buffers draw from NumPy's global generator by a short cut: the numbers and the state left are NumPy's."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_baselines3 import _native
from mlx_baselines3.common.buffers._draws import permutation, randint

BOUNDS = [
    (0, 1), (0, 2), (0, 3), (0, 8), (1, 7), (-5, 5), (0, 125_000), (0, 2**16), (0, 2**16 + 1), (0, 2**31),
    (7, 2**32), (0, 2**32 - 1), (0, 2**32), (0, 2**32 + 1), (0, 2**40), (-(2**63), 2**63 - 1),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _state():
    state = np.random.get_state()  # noqa: NPY002
    yield
    np.random.set_state(state)  # noqa: NPY002


def assert_same(draw, expected, seed):
    """Both, between other draws, from the same seed."""
    outcomes = []
    for function in (draw, expected):
        np.random.seed(seed)  # noqa: NPY002
        before = (np.random.normal(), np.random.randint(0, 9, dtype=np.uint8))  # noqa: NPY002
        drawn = function()
        after = (np.random.randint(0, 77, size=3).tolist(), np.random.normal(), np.random.random())  # noqa: NPY002
        outcomes.append((before, drawn.tolist(), after, repr(np.random.get_state())))  # noqa: NPY002
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
@pytest.mark.parametrize("count", [0, 1, 300])
def test_the_draws_are_numpys(low, high, count):
    assert_same(
        lambda: randint(low, high, count),
        lambda: np.random.randint(low, high, size=count),  # noqa: NPY002
        seed=count,
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(-(2**33), 2**33), st.integers(1, 2**33), st.integers(0, 50), st.integers(0, 2**32 - 1))
def test_any_draws_are_numpys(low, width, count, seed):
    assert_same(
        lambda: randint(low, low + width, count),
        lambda: np.random.randint(low, low + width, size=count),  # noqa: NPY002
        seed,
    )


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1023, 1024, 1025, 70_000])
def test_permutations_are_numpys(count):
    assert _native.permutation(count) is not None
    assert_same(lambda: permutation(count), lambda: np.random.permutation(count), seed=count)  # noqa: NPY002


def test_a_replaced_permutation_is_asked(monkeypatch):
    monkeypatch.setattr(np.random, "permutation", lambda count: np.arange(count)[::-1])
    assert permutation(4).tolist() == [3, 2, 1, 0]


def test_nearly_all_draws_take_the_short_cut():
    assert _native.randint(0, 2**32 - 1, 2).shape == (2,)
    assert _native.randint(0, 2**32 + 1, 2) is None


@pytest.mark.parametrize(("low", "high"), [(0, 0), (3, 2)])
def test_no_number_is_an_error(low, high):
    with pytest.raises(ValueError, match=r"low >= high|high <= 0"):
        randint(low, high, 4)


def test_other_bits_are_drawn_from():
    old = np.random.get_bit_generator()
    try:
        outcomes = []
        for function in (randint, lambda low, high, count: np.random.randint(low, high, size=count)):  # noqa: NPY002
            np.random.set_bit_generator(np.random.PCG64(5))
            outcomes.append((function(0, 1000, 50).tolist(), function(0, 3, 5).tolist(), np.random.random()))  # noqa: NPY002
        assert outcomes[0] == outcomes[1]
    finally:
        np.random.set_bit_generator(old)


def test_a_replaced_randint_is_asked(monkeypatch):
    monkeypatch.setattr(np.random, "randint", lambda low, high, size: np.full(size, high - 1))
    assert randint(0, 5, 3).tolist() == [4, 4, 4]
    other = np.random.RandomState(3)
    monkeypatch.setattr(np.random, "randint", other.randint)
    assert randint(0, 10**6, 4).tolist() == np.random.RandomState(3).randint(0, 10**6, size=4).tolist()


def test_threads_wait_for_each_other():
    np.random.seed(0)  # noqa: NPY002
    drawn = []
    threads = [threading.Thread(target=lambda: drawn.extend(randint(0, 2**20, 5000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.random.seed(0)  # noqa: NPY002
    assert sorted(drawn) == sorted(np.random.randint(0, 2**20, size=20_000))  # noqa: NPY002
