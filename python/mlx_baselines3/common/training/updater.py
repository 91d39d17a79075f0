"""Decides whether Rust, a CUDA kernel or MLX computes a model's gradient steps, and says why only MLX can."""

import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module

from mlx_baselines3.common.buffers.batches import replay_arrays, rows_of
from mlx_baselines3.common.cuda import nvrtc
from mlx_baselines3.common.distributions.base import is_users_own
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.native.snapshot import Snapshot
from mlx_baselines3.common.native.vectors import rule_name
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.nn.structure import Structure
from mlx_baselines3.common.training.compiled_update import CompiledUpdate, Metrics

__all__ = ["Trained", "Updater"]

# Rows from which on it takes milliseconds to draw their order.
_LONG_ORDER = 1 << 16
# Methods of an algorithm that decide what its gradient steps are. A model may get its own at any time.
_STEP_METHODS = ("_loss", "_gradient_step", "_epochs", "_target", "_batches", "_actor_loss")


class Trained(NamedTuple):
    """
    What an update reads and changes.

    :param networks: name -> network
    :param optimizers: name of a network -> its optimizer
    :param targets: name of a target network -> name of the network it follows
    :param others: whatever else decides who computes
    """

    networks: Mapping[str, Module]
    optimizers: Mapping[str, ParameterOptimizer]
    targets: Mapping[str, str]
    others: tuple[Any, ...] = ()


