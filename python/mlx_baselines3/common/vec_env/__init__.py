"""Vectorised environments and the wrappers around them."""

from copy import deepcopy
from typing import TypeVar

from mlx_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper, VecEnv, VecEnvWrapper
from mlx_baselines3.common.vec_env.dummy_vec_env import DummyVecEnv
from mlx_baselines3.common.vec_env.gym_vec_env import GymVecEnv, as_vec_env, is_vector_env
from mlx_baselines3.common.vec_env.native_vec_env import NativeVecEnv
from mlx_baselines3.common.vec_env.stacked_observations import StackedObservations
from mlx_baselines3.common.vec_env.subproc_vec_env import SubprocVecEnv
from mlx_baselines3.common.vec_env.vec_check_nan import VecCheckNan
from mlx_baselines3.common.vec_env.vec_extract_dict_obs import VecExtractDictObs
from mlx_baselines3.common.vec_env.vec_frame_stack import VecFrameStack
from mlx_baselines3.common.vec_env.vec_monitor import VecMonitor
from mlx_baselines3.common.vec_env.vec_normalize import VecNormalize
from mlx_baselines3.common.vec_env.vec_transpose import VecTransposeImage
from mlx_baselines3.common.vec_env.vec_video_recorder import VecVideoRecorder

VecEnvWrapperT = TypeVar("VecEnvWrapperT", bound=VecEnvWrapper)


def unwrap_vec_wrapper(env: VecEnv, vec_wrapper_class: type[VecEnvWrapperT]) -> VecEnvWrapperT | None:
    """
    Find a wrapper around a vectorised environment.

    :param env: the vectorised environment
    :param vec_wrapper_class: the wrapper to look for
    :return: the outermost wrapper of that class, None if there is none
    """
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, vec_wrapper_class):
            return env
        env = env.venv
    return None


def unwrap_vec_normalize(env: VecEnv) -> VecNormalize | None:
    """
    Find the ``VecNormalize`` around a vectorised environment.

    :param env: the vectorised environment
    :return: the wrapper, None if there is none
    """
    return unwrap_vec_wrapper(env, VecNormalize)


def is_vecenv_wrapped(env: VecEnv, vec_wrapper_class: type[VecEnvWrapper]) -> bool:
    """
    Check whether a vectorised environment is wrapped in a class.

    :param env: the vectorised environment
    :param vec_wrapper_class: the wrapper to look for
    :return: True if the wrapper is present at any depth
    """
    return unwrap_vec_wrapper(env, vec_wrapper_class) is not None


def sync_envs_normalization(env: VecEnv, eval_env: VecEnv) -> None:
    """
    Copy the statistics of each ``VecNormalize`` of the training environment to the evaluation environment.

    :param env: training environment
    :param eval_env: evaluation environment, wrapped in the same way
    :raises AssertionError: if it is wrapped differently
    """
    while isinstance(env, VecEnvWrapper):
        expected = VecNormalize if isinstance(env, VecNormalize) else VecEnvWrapper
        assert isinstance(eval_env, expected), (
            "Error while synchronizing normalization stats: expected the eval env to be "
            f"a {expected.__name__} but got {eval_env} instead. "
            "This is probably due to the training env not being wrapped the same way as the evaluation env. "
            f"Training env type: {env}."
        )
        if isinstance(env, VecNormalize) and isinstance(eval_env, VecNormalize):
            # Observations that are not normalised have no statistics.
            if "obs_rms" in env.__dict__:
                eval_env.obs_rms = deepcopy(env.obs_rms)
            eval_env.ret_rms = deepcopy(env.ret_rms)
        env, eval_env = env.venv, eval_env.venv


__all__ = [
    "CloudpickleWrapper",
    "DummyVecEnv",
    "GymVecEnv",
    "NativeVecEnv",
    "StackedObservations",
    "SubprocVecEnv",
    "VecCheckNan",
    "VecEnv",
    "VecEnvWrapper",
    "VecExtractDictObs",
    "VecFrameStack",
    "VecMonitor",
    "VecNormalize",
    "VecTransposeImage",
    "VecVideoRecorder",
    "as_vec_env",
    "is_vecenv_wrapped",
    "is_vector_env",
    "sync_envs_normalization",
    "unwrap_vec_normalize",
    "unwrap_vec_wrapper",
]
