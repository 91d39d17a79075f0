"""MaskablePPO: who acts, what predict gives, files, evaluation, arguments."""

import copy

import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import PPO
from mlx_baselines3.common.buffers import RolloutBuffer
from mlx_baselines3.common.vec_env import DummyVecEnv, NativeVecEnv
from mlx_baselines3.contrib import MaskablePPO
from mlx_baselines3.contrib.common.envs import (
    InvalidActionEnvDiscrete,
    InvalidActionEnvMultiBinary,
    InvalidActionEnvMultiDiscrete,
)
from mlx_baselines3.contrib.common.maskable.callbacks import MaskableEvalCallback
from mlx_baselines3.contrib.common.maskable.distributions import (
    MaskableCategorical,
    make_masked_proba_distribution,
)
from mlx_baselines3.contrib.common.maskable.evaluation import evaluate_policy
from mlx_baselines3.contrib.common.vec_env import AsyncEval

NATIVE = "mlx_baselines3/InvalidAction-v0"
SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "policy_kwargs": {"net_arch": [16]}, "seed": 0}


def natively(**changes):
    return MaskablePPO("MlpPolicy", NativeVecEnv(NATIVE, 4, seed=3), **{**SMALL, **changes})


def test_collecting_in_rust_and_step_by_step_is_the_same():
    """Masks, actions and everything else, bit for bit."""
    columns = []
    for callback in (None, lambda names, _: True):
        model = natively()
        model.learn(64, callback=callback)
        buffer = model.rollout_buffer
        names = ("observations", "actions", "rewards", "values", "log_probs", "action_masks")
        columns.append([np.array(getattr(buffer, name)).reshape(-1) for name in names])
    for fused, stepped in zip(*columns, strict=True):
        np.testing.assert_array_equal(fused, stepped)
    masks = columns[0][-1].reshape(-1, 80)
    np.testing.assert_array_equal(masks.sum(axis=1), 20)
    actions = columns[0][1].astype(int)
    assert masks[np.arange(len(masks)), actions].all()


def test_native_predictions_are_mlxs(rng):
    model = natively()
    twin = copy.deepcopy(model.policy)
    # A method of its own, which Rust does not know.
    twin.forward = twin.forward
    obs = rng.standard_normal((50, 80)).astype(np.float32)
    masks = rng.random((50, 80)) < 0.2
    masks[:, 7] = True
    actions, _ = model.predict(obs, deterministic=True, action_masks=masks)
    np.testing.assert_array_equal(actions, twin.predict(obs, deterministic=True, action_masks=masks)[0])
    drawn = [policy.predict(obs, action_masks=masks)[0] for policy in (model.policy, twin)]
    assert all(masks[np.arange(50), actions].all() for actions in drawn)


@pytest.mark.parametrize("policy", ["native", "mlx"])
def test_choices_are_drawn_by_their_probabilities(policy):
    model = natively()
    model.policy.action_net.bias = mx.array(np.log(np.arange(1, 81)).astype(np.float32))
    model.policy.action_net.weight = mx.zeros_like(model.policy.action_net.weight)
    if policy == "mlx":
        model.policy.forward = model.policy.forward
    mask = np.zeros(80)
    mask[[1, 5]] = 1
    actions, _ = model.predict(np.zeros((20_000, 80), np.float32), action_masks=np.tile(mask, (20_000, 1)))
    assert set(actions.tolist()) == {1, 5}
    # 6 / (2 + 6)
    assert abs((actions == 5).mean() - 0.75) < 0.02


def test_files_and_new_environments(tmp_path):
    model = natively().learn(64)
    obs = model.env.reset()
    masks = np.stack(model.env.env_method("action_masks"))
    expected, _ = model.predict(obs, deterministic=True, action_masks=masks)
    for kind in ("mlx", "sb3"):
        model.save(tmp_path / kind, format=kind)
        loaded = MaskablePPO.load(tmp_path / kind, env=NativeVecEnv(NATIVE, 4))
        np.testing.assert_array_equal(
            loaded.predict(obs, deterministic=True, action_masks=masks)[0], expected
        )
        loaded.learn(64, reset_num_timesteps=False)
    with pytest.raises(ValueError, match="a model of MaskablePPO, which PPO cannot load"):
        PPO.load(tmp_path / "mlx")


