"""Masked distributions give sb3-contrib's numbers, in every stage of masking, gradients included."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.contrib.common.maskable.distributions import make_masked_proba_distribution
from support.contrib_rollouts import MANIFEST, SPACES, function_values

CASES = MANIFEST["functions"]["masked_distributions"]["cases"]
VALUES = function_values("masked_distributions")
STAGES = ("none", "first", "second", "removed")
# Rows of the first masks that allow nothing, or nothing in the first component.
EMPTY = [2, 3]


def masked(space, logits, stage, values):
    """The distribution after the masks of the stages up to one."""
    distribution = make_masked_proba_distribution(space).proba_distribution(logits)
    masks = {"first": values["first_masks"], "second": values["second_masks"], "removed": None}
    for name in STAGES[1 : STAGES.index(stage) + 1]:
        distribution.apply_masking(masks[name])
    return distribution


def weighted(space, stage, values, logits):
    distribution = masked(space, logits, stage, values)
    log_prob = distribution.log_prob(mx.array(values["actions"]))
    entropy = distribution.entropy()
    weights = mx.array(values["weight_log_prob"]), mx.array(values["weight_entropy"])
    return (weights[0] * mx.maximum(log_prob, -1e6) + weights[1] * entropy).sum()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda index: CASES[index]["action_space"])
def test_masked_distributions_are_contribs(index, stage):
    space, values = SPACES[CASES[index]["action_space"]], VALUES.group(f"case{index}")
    logits, actions = mx.array(values["logits"]), mx.array(values["actions"])
    distribution = masked(space, logits, stage, values)
    choices = getattr(distribution, "distributions", None) or [distribution.distribution]
    found = {
        "log_prob": distribution.log_prob(actions),
        "entropy": distribution.entropy(),
        "mode": distribution.mode(),
        "logits": mx.concatenate([choice.logits for choice in choices], axis=1),
        "probs": mx.concatenate([choice.probs for choice in choices], axis=1),
        "grad_logits": mx.grad(lambda x: weighted(space, stage, values, x))(logits),
    }
    rows = np.arange(len(values["logits"]))
    if stage == "first":
        # There float32 makes of -1e8 what it likes: a mistake that policies and buffers reject.
        rows = np.setdiff1d(rows, EMPTY)
    for name, array in found.items():
        bound = 2e-5 if name.startswith("grad") else 2e-6
        expected = values[f"{stage}/{name}"]
        np.testing.assert_allclose(
            np.array(array)[rows], expected[rows], rtol=bound, atol=bound, err_msg=name
        )


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda index: CASES[index]["action_space"])
def test_a_row_that_allows_nothing_has_log_probability_0_as_in_contrib(index):
    space, values = SPACES[CASES[index]["action_space"]], VALUES.group(f"case{index}")
    distribution = masked(space, mx.array(values["logits"]), "first", values)
    log_prob = np.array(distribution.log_prob(mx.array(values["actions"])))
    np.testing.assert_allclose(log_prob[EMPTY], values["first/log_prob"][EMPTY], rtol=2e-6, atol=2e-6)
    assert log_prob[2] == 0
