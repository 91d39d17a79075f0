"""
What the Rust extension offers to the package. Nothing here is public.

Any function raises :class:`MemoryError` for sizes that there is no memory for, :class:`ValueError` for
arrays that are not C-contiguous or share memory with one that is written, and :class:`RuntimeError` for a
mistake of its own. Long ones run Python's signal handlers about ten times a second, and end with what those
raise.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ActionBounds",
    "Actor",
    "ActorCriticResult",
    "ActorCriticUpdate",
    "CollectedRollout",
    "CollectedTransitions",
    "Copies",
    "EnvBatch",
    "FinishedEpisode",
    "Infos",
    "LastStep",
    "LearnedChunk",
    "LearnedRollouts",
    "Lstm",
    "OnPolicyResult",
    "OnPolicyUpdate",
    "QResult",
    "QUpdate",
    "RecurrentUpdate",
    "ReplayColumns",
    "SampledBatches",
    "Snapshot",
    "Storage",
    "TerminalObs",
    "TimedOutEpisode",
    "__version__",
    "collect_rollout",
    "collect_transitions",
    "env_specs",
    "evaluate_candidates",
    "flatten_env_major",
    "gae",
    "gather",
    "learn_on_policy",
    "learn_q",
    "n_step_spans",
    "permutation",
    "polyak_average",
    "randint",
    "sample_batches",
    "set_threads",
    "store_step",
    "take_batch",
    "threads_count",
]

__version__: str

_F32: TypeAlias = NDArray[np.float32]
_F64: TypeAlias = NDArray[np.float64]
_I64: TypeAlias = NDArray[np.int64]
_U8: TypeAlias = NDArray[np.uint8]
# An observation's column or batch, of a Dict space one for each key.
_Field: TypeAlias = NDArray[Any] | dict[str, NDArray[Any]]

# Buffers

@type_check_only
class Cursor(TypedDict):
    """Where a buffer stands: its rows, the row that is written next, whether all rows hold data."""

    capacity: int
    pos: int
    full: bool

@final
class Storage:
    """
    Zeroed columns in one block of memory owned by Rust.

    :param rows: rows of every column
    :param columns: bytes of a row, by name
    :raises MemoryError: the block cannot be had
    """

    def __new__(cls, rows: int, columns: dict[str, int]) -> Storage: ...
    def column(self, name: str) -> _U8:
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
    *,
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

def flatten_env_major(source: _U8, target: _U8, n_steps: int, n_envs: int) -> None:
    """
    Copy ``(n_steps, n_envs)`` rows into ``(n_envs, n_steps)`` order.

    :param source: bytes of the rows
    :param target: written, as many bytes
    :param n_steps: steps
    :param n_envs: environments
    :raises ValueError: the lengths do not fit
    """

def gather(sources: Sequence[_U8], targets: Sequence[_U8], indices: _I64) -> None:
    """
    Copy the rows named by ``indices`` from each source to its target, in that order.

    :param sources: bytes of the rows of each source
    :param targets: written, bytes of ``len(indices)`` rows for each source
    :param indices: row numbers
    :raises IndexError: a row does not exist, or the lengths do not fit
    :raises ValueError: there are not as many targets as sources
    """

def permutation(count: int) -> NDArray[np.uint32] | None:
    """
    Draw what ``np.random.permutation(count)`` would draw, and leave NumPy's global generator in the state
    that this would leave it in.

    :param count: how many numbers
    :return: the numbers, ``(count,)``, or None if only NumPy can draw them; nothing was drawn then
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

@final
class SampledBatches:
    """
    Batches of transitions in new arrays, with the dtypes of the columns. ``dones`` are 1 where an episode
    ended and was not truncated; they and ``rewards`` have an axis of length one at the end.
    """

    observations: Final[_Field]
    actions: Final[NDArray[Any]]
    next_observations: Final[_Field]
    dones: Final[_F32]
    rewards: Final[_F32]

