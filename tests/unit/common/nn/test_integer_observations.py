"""Values outside of Discrete and MultiDiscrete spaces are errors wherever they come from, as in SB3."""

import gymnasium as gym
import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DQN, PPO, SAC
from mlx_baselines3.common.nn.integer_observations import check_integers, holds_integers
from mlx_baselines3.common.preprocessing import preprocess_obs
from mlx_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

FOUR = spaces.Discrete(4)
FROM_ONE = spaces.Discrete(3, start=1)
PAIR = spaces.MultiDiscrete([2, 3])
BOTH = spaces.Dict(n=spaces.Discrete(3), x=spaces.Box(0, 1, (2,)))


class Counting(gym.Env):
    """
    Gives values in turn.

    :param space: the observation space
    :param values: what it gives
    """

    def __init__(self, space, values, continuous=False):
        self.observation_space, self.values, self.turn = space, values, 0
        self.action_space = spaces.Box(-1, 1, (1,)) if continuous else spaces.Discrete(2)

    def _next(self):
        self.turn += 1
        return self.values[self.turn % len(self.values)]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._next(), {}

    def step(self, action):
        return self._next(), 1.0, False, False, {}


def pair(n):
    return {"n": n, "x": np.zeros(2, np.float32)}


WRONG = [
    (FOUR, [0, 1, 2, 4], r"the observation of environment 0 is 4, outside of Discrete\(4\).* 0 to 3"),
    (FOUR, [0, -1], "is -1, outside of"),
    (FROM_ONE, [1, 2, 3, 0], "is 0, outside of .* 1 to 3"),
    (FROM_ONE, [1, 4], "is 4, outside of"),
    (PAIR, [np.array([1, 2]), np.array([0, 3])], "entry 1 of the observation of environment 0 is 3"),
    (BOTH, [pair(0), pair(3)], "'n' in the observation of environment 0 is 3"),
]
ALGORITHMS = [
    (PPO, {"n_steps": 8, "batch_size": 8}),
    (A2C, {}),
    (DQN, {"learning_starts": 4, "buffer_size": 50, "batch_size": 4}),
    (DQN, {"learning_starts": 100, "buffer_size": 50}),
    (SAC, {"learning_starts": 4, "buffer_size": 50, "batch_size": 4}),
]


def model(cls, env, **kwargs):
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    return cls(policy, env, seed=0, policy_kwargs={"net_arch": [4]}, **kwargs)


@pytest.mark.parametrize(("space", "values", "message"), WRONG)
@pytest.mark.parametrize(("cls", "kwargs"), ALGORITHMS)
def test_environments_that_leave_their_space(cls, kwargs, space, values, message):
    with pytest.raises(RuntimeError, match=message):
        model(cls, Counting(space, values, continuous=cls is SAC), **kwargs).learn(16)


@pytest.mark.parametrize(
    ("space", "values"),
    [(FOUR, [0, 1, 2, 3]), (FROM_ONE, [1, 2, 3]), (PAIR, [np.array([1, 2])]), (BOTH, [pair(0), pair(2)])],
)
@pytest.mark.parametrize(("cls", "kwargs"), ALGORITHMS)
def test_environments_that_stay_in_their_space(cls, kwargs, space, values):
    model(cls, Counting(space, values, continuous=cls is SAC), **kwargs).learn(16)


def test_the_environment_is_named():
    envs = DummyVecEnv(
        [lambda: Counting(FOUR, [1]), lambda: Counting(FOUR, [1]), lambda: Counting(FOUR, [7])]
    )
    with pytest.raises(RuntimeError, match="observation of environment 2 is 7"):
        model(PPO, envs, n_steps=8, batch_size=8).learn(8)


@pytest.mark.parametrize(("cls", "kwargs"), [ALGORITHMS[0], ALGORITHMS[2]])
def test_predict_and_evaluate(cls, kwargs):
    made = model(cls, Counting(FOUR, [0]), **kwargs)
    for observation in (4, np.array(4), np.array([0, 4]), np.array([4.0])):
        with pytest.raises(RuntimeError, match=r"is 4(\.0)?, outside of Discrete\(4\)"):
            made.predict(observation, deterministic=True)
    with pytest.raises(RuntimeError, match="observation of row 1 is -1"):
        made.policy(mx.array([0, -1]))
    if cls is PPO:
        for call in (
            lambda obs: made.policy.evaluate_actions(obs, mx.array([0, 0])),
            made.policy.predict_values,
            made.policy.get_distribution,
        ):
            with pytest.raises(RuntimeError, match="observation of row 1 is 9"):
                call(mx.array([0, 9]))


@pytest.mark.parametrize("field", ["observations", "next_observations"])
def test_replay_buffers(field):
    made = model(DQN, Counting(FOUR, [0]), **ALGORITHMS[2][1]).learn(8)
    getattr(made.replay_buffer, field)[:] = 5
    with pytest.raises(RuntimeError, match="observation of transition 0 is 5"):
        made.train(2, 4)


def test_rollout_buffers():
    made = model(PPO, Counting(FOUR, [0]), **ALGORITHMS[0][1]).learn(8)
    made.rollout_buffer.generator_ready = False
    made.rollout_buffer.observations[:] = 5
    with pytest.raises(RuntimeError, match="observation of row 0 is 5"):
        made.train()


def test_fractions_are_cut_off():
    """As SB3 does by ``long()``; a row of zeros would be no state at all."""
    codes = preprocess_obs(mx.array([1.5, -0.5, 3.0]), FOUR)
    np.testing.assert_array_equal(np.array(codes), np.eye(4)[[1, 0, 3]])
    codes = preprocess_obs(mx.array([[1.5, 2.25]]), PAIR)
    np.testing.assert_array_equal(np.array(codes), [[0, 1, 0, 0, 1]])
    with pytest.raises(RuntimeError, match="is nan"):
        preprocess_obs(mx.array([float("nan")]), FOUR)


def test_a_compiled_function_goes_without():
    codes = mx.compile(lambda obs: preprocess_obs(obs, FOUR))(mx.array([2]))
    np.testing.assert_array_equal(np.array(codes), [[0, 0, 1, 0]])
    slope = mx.compile(mx.grad(lambda w, obs: (preprocess_obs(obs, FOUR) * w).sum()))(
        mx.array(1.0), mx.array([2])
    )
    assert slope.item() == 1


def test_which_spaces_are_looked_at():
    assert holds_integers(BOTH)
    assert not holds_integers(spaces.Dict(x=spaces.MultiBinary(3), y=spaces.Box(0, 1, (2,))))
    check_integers(np.array([[2, 2]]), spaces.MultiBinary(2))
    check_integers({"x": np.zeros((1, 2))}, BOTH)


def test_workers_are_no_exception():
    envs = SubprocVecEnv([_three, _seven], start_method="spawn")
    try:
        with pytest.raises(RuntimeError, match="observation of environment 1 is 7"):
            model(PPO, envs, n_steps=8, batch_size=8).learn(8)
    finally:
        envs.close()


def _three():
    return Counting(FOUR, [3])


def _seven():
    return Counting(FOUR, [7])
