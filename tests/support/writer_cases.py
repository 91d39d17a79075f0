"""
All writers of the package that replace a file, each in a function that writes one, and processes that cannot
finish: ``python writer_cases.py full FOLDER`` meets a limit as it would a full disk, and
``killed FOLDER NAME`` is killed by the system amid writing.
"""

import json
import pathlib
import resource
import signal
import sys
import types

import numpy as np

from mlx_baselines3 import DQN
from mlx_baselines3.common.callbacks import EvalCallback
from mlx_baselines3.common.cuda import nvrtc
from mlx_baselines3.common.export import export_onnx, export_sb3, export_vec_normalize
from mlx_baselines3.common.logger import CSVOutputFormat
from mlx_baselines3.common.save_util import save_to_pkl, save_to_zip_file
from mlx_baselines3.common.vec_env import NativeVecEnv, VecNormalize, VecVideoRecorder

# Smaller than any of the files, and than half of the largest ones.
LIMIT = 600


def model(seed):
    env = NativeVecEnv("CartPole-v1", 1)
    kwargs = {"buffer_size": 40, "learning_starts": 1000, "policy_kwargs": {"net_arch": [8]}}
    return DQN("MlpPolicy", env, seed=seed, **kwargs).learn(30)


def normalized(seed):
    env = VecNormalize(NativeVecEnv("CartPole-v1", 2, seed=seed))
    env.reset()
    env.step(np.zeros(2, int))
    return env


def evaluations(path, seed):
    callback = EvalCallback(NativeVecEnv("CartPole-v1", 1), log_path=str(path.parent))
    callback.evaluations_timesteps = list(range(seed, seed + 100))
    callback.evaluations_results = callback.evaluations_length = [[seed]] * 100
    callback._save_log([0.0], [1])


def table(path, seed):
    """The second time a column is added, and the file written anew."""
    if seed == 1:
        table.log = CSVOutputFormat(str(path))
        for row in range(100):
            table.log.write({"first": row, "second": "text"}, {"first": None, "second": None})
    else:
        table.log.write({"third": seed}, {"third": None})


def video(path, seed):
    class ImageSequenceClip:
        def __init__(self, frames, fps):
            self.frames = frames

        def write_videofile(self, name):
            assert pathlib.Path(name).suffix == ".mp4"
            pathlib.Path(name).write_bytes(b"".join(frame.tobytes() for frame in self.frames))

    module = types.ModuleType("moviepy.video.io.ImageSequenceClip")
    module.ImageSequenceClip = ImageSequenceClip
    sys.modules[module.__name__] = module
    recorder = VecVideoRecorder.__new__(VecVideoRecorder)
    recorder.__dict__.update(recording=True, frames_per_sec=1, video_path=str(path))
    recorder.recorded_frames = [np.full((20, 20, 3), seed, np.uint8)] * 3
    recorder._stop_recording()


CASES = {
    "model.zip": lambda path, seed: model(seed).save(path),
    "sb3.zip": lambda path, seed: model(seed).save(path, format="sb3"),
    "exported.zip": lambda path, seed: export_sb3(model(seed), path),
    "model.onnx": lambda path, seed: export_onnx(model(seed), path),
    "checkpoint.zip": lambda path, seed: model(seed).save_checkpoint(path),
    "policy.zip": lambda path, seed: model(seed).policy.save(path),
    "arrays.zip": lambda path, seed: save_to_zip_file(path, params={"a": {"b": np.full(200, seed)}}),
    "buffer.pkl": lambda path, seed: model(seed).save_replay_buffer(path),
    "buffer_sb3.pkl": lambda path, seed: model(seed).save_replay_buffer(path, format="sb3"),
    "normalize.pkl": lambda path, seed: normalized(seed).save(path),
    "normalize_sb3.pkl": lambda path, seed: normalized(seed).save(path, format="sb3"),
    "normalize_exported.pkl": lambda path, seed: export_vec_normalize(normalized(seed), path),
    "kernel.cubin": lambda path, seed: nvrtc._store(path, bytes([seed]) * 2000),
    "object.pkl": lambda path, seed: save_to_pkl(path, list(range(seed, 1000))),
    "evaluations.npz": evaluations,
    "progress.csv": table,
    "video.mp4": video,
}


def full(folder):
    """Tells for each writer how a second file fared for which there was no room."""
    told = {}
    for name, write in CASES.items():
        path = folder / name
        write(path, 1)
        before = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
        try:
            write(path, 2)
            said = None
        except OSError as error:
            said = type(error).__name__
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        others = [other.name for other in folder.iterdir() if other.name not in CASES]
        told[name] = {"said": said, "kept": path.read_bytes() == before, "others": others}
    print(json.dumps(told))


def killed(folder, name):
    path = folder / name
    CASES[name](path, 1)
    (folder / "before").write_bytes(path.read_bytes())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Python ignores the signal; without that, the system ends the process amid its write.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    CASES[name](path, 2)


if __name__ == "__main__":
    globals()[sys.argv[1]](pathlib.Path(sys.argv[2]), *sys.argv[3:])