def sample_batches(
    buffer: dict[str, Any], n_batches: int, batch_size: int, flat: bool
) -> SampledBatches | None:
    """
    Draw batches from a replay buffer, of each the rows and then the environments, as ``np.random.randint``
    would, and copy them, if the columns are C-contiguous numbers and the batches small enough to hold the GIL
    for.

    :param buffer: the ``__dict__`` of the buffer, as for :func:`store_step`; ``n_envs`` is read, too
    :param n_batches: number of batches
    :param batch_size: transitions of each
    :param flat: put the batches one after the other, in one axis; otherwise ``(n_batches, batch_size)`` are
        the first axes
    :return: the batches; None if there is more to it than to copy, and nothing was drawn then
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

    :param buffer: the ``__dict__`` of the buffer, whose lookup in Rust takes a third of the time of handing
        over each attribute: the columns ``observations``, ``next_observations``, ``actions``, ``rewards``,
        ``dones`` and ``timeouts`` as they are now, ``_terminal``, ``handle_timeout_termination`` and
        ``buffer_size`` are read; ``pos`` and ``full`` are read and set
    :param obs: observations, or a dict of them
    :param next_obs: what followed
    :param action: actions
    :param reward: rewards
    :param done: whether the episodes ended
    :param infos: one dict for each environment, with a bool as ``"TimeLimit.truncated"`` or nothing
    :return: whether it was stored; nothing has changed if not
    :raises ValueError: the observations kept apart do not fit these; nothing has changed then
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
    cursor: Cursor,
    n_steps: int,
    steps: NDArray[np.int64],
    envs: NDArray[np.int64],
) -> NDArray[np.int64]:
    """
    Count the steps that belong to each n-step return: up to ``n_steps``, not past the end of the
    episode and not past the newest row.

    :param dones: not 0 where an episode ended, ``(buffer_size, n_envs)``
    :param timeouts: not 0 where it was truncated, ``(buffer_size, n_envs)``
    :param cursor: where the buffer stands
    :param n_steps: most steps of a return
    :param steps: row of each first step
    :param envs: environment of each first step
    :return: as many numbers from 1 to ``n_steps``
    :raises IndexError: a row holds no data
    :raises ValueError: the shapes differ or the cursor does not fit
    """

@type_check_only
class TerminalArrays(TypedDict):
    """Indices of transitions, rising, and the bytes that followed each."""

    transitions: _I64
    observations: _U8

@final
class TerminalObs:
    """
    Next observations that the next row of a replay buffer does not hold, by the index ``row * n_envs + env``
    of the transition that led to them. Can be pickled and copied.

    :param transitions: indices, as :meth:`export` gave them
    :param observations: their bytes, one after the other
    :raises ValueError: these are not as many observations
    """

    def __new__(cls, transitions: _I64 | None = None, observations: _U8 | None = None) -> TerminalObs: ...
    def __len__(self) -> int: ...
    def before_write(self, cursor: Cursor, column: _U8, seen: _U8, n_envs: int) -> None:
        """
        Keep what lies at the cursor where it is not what is seen now, before that is written there.

        :param cursor: where the buffer stands
        :param column: bytes of all observations
        :param seen: bytes of the observations that are written next
        :param n_envs: number of environments
        :raises ValueError: the sizes do not fit
        """

    def patch(self, transitions: _I64, gathered: _U8) -> None:
        """
        :param transitions: indices
        :param gathered: bytes of the next row's observation of each; written where another one is kept
        :raises ValueError: the sizes do not fit
        """

    def clear(self) -> None:
        """Forget all."""

    def export(self) -> TerminalArrays:
        """
        :return: all that is kept
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

    def action_masks(self) -> NDArray[np.float32]:
        """
        :return: ``(n_envs, choices)``, 1 where a choice is allowed now, else 0
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

@type_check_only
class EnvSpec(TypedDict):
    """
    A native environment: Gymnasium's entry point and time limit, how many choices of an action may be
    forbidden (0 if all are always allowed), the names of its physical constants and of its reset options, and
    the bounds without options.
    """

    entry_point: str
    max_episode_steps: int
    choices: int
    params: list[str]
    options: list[str]
    default_bounds: list[float]

def env_specs() -> dict[str, EnvSpec]:
    """
    :return: the native environments by id
    """

# Policies

@type_check_only
class LayerSpec(TypedDict):
    """A linear layer, and the activation after it with its parameter."""

    inputs: int
    outputs: int
    activation: str
    parameter: float

@type_check_only
class ConvolutionLayer(TypedDict):
    """
    A convolution of channel-first images ``(channels, height, width)`` whose ``(out, in, height, width)``
    weights and biases begin at these places of a vector, and the activation after it with its parameter.
    """

    input: tuple[int, int, int]
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    weights: int
    bias: int | None
    activation: str
    parameter: float

@type_check_only
class LinearLayer(TypedDict):
    """The same of a linear layer with ``(outputs, inputs)`` weights."""

    inputs: int
    outputs: int
    weights: int
    bias: int | None
    activation: str
    parameter: float

@type_check_only
class FeatureBranch(TypedDict):
    """
    What makes features of one of the arrays of an observation: which one, how many numbers it has, what these
    are multiplied with, the layers.
    """

    column: int
    inputs: int
    scale: float
    convolutions: list[ConvolutionLayer]
    linears: list[LinearLayer]

_Column: TypeAlias = _F32 | _U8
# A batch of observations (batch, inputs): one array, or those that a features extractor takes.
_Obs: TypeAlias = _Column | list[_Column]

@type_check_only
class RngState(TypedDict):
    """State and increment of a generator, as NumPy's PCG64 has them."""

    state: int
    inc: int

@final
class Copies:
    """
    The bytes of arrays at one moment.

    :param arrays: whatever NumPy can read
    """

    def __new__(cls, arrays: Sequence[ArrayLike]) -> Copies: ...
    def count_same(self, arrays: Sequence[ArrayLike]) -> int:
        """
        :param arrays: others, in the same order
        :return: how many of them have the same bytes, counted up to the first that does not; it never does
            if it has anything but booleans, integers and floats in the machine's byte order
        """

