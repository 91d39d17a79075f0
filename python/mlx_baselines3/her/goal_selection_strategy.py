"""Which of the states that an episode reached becomes the goal of a relabelled transition."""

from enum import Enum

__all__ = ["KEY_TO_GOAL_STRATEGY", "GoalSelectionStrategy"]


class GoalSelectionStrategy(Enum):
    """
    Where in the episode of a transition its new goal is taken from (https://arxiv.org/abs/1707.01495).

    - ``FUTURE``: any state from the one that the transition led to until the last
    - ``FINAL``: the last state
    - ``EPISODE``: any state but the first
    """

    FUTURE = 0
    FINAL = 1
    EPISODE = 2


KEY_TO_GOAL_STRATEGY = {strategy.name.lower(): strategy for strategy in GoalSelectionStrategy}
