"""Calls of ``_native`` on the memory of buffers."""

import copy
from typing import Any

import numpy as np
from native_values import Values


class BufferCalls(Values):
    """Storage, replay buffers, final observations, advantages, and random numbers."""

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

    def call_permutation(self) -> None:
        self.native.permutation(*self.args(7))

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