@final
class Snapshot:
    """
    Entries of dictionaries and methods of classes at one moment.

    :param holders: the dictionaries
    :param ignored: keys whose values do not matter
    :param arrays: the class of the values that are compared by shape, all others by identity
    :param methods: classes, and names of their attributes
    :raises AttributeError: a class has no such attribute
    """

    def __new__(
        cls,
        holders: Sequence[dict[str, Any]],
        ignored: frozenset[str],
        arrays: type,
        methods: Sequence[tuple[type, str]],
    ) -> Snapshot: ...
    def is_current(self) -> bool:
        """
        :return: whether the dictionaries have the same keys in the same order and their values are as they
            were, and so are the methods
        """

    def is_same(self) -> bool | None:
        """
        :return: whether the arrays are the objects of the last call, which are kept until the next; None if
            the snapshot is not current
        """

@final
class Actor:
    """
    A policy made of an MLP and a distribution, with a generator that is seeded with 0. Observations are one
    float32 array ``(batch, inputs)``; with a features extractor, float32 or uint8 arrays for its branches.

    :param layers: the layers of the MLP
    :param head_name: what the outputs mean
    :param options: categories of each distribution of a ``multi_categorical`` head, the number of actions of
        a ``greedy_quantiles`` head
    :param numbers: logarithms of the standard deviations (``gaussian``), standard deviations
        (``state_dependent``: one row for each feature), probability to explore (``epsilon_greedy``)
    :param branches: a features extractor before the layers
    :raises ValueError: unknown names, or widths that do not fit
    """

    rng_state: RngState

    def __new__(
        cls,
        layers: Sequence[LayerSpec],
        head_name: str,
        options: Sequence[int],
        numbers: Sequence[float],
        branches: Sequence[FeatureBranch] | None = None,
    ) -> Actor: ...
    def load_extractor(self, parameters: _F32) -> None:
        """
        :param parameters: those of the features extractor at the places that its branches say; copied
        :raises ValueError: too few, or there is no extractor
        """

    def set_matrices(self, matrices: _F32) -> None:
        """
        :param matrices: exploration matrices of gSDE, that for all rows first; copied
        :raises ValueError: the size is not that of whole matrices, or the head has none
        """

    def load(self, index: int, weights: NDArray[np.float32], bias: NDArray[np.float32] | None) -> None:
        """
        :param index: number of a layer
        :param weights: ``(outputs, inputs)``, copied
        :param bias: ``(outputs,)``, copied; zeros if None
        :raises ValueError: no such layer, or another shape
        """

    def changed(self, arrays: Sequence[ArrayLike]) -> bool:
        """
        :param arrays: whatever NumPy can read, MLX's arrays without a copy
        :return: whether they hold other numbers than at the last call; always if not all are float32
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

    def outputs(self, obs: _Obs) -> NDArray[np.float32]:
        """
        :param obs: ``(batch, inputs)``
        :return: the outputs of the network, ``(batch, outputs)``
        :raises ValueError: another number of inputs
        """

    def log_probs(
        self, obs: _Obs, actions: NDArray[np.float32], masks: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | None:
        """
        :param obs: ``(batch, inputs)``
        :param actions: one after the other, discrete and binary ones as whole numbers
        :param masks: for each category of each row 0 where it was not allowed; None: all were
        :return: their log-likelihoods, ``(batch,)``; None if the head has none that Rust knows
        :raises ValueError: another number of inputs or of actions, or an action is none
        """

    def features(self, obs: _Obs) -> NDArray[np.float32]:
        """
        :param obs: ``(batch, inputs)``
        :return: the inputs of the last layer, ``(batch, features)``
        :raises ValueError: another number of inputs
        """

    def extract(self, obs: _Obs) -> NDArray[np.float32]:
        """
        :param obs: ``(batch, inputs)``
        :return: the inputs of the first layer, ``(batch, features)``: what the features extractor gives
        :raises ValueError: another number of inputs
        """

    def reset_noise(self, n_envs: int, every: int) -> None:
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

    def choose(
        self, obs: _Obs, deterministic: bool, masks: NDArray[np.float32] | None = None
    ) -> NDArray[np.int64]:
        """
        :param obs: ``(batch, inputs)``
        :param deterministic: take the most likely categories
        :param masks: for each category of each row 0 where it is not allowed; None: all are
        :return: ``(batch, actions)``
        :raises ValueError: the head gives no integers, or its logits are not finite
        """

    def act(self, obs: _Obs, deterministic: bool) -> NDArray[np.float32]:
        """
        :param obs: ``(batch, inputs)``
        :param deterministic: take the means, or each Bernoulli distribution's mode
        :return: ``(batch, numbers)``
        :raises ValueError: the head gives integers, or a logit is not a number
        """

# Collection

@final
class ActionBounds:
    """
    The bounds of a continuous action space.

    :param low: the lowest action ``(width,)``; empty for a discrete space
    :param high: the highest one
    """

    def __new__(cls, *, low: _F32, high: _F32) -> ActionBounds: ...

@type_check_only
class CurrentObs(TypedDict):
    """The present observations ``(n_envs, obs)``, and whether they start an episode ``(n_envs,)``."""

    obs: _F32
    episode_starts: NDArray[np.bool_]

@type_check_only
class RolloutColumns(TypedDict):
    """
    Rows of a rollout buffer, ``(n_steps, n_envs, ...)`` each; the masks of actions, which tell the policy
    what the environments allow, may be None.
    """

    observations: _F32
    actions: _I64 | _F32
    rewards: _F32
    episode_starts: _F32
    masks: _F32 | None

@final
class ReplayColumns:
    """
    The columns of a replay buffer, ``(rows, n_envs, ...)`` each.

    :param observations: observations
    :param next_observations: what followed, or what keeps those that the next row does not hold
    :param actions: continuous ones are scaled to [-1, 1]
    :param rewards: rewards
    :param dones: 0 or 1
    :param timeouts: 0 or 1; None if they do not count
    """

    def __new__(
        cls,
        *,
        observations: _F32,
        next_observations: _F32 | TerminalObs,
        actions: _I64 | _F32,
        rewards: _F32,
        dones: _F32,
        timeouts: _F32 | None,
    ) -> ReplayColumns: ...

@type_check_only
class ActionPlan(TypedDict):
    """
    How the actions of a chunk of steps come about: for each step whether its actions are random and not the
    policy's; the random actions, as the environments take them; noise on scaled actions
    ``(n_steps, n_envs, width)``; whether to stop after a step that ends an episode.
    """

    is_random: list[bool]
    random_actions: _I64 | _F32
    noise: _F32 | None
    until_end: bool

@final
class FinishedEpisode:
    """The step of a chunk that an episode ended with, its environment, and the entry for Monitor's file."""

    step: Final[int]
    env: Final[int]
    monitor_entry: Final[dict[str, Any]]

