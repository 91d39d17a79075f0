"""
What the Rust extension offers to the package. Nothing here is public.

Any function raises :class:`MemoryError` for sizes that there is no memory for, :class:`ValueError` for
arrays that are not C-contiguous or share memory with one that is written, and :class:`RuntimeError` for a
mistake of its own. Long ones run Python's signal handlers about ten times a second, and end with what those
raise.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Actor",
    "ActorCriticUpdate",
    "EnvBatch",
    "Infos",
    "OnPolicyUpdate",
    "QUpdate",
    "Storage",
    "TerminalObs",
    "__version__",
    "collect",
    "env_specs",
    "explore",
    "flatten_env_major",
    "gae",
    "gather",
    "n_step_spans",
    "randint",
    "sample_batches",
    "set_threads",
    "store_step",
    "take_batch",
    "threads_count",
]

__version__: str

_F32: TypeAlias = NDArray[np.float32]
_I64: TypeAlias = NDArray[np.int64]

# Buffers

@final
class Storage:
    """
    Zeroed columns in one block of memory owned by Rust.

    :param rows: rows of every column
    :param columns: (name, bytes a row) of each
    :raises MemoryError: the block cannot be had
    """

    def __new__(cls, rows: int, columns: list[tuple[str, int]]) -> Storage: ...
    def column(self, name: str) -> NDArray[np.uint8]:
        """
        :param name: a column
        :return: its bytes, writable, sharing memory with this object and keeping it alive
        :raises KeyError: no such column
        """

    def address(self, name: str) -> int:
        """
        :param name: a column
        :return: address of its first byte, a multiple of 64
        :raises KeyError: no such column
        """

    def row(self, name: str, row: int) -> bytes:
        """
        :param name: a column
        :param row: number of the row
        :return: a copy of what Rust reads there
        :raises KeyError: no such column
        :raises IndexError: no such row
        """

    @property
    def nbytes(self) -> int:
        """
        :return: size of the block in bytes
        """

def gae(
    rewards: NDArray[np.float32],
    values: NDArray[np.float32],
    episode_starts: NDArray[np.float32],
    last_values: NDArray[np.float32],
    dones: NDArray[np.float32],
    gamma: float,
    gae_lambda: float,
    advantages: NDArray[np.float32],
    returns: NDArray[np.float32],
) -> None:
    """
    GAE(lambda), https://arxiv.org/abs/1506.02438, in place over C-contiguous columns.

    :param rewards: ``(n_steps, n_envs)``
    :param values: ``(n_steps, n_envs)``
    :param episode_starts: 0 or 1, ``(n_steps, n_envs)``
    :param last_values: ``(n_envs,)``
    :param dones: 0 or 1, ``(n_envs,)``
    :param gamma: discount factor
    :param gae_lambda: trade-off of bias and variance
    :param advantages: written, ``(n_steps, n_envs)``
    :param returns: written, ``(n_steps, n_envs)``
    :raises ValueError: a column's length does not fit the others
    """

def flatten_env_major(
    source: NDArray[np.uint8], target: NDArray[np.uint8], n_steps: int, n_envs: int
) -> None:
    """
    Copy ``(n_steps, n_envs)`` rows into ``(n_envs, n_steps)`` order.

    :param source: bytes of the rows
    :param target: written, as many bytes
    :param n_steps: steps
    :param n_envs: environments
    :raises ValueError: the lengths do not fit
    """

def gather(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], indices: NDArray[np.int64]) -> None:
    """
    Copy the rows named by ``indices`` from each source to its target, in that order.

    :param pairs: (bytes of the source's rows, bytes of ``len(indices)`` rows that are written)
    :param indices: row numbers
    :raises IndexError: a row does not exist, or the lengths do not fit
    """

def randint(low: int, high: int, count: int) -> _I64 | None:
    """
    Draw what ``np.random.randint(low, high, size=count)`` would draw, and leave NumPy's global generator in
    the state that this would leave it in.

    :param low: the smallest number
    :param high: one more than the largest
    :param count: how many
    :return: the numbers, ``(count,)``, or None if there are many or only NumPy can draw them; nothing was
        drawn then
    """

def sample_batches(
    buffer: dict[str, Any], n_batches: int, batch_size: int, flat: bool
) -> tuple[Any, Any, Any, NDArray[Any], NDArray[Any]] | None:
    """
    Draw batches from a replay buffer, of each the rows and then the environments, as ``np.random.randint``
    would, and copy them, if the columns are C-contiguous numbers and the batches small enough to hold the GIL
    for.

    :param buffer: the ``__dict__`` of the buffer
    :param n_batches: number of batches
    :param batch_size: transitions of each
    :param flat: put the batches one after the other, in one axis; otherwise ``(n_batches, batch_size)`` are
        the first axes
    :return: new arrays, or dicts of arrays where the buffer has them: observations, actions, next
        observations, which episodes ended without being cut, and rewards, the last two with an axis of length
        one at the end. None if there is more to it than to copy; nothing was drawn then
    """

def store_step(
    buffer: dict[str, Any],
    obs: Any,
    next_obs: Any,
    action: Any,
    reward: Any,
    done: Any,
    infos: list[dict[str, Any]],
) -> bool:
    """
    Store one step of a replay buffer and move its cursor on, if every array is one that only needs to be
    copied: C-contiguous, of its column's dtype (or boolean for float32) and shape, but for axes of length one
    at the end.

    :param buffer: the ``__dict__`` of the buffer; ``pos`` and ``full`` are set
    :param obs: observations, or a dict of them
    :param next_obs: what followed
    :param action: actions
    :param reward: rewards
    :param done: whether the episodes ended
    :param infos: one dict for each environment, with a bool as ``"TimeLimit.truncated"`` or nothing
    :return: whether it was stored; nothing has changed if not
    :raises ValueError: observations are not those that the buffer keeps beside; nothing has changed then
    """

def take_batch(
    columns: list[NDArray[Any]],
    targets: list[NDArray[Any]],
    rows: NDArray[np.int64],
    envs: NDArray[np.int64],
    capacity: int,
    n_envs: int,
) -> bool:
    """
    Copy transitions from each column to its target, if the arrays are C-contiguous numbers and the targets
    are small enough to hold the GIL for.

    :param columns: ``(capacity, n_envs, ...)``
    :param targets: written, ``(len(rows), ...)``, of the same dtypes
    :param rows: rows of the transitions, counted on past the end
    :param envs: their environments
    :param capacity: rows of every column
    :param n_envs: environments
    :return: whether all was copied; the targets may hold anything if not
    """

def n_step_spans(
    dones: NDArray[np.float32],
    timeouts: NDArray[np.float32],
    cursor: tuple[int, bool],
    n_steps: int,
    steps: NDArray[np.int64],
    envs: NDArray[np.int64],
) -> NDArray[np.int64]:
    """
    Count the steps that belong to each n-step return: up to ``n_steps``, not past the end of the
    episode and not past the newest row.

    :param dones: not 0 where an episode ended, ``(buffer_size, n_envs)``
    :param timeouts: not 0 where it was cut, ``(buffer_size, n_envs)``
    :param cursor: the row that is written next, and whether all rows hold data
    :param n_steps: most steps of a return
    :param steps: row of each first step
    :param envs: environment of each first step
    :return: as many numbers from 1 to ``n_steps``
    :raises IndexError: a row holds no data
    :raises ValueError: the shapes differ or the cursor is no row
    """

@final
class TerminalObs:
    """
    Next observations that the next row of a replay buffer does not hold, by the index ``row * n_envs + env``
    of the transition that led to them. Can be pickled and copied.

    :param transitions: indices, as :meth:`export` gave them
    :param observations: their bytes, one after the other
    :raises ValueError: these are not as many observations
    """

    def __new__(
        cls, transitions: _I64 | None = None, observations: NDArray[np.uint8] | None = None
    ) -> TerminalObs: ...
    def __len__(self) -> int: ...
    def before_write(
        self, cursor: tuple[int, int, bool], column: NDArray[np.uint8], seen: NDArray[np.uint8], n_envs: int
    ) -> None:
        """
        Keep what lies at the cursor where it is not what is seen now, before that is written there.

        :param cursor: number of rows, the row that is written next, whether all rows hold data
        :param column: bytes of all observations
        :param seen: bytes of the observations that are written next
        :param n_envs: number of environments
        :raises ValueError: the sizes do not fit
        """

    def patch(self, transitions: _I64, gathered: NDArray[np.uint8]) -> None:
        """
        :param transitions: indices
        :param gathered: bytes of the next row's observation of each; written where another one is kept
        :raises ValueError: the sizes do not fit
        """

    def clear(self) -> None:
        """Forget all."""

    def export(self) -> tuple[_I64, NDArray[np.uint8]]:
        """
        :return: indices of the transitions, rising, and the bytes that followed each
        """

# Environments

@final
class Infos(list[dict[str, Any]]):
    """
    A list whose dicts are made when they are first read. It acts as a ``list`` and to ``isinstance`` it is
    one, but no C code may look into it as into a list.

    :param items: its items
    """

    def __new__(cls, items: Iterable[Any]) -> Infos: ...

@final
class EnvBatch:
    """
    Environments of one kind, stepped together.

    :param env_id: one of the keys of :func:`env_specs`
    :param n_envs: how many, at least 1
    :param weak_scalars: a Python float takes the type of the NumPy scalar it meets (NumPy 2)
    :param pow_squares: CartPole squares with the C library's ``pow`` (Gymnasium before 1.0)
    :param fused_uniform: NumPy's ``uniform`` multiplies and adds with one rounding (arm64)
    :param compensated_sum: Python's ``sum`` carries rounding errors along (Python 3.12)
    :raises ValueError: unknown id, or no environments
    """

    t_start: float
    time_limit: int | None

    def __new__(
        cls,
        env_id: str,
        n_envs: int,
        *,
        weak_scalars: bool,
        pow_squares: bool,
        fused_uniform: bool,
        compensated_sum: bool,
    ) -> EnvBatch: ...
    def reset(
        self, seeds: Sequence[Sequence[int] | None], bounds: Sequence[Sequence[float] | None]
    ) -> NDArray[np.float32]:
        """
        :param seeds: 32-bit words of a seed per environment, or None to go on with its generator
        :param bounds: the two numbers an initial state is drawn from, or None for the usual ones
        :return: first observations ``(n_envs, obs)``
        :raises RuntimeError: closed, or no seed and no generator
        """

    def step(
        self, actions: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], Infos]:
        """
        :param actions: integers ``(n_envs,)`` or floats ``(n_envs, width)``
        :return: observations ``(n_envs, obs)``, rewards, dones, infos, all new
        :raises ValueError: wrong dtype, shape or value; no environment has moved
        :raises RuntimeError: closed, or not reset
        """

    def get_state(self, env: int) -> dict[str, Any]:
        """
        :param env: index of an environment
        :return: its physics, constants, generator and running episode as plain Python values
        :raises IndexError: no such environment
        """

    def set_state(self, env: int, state: dict[str, Any]) -> None:
        """
        :param env: index of an environment
        :param state: what :meth:`get_state` gave for the same id
        :raises ValueError: it does not fit; nothing has changed
        :raises IndexError: no such environment
        """

    def set_param(self, env: int, name: str, value: float) -> None:
        """
        :param env: index of an environment
        :param name: a physical constant; see ``params`` in :func:`env_specs`
        :param value: its number, flags are 0 or 1
        :raises AttributeError: no such constant
        :raises ValueError: not a number
        """

    def has_rng(self, env: int) -> bool:
        """
        :param env: index of an environment
        :return: whether it can be reset without a seed
        """

    def close(self) -> None:
        """Make every later reset and step an error."""

def env_specs() -> dict[str, dict[str, Any]]:
    """
    :return: ``entry_point``, ``max_episode_steps``, ``params``, ``options`` and ``default_bounds`` by id
    """

# Policies

@final
class Actor:
    """
    A policy made of a perceptron and a distribution, with a generator that is seeded with 0.

    :param layers: (inputs, outputs, activation, its parameter) of each dense layer
    :param head_name: what the outputs mean
    :param options: options of each choice of a ``multi_categorical`` head
    :param numbers: standard deviations (``gaussian``; ``state_dependent``: one row for each feature),
        probability to explore (``epsilon_greedy``)
    :raises ValueError: unknown names, or widths that do not fit
    """

    rng_state: tuple[int, int]

    def __new__(
        cls,
        layers: Sequence[tuple[int, int, str, float]],
        head_name: str,
        options: Sequence[int],
        numbers: Sequence[float],
    ) -> Actor: ...
    def load(self, index: int, weights: NDArray[np.float32], bias: NDArray[np.float32] | None) -> None:
        """
        :param index: number of a layer
        :param weights: ``(outputs, inputs)``, copied
        :param bias: ``(outputs,)``, copied; zeros if None
        :raises ValueError: no such layer, or another shape
        """

    def changed(self, arrays: list[NDArray[np.float32]]) -> bool:
        """
        :param arrays: C-contiguous arrays
        :return: whether they hold other numbers than at the last call
        """

    def set_numbers(self, numbers: Sequence[float]) -> None:
        """
        :param numbers: as at construction
        :raises ValueError: too many or too few
        """

    def seed(self, seed: int) -> None:
        """
        :param seed: the generator restarts as ``np.random.PCG64(seed)``; below 2^64
        """

    def outputs(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """
        :param obs: ``(batch, inputs)``
        :return: what the network gives, ``(batch, outputs)``
        :raises ValueError: another number of inputs
        """

    def log_probs(self, obs: NDArray[np.float32], actions: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """
        :param obs: ``(batch, inputs)``
        :param actions: one after the other, choices and coins as whole numbers
        :return: their log-likelihoods, ``(batch,)``; None if the head has none that Rust knows
        :raises ValueError: another number of inputs or of actions, or an action is none
        """

    def features(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """
        :param obs: ``(batch, inputs)``
        :return: what the last layer takes, ``(batch, features)``
        :raises ValueError: another number of inputs
        """

    def explore(self, n_envs: int, every: int) -> None:
        """
        Draw the exploration matrices of a ``state_dependent`` head; other heads have none.

        :param n_envs: environments, each with its own
        :param every: draw others after this many batches of ``n_envs`` rows; 0 for never
        """

    @property
    def draws(self) -> int:
        """
        :return: how often exploration matrices were drawn
        """

    def matrices(self) -> NDArray[np.float32]:
        """
        :return: the exploration matrices one after the other: a common one, then one for each environment
        """

    def choose(self, obs: NDArray[np.float32], deterministic: bool) -> NDArray[np.int64]:
        """
        :param obs: ``(batch, inputs)``
        :param deterministic: take the most likely choices
        :return: ``(batch, choices)``
        :raises ValueError: the head gives no integers, or its logits are not finite
        """

    def act(self, obs: NDArray[np.float32], deterministic: bool) -> NDArray[np.float32]:
        """
        :param obs: ``(batch, inputs)``
        :param deterministic: take the means, or each coin's likelier side
        :return: ``(batch, numbers)``
        :raises ValueError: the head gives integers, or a coin's odds are not a number
        """

def collect(
    envs: EnvBatch,
    actor: Actor,
    bounds: tuple[NDArray[np.float32], NDArray[np.float32]],
    last_obs: NDArray[np.float32],
    last_starts: NDArray[np.bool_],
    observations: NDArray[np.float32],
    actions: NDArray[np.int64] | NDArray[np.float32],
    rewards: NDArray[np.float32],
    episode_starts: NDArray[np.float32],
) -> tuple[
    int,
    BaseException | None,
    list[tuple[int, int, dict[str, Any]]],
    list[tuple[int, int, NDArray[np.float32]]],
    list[dict[str, Any]],
]:
    """
    Step environments with samples of an actor until C-contiguous columns are full, or a signal's handler
    raises an exception.

    :param envs: environments
    :param actor: the policy
    :param bounds: lowest and highest action; floats are clipped on their way to the environments
    :param last_obs: the present observations ``(n_envs, obs)``, changed with every step
    :param last_starts: whether they are the first of an episode ``(n_envs,)``, changed with every step
    :param observations: written, ``(n_steps, n_envs, obs)``
    :param actions: written as the policy gave them, ``(n_steps, n_envs, width)``
    :param rewards: written, ``(n_steps, n_envs)``
    :param episode_starts: written, 0 or 1, ``(n_steps, n_envs)``
    :return: steps taken; what a signal's handler raised after them; (step, environment, Monitor's entry) of
        each finished episode; (step, environment, last observation) of each that the time limit alone ended;
        the infos of the last step
    :raises ValueError: policy, environments and columns do not fit, or an action is not valid
    :raises RuntimeError: closed, or not reset
    """

def explore(
    envs: EnvBatch,
    actor: Actor,
    last_obs: _F32,
    plan: tuple[list[bool], _I64 | _F32, _F32 | None, tuple[_F32, _F32], bool],
    columns: tuple[_F32, _F32 | TerminalObs, _I64 | _F32, _F32, _F32, _F32 | None],
    cursor: tuple[int, int, bool],
) -> tuple[
    int,
    BaseException | None,
    list[tuple[int, int, dict[str, Any]]],
    tuple[_I64 | _F32, _I64 | _F32, _F32, _F32, NDArray[np.bool_], list[dict[str, Any]]],
]:
    """
    Step environments and store every step in the C-contiguous columns of a replay buffer.

    :param envs: environments
    :param actor: the policy; its floats are in [-1, 1]
    :param last_obs: the present observations ``(n_envs, obs)``
    :param plan: for each step whether its actions are drawn; the actions of those steps, as the environments
        take them; noise on scaled actions ``(n_steps, n_envs, width)``; lowest and highest action; whether
        to stop after a step that ends an episode
    :param columns: observations, next observations or what keeps those that the next row does not hold,
        actions (floats scaled to [-1, 1]), rewards, dones, timeouts unless they do not count
    :param cursor: number of rows, the row that is written next, whether all rows hold data
    :return: steps taken; the error of the one after them, or what a signal's handler raised; (step,
        environment, Monitor's entry) of each episode that ended before the last step; the last step's
        actions, the same as stored, observations, rewards, dones and infos
    :raises ValueError: the parts do not fit each other; nothing has happened
    :raises RuntimeError: the environments are closed
    """

# Threads

def threads_count() -> int:
    """
    :return: how many threads work at most: ``MLX_BASELINES3_THREADS``, else one for each core
    :raises ValueError: the variable holds no such number
    """

def set_threads(count: int | None) -> None:
    """
    :param count: the number of threads from here on; None asks the environment variable again
    :raises ValueError: it is not from 1 to 1024
    """

# The BLAS bridge, on Linux only

if sys.platform == "linux":
    __all__ += ["blas_calls", "blas_install"]

    def blas_install(sgemm: int, dgemm: int, wide: bool, threads: tuple[int, int]) -> None:
        """
        Answer ``cblas_sgemm`` and ``cblas_dgemm`` with the functions at these addresses. They must belong
        to a library that stays loaded.

        :param sgemm: address of its ``cblas_sgemm``
        :param dgemm: address of its ``cblas_dgemm``
        :param wide: whether its sizes have 64 bits
        :param threads: addresses of its ``openblas_get_num_threads`` and ``openblas_set_num_threads``, with
            which small products are kept on one thread; zeros leave the threads alone
        :raises ValueError: an address is 0, or a small product comes out wrong
        """

    def blas_calls() -> int:
        """
        :return: products answered in this process
        """

# Gradient steps

# Inputs; outputs, place of the weights and of the biases for each part; activation and its number.
_Layer: TypeAlias = tuple[int, list[tuple[int, int, int | None]], str, float]

# ``parameters``, ``means`` and ``squares`` (running averages of the gradient and of its square), all three
# written; ``before``, the averages that the first step starts from, None if those are meant; ``steps`` so
# far; ``learning_rate``; ``rule``, ``smoothing``, ``eps`` and ``bias_correction``.
_Trained: TypeAlias = dict[str, Any]

@final
class OnPolicyUpdate:
    """
    The gradient steps of PPO and A2C.

    :param actor: its layers
    :param critic: its layers
    :param head: ``choices``, ``coins`` or ``gaussian``
    :param options: options of each choice, or the one number of coins or normal distributions
    :param log_std: where the logarithms of the deviations begin (``gaussian``)
    :param size: numbers of all parameters
    :raises ValueError: the networks do not fit each other
    """

    def __new__(
        cls,
        actor: list[_Layer],
        critic: list[_Layer],
        head: str,
        options: list[int],
        log_std: int,
        size: int,
    ) -> OnPolicyUpdate: ...
    def epoch(
        self,
        rollout: dict[str, _F32],
        order: NDArray[np.uint32],
        batch_size: int,
        settings: dict[str, Any],
        trained: _Trained,
    ) -> tuple[NDArray[np.float64], bool, int]:
        """
        One pass over a rollout.

        :param rollout: ``observations``, ``actions``, ``values``, ``log_probs``, ``advantages`` and
            ``returns``, flat
        :param order: the rows in their order
        :param batch_size: rows of a gradient step
        :param settings: ``clip_range`` (None: A2C's objective), ``clip_range_vf`` (or None), ``ent_coef``,
            ``vf_coef``, ``max_grad_norm``, ``target_kl`` (or None), ``normalize`` (the advantages)
        :param trained: the parameters
        :return: for each minibatch loss, entropy loss, policy loss, value loss, divergence and clipped
            fraction; whether it ended early; steps of the optimizer so far
        :raises ValueError: the sizes do not fit, or an action is none
        """

@final
class QUpdate:
    """
    The gradient steps of DQN.

    :param layers: layers of the Q network
    :param size: numbers of all parameters
    :raises ValueError: the layers do not fit each other
    """

    def __new__(cls, layers: list[_Layer], size: int) -> QUpdate: ...
    def run(
        self, batches: dict[str, _F32], count: int, max_grad_norm: float, target: _F32, trained: _Trained
    ) -> tuple[list[float], int]:
        """
        Some gradient steps.

        :param batches: ``observations``, ``next_observations``, ``actions``, ``rewards``, ``dones`` and
            ``discounts`` of all batches, flat; one discount for each batch or each row
        :param count: number of batches
        :param max_grad_norm: largest norm of the gradient
        :param target: parameters of the target network
        :param trained: the parameters
        :return: the losses, and steps of the optimizer so far
        :raises ValueError: the sizes do not fit, or an action is none
        """

@final
class ActorCriticUpdate:
    """
    The gradient steps of TD3, DDPG and SAC.

    :param actor: its layers
    :param critics: the layers of each
    :param squashed: the actor gives means and logarithms of deviations (SAC) and not actions (TD3)
    :param sizes: numbers of the actor's parameters, and of all critics'
    :raises ValueError: the networks do not fit each other
    """

    def __new__(
        cls, actor: list[_Layer], critics: list[list[_Layer]], squashed: bool, sizes: Sequence[int]
    ) -> ActorCriticUpdate: ...
    def run(
        self,
        batches: dict[str, Any],
        flags: Sequence[tuple[bool, bool]],
        settings: dict[str, Any],
        slow_copies: Sequence[_F32],
        trained: Sequence[_Trained],
    ) -> tuple[list[list[float]], list[int]]:
        """
        Some gradient steps.

        :param batches: ``transitions`` as :meth:`QUpdate.run`, and standard normals: ``noise`` for the
            actions at the observations (none if the actor is not squashed), ``next_noise`` for those at the
            next ones
        :param flags: for each batch whether the actor learns and whether slow copies follow
        :param settings: ``tau``; ``smoothing``, deviation and bound of the noise that smooths targets;
            ``ent_coef``, weight of the entropy where it is not learned; ``target_entropy`` where it is
        :param slow_copies: parameters of the actor's (empty if squashed) and of the critics', written
        :param trained: the parameters of the actor, of the critics, and the entropy's weight if it is learned
        :return: for each batch the critics' loss, the actor's, the entropy's weight and its loss (nan where
            there is none); steps of the optimizers so far
        :raises ValueError: the sizes do not fit
        """