def test_evaluation_during_training(tmp_path):
    env = DummyVecEnv([lambda: InvalidActionEnvDiscrete(dim=5, n_invalid_actions=4, ep_length=10)])
    callback = MaskableEvalCallback(
        env, eval_freq=8, n_eval_episodes=2, log_path=str(tmp_path), verbose=0, warn=False
    )
    MaskablePPO("MlpPolicy", env, **SMALL).learn(16, callback=callback)
    assert callback.best_mean_reward == 10
    np.testing.assert_array_equal(np.load(tmp_path / "evaluations.npz")["results"], [[10, 10], [10, 10]])
    blind = MaskableEvalCallback(
        env, eval_freq=8, n_eval_episodes=2, verbose=0, warn=False, use_masking=False
    )
    MaskablePPO("MlpPolicy", env, **SMALL).learn(16, callback=blind)
    assert blind.best_mean_reward < 10


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"rollout_buffer_class": RolloutBuffer}, ValueError, "stores no action masks"),
        ({"batch_size": 1}, AssertionError, "batch_size"),
        ({"clip_range_vf": -1.0}, AssertionError, "must be positive"),
    ],
)
def test_wrong_arguments(kwargs, error, says):
    with pytest.raises(error, match=says):
        natively(**kwargs)


def test_policies_without_masks_are_refused():
    with pytest.raises(ValueError, match="Policy must subclass MaskableActorCriticPolicy"):
        MaskablePPO(type(PPO("MlpPolicy", "CartPole-v1").policy), "CartPole-v1")


def test_one_batch_of_all_rows():
    model = natively(batch_size=None, n_epochs=1).learn(64)
    assert model._n_updates == 1


def test_distributions_by_hand():
    """Logits ln 1, ln 2, ln 3, the second forbidden: probabilities 1/4 and 3/4."""
    logits = mx.log(mx.array([[1.0, 2.0, 3.0]]))
    masks = np.array([[True, False, True]])
    for made in (
        MaskableCategorical(logits=logits, masks=masks),
        MaskableCategorical(mx.exp(logits), masks=masks),
    ):
        np.testing.assert_allclose(made.probs, [[0.25, 0, 0.75]], atol=1e-6)
        entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
        np.testing.assert_allclose(made.entropy(), [entropy], rtol=1e-6)
        assert made.mode().item() == 2
        np.testing.assert_allclose(made.log_prob(mx.array([0])), [np.log(0.25)], rtol=1e-6)
    with pytest.raises(ValueError, match="either probs or logits"):
        MaskableCategorical()
    with pytest.raises(NotImplementedError, match="Box"):
        make_masked_proba_distribution(spaces.Box(0, 1, (2,)))


def test_candidates_are_evaluated_in_processes():
    def make_env():
        return DummyVecEnv([lambda: InvalidActionEnvDiscrete(dim=1, ep_length=3)])

    model = MaskablePPO("MlpPolicy", make_env(), **SMALL)
    weights = model.policy.parameters_to_vector()
    evaluation = AsyncEval([make_env, make_env], model.policy, start_method="spawn", n_eval_episodes=2)
    try:
        assert len(evaluation.seed(4)) == 2
        evaluation.send_jobs(np.stack([weights, 2 * weights, 0 * weights]), 3)
        with pytest.raises(RuntimeError, match="get_results first"):
            evaluation.seed(4)
        found = dict(evaluation.get_results())
        assert found == dict.fromkeys(range(3), ([3.0, 3.0], [3, 3]))
        assert evaluation.get_obs_rms() == [None, None]
        with pytest.raises(RuntimeError, match="needs environments that are wrapped in a VecNormalize"):
            evaluation.sync_obs_rms(None)
        with pytest.raises(ValueError, match="weights of 1 candidates"):
            evaluation.send_jobs(weights[None], 2)
    finally:
        evaluation.close()
    with pytest.raises(RuntimeError, match="closed"):
        evaluation.send_jobs(weights[None], 1)


LEARNED = {
    "discrete": lambda: InvalidActionEnvDiscrete(dim=20, n_invalid_actions=10),
    "multi_discrete": lambda: InvalidActionEnvMultiDiscrete([3, 3], n_invalid_actions=2),
    "multi_binary": lambda: InvalidActionEnvMultiBinary(3, n_invalid_actions=1),
}


@pytest.mark.learning
@pytest.mark.parametrize("env", LEARNED)
def test_it_learns_to_repeat_what_it_sees(env):
    """
    The mean of three seeds, because the return is the share of the observations whose action was found:
    a single seed may end with one of four never found, and which does depends on a CPU's last bits.
    Random valid actions get 10 to 25.
    """
    make = LEARNED[env]
    settings = {"n_steps": 256, "batch_size": 64, "gamma": 0.4, "learning_rate": 1e-3, "ent_coef": 0.05}
    returns = []
    for seed in range(3):
        model = MaskablePPO("MlpPolicy", DummyVecEnv([make] * 4), seed=seed, **settings).learn(40_000)
        returns.append(evaluate_policy(model, DummyVecEnv([make]), 20, warn=False)[0])
    assert np.mean(returns) > 85, returns
