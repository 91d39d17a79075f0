"""Who decides whether a policy is good."""

from mlx_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.vec_env import NativeVecEnv


def judge(model, env_id):
    """Mean return over 20 episodes in Gymnasium's own environment, not the native one of the training."""
    mean, _ = evaluate_policy(model, make_vec_env(env_id, 1, seed=1000), n_eval_episodes=20)
    return mean


def stop_at(reward, env_id, eval_freq):
    """
    Train until 20 episodes reach a mean return.

    A2C and DQN find a good policy, lose it and find it again, and a young policy of SAC that swings the
    pendulum up from everywhere may leave it hanging from some places a thousand steps later: SB3's no less
    than ours. The policy after a fixed number of steps would be a matter of luck. The reward should be
    somewhat above what the judge asks for: the judge's episodes are others.
    """
    env = make_vec_env(env_id, 1, seed=2000, vec_env_cls=NativeVecEnv)
    stop = StopTrainingOnRewardThreshold(reward)
    return EvalCallback(env, stop, n_eval_episodes=20, eval_freq=eval_freq, verbose=0)
