"""The gradient steps of SAC as a program on a GPU."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module

from mlx_baselines3.common.cuda.program import NoProgram, Operand, Pass, Program, Sums
from mlx_baselines3.common.cuda.program_launch import Launcher, Sent
from mlx_baselines3.common.cuda.program_layout import THREADS, Outcome, Space, control_of
from mlx_baselines3.common.cuda.upload import staging
from mlx_baselines3.common.native.blueprint import Blueprint
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.native.extractors import observed
from mlx_baselines3.common.native.interrupts import interrupts_allowed, interrupts_deferred
from mlx_baselines3.common.native.layers import mlp_layers
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.training.native_off_policy import check_critic, check_follows
from mlx_baselines3.common.training.not_finite import check_finite
from mlx_baselines3.common.training.program_on_policy import MOST_OPERATIONS
from mlx_baselines3.common.training.program_vectors import ProgramState, flat_columns

__all__ = ["ProgramActorCriticUpdate"]

_METRICS = ("critic_loss", "actor_loss", "ent_coef", "ent_coef_loss")
# Columns of a batch, as they are sent.
_OBSERVATIONS, _NEXT, _ACTIONS, _REWARDS, _DONES, _DISCOUNTS = range(1, 7)


class _Batches(NamedTuple):
    """
    Batches of some gradient steps on the GPU.

    :param program: the program for them
    :param sent: what it reads
    :param steps: how many there are
    """

    program: Program
    sent: Sent
    steps: int


class ProgramActorCriticUpdate:
    """
    The gradient steps of SAC in one launch.

    :param networks: ``actor``, ``critic``, ``critic_target`` and perhaps ``ent_coef``
    :param optimizers: those of ``actor``, ``critic`` and perhaps ``ent_coef``
    :param plan: how the actor computes
    :raises NotNative: there is no program for them
    """

    # It computes on a GPU, on arrays that are laid out for one.
    is_program = True

    def __init__(
        self,
        networks: Mapping[str, Module],
        optimizers: Mapping[str, ParameterOptimizer],
        plan: Blueprint,
    ):
        critic, target = networks["critic"], networks["critic_target"]
        check_critic(critic)
        check_follows(target, critic)
        extracts = plan.features or any(observed(critic, critic.features_extractor).features)
        if plan.head != "squashed_gaussian" or extracts:
            what = "policies with a features extractor" if extracts else f"a {plan.head} policy"
            raise NotNative(f"there is no CUDA kernel for whole gradient steps of {what}")
        self._plan = plan
        self._state = ProgramState(networks, optimizers, {"critic": target})
        self._actor = self._state.network("actor", plan.layers)
        self._critics, self._targets = (
            [self._state.network("critic", mlp_layers(net), of_target) for net in owner.q_networks]
            for owner, of_target in ((critic, False), (target, True))
        )
        try:
            for network in (self._actor, *self._critics):
                network.check()
        except NoProgram as reason:
            raise NotNative(str(reason)) from reason
        self._inputs = self._actor.layers[0]["inputs"]
        self._size = self._actor.widths()[-1] // 2
        self._launcher = Launcher()
        self._programs: dict[tuple[int, ...], Program] = {}

    def suits(self, batch_size: int) -> bool:
        """
        :param batch_size: rows of a gradient step
        :return: whether a program is the faster way
        """
        return (
            6 * batch_size * (self._state.size("actor") + 2 * self._state.size("critic")) <= MOST_OPERATIONS
        )

    def run(
        self,
        batches: Iterable[Mapping[str, Any]],
        settings: Mapping[str, float],
        noise: mx.array,
        flags: Sequence[tuple[bool, bool]],
    ) -> dict[str, np.ndarray]:
        """
        Take one gradient step for each batch; see :meth:`NativeActorCriticUpdate.run`.

        :param batches: fields of the buffer's samples with the axes (steps, batch) in front
        :param settings: those of the MLX step
        :param noise: (steps, 2, batch, action_dim) standard normals
        :param flags: for each step whether the actor, which always is, and whether the target is updated
        :return: name -> (steps,) float64
        :raises FloatingPointError: if the outcome is nan or infinite; nothing has changed then
        """
        with interrupts_allowed():
            vector, start = self._state.load(), 0
            outcomes: list[Outcome] = []
            self._launcher.begin()
            for batch in batches:
                given = self._send(batch, settings, noise, [follows for _, follows in flags], start)
                program, rows = given.program, given.steps * given.program.batch
                vector, outcome = self._launcher.run(program, rows, vector, given.sent)
                mx.async_eval(vector)  # type: ignore[no-untyped-call]
                outcomes.append(outcome)
                start += given.steps
            views = self._state.views(vector)
            mx.eval(vector, views)
        rows_ = np.concatenate([outcome.metrics() for outcome in outcomes])
        names = _METRICS if "ent_coef" in self._state.names else _METRICS[:3]
        metrics = {name: rows_[:, i] for i, name in enumerate(names)}
        wrong = {
            name: self._state.not_finite(name, views)
            for name in self._state.names
            if not all(outcome.is_finite(self._state.number(name)) for outcome in outcomes)
        }
        check_finite(metrics, wrong)
        with interrupts_deferred():
            self._state.store(vector, views, start)
        return metrics

    def _send(
        self,
        batch: Mapping[str, Any],
        settings: Mapping[str, float],
        noise: mx.array,
        follows: Sequence[bool],
        start: int,
    ) -> _Batches:
        """The batches of the steps from ``start`` on, with what they need."""
        steps, size = batch["rewards"].shape[:2]
        discounts = batch.get("discounts", np.full((steps, size), settings["gamma"], np.float32))
        numbers = {
            "TARGET_ENTROPY": settings["target_entropy"],
            "ENTROPY_COEFFICIENT": settings.get("ent_coef", 0.0),
        }
        optimizers = self._state.optimizer_numbers({"TAU": settings["tau"]}, start)
        flags = np.array(follows[start : start + steps], np.float32)
        columns = [
            np.concatenate([control_of(numbers, optimizers), flags]),
            *self._plan.columns(batch["observations"], batch_axes=2),
            *self._plan.columns(batch["next_observations"], batch_axes=2),
            *(batch[name] for name in ("actions", "rewards", "dones")),
            discounts,
        ]
        sent = staging().upload_together(flat_columns(columns))
        places = [place // 4 for place in sent.places]
        key = (size, steps, *places)
        if key not in self._programs:
            if len(self._programs) > 8:
                self._programs.clear()
            self._programs[key] = self._build(size, steps, places)
        vector = sent.vector.view(mx.float32)
        part = noise if steps == len(noise) else noise[start : start + steps]
        return _Batches(self._programs[key], Sent(vector, vector, part), steps)

    def _build(self, batch: int, steps: int, places: Sequence[int]) -> Program:
        program = Program(batch, batch * steps)
        rows = self._rows(program, places)
        later, now = program.passes((self._actor, rows.later), (self._actor, rows.now))
        critics = program.passes(*((net, rows.taken) for net in self._critics))
        program.forward(later, now, *critics)
        log_probs = [program.room(batch), program.room(batch)]
        self._squash(program, "SQUASH", later, rows.later, rows.later_noise, SQUASH_LOG_PROB=log_probs[0])
        self._squash(program, "SQUASH", now, rows.now, rows.noise, SQUASH_LOG_PROB=log_probs[1])
        program.wait()
        parts = self._learn_critics(program, critics, rows, log_probs[0])
        self._learn_actor(program, now, rows, log_probs[1], parts)
        return program

    def _rows(self, program: Program, places: Sequence[int]) -> "_Rows":
        """The rows of all steps: observations, with room for actions behind them."""
        inputs, size = self._inputs, self._size
        taken, now, later = (program.table(inputs + size) for _ in range(3))
        for column, to, width in (
            (_OBSERVATIONS, taken, inputs),
            (_ACTIONS, taken.columns(inputs), size),
            (_OBSERVATIONS, now, inputs),
            (_NEXT, later, inputs),
        ):
            source = Operand(Space.DATA, places[column], 0, width)
            program.begin_with("COPY", COPY_X=source, COPY_Y=to, COPY_COLUMNS=width)
        noise = Operand(Space.EXTRA, 0, 2 * program.batch * size, size)
        numbers = [
            Operand(Space.DATA, places[column], program.batch, 1) for column in (_REWARDS, _DONES, _DISCOUNTS)
        ]
        return _Rows(taken, now, later, noise, noise.columns(program.batch * size), numbers)

    def _squash(
        self, program: Program, kind: str, one: Pass, rows: Operand, noise: Operand, **fields: Any
    ) -> None:
        program.do(
            kind,
            SQUASH_OUT=one.outputs[-1],
            SQUASH_NOISE=noise,
            SQUASH_ACTIONS=rows.columns(self._inputs),
            SQUASH_SIZE=self._size,
            SQUASH_ENTROPY=self._entropy,
            **fields,
        )

    @property
    def _entropy(self) -> int:
        """Where the logarithm of the entropy coefficient is, -1 if it is a setting."""
        return self._state.place("ent_coef") if "ent_coef" in self._state.names else -1

    def _learn_critics(self, program: Program, critics: Sequence[Pass], rows: "_Rows", log_prob: int) -> int:
        """:return: where the sums of the losses are"""
        targets = program.passes(*((network, rows.later) for network in self._targets))
        program.forward(*targets)
        by_values = [program.matrix(1) for _ in critics]
        parts = program.room(-(-program.batch // THREADS))
        rewards, dones, discounts = rows.numbers
        target, target_stride = _side_by_side([one.outputs[-1] for one in targets])
        program.do(
            "CRITIC_LOSS",
            **self._critic_fields(critics, by_values, log_prob, parts),
            CRITIC_TARGET_Q=target,
            CRITIC_TARGET_STRIDE=target_stride,
            CRITIC_REWARDS=rewards,
            CRITIC_DONES=dones,
            CRITIC_DISCOUNTS=discounts,
        )
        program.wait()
        gradients = program.backward(*zip(critics, by_values, strict=True))
        sums = program.gradients(self._state.size("critic"), [*zip(critics, gradients, strict=True)])
        number, target = self._state.number("critic"), self._state.target("critic")
        program.adam(sums, self._state.vectors("critic"), number, target)
        program.wait()
        return parts

    def _critic_fields(
        self, critics: Sequence[Pass], by_values: Sequence[Operand], log_prob: int, parts: int
    ) -> dict[str, int]:
        values, stride = _side_by_side([one.outputs[-1] for one in critics])
        gradients, gradient_stride = _side_by_side(by_values)
        return {
            "CRITICS": len(critics),
            "CRITIC_Q": values,
            "CRITIC_STRIDE": stride,
            "CRITIC_BY_Q": gradients,
            "CRITIC_BY_STRIDE": gradient_stride,
            "CRITIC_LOG_PROB": log_prob,
            "CRITIC_ENTROPY": self._entropy,
            "CRITIC_PARTS": parts,
        }

    def _learn_actor(
        self, program: Program, now: Pass, rows: "_Rows", log_prob: int, critic_parts: int
    ) -> None:
        critics = program.passes(*((network, rows.now) for network in self._critics))
        program.forward(*critics)
        by_values, by_actions = ([program.matrix(width) for _ in critics] for width in (1, self._size))
        parts, by_entropy = program.room(2 * -(-program.batch // THREADS)), program.room(1)
        program.zero(by_entropy, 4)
        program.do("ACTOR_LOSS", **self._critic_fields(critics, by_values, log_prob, parts))
        program.wait()
        # Beside what comes next; nothing of it needs the other.
        program.do(
            "FINISH_SOFT",
            SOFT_CRITIC_PARTS=critic_parts,
            SOFT_ACTOR_PARTS=parts,
            SOFT_ENTROPY=self._entropy,
            SOFT_BY_ENTROPY=by_entropy,
        )
        gradients = program.backward(*zip(critics, by_values, strict=True))
        for one, found, to in zip(critics, gradients, by_actions, strict=True):
            program.backward_input(one, found[0], to, self._inputs, self._size)
        program.wait()
        by_output = program.matrix(2 * self._size)
        place, stride = _side_by_side(by_actions)
        across = {"SQUASH_CRITICS": len(critics), "SQUASH_BY_ACTIONS": place, "SQUASH_CRITIC_STRIDE": stride}
        self._squash(program, "SQUASH_BACK", now, rows.now, rows.noise, SQUASH_BY_OUT=by_output, **across)
        program.wait()
        (of_actor,) = program.backward((now, by_output))
        sums = program.gradients(self._state.size("actor"), [(now, of_actor)])
        program.adam(sums, self._state.vectors("actor"), self._state.number("actor"))
        if self._entropy >= 0:
            name = "ent_coef"
            sums = Sums(by_entropy, 1, self._state.size(name))
            program.adam(sums, self._state.vectors(name), self._state.number(name))
        program.wait()


class _Rows(NamedTuple):
    """
    Rows of all steps.

    :param taken: observations and the actions that were taken
    :param now: observations and room for the policy's actions
    :param later: the same for the next observations
    :param noise: what the policy draws at the observations
    :param later_noise: and at the next ones
    :param numbers: rewards, ends of episodes, discounts
    """

    taken: Operand
    now: Operand
    later: Operand
    noise: Operand
    later_noise: Operand
    numbers: Sequence[Operand]


def _side_by_side(matrices: Sequence[Operand]) -> tuple[int, int]:
    """Where the first of some matrices is, and what lies between one and the next."""
    strides = {b.place - a.place for a, b in pairwise(matrices)}
    assert len(strides) < 2, "critics of one shape lie at equal distances"
    return matrices[0].place, strides.pop() if strides else 0