@final
class TimedOutEpisode:
    """The step of a chunk where the time limit ended an episode, its environment and last observation."""

    step: Final[int]
    env: Final[int]
    last_obs: Final[_F32]

@final
class CollectedRollout:
    """
    Steps taken; what a signal's handler raised after them; the episodes that ended; those that the time limit
    alone ended; the infos of the last step.
    """

    n_steps: Final[int]
    error: Final[BaseException | None]
    episodes: Final[list[FinishedEpisode]]
    timeouts: Final[list[TimedOutEpisode]]
    infos: Final[list[dict[str, Any]]]

@final
class LastStep:
    """
    The last step of a chunk: actions as the environments took them and as the buffer has them, observations,
    rewards, dones and infos. After an error the observations alone are of use.
    """

    actions: Final[_I64 | _F32]
    buffer_actions: Final[_I64 | _F32]
    new_obs: Final[_F32]
    rewards: Final[_F32]
    dones: Final[NDArray[np.bool_]]
    infos: Final[list[dict[str, Any]]]

@final
class CollectedTransitions:
    """
    Steps taken and stored; the error of the one after them, or what a signal's handler raised; the episodes
    that ended before the last step, after an error all of them; the last step.
    """

    n_steps: Final[int]
    error: Final[BaseException | None]
    episodes: Final[list[FinishedEpisode]]
    last: Final[LastStep]

def collect_rollout(
    envs: EnvBatch,
    actor: Actor,
    bounds: ActionBounds,
    current: CurrentObs,
    columns: RolloutColumns,
) -> CollectedRollout:
    """
    Step environments with samples of an actor until C-contiguous columns are full, or a signal's handler
    raises an exception.

    :param envs: environments
    :param actor: the policy
    :param bounds: floats are clipped to these on their way to the environments
    :param current: changed with every step
    :param columns: written; actions as the policy gave them
    :return: what happened
    :raises ValueError: policy, environments and columns do not fit, or an action is not valid
    :raises RuntimeError: closed, or not reset
    """

