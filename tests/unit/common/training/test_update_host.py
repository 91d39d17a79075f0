"""What the update asks of its host: answers at the end only, and no C++ compiler."""

import json
import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3 import PPO

SCRIPT = """
import json, sys
import numpy as np
from mlx_baselines3 import PPO

model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=4, n_epochs=2, seed=3,
            policy_kwargs={"net_arch": [4]}).learn(16)
json.dump(model.policy.parameters_to_vector().tolist(), sys.stdout)
"""


def test_result_is_the_same_without_a_compiler(tmp_path, updates):
    """MLX builds kernels with g++; where there is none it runs the same operations one by one."""
    changed = {"PATH": str(tmp_path), "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    bare = subprocess.run(command, env={**os.environ, **changed}, capture_output=True, text=True, check=True)
    usual = subprocess.run(command, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(bare.stdout), json.loads(usual.stdout), atol=1e-6)


class Asked(dict):
    """How often the host waited for MLX."""

    def count(self, monkeypatch, owner, name):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            self[name] = self.get(name, 0) + 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)


@pytest.mark.usefixtures("mlx_updates")
@pytest.mark.parametrize("target_kl", [None, 1e9])
def test_number_of_questions_does_not_depend_on_minibatches(monkeypatch, target_kl):
    questions = {}
    for n_steps in (8, 32):
        model = PPO(
            "MlpPolicy",
            "CartPole-v1",
            n_steps=n_steps,
            batch_size=4,
            n_epochs=3,
            target_kl=target_kl,
            policy_kwargs={"net_arch": [4]},
        ).learn(n_steps)
        asked = Asked()
        with monkeypatch.context() as patch:
            asked.count(patch, mx, "eval")
            for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
                asked.count(patch, mx.array, name)
            model.train()
        questions[n_steps] = dict(asked)
    assert questions[8] == questions[32]
    # One evaluation when the outcome is put in its place, and one when the call ends, of what another thread
    # could not compute. A step that may stop asks after each epoch, too.
    assert questions[32]["eval"] == 1 + 1 + (3 if target_kl else 0)
    assert sum(questions[32].values()) <= 2 * 3 + 3
