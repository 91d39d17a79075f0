"""check_env: a good environment passes in silence, each fault is named."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.env_checker import check_env
from mlx_baselines3.common.envs import BitFlippingEnv, IdentityEnvBox, SimpleMultiObsEnv

VECTOR = spaces.Box(-1.0, 2.0, (3,), np.float32)
ONES = np.ones(2, np.float32)
GOOD_ACTION = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Env(gym.Env):
    """Returns samples of its observation space, or whatever it is told to."""

    def __init__(self, observation_space=VECTOR, action_space=GOOD_ACTION, reset=None, step=None):
        self.observation_space, self.action_space = observation_space, action_space
        self._reset, self._step = reset, step

    def reset(self, *, seed=None, options=None):
        return (self.observation_space.sample(), {}) if self._reset is None else self._reset

    def step(self, action):
        return (self.observation_space.sample(), 0.0, True, False, {}) if self._step is None else self._step


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCar-v0"])
def test_gymnasium_envs_pass_in_silence(env_id):
    env = gym.make(env_id)
    check_env(env)
    env.close()


def test_pendulum_gets_one_piece_of_advice():
    with pytest.warns(UserWarning, match=r"range=\[-1, 1\]") as record:
        check_env(gym.make("Pendulum-v1"))
    assert len(record) == 1


@pytest.mark.parametrize(
    "observation_space",
    [
        VECTOR,
        spaces.Discrete(4),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
        spaces.Box(0, 255, (36, 40, 3), np.uint8),
        spaces.Box(0, 255, (4, 36, 40), np.uint8),
        spaces.Dict({"a": VECTOR, "b": spaces.Discrete(2)}),
    ],
)
def test_supported_spaces_pass_in_silence(observation_space):
    check_env(Env(observation_space))


@pytest.mark.parametrize(
    ("observation_space", "message"),
    [
        (spaces.Box(0, 255, (32, 64, 3), np.uint8), "36x36 .* 32x64"),
        (spaces.Box(0, 255, (3, 64, 32), np.uint8), "36x36 .* 64x32"),
        (spaces.Box(0, 1, (64, 64, 3), np.uint8), r"not in \[0, 255\]"),
        (spaces.Box(0, 255, (64, 64, 3), np.float32), r"`dtype` is \(float32\)"),
        (spaces.Box(-1, 1, (64, 3), np.float32), r"unconventional shape \(64, 3\)"),
        (spaces.Tuple([spaces.Discrete(5), spaces.Discrete(10)]), "is a Tuple"),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(5)})}), "Nested"),
        (spaces.Dict({"img": spaces.Box(0, 255, (32, 32, 3), np.uint8)}), "observation img"),
        (spaces.Discrete(3, start=-1), r"Discrete observation space with a non-zero start \(start=-1\)"),
        (spaces.MultiDiscrete([4, 4], start=[1, 0]), "MultiDiscrete observation space with a non-zero"),
        (spaces.Dict({"obs": spaces.Discrete(3, start=1)}), r"\(key='obs'\)"),
        (spaces.MultiDiscrete(np.array([[4, 4], [2, 3]])), "multidimensional array"),
    ],
)
def test_advice_about_observation_spaces(observation_space, message):
    with pytest.warns(UserWarning, match=message):
        check_env(Env(observation_space))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(Env(observation_space), warn=False)


GRAPH = spaces.Graph(node_space=spaces.Box(0, 1, (2,)), edge_space=None)
UNCHECKED = [
    (spaces.Sequence(spaces.Discrete(8)), "Sequence"),
    (spaces.Dict({"seq": spaces.Sequence(spaces.Discrete(8))}), "Sequence"),
    (spaces.Tuple([spaces.Sequence(spaces.Discrete(8))]), "Sequence"),
    (GRAPH, "Graph"),
    (spaces.Dict({"g": GRAPH}), "Graph"),
]
if hasattr(spaces, "OneOf"):
    UNCHECKED.append((spaces.OneOf([VECTOR, spaces.Discrete(3)]), "OneOf"))


@pytest.mark.parametrize(("observation_space", "name"), UNCHECKED)
@pytest.mark.filterwarnings("ignore:The observation space is a Tuple")
def test_spaces_whose_values_are_not_checked(observation_space, name):
    env = Env(observation_space, step="would fail if it were called")
    with pytest.warns(UserWarning, match=f"{name} observation space is not supported"):
        check_env(env)


@pytest.mark.parametrize(
    ("action_space", "message"),
    [
        (spaces.Box(0, 1, (3,), np.float32), "symmetric and normalized"),
        (spaces.Box(-1, 1, (3,), np.float64), "dtype float64"),
        (spaces.Box(-0.1, 0.1, (2,), np.float32), "symmetric and normalized"),
        (spaces.Box(-ONES, np.float32([1, 0.99]), dtype=np.float32), "symmetric and normalized"),
        (spaces.Discrete(3, start=-1), "Discrete action space with a non-zero start"),
        (spaces.MultiDiscrete(np.array([[4, 4], [2, 3]])), "MultiDiscrete action space"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "action space is a Dict"),
    ],
)
def test_advice_about_action_spaces(action_space, message):
    with pytest.warns(UserWarning, match=message):
        check_env(Env(action_space=action_space))


@pytest.mark.filterwarnings("ignore:We recommend you to use a symmetric")
def test_infinite_actions_are_an_error():
    with pytest.raises(AssertionError, match="finite lower and upper bound"):
        check_env(Env(action_space=spaces.Box(-np.inf, 1, (2,), np.float32)))


BAD_OBSERVATIONS = [
    (
        VECTOR,
        np.array([1.0, 1.5, 2.5], np.float32),
        r"Expected: -1\.0 <= obs\[2\] <= 2\.0, actual value: 2\.5",
    ),
    (VECTOR, np.array([-2.0, 0.0, 9.0], np.float32), "2 invalid indices"),
    (spaces.Box(-1, 2, (2, 3, 3, 1)), np.full((2, 3, 3, 1), 3, np.float32), r"obs\[1,2,1,0\] <= 2\.0"),
    (VECTOR, np.zeros(3), "Expected: float32, actual dtype: float64"),
    (VECTOR, np.zeros((2, 3), np.float32), r"Expected: \(3,\), actual shape: \(2, 3\)"),
    (VECTOR, 1, "must be a numpy array"),
    (VECTOR, (np.zeros(3, np.float32), False), "not a tuple"),
    (spaces.Discrete(3), 1.0, "must be an int"),
    (spaces.Discrete(3), 3, "does not match the given observation space Discrete"),
    (spaces.MultiBinary(3), np.array([[1, 0, 0]], np.int8), r"\(3,\), actual shape: \(1, 3\)"),
    (spaces.Dict({"a": VECTOR}), np.zeros(3), "must be a dictionary"),
    (spaces.Dict({"a": VECTOR}), {"b": np.zeros(3)}, r"\['b'\] != \['a'\]"),
    (spaces.Dict({"a": VECTOR}), {"a": np.zeros(3)}, "checking key=a: .* float64"),
]


@pytest.mark.parametrize("method", ["reset", "step"])
@pytest.mark.parametrize(("space", "observation", "message"), BAD_OBSERVATIONS)
def test_wrong_observations(space, observation, message, method):
    if method == "reset":
        env = Env(space, reset=(observation, {}))
    else:
        env = Env(space, step=(observation, 0.0, True, False, {}))
    with pytest.raises(AssertionError, match=rf"(?s)^(?=.*`{method}\(\)`).*{message}"):
        check_env(env, warn=False)


def test_a_large_bad_image_gives_a_readable_message():
    space = spaces.Box(0, 1, (60, 60), np.float32)
    with pytest.raises(AssertionError, match=r"(?s)3600 invalid indices.*\.\.\. and 3500 more") as error:
        check_env(Env(space, reset=(np.full((60, 60), 2, np.float32), {})), warn=False)
    assert len(str(error.value)) < 10_000


OBS = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ((OBS, 0.0, False, {}), "Actual: 4 values"),
        ((OBS, np.ones(1), False, False, {}), "reward .* must be a float"),
        ((OBS, 0.0, 1, False, {}), "`terminated` signal must be a boolean"),
        ((OBS, 0.0, False, 1.0, {}), "`truncated` signal must be a boolean"),
        ((OBS, 0.0, False, False, None), "`info` returned by `step.*dictionary"),
    ],
)
def test_wrong_step(step, message):
    with pytest.raises(AssertionError, match=message):
        check_env(Env(step=step))


@pytest.mark.parametrize(
    ("reset", "message"),
    [
        ([OBS, {}], "must return a tuple"),
        ((OBS, {}, 1), "size 2"),
        ((OBS, None), "must be a dictionary not None"),
    ],
)
def test_wrong_reset(reset, message):
    with pytest.raises(AssertionError, match=message):
        check_env(Env(reset=reset))


def test_reset_must_take_a_seed():
    class Old(Env):
        def reset(self):
            return OBS, {}

    with pytest.raises(TypeError, match="`seed` parameter"):
        check_env(Old())


def test_not_an_environment_and_no_spaces():
    with pytest.raises(AssertionError, match=r"inherit from the gymnasium\.Env"):
        check_env(object())
    with pytest.raises(AssertionError, match="action space must inherit from"):
        check_env(Env(action_space="two buttons"))
    env = Env()
    del env.observation_space
    with pytest.raises(AssertionError, match="specify an observation space"):
        check_env(env)


def test_nan_is_found():
    class Nan(Env):
        def step(self, action):
            return self.observation_space.sample(), float("nan"), True, False, {}

    with pytest.warns(UserWarning, match="found nan in rewards"):
        check_env(Nan())


class TestGoalEnv:
    def test_missing_key(self):
        env = BitFlippingEnv()
        del env.observation_space.spaces["observation"]
        with pytest.raises(AssertionError, match="at least 3 observation keys"):
            check_env(env)
        env.observation_space.spaces["x"] = VECTOR
        del env.observation_space.spaces["desired_goal"]
        env.observation_space.spaces["y"] = VECTOR
        with pytest.raises(AssertionError, match="'desired_goal' key"):
            check_env(env)

    def test_other_space(self):
        class Other(Env):
            def compute_reward(self):
                return 0.0

        with pytest.raises(AssertionError, match="require the observation space to be"):
            check_env(Other())

    def test_reward_of_one_goal_and_of_many_must_agree(self):
        class Wrong(BitFlippingEnv):
            def compute_reward(self, achieved_goal, desired_goal, info):
                reward = super().compute_reward(achieved_goal, desired_goal, info)
                return reward if len(reward) == 1 else reward - 7

        with pytest.raises(AssertionError, match="differs from single computation"):
            check_env(Wrong())

        class Else(BitFlippingEnv):
            def step(self, action):
                obs, _, *rest = super().step(action)
                return obs, 42.0, *rest

        with pytest.raises(AssertionError, match=r"step.* gave 42\.0"):
            check_env(Else())


def test_render_check():
    class Rendered(IdentityEnvBox):
        metadata = {"render_modes": ["human"]}
        render_mode = "human"
        calls = ()

        def render(self):
            self.calls += ("render",)

        def close(self):
            self.calls += ("close",)

    env = Rendered()
    check_env(env)
    assert env.calls == ()
    check_env(env, skip_render_check=False)
    assert env.calls == ("render", "close")
    env = SimpleMultiObsEnv()
    env.metadata = {}
    with pytest.warns(UserWarning, match="No render modes"):
        check_env(env, skip_render_check=False)