def collect_transitions(
    envs: EnvBatch,
    actor: Actor,
    bounds: ActionBounds,
    last_obs: _F32,
    plan: ActionPlan,
    columns: ReplayColumns,
    cursor: Cursor,
) -> CollectedTransitions:
    """
    Step environments and store every step in the C-contiguous columns of a replay buffer.

    :param envs: environments
    :param actor: the policy; its floats are in [-1, 1]
    :param bounds: those of the actions that the environments take
    :param last_obs: the present observations ``(n_envs, obs)``
    :param plan: how the actions come about
    :param columns: written
    :param cursor: where the buffer stands before the first step
    :return: what happened
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

    def blas_install(sgemm: int, dgemm: int, wide: bool, get_threads: int, set_threads: int) -> None:
        """
        Answer ``cblas_sgemm`` and ``cblas_dgemm`` with the functions at these addresses. They must belong
        to a library that stays loaded.

        :param sgemm: address of its ``cblas_sgemm``
        :param dgemm: address of its ``cblas_dgemm``
        :param wide: whether its sizes have 64 bits
        :param get_threads: address of its ``openblas_get_num_threads``, with which and the next one small
            products are kept on one thread; 0 leaves the threads alone
        :param set_threads: address of its ``openblas_set_num_threads``
        :raises ValueError: an address is 0, or a small product comes out wrong
        """

    def blas_calls() -> int:
        """
        :return: products answered in this process
        """

# Gradient steps

@type_check_only
class LayerPart(TypedDict):
    """Outputs of a layer, and where their weights and biases begin in the vector of parameters."""

    outputs: int
    weights: int
    bias: int | None

@type_check_only
class TrainableLayer(TypedDict):
    """
    A linear layer whose parameters lie in a vector, and the activation after it with its parameter. Most
    layers have one part.
    """

    inputs: int
    parts: list[LayerPart]
    activation: str
    parameter: float

@type_check_only
class Moments(TypedDict):
    """First moment of the gradient (empty where the optimizer has none) and second moment."""

    exp_avg: _F32
    exp_avg_sq: _F32

@type_check_only
class OptimizerRule(TypedDict):
    """
    ``adam`` (``betas``, ``bias_correction``), ``rmsprop`` or ``rmsprop_tf`` (``alpha``); what the others need
    is not read.
    """

    name: str
    betas: tuple[float, float]
    alpha: float
    eps: float
    bias_correction: bool

@type_check_only
class Trained(Moments):
    """
    Parameters and the moments of their optimizer, all three written. ``previous`` are the moments that the
    first step starts from, None if those are meant; ``before`` gets the parameters that it starts from, if
    given; ``steps`` were made so far.
    """

    parameters: _F32
    previous: Moments | None
    before: _F32 | None
    steps: int
    learning_rate: float
    rule: OptimizerRule

@type_check_only
class RolloutArrays(TypedDict):
    """
    The columns of a rollout, flat; a list of those of the observations. The masks have a number for each
    choice, 0 where it was not allowed; None allows all.
    """

    observations: list[_Column]
    actions: _F32
    values: _F32
    log_probs: _F32
    advantages: _F32
    returns: _F32
    masks: _F32 | None

@type_check_only
class OnPolicySettings(TypedDict):
    """The objective; without a ``clip_range`` it is A2C's. ``normalize`` is about advantages."""

    clip_range: float | None
    clip_range_vf: float | None
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    target_kl: float | None
    normalize: bool

@final
class OnPolicyResult:
    """
    The metrics of each minibatch, whether the epoch stopped early because of ``target_kl``, and the steps of
    the optimizer so far.
    """

    loss: Final[_F64]
    entropy_loss: Final[_F64]
    policy_loss: Final[_F64]
    value_loss: Final[_F64]
    approx_kl: Final[_F64]
    clip_fraction: Final[_F64]
    stopped_early: Final[bool]
    optimizer_steps: Final[int]

@final
class OnPolicyUpdate:
    """
    The gradient steps of PPO and A2C.

    :param actor: its layers
    :param critic: its layers
    :param head: ``categorical``, ``bernoulli``, ``gaussian``, ``state_dependent`` or
        ``squashed_state_dependent``
    :param options: categories of each categorical distribution, or the number of the other distributions
    :param log_std: where the logarithms of the deviations begin (``gaussian``), or those of the noise of the
        state-dependent heads
    :param size: number of all parameters
    :param extractors: the branches of a features extractor that both share, or of one each
    :raises ValueError: the networks do not fit each other
    """

    def __new__(
        cls,
        actor: Sequence[TrainableLayer],
        critic: Sequence[TrainableLayer],
        head: str,
        options: Sequence[int],
        log_std: int | StateNoise,
        size: int,
        extractors: Sequence[Sequence[FeatureBranch]] | None = None,
    ) -> OnPolicyUpdate: ...
    def epoch(
        self,
        rollout: RolloutArrays,
        order: NDArray[np.uint32],
        batch_size: int,
        settings: OnPolicySettings,
        trained: Trained,
    ) -> OnPolicyResult:
        """
        One pass over a rollout.

        :param rollout: the rollout
        :param order: the rows in their order
        :param batch_size: rows of a gradient step
        :param settings: the objective
        :param trained: the parameters
        :return: the metrics
        :raises ValueError: the sizes do not fit, or an action is none
        """

@type_check_only
class TransitionArrays(TypedDict):
    """
    The transitions of all batches, flat; lists of the arrays of the observations; one discount for each batch
    or each row.
    """

    observations: list[_Column]
    next_observations: list[_Column]
    actions: _F32
    rewards: _F32
    dones: _F32
    discounts: _F32

@final
class QResult:
    """The loss of each gradient step, and the steps of the optimizer so far."""

    loss: Final[_F64]
    optimizer_steps: Final[int]

@final
class QUpdate:
    """
    The gradient steps of DQN and QR-DQN.

    :param layers: layers of the Q network
    :param size: number of all parameters
    :param branches: a features extractor before the layers
    :param quantiles: quantiles of the return for each action, (quantiles, actions) in a row of outputs; 0:
        the outputs are the values of the actions
    :raises ValueError: the layers do not fit each other
    """

    def __new__(
        cls,
        layers: Sequence[TrainableLayer],
        size: int,
        branches: Sequence[FeatureBranch] | None = None,
        quantiles: int = 0,
    ) -> QUpdate: ...
    def run(
        self, batches: TransitionArrays, count: int, max_grad_norm: float, target: _F32, trained: Trained
    ) -> QResult:
        """
        Some gradient steps.

        :param batches: the transitions
        :param count: number of batches
        :param max_grad_norm: largest norm of the gradient
        :param target: parameters of the target network
        :param trained: the parameters
        :return: the losses
        :raises ValueError: the sizes do not fit, or an action is none
        """

