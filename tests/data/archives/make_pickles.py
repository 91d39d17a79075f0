"""
Write the pickles of version 0.1.0: replay buffers and statistics of ``VecNormalize``.

They were written once, by the wheel of that version; later versions write archives. Run it with that wheel
first on the path: ``PYTHONPATH=FOLDER_OF_THE_WHEEL python tests/data/archives/make_pickles.py``.
"""

import pathlib

import numpy as np

from mlx_baselines3 import DQN, SAC
from mlx_baselines3.common.envs import BitFlippingEnv, SimpleMultiObsEnv
from mlx_baselines3.common.vec_env import DummyVecEnv, NativeVecEnv, VecNormalize
from mlx_baselines3.her import HerReplayBuffer

# Nothing is learned: only what is stored counts.
SMALL = {"learning_starts": 1000, "batch_size": 4, "seed": 0}
MODELS = {
    "plain": (SAC, "MlpPolicy", lambda: NativeVecEnv("Pendulum-v1", 2), {"buffer_size": 48}),
    "compact": (
        DQN,
        "MlpPolicy",
        lambda: NativeVecEnv("CartPole-v1", 1),
        {"buffer_size": 40, "optimize_memory_usage": True},
    ),
    "n_step": (DQN, "MlpPolicy", lambda: NativeVecEnv("CartPole-v1", 1), {"buffer_size": 40, "n_steps": 3}),
    "dict": (DQN, "MultiInputPolicy", lambda: DummyVecEnv([SimpleMultiObsEnv]), {"buffer_size": 6}),
    "her": (
        DQN,
        "MultiInputPolicy",
        lambda: DummyVecEnv([lambda: BitFlippingEnv(n_bits=3, continuous=False)]),
        {
            "buffer_size": 40,
            "replay_buffer_class": HerReplayBuffer,
            "replay_buffer_kwargs": {"copy_info_dict": True},
        },
    ),
}


def arrays_of(buffer):
    """The columns of a buffer, its cursor and its flag."""
    columns = {name: buffer._column(name) for name in buffer._columns}
    her = {name: getattr(buffer, name) for name in ("ep_start", "ep_length") if hasattr(buffer, name)}
    return {**columns, **her, "pos": buffer.pos, "full": buffer.full}


def main():
    folder = pathlib.Path(__file__).parent / "0.1.0" / "pickles"
    folder.mkdir(exist_ok=True)
    for name, (algorithm, policy, make_env, kwargs) in MODELS.items():
        model = algorithm(policy, make_env(), **SMALL, **kwargs).learn(50)
        model.save_replay_buffer(folder / f"replay_{name}.pkl")
        np.savez_compressed(folder / f"replay_{name}.npz", **arrays_of(model.replay_buffer))
    box = VecNormalize(NativeVecEnv("Pendulum-v1", 2, seed=0), gamma=0.9, clip_obs=5.0)
    both = VecNormalize(DummyVecEnv([SimpleMultiObsEnv]), norm_obs_keys=["vec"], norm_reward=False)
    for name, env in (("box", box), ("dict", both)):
        env.reset()
        for _ in range(20):
            env.step(np.array([env.action_space.sample()] * env.num_envs))
        env.save(str(folder / f"vecnormalize_{name}.pkl"))
        rms = env.obs_rms["vec"] if name == "dict" else env.obs_rms
        np.savez(
            folder / f"vecnormalize_{name}.npz",
            mean=rms.mean,
            var=rms.var,
            count=rms.count,
            returns=env.ret_rms.var,
        )


if __name__ == "__main__":
    main()
