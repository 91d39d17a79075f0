"""The gradient steps of PPO and A2C as a program on a GPU."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module

from mlx_baselines3.common.cuda.program import NoProgram, Operand, Pass, Program
from mlx_baselines3.common.cuda.program_launch import Launcher, Sent
from mlx_baselines3.common.cuda.program_layout import (
    CONTROL_SIZE,
    HEADS,
    MOST_CHOICES,
    THREADS,
    Outcome,
    Space,
    control_of,
)
from mlx_baselines3.common.cuda.upload import staging
from mlx_baselines3.common.native.blueprint import Blueprint
from mlx_baselines3.common.native.eligibility import NotNative, check_unchanged
from mlx_baselines3.common.native.interrupts import interrupts_allowed, interrupts_deferred
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.training.not_finite import check_finite
from mlx_baselines3.common.training.program_vectors import ProgramState, flat_columns

__all__ = ["MOST_OPERATIONS", "ProgramOnPolicyUpdate"]

# Operations of a gradient step from which on MLX's products of matrices, on tensor cores, are faster.
MOST_OPERATIONS = 12_000_000_000
# Bytes of scratch memory that a launch may take: passes over larger rollouts are several launches.
_MOST_SCRATCH = 1 << 30
_METRICS = ("value_loss", "entropy_loss", "approx_kl", "clip_fraction", "loss")
_SCALARS = ("values", "log_probs", "advantages", "returns")


class _Columns(NamedTuple):
    """
    A rollout on the GPU, step after step as it is stored.

    :param data: all columns
    :param places: where each of observations, actions and scalars begins in it
    :param steps: of each environment
    :param envs: environments
    """

    data: mx.array
    places: list[int]
    steps: int
    envs: int


class ProgramOnPolicyUpdate:
    """
    The gradient steps of PPO and A2C in one launch for each pass over the rollout.

    :param policy: policy and value function
    :param optimizer: its optimizer
    :param plan: how the policy computes actions and values
    :raises NotNative: there is no program for them
    """

    # It computes on a GPU, on arrays that are laid out for one.
    is_program = True

    def __init__(self, policy: Module, optimizer: ParameterOptimizer, plan: Blueprint):
        head = "categorical" if plan.head == "multi_categorical" else plan.head
        extracts = plan.features or plan.critic_features
        if head not in HEADS or extracts:
            what = "policies with a features extractor" if extracts else f"a {plan.head} policy"
            raise NotNative(f"there is no CUDA kernel for whole gradient steps of {what}")
        check_unchanged(policy.action_dist, type(policy.action_dist), ("entropy",))
        self._state = ProgramState({"policy": policy}, {"policy": optimizer}, {})
        self._head, self._plan = head, plan
        layers = [self._state.network("policy", part) for part in (plan.layers, plan.critic)]
        self._actor, self._critic = layers
        try:
            for network in layers:
                network.check()
        except NoProgram as reason:
            raise NotNative(str(reason)) from reason
        outputs = self._actor.widths()[-1]
        self._options = [*plan.options] or [outputs]
        if head == "categorical" and len(self._options) > MOST_CHOICES:
            raise NotNative(f"an action has more than {MOST_CHOICES} choices")
        self._inputs = self._actor.layers[0]["inputs"]
        self._launcher = Launcher()
        self._programs: dict[tuple[int, ...], Program] = {}

    @property
    def _action_columns(self) -> int:
        return len(self._options) if self._head == "categorical" else self._actor.widths()[-1]

    def suits(self, batch_size: int) -> bool:
        """
        :param batch_size: rows of a gradient step
        :return: whether a program is the faster way
        """
        operations = 6 * batch_size * self._state.size("policy")
        return operations <= MOST_OPERATIONS and 4 * self._scratch(batch_size, batch_size) <= _MOST_SCRATCH

    def _scratch(self, batch_size: int, rows: int) -> int:
        widths = sum(self._actor.widths()) + sum(self._critic.widths())
        return 2 * batch_size * widths + rows * (self._inputs + self._action_columns + len(_SCALARS))

    def columns(self, buffer: Any) -> _Columns:
        """
        :param buffer: a rollout buffer
        :return: its columns on the GPU
        """
        stored = buffer.as_stored()
        arrays = [
            *self._plan.columns(stored["observations"]),
            stored["actions"],
            *(stored[n] for n in _SCALARS),
        ]
        sent = staging().upload_together(flat_columns(arrays))
        return _Columns(
            sent.vector.view(mx.float32),
            [place // 4 for place in sent.places],
            buffer.buffer_size,
            buffer.n_envs,
        )

    def run(
        self,
        rollout: _Columns,
        orders: Iterable[np.ndarray],
        batch_size: int | None,
        settings: Mapping[str, float],
        normalize: bool,
    ) -> list[dict[str, np.ndarray]]:
        """
        Go over a rollout several times; see :meth:`NativeOnPolicyUpdate.run`.

        :param rollout: what :meth:`columns` gave
        :param orders: for each pass (rows,), the rows in their order, the first environment's first
        :param batch_size: rows of a gradient step; None takes all at once
        :param settings: those of the MLX step; without ``clip_range`` the objective is A2C's
        :param normalize: normalise the advantages of each minibatch
        :return: for each pass name -> (minibatches,) float64, up to the one that stopped it
        :raises FloatingPointError: if a loss or a parameter is nan or infinite; nothing has changed then
        """
        with interrupts_allowed():
            vector, epochs = self._take(rollout, orders, batch_size, settings, normalize)
            views = self._state.views(vector)
            mx.eval(vector, views)
        passes = [_metrics(outcomes, "clip_range" in settings) for outcomes in epochs]
        launches = [outcome for outcomes in epochs for outcome in outcomes]
        is_finite = all(outcome.is_finite(0) for outcome in launches)
        wrong = {} if is_finite else {"policy": self._state.not_finite("policy", views)}
        check_finite({"loss": np.concatenate([one["loss"] for one in passes])}, wrong)
        steps = sum(outcome.done for outcome in launches) - launches[-1].has_stopped
        with interrupts_deferred():
            self._state.store(vector, views, steps)
        return passes

    def _take(
        self,
        rollout: _Columns,
        orders: Iterable[np.ndarray],
        batch_size: int | None,
        settings: Mapping[str, float],
        normalize: bool,
    ) -> tuple[mx.array, list[list[Outcome]]]:
        """The launches of all passes: the state after them, and what each pass gave."""
        vector, steps = self._state.load(), 0
        losses = _losses(settings, normalize)
        epochs: list[list[Outcome]] = []
        self._launcher.begin()
        for order in orders:
            size = batch_size or len(order)
            program, portion = self._program(rollout, size, len(order), "clip_range" in settings)
            epochs.append([])
            for start in range(0, len(order), portion):
                part = order[start : start + portion]
                others = {"MAX_NORM": settings["max_grad_norm"]}
                control = control_of(losses, self._state.optimizer_numbers(others, steps))
                both = np.concatenate([control.view(np.int32), part.astype(np.int32, copy=False)])
                sent = staging().upload_together([both]).vector.view(mx.float32)
                vector, outcome = self._launcher.run(
                    program, len(part), vector, Sent(sent, rollout.data, sent)
                )
                # Meanwhile the host draws the next order.
                mx.async_eval(vector)  # type: ignore[no-untyped-call]
                epochs[-1].append(outcome)
                steps += -(-len(part) // size)
                if "target_kl" in settings:
                    mx.eval(vector)
                    if outcome.has_stopped:
                        return vector, epochs
        return vector, epochs

    def _program(self, rollout: _Columns, batch_size: int, rows: int, has_ratio: bool) -> tuple[Program, int]:
        """The program for such minibatches, and how many rows a launch of it may have."""
        each = self._inputs + self._action_columns + len(_SCALARS)
        room = _MOST_SCRATCH // 4 - self._scratch(batch_size, batch_size)
        portion = min(-(-rows // batch_size), max(room // (each * batch_size), 1)) * batch_size
        key = (batch_size, portion, has_ratio, *rollout.places, rollout.steps, rollout.envs)
        if key not in self._programs:
            # Sizes of rollouts hardly ever change.
            self._programs = {key: self._build(rollout, batch_size, portion, has_ratio)}
        return self._programs[key], portion

    def _build(self, rollout: _Columns, batch_size: int, rows: int, has_ratio: bool) -> Program:
        program = Program(batch_size, rows)
        tables = self._gather(program, rollout)
        actor, critic = program.passes(
            (self._actor, tables.observations), (self._critic, tables.observations)
        )
        program.forward(actor, critic)
        gradients = self._losses(program, tables, (actor, critic), has_ratio)
        found = program.backward((actor, gradients.by_output), (critic, gradients.by_values))
        sums = program.gradients(
            self._state.size("policy"), [(actor, found[0]), (critic, found[1])], gradients.rows
        )
        clipped = program.clipped(sums)
        program.adam(clipped, self._state.vectors("policy"), 0, stops=True)
        program.wait()
        return program

    def _gather(self, program: Program, rollout: _Columns) -> "_Tables":
        """The rows of all minibatches in their order."""
        observations, actions = program.table(self._inputs), program.table(self._action_columns)
        scalars = program.table(len(_SCALARS))
        sums = program.room(4 * program.steps * -(-program.batch // THREADS))
        order = {"COPY_ORDER": CONTROL_SIZE, "COPY_STEPS": rollout.steps, "COPY_ENVS": rollout.envs}
        for place, table in zip(rollout.places, (observations, actions), strict=False):
            source = Operand(Space.DATA, place, 0, table.stride)
            program.begin_with("GATHER", COPY_X=source, COPY_Y=table, COPY_COLUMNS=table.stride, **order)
        program.begin_with(
            "SCALARS", SCALARS_X=rollout.places[2:], SCALARS_Y=scalars.place, SCALARS_SUMS=sums, **order
        )
        return _Tables(observations, actions, scalars, sums)

    def _losses(
        self, program: Program, tables: "_Tables", passes: tuple[Pass, Pass], has_ratio: bool
    ) -> "_Gradients":
        """The losses of a minibatch, and the gradients of what the networks give."""
        output, values = (one.outputs[-1] for one in passes)
        by_output, by_values = program.matrix(output.stride), program.matrix(values.stride)
        parts = program.room(5 * -(-program.batch // THREADS))
        fields: dict[str, Any] = {}
        rows: list[tuple[int, int, Operand]] = []
        if self._head == "gaussian":
            place, by_std = self._state.parameter("policy", "log_std"), program.matrix(self._action_columns)
            rows = [(place, self._action_columns, by_std)]
            fields = {"PPO_LOG_STD": self._state.place("policy") + place, "PPO_BY_LOG_STD": by_std.place}
        else:
            fields = {"PPO_CHOICES": len(self._options), "PPO_OPTIONS": self._options}
        program.do(
            "ON_POLICY",
            PPO_OUT=output,
            PPO_BY_OUT=by_output,
            PPO_VALUES=values,
            PPO_BY_VALUES=by_values,
            PPO_SCALARS=tables.scalars.place,
            PPO_SUMS=tables.sums,
            PPO_ACTIONS=tables.actions.place,
            PPO_ACTION_COLUMNS=self._action_columns,
            PPO_HEAD=HEADS[self._head],
            PPO_HAS_RATIO=int(has_ratio),
            PPO_PARTS=parts,
            **fields,
        )
        program.wait()
        # Beside what comes next; nothing of it needs the other.
        program.do("FINISH_ON_POLICY", FINISH_PARTS=parts)
        return _Gradients(by_output, by_values, rows)


class _Tables(NamedTuple):
    """Rows of all minibatches, and sums of the advantages."""

    observations: Operand
    actions: Operand
    scalars: Operand
    sums: int


class _Gradients(NamedTuple):
    """Of the networks' outputs, and of further parameters: place, size, rows whose sum it is."""

    by_output: Operand
    by_values: Operand
    rows: list[tuple[int, int, Operand]]


def _losses(settings: Mapping[str, float], normalize: bool) -> dict[str, float]:
    """The settings as the kernel knows them; what is below 0 is not asked for."""
    return {
        "CLIP": settings.get("clip_range", 0.0),
        "CLIP_VALUES": settings.get("clip_range_vf", -1.0),
        "ENTROPY_WEIGHT": settings["ent_coef"],
        "VALUE_WEIGHT": settings["vf_coef"],
        "TARGET_KL": settings.get("target_kl", -1.0),
        "NORMALIZES": float(normalize),
    }


def _metrics(outcomes: list[Outcome], has_ratio: bool) -> dict[str, np.ndarray]:
    rows = np.concatenate([outcome.metrics() for outcome in outcomes])
    names = ("policy_gradient_loss" if has_ratio else "policy_loss", *_METRICS)
    return dict(zip(names, rows.T, strict=True))