def polyak_average(source: _F32, target: _F32, tau: float) -> None:
    """
    Move a target network: ``tau * source + (1 - tau) * target``.

    :param source: parameters of a network
    :param target: as many of its target network; written
    :param tau: how far
    :raises ValueError: the two have not as many numbers, or share memory
    """

# Evaluation of many policies

@type_check_only
class CandidateBounds(TypedDict):
    """Lowest and highest action ``(width,)`` of the environment; empty if actions are discrete."""

    low: _F32
    high: _F32

@type_check_only
class Candidates(TypedDict):
    """
    Policies of one shape: their layers, and a row of parameters for each. Actions that are ``squashed`` are
    scaled from [-1, 1] to the bounds, others are clipped.
    """

    layers: Sequence[TrainableLayer]
    parameters: _F32
    episodes: int
    bounds: CandidateBounds
    squashed: bool

def evaluate_candidates(
    envs: EnvBatch, actor: Actor, obs: _F32, candidates: Candidates
) -> list[list[dict[str, Any]]]:
    """
    Play episodes with each of many policies, over the cores; as one environment would that plays them one
    after the other. It is left as after the last episode.

    :param envs: one environment that has just been reset
    :param actor: a policy of the same shape
    :param obs: what the reset gave
    :param candidates: the policies
    :return: for each its episodes, as Monitor reports them
    :raises ValueError: the parts do not fit each other, or an action is not finite; nothing has changed then
    :raises RuntimeError: the environment is closed or not reset
    """

# Whole iterations of learn()

@type_check_only
class MultiStep(TypedDict):
    """What each reward of an n-step return counts, and the value after so many steps, from 0 on."""

    discounts: _F32
    bootstraps: _F32

@type_check_only
class QPlan(TypedDict):
    """
    What iterations of DQN are made of: steps of the environments in each; for each step of all of them the
    probability of random actions; at least as many such actions as there may be; gradient steps and learning
    rate of each iteration; the batches; what the target network takes of the Q network and keeps of itself at
    every so many steps; steps made before, and whether those of the first iteration are among them; the
    episode (counted from 1) whose end Python waits for, if any.
    """

    steps: int
    exploration_rates: _F64
    random_actions: _I64
    gradient_steps: int
    learning_rates: _F32
    batch_size: int
    gamma: float
    multi_step: MultiStep | None
    max_grad_norm: float
    shares: tuple[float, float]
    target_interval: int
    steps_before: int
    is_collected: bool
    awaited_episode: int | None

@type_check_only
class ReplayArrays(TypedDict):
    """A replay buffer."""

    columns: ReplayColumns
    cursor: Cursor

@type_check_only
class LearnedVector(TypedDict):
    """
    Parameters and their optimizer. All vectors are written: ``parameters_before`` holds the parameters before
    the last update, and ``moments`` and ``next_moments`` change places with each.
    """

    parameters: _F32
    parameters_before: _F32
    moments: Moments
    next_moments: Moments
    optimizer_steps: int
    rule: OptimizerRule

@type_check_only
class QLearning(TypedDict):
    """What DQN learns with; the parameters of the target network are written, too."""

    network: LearnedVector
    target: _F32
    update: QUpdate

@final
class LearnedChunk:
    """
    What some iterations gave: steps that were stored, how many of them took random actions; updates, the
    losses of the last one, and of one that gave nan or infinity and is not counted; steps of the optimizer so
    far; why there is no next step, if there should be one; the episodes that ended; the present observations.
    """

    n_steps: Final[int]
    n_random_steps: Final[int]
    n_updates: Final[int]
    losses: Final[_F64]
    nonfinite_losses: Final[_F64]
    optimizer_steps: Final[int]
    error: Final[BaseException | None]
    episodes: Final[list[FinishedEpisode]]
    new_obs: Final[_F32]

def learn_q(
    envs: EnvBatch, actor: Actor, last_obs: _F32, plan: QPlan, buffer: ReplayArrays, learned: QLearning
) -> LearnedChunk | None:
    """
    Iterations of DQN: steps into the replay buffer, then gradient steps on what is drawn from it, until there
    are no more learning rates, or after the steps of the iteration in which the awaited episode ends.

    :param envs: environments
    :param actor: the policy; has the weights of some moment afterwards
    :param last_obs: the present observations ``(n_envs, obs)``
    :param plan: what the iterations are made of
    :param buffer: written
    :param learned: written
    :return: what happened; None, and nothing has, where NumPy's global generator is not of the usual kind
    :raises ValueError: the parts do not fit each other; nothing has happened
    :raises RuntimeError: the environments are closed
    """

