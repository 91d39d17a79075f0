"""A small grid world that is seen through a vector and an image at once."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common._types import GymStepReturn


class SimpleMultiObsEnv(gym.Env[Any, Any]):
    """
    A 4x4 grid with a wall in the middle: walk along the edge from cell 0 to cell 15.

    .. code-block:: text

         0   1   2   3
         4  ##  ##   7
         8  ##  ##  11
        12  13  14  15

    Actions are left, down, right, up. A step costs 0.1, the goal gives 1, an episode is cut after 101 steps.
    What is seen of a cell, a vector and an image, was drawn from NumPy's global generator when the
    environment was made. The walls are those of the 4x4 grid whatever the size.

    :param num_col: columns
    :param num_row: rows
    :param random_start: start anywhere but at the goal (the wall included); else in cell 0
    :param discrete_actions: the action is a number; else the largest of four numbers counts
    :param channel_last: image axes are ``(64, 64, 1)``, else ``(1, 64, 64)``
    """

    def __init__(
        self,
        num_col: int = 4,
        num_row: int = 4,
        random_start: bool = True,
        discrete_actions: bool = True,
        channel_last: bool = True,
    ) -> None:
        super().__init__()
        self.vector_size = 5
        self.img_size = [64, 64, 1] if channel_last else [1, 64, 64]
        self.random_start = random_start
        self.discrete_actions = discrete_actions
        self.action_space: spaces.Space[Any]
        if discrete_actions:
            self.action_space = spaces.Discrete(4)
        else:
            self.action_space = spaces.Box(0, 1, (4,))
        self.observation_space = spaces.Dict(
            {
                "vec": spaces.Box(0, 1, (self.vector_size,), dtype=np.float64),
                "img": spaces.Box(0, 255, tuple(self.img_size), dtype=np.uint8),
            }
        )
        self.count = 0
        self.max_count = 100
        self.log = ""
        self.state = 0
        self.action2str = ["left", "down", "right", "up"]
        self.init_possible_transitions()
        self.num_col = num_col
        self.state_mapping: list[dict[str, np.ndarray]] = []
        self.init_state_mapping(num_col, num_row)
        self.max_state = len(self.state_mapping) - 1

    def init_state_mapping(self, num_col: int, num_row: int) -> None:
        """
        Draw what each cell looks like.

        :param num_col: columns, each with its vector
        :param num_row: rows, each with its image
        """
        # the global generator, in this order: one seed gives SB3's cells
        vectors = np.random.random((num_col, self.vector_size))  # noqa: NPY002
        images = np.random.randint(0, 255, (num_row, 64, 64), dtype=np.uint8)  # noqa: NPY002
        self.state_mapping += [
            {"vec": vector, "img": image.reshape(self.img_size)} for vector in vectors for image in images
        ]

    def get_state_mapping(self) -> dict[str, np.ndarray]:
        """
        :return: what the present cell looks like: ``vec`` and ``img``
        """
        return self.state_mapping[self.state]

    def init_possible_transitions(self) -> None:
        """Say from which cells each move is possible."""
        self.left_possible = [1, 2, 3, 13, 14, 15]
        self.down_possible = [0, 4, 8, 3, 7, 11]
        self.right_possible = [0, 1, 2, 12, 13, 14]
        self.up_possible = [4, 8, 12, 7, 11, 15]

    def step(self, action: int | np.ndarray) -> GymStepReturn:
        move = int(action if self.discrete_actions else np.argmax(action))
        self.count += 1
        before = self.state
        allowed = (self.left_possible, self.down_possible, self.right_possible, self.up_possible)[move]
        if before in allowed:
            self.state += (-1, self.num_col, 1, -self.num_col)[move]
        arrived = self.state == self.max_state
        reward = 1.0 if arrived else -0.1
        self.log = f"Went {self.action2str[move]} in state {before}, got to state {self.state}"
        truncated = self.count > self.max_count
        return self.get_state_mapping(), reward, arrived, truncated, {"got_to_end": arrived}

    def render(self, mode: str = "human") -> None:
        """
        Print the last move.

        :param mode: not used
        """
        print(self.log)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        if seed is not None:
            super().reset(seed=seed)
        self.count = 0
        self.state = int(np.random.randint(0, self.max_state)) if self.random_start else 0  # noqa: NPY002
        return self.get_state_mapping(), {}