class Updater:
    """
    Takes the gradient steps of a model: in Rust, or on an NVIDIA GPU in one kernel, where that computes what
    the model means, else as MLX compiles them. Found out once for the same networks and optimizers.

    A model has ``_trained()``, which says what these are, ``_native_update(base)``, which makes the native
    update or raises NotNative, and ``_gradient_step``, which MLX compiles.
    """

    def __init__(self) -> None:
        self.native: Any = None
        # None until MLX has computed something.
        self.compiled: CompiledUpdate | None = None
        self._static: Any = None
        self._has_asked = False
        # The policy when Rust was chosen: methods and attributes decide, too.
        self._snapshot: Snapshot | None = None
        # What both were made of: objects that have to be the same, names that have to be equal.
        self._made_of: list[Any] = []
        self._names: list[str] = []
        # Of networks without an optimizer.
        self._structures: dict[str, Structure] = {}
        # The way to the model's arrays, see `policies/evaluated.py`.
        self.walk: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Native updates share the model's memory, and compiled ones its networks: a copy makes its own.
        return vars(Updater())

    def take_epochs(
        self, model: Any, base: type, settings: Mapping[str, float], batch_size: int | None, n_epochs: int
    ) -> list[Metrics]:
        """
        Take the gradient steps of one rollout.

        :param model: PPO or A2C
        :param base: the algorithm whose gradient step Rust knows
        :param settings: numbers of the loss
        :param batch_size: rows of a minibatch; None takes all at once
        :param n_epochs: number of passes over the rollout
        :return: the metrics of each pass, up to the one that stopped early
        """
        buffer, normalize = model.rollout_buffer, model.normalize_advantage
        trained = self._look_at(model)
        native = self._native(model, base)
        if native is not None and native.suits(batch_size or buffer.buffer_size * buffer.n_envs):
            # What a step may end early must not draw more than SB3 would.
            ahead = model.device.type == mx.gpu and "target_kl" not in settings
            orders = _orders(buffer, n_epochs, ahead)
            return native.run(native.columns(buffer), orders, batch_size, settings, normalize)
        update = self._compiled(model, trained, normalize)
        # Dead steps leave the last minibatch another size in every rollout.
        dead = getattr(buffer, "dead_steps", None)
        update.compiled_sizes = None if dead is None else {batch_size or 0}
        return update.run_epochs(model._epochs(batch_size, n_epochs), settings)

    def take_steps(
        self,
        model: Any,
        base: type,
        gradient_steps: int,
        batch_size: int,
        settings: Mapping[str, float],
        noise: mx.array | None = None,
        flags: Sequence[tuple[bool, bool]] | None = None,
    ) -> Metrics:
        """
        Take gradient steps on samples of the replay buffer.

        :param model: DQN, SAC, TD3 or DDPG
        :param base: the algorithm whose gradient step Rust knows
        :param gradient_steps: how many
        :param batch_size: transitions of each
        :param settings: numbers of the losses
        :param noise: (gradient steps, ...) standard normals, ``noise`` of the batches
        :param flags: for each step whether the actor learns and whether target networks follow
        :return: the metrics
        """
        trained = self._look_at(model)
        if (native := self._native(model, base)) is not None and native.suits(batch_size):
            drawn = () if noise is None else (noise, flags)
            buffer, normalizer = model.replay_buffer, model._vec_normalize_env
            arrays = replay_arrays(buffer, gradient_steps, batch_size, normalizer)
            return native.run(arrays, settings, *drawn)
        batches = model._batches(gradient_steps, batch_size)
        if noise is not None:
            pairs = zip(batches, rows_of(noise, gradient_steps), strict=True)
            batches = ({**batch, "noise": part} for batch, part in pairs)
        follows = None if flags is None else [follows for _, follows in flags]
        return self._compiled(model, trained).run(batches, settings, follows)

    def find_native(self, model: Any, base: type) -> Any:
        """
        :param model: a model
        :param base: the algorithm whose gradient step Rust knows
        :return: what takes the gradient steps in Rust; None if MLX is to compute
        """
        self._look_at(model)
        return self._native(model, base)

    def _look_at(self, model: Any) -> Trained:
        """Forget what was made of other networks, optimizers or rules."""
        trained: Trained = model._trained()
        networks, optimizers, _, others = trained
        made_of = [*others, *map(vars(model).get, _STEP_METHODS)]
        for name, network in networks.items():
            made_of += [network, self._structure(name, network, optimizers.get(name))]
        for optimizer in optimizers.values():
            made_of += [optimizer, optimizer.bare, optimizer.parts]
        names = [*networks, *map(rule_name, optimizers.values())]
        same = len(made_of) == len(self._made_of) and all(map(operator.is_, made_of, self._made_of))
        if not same or names != self._names:
            self.native = self.compiled = None
            self._has_asked = False
            self._made_of, self._names = made_of, names
        return trained

    def _structure(self, name: str, network: Module, optimizer: ParameterOptimizer | None) -> Structure:
        """What a network is made of: the very same object as long as that is the same."""
        if optimizer is not None and optimizer.structure is not None:
            # It has just looked.
            return optimizer.structure
        known = self._structures.get(name)
        if known is None or known.network is not network or not known.is_current():
            known = self._structures[name] = Structure(network)
        return known

    def _native(self, model: Any, base: type) -> Any:
        """
        :return: the update in Rust or, on an NVIDIA GPU, in a kernel of its own; None if MLX is to compute,
            and then a line once that says why
        :raises ValueError: ``MLX_BASELINES3_UPDATES`` is neither ``native`` nor ``mlx``
        """
        if _are_mlx() or (model.device.type != mx.cpu and not nvrtc.usable()):
            return None
        if self.native is not None and self._snapshot and not self._snapshot.is_current(model.policy):
            self.native, self._has_asked = None, False
        if not self._has_asked:
            try:
                native = model._native_update(base)
                if model.device.type == mx.gpu:
                    if not getattr(native, "is_program", False):
                        raise NotNative("this algorithm has no CUDA kernel for whole gradient steps")
                    from mlx_baselines3.common.cuda.program_launch import is_compiled

                    if not is_compiled():
                        model._compile_notice.announce_program()
                self.native = native
            except NotNative as reason:
                if model.verbose >= 1:
                    print(f"MLX computes the gradient steps, because {reason}.")
            self._has_asked = True
            self._snapshot = None if self.native is None else Snapshot(model.policy)
        return self.native

    def _compiled(self, model: Any, trained: Trained, static: Any = None) -> CompiledUpdate:
        """
        :param static: whatever else the step depends on besides its arguments
        """
        model._compile_notice.announce()
        if self.compiled is None or static != self._static:
            networks, optimizers, targets, _ = trained
            dist = getattr(networks.get("actor"), "action_dist", None)
            compiles = dist is None or not is_users_own(dist)
            self.compiled = CompiledUpdate(networks, optimizers, model._gradient_step, targets, compiles)
            self._static = static
        return self.compiled


def _orders(buffer: Any, n_epochs: int, ahead: bool) -> Iterator[np.ndarray]:
    """
    :param buffer: a rollout buffer
    :param n_epochs: number of passes over it
    :param ahead: whether another thread may draw them while this one uploads and the GPU computes
    :return: for each pass (rows,) uint32, the rows in their order
    """

    def draw() -> np.ndarray:
        order: np.ndarray = buffer.shuffled_rows()
        return order.astype("uint32", copy=False)

    if not ahead or buffer.buffer_size * buffer.n_envs < _LONG_ORDER:
        return (draw() for _ in range(n_epochs))
    from concurrent.futures import ThreadPoolExecutor

    # One thread, which takes one after the other.
    pool = ThreadPoolExecutor(1, "orders")
    drawn = [pool.submit(draw) for _ in range(n_epochs)]
    pool.shutdown(wait=False)
    return (order.result() for order in drawn)


def _are_mlx() -> bool:
    choice = os.environ.get("MLX_BASELINES3_UPDATES", "native")
    if choice not in ("native", "mlx"):
        raise ValueError(f"MLX_BASELINES3_UPDATES is {choice!r}, expected 'native' or 'mlx'")
    return choice == "mlx"