@type_check_only
class OnPolicyPlan(TypedDict):
    """
    What iterations of PPO and A2C are made of: lowest and highest action; discount factors of what follows a
    time limit, and of the advantages, with lambda; passes over a rollout, and rows of a gradient step (None:
    all); the objective without its clip ranges; learning rate and clip ranges of each update; the state of
    MLX's generator, which the actions of each rollout begin with, and what it moves on by; whether the
    rollout of the first update is there. Without learning rates one rollout is collected.
    """

    bounds: ActionBounds
    gamma: float
    advantage: tuple[float, float]
    epochs: int
    batch_size: int | None
    settings: OnPolicySettings
    learning_rates: _F32
    clip_ranges: _F32 | None
    clip_ranges_vf: _F32 | None
    key: int
    key_step: int
    is_collected: bool

@type_check_only
class RolloutBufferColumns(TypedDict):
    """All columns of a rollout buffer, ``(n_steps, n_envs, ...)`` each."""

    observations: _F32
    actions: _I64 | _F32
    rewards: _F32
    episode_starts: _F32
    values: _F32
    log_probs: _F32
    advantages: _F32
    returns: _F32

@type_check_only
class RolloutLearning(TypedDict):
    """What acts, values and learns; the first two have the weights of some moment afterwards."""

    actor: Actor
    critic: Actor
    update: OnPolicyUpdate
    network: LearnedVector

@final
class LearnedRollouts:
    """
    What some iterations gave: steps that were taken; rollouts that were begun; updates, how many of them
    moved the parameters, and their passes; the metrics of the last one, and the minibatches of each of its
    passes; the losses of one that gave nan or infinity and is not counted; steps of the optimizer so far; why
    there is no next step, if there should be one; the episodes that ended.
    """

    n_steps: Final[int]
    n_rollouts: Final[int]
    n_updates: Final[int]
    n_moves: Final[int]
    n_epochs: Final[int]
    metrics: Final[OnPolicyResult]
    epoch_sizes: Final[list[int]]
    nonfinite_losses: Final[list[float]]
    optimizer_steps: Final[int]
    error: Final[BaseException | None]
    episodes: Final[list[FinishedEpisode]]

def learn_on_policy(
    envs: EnvBatch,
    current: CurrentObs,
    plan: OnPolicyPlan,
    buffer: RolloutBufferColumns,
    parts: RolloutLearning,
) -> LearnedRollouts | None:
    """
    Iterations of PPO or A2C: a rollout with its advantages, then the gradient steps on it, until there are no
    more learning rates.

    :param envs: environments
    :param current: written: the present observations and episode starts
    :param plan: what the iterations are made of
    :param buffer: written
    :param parts: what acts and learns
    :return: what happened; None, and nothing has, where NumPy's global generator is not of the usual kind
    :raises ValueError: the parts do not fit each other; nothing has happened
    :raises RuntimeError: the environments are closed
    """

@type_check_only
class ActorCriticBatches(TypedDict):
    """
    Transitions, and standard normals: ``noise`` for the actions at the observations (empty if the actor is
    not squashed), ``next_noise`` for those at the next ones.
    """

    transitions: TransitionArrays
    noise: _F32
    next_noise: _F32

@type_check_only
class StepFlags(TypedDict):
    """What a gradient step updates besides the critics."""

    update_actor: bool
    update_targets: bool

@type_check_only
class ActorCriticSettings(TypedDict):
    """
    The objective. ``ent_coef`` is the entropy coefficient where it is not learned, ``target_entropy`` the
    target where it is.
    """

    tau: float
    target_policy_noise: float
    target_noise_clip: float
    ent_coef: float
    target_entropy: float

@type_check_only
class StateNoise(TypedDict):
    """
    Noise that depends on the state: where the logarithms of the deviations begin, rows and columns of an
    exploration matrix, whether each entry has its own deviation, whether positive ones are made by ``expln``.
    """

    log_std: int
    features: int
    actions: int
    full: bool
    expln: bool

@type_check_only
class TargetParameters(TypedDict):
    """
    Parameters of the target networks, written: the actor's and the critics'. A squashed actor has none; what
    critics share of it is in the actor's, in the same places as in the actor.
    """

    actor: _F32
    critic: _F32

@type_check_only
class ActorCriticTrained(TypedDict):
    """What has an optimizer; ``ent_coef`` is the logarithm of the coefficient, None if that is fixed."""

    actor: Trained
    critic: Trained
    ent_coef: Trained | None

@final
class ActorCriticResult:
    """
    The metrics of each gradient step, nan where there is none, and the steps of each optimizer so far by the
    names of :class:`ActorCriticTrained`.
    """

    critic_loss: Final[_F64]
    actor_loss: Final[_F64]
    ent_coef: Final[_F64]
    ent_coef_loss: Final[_F64]
    optimizer_steps: Final[dict[str, int]]

