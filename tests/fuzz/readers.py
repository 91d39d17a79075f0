"""
Readers of replay buffers, statistics and torch's old format, for ``fuzz_archives.py``: of each a name, sound
files, and what reads them. A reader gives a value or raises ``ModelFileError``.
"""

import io
import pathlib
import pickle
import warnings

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.export import export_vec_normalize
from mlx_baselines3.common.formats.sb3 import torch_file as _torch_file
from mlx_baselines3.common.formats.vec_normalize import load_vec_normalize
from mlx_baselines3.common.saving.replay import load_replay_buffer
from mlx_baselines3.common.vec_env import NativeVecEnv, VecNormalize
from mlx_baselines3.her import HerReplayBuffer

DATA = pathlib.Path(__file__).parents[1] / "data"
BOX = spaces.Box(-2.0, 2.0, (2,), np.float32)
GOALS = spaces.Dict(dict.fromkeys(("observation", "achieved_goal", "desired_goal"), BOX))


def _filled(kind, space, **kwargs):
    buffer = kind(6, space, spaces.Discrete(2), **kwargs)
    for step in range(8):
        obs = dict.fromkeys(space.spaces, BOX.low[None]) if isinstance(space, spaces.Dict) else BOX.low[None]
        infos = [{"TimeLimit.truncated": step == 2}]
        buffer.add(obs, obs, np.zeros((1, 1)), np.ones(1), np.array([step % 3 == 2]), infos)
    return buffer


def _buffers():
    yield _filled(ReplayBuffer, BOX)
    yield _filled(ReplayBuffer, BOX, optimize_memory_usage=True)
    yield _filled(NStepReplayBuffer, BOX)
    yield _filled(DictReplayBuffer, GOALS)
    yield _filled(HerReplayBuffer, GOALS, env=None, copy_info_dict=True)


def _in_memory(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _replay_files():
    from mlx_baselines3.common.saving.replay import save_replay_buffer

    return [
        _in_memory(lambda stream, buffer=buffer: save_replay_buffer(buffer, stream)) for buffer in _buffers()
    ]


def _replay_pickles():
    recorded = sorted((DATA / "replay").glob("*/*.pkl"))
    recorded += sorted((DATA / "archives" / "0.1.0" / "pickles").glob("replay_*.pkl"))
    recorded += sorted((DATA / "replay").glob("sb3_*_replay.pkl"))
    theirs = [path.read_bytes() for path in recorded if not path.stem.startswith("normalize")]
    return theirs + [pickle.dumps(buffer) for buffer in _buffers()]


def _normalize():
    env = VecNormalize(NativeVecEnv("CartPole-v1", 1))
    env.reset()
    return env


def _statistics_pickles():
    recorded = sorted((DATA / "replay").glob("*/normalize_*.pkl"))
    recorded += sorted((DATA / "archives" / "0.1.0" / "pickles").glob("vecnormalize_*.pkl"))
    ours = [pickle.dumps(_normalize()), _in_memory(lambda stream: export_vec_normalize(_normalize(), stream))]
    return [path.read_bytes() for path in recorded] + ours


def _quietly(read):
    def reading(contents):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(contents)

    return reading


def readers():
    """:return: tuples of a name, a list of sound files (each as bytes), and a function that reads one"""
    load_buffer = _quietly(lambda contents: load_replay_buffer(io.BytesIO(contents)))
    load_statistics = _quietly(lambda contents: load_vec_normalize(io.BytesIO(contents), VecNormalize))
    legacy = (DATA / "torch" / "legacy.pth").read_bytes()
    return [
        ("replay", _replay_files(), load_buffer),
        ("replay_pickle", _replay_pickles(), load_buffer),
        ("statistics", [_in_memory(_normalize().save)], load_statistics),
        ("statistics_pickle", _statistics_pickles(), load_statistics),
        ("legacy_torch", [legacy], lambda contents: _torch_file.load(contents, "file")),
    ]
