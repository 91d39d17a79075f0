"""Strategies that select the new goal of a relabelled transition."""

from enum import Enum

__all__ = ["KEY_TO_GOAL_STRATEGY", "GoalSelectionStrategy"]


class GoalSelectionStrategy(Enum):
    """
    Selection of a new goal from the transition's episode (https://arxiv.org/abs/1707.01495).

    - ``FUTURE``: a state at or after the transition's next state
    - ``FINAL``: the last state
    - ``EPISODE``: any state except the first
    """

    FUTURE = 0
    FINAL = 1
    EPISODE = 2


KEY_TO_GOAL_STRATEGY = {strategy.name.lower(): strategy for strategy in GoalSelectionStrategy}