@final
class ActorCriticUpdate:
    """
    The gradient steps of TD3, DDPG, SAC and TQC.

    :param actor: its layers
    :param critics: the layers of each
    :param squashed: the actor gives means and logarithms of deviations (SAC) and not actions (TD3)
    :param actor_size: number of the actor's parameters
    :param critic_size: number of all critics' parameters
    :param quantiles: how many quantiles each critic gives, and how many of those of all make the targets;
        None: they give values
    :param noise: that of a squashed actor, if it depends on the state
    :param branches: of the features extractors of actor and critics, if the networks see features;
        None for the critics' if they share the actor's
    :raises ValueError: the networks do not fit each other
    """

    def __new__(
        cls,
        actor: Sequence[TrainableLayer],
        critics: Sequence[Sequence[TrainableLayer]],
        squashed: bool,
        *,
        actor_size: int,
        critic_size: int,
        quantiles: tuple[int, int] | None = None,
        noise: StateNoise | None = None,
        branches: tuple[Sequence[FeatureBranch], Sequence[FeatureBranch] | None] | None = None,
    ) -> ActorCriticUpdate: ...
    def load_actor(self, parameters: _F32, actor: Actor) -> None:
        """
        Give the native actor of the same policy other weights.

        :param parameters: those of the actor
        :param actor: the native actor
        :raises ValueError: the two do not fit each other
        """

    def run(
        self,
        batches: ActorCriticBatches,
        flags: Sequence[StepFlags],
        settings: ActorCriticSettings,
        targets: TargetParameters,
        trained: ActorCriticTrained,
    ) -> ActorCriticResult:
        """
        Some gradient steps.

        :param batches: the transitions
        :param flags: for each batch what is updated
        :param settings: the objective
        :param targets: parameters of the target networks
        :param trained: the parameters
        :return: the metrics
        :raises ValueError: the sizes do not fit
        """

@type_check_only
class _LstmLayer(TypedDict):
    """Where the parameters of a layer lie in a vector; it has both biases or none."""

    weight_ih: int
    weight_hh: int
    bias_ih: int | None
    bias_hh: int | None

@type_check_only
class LstmSpec(TypedDict):
    """Layers of an LSTM, whose gates are in torch's order: input, forget, cell, output."""

    inputs: int
    hidden: int
    layers: list[_LstmLayer]

@final
class Lstm:
    """
    An LSTM that takes single steps.

    :param spec: its layers
    :raises ValueError: there is no layer, or a size is 0
    """

    def __new__(cls, spec: LstmSpec) -> Lstm: ...
    def load(self, parameters: NDArray[np.float32]) -> None:
        """
        Take the weights out of a vector.

        :param parameters: the vector
        :raises ValueError: it is too short
        """

    def step(
        self, input: NDArray[np.float32], hidden: NDArray[np.float32], cell: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """
        Take one step. A row gives the same bits in any batch.

        :param input: ``(batch, inputs)``
        :param hidden: hidden states ``(layers, batch, hidden)``, which are changed
        :param cell: cell states of the same shape, which are changed
        :return: ``(batch, hidden)``, the hidden states of the last layer
        :raises ValueError: a shape does not fit
        """

@type_check_only
class MemoryArrays(TypedDict):
    """
    The states before each row of a rollout, ``(rows, layers, hidden)`` flat, where its episodes begin, and
    how many rows an environment has.
    """

    hidden_states_pi: _F32
    cell_states_pi: _F32
    hidden_states_vf: _F32
    cell_states_vf: _F32
    episode_starts: _F32
    env_rows: int

@final
class RecurrentUpdate:
    """
    The gradient steps of PPO with a recurrent policy.

    :param actor_lstm: the LSTM of the actor
    :param actor: the layers behind it
    :param critic_lstm: the LSTM of the critic, if it has its own
    :param critic: the layers behind it
    :param critic_sees_actor: without an LSTM of its own the critic takes what the actor's gives, as a
        constant, instead of the observations
    :param head: as for :class:`OnPolicyUpdate`
    :param options: as for :class:`OnPolicyUpdate`
    :param log_std: as for :class:`OnPolicyUpdate`
    :param size: length of the vector of parameters
    :raises ValueError: they do not fit each other
    """

    def __new__(
        cls,
        actor_lstm: LstmSpec,
        actor: list[TrainableLayer],
        critic_lstm: LstmSpec | None,
        critic: list[TrainableLayer],
        critic_sees_actor: bool,
        head: str,
        options: list[int],
        log_std: int,
        size: int,
    ) -> RecurrentUpdate: ...
    def epoch(
        self,
        rollout: RolloutArrays,
        memory: MemoryArrays,
        order: NDArray[np.uint32],
        batch_size: int,
        settings: OnPolicySettings,
        trained: Trained,
    ) -> OnPolicyResult:
        """
        One pass over a rollout, whose sequences end where an episode or an environment does.

        :param rollout: the rollout
        :param memory: its states
        :param order: the rows in their order, which is that of time
        :param batch_size: rows of a gradient step
        :param settings: numbers of the objective
        :param trained: changed
        :return: the metrics of each minibatch
        :raises ValueError: data or networks do not fit; nothing has changed then
        :raises MemoryError: there is not enough memory for a batch
        """
