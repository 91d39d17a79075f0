"""Video recording of vectorized environments."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import error, logger

from mlx_baselines3._atomic import atomic_path
from mlx_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvObs, VecEnvStepReturn, VecEnvWrapper
from mlx_baselines3.common.vec_env.dummy_vec_env import DummyVecEnv as DummyVecEnv
from mlx_baselines3.common.vec_env.subproc_vec_env import SubprocVecEnv as SubprocVecEnv


class MissingMoviePy(error.DependencyNotInstalled, ImportError):
    """MoviePy is missing; both Gymnasium's error, as in SB3, and an ImportError."""


class VecVideoRecorder(VecEnvWrapper):
    """
    Record rendered images to mp4 files with MoviePy, which includes ffmpeg.

    :param venv: vectorised environment with ``render_mode="rgb_array"``
    :param video_folder: folder of the videos; created if missing
    :param record_video_trigger: takes the number of steps so far and returns whether to start a video
    :param video_length: number of steps in a video
    :param name_prefix: beginning of the file names
    :raises AssertionError: if the environments do not render to arrays
    :raises MissingMoviePy: if MoviePy is missing
    """

    video_name: str
    video_path: str

    def __init__(
        self,
        venv: VecEnv,
        video_folder: str,
        record_video_trigger: Callable[[int], bool],
        video_length: int = 200,
        name_prefix: str = "rl-video",
    ) -> None:
        super().__init__(venv)
        self.env = self.venv
        self.env.metadata = _env_metadata(self.venv.unwrapped)
        assert self.render_mode == "rgb_array", f"The render_mode must be 'rgb_array', not {self.render_mode}"
        self.frames_per_sec = self.env.metadata.get("render_fps", 30)
        self.record_video_trigger = record_video_trigger
        self.video_folder = os.path.abspath(video_folder)
        os.makedirs(self.video_folder, exist_ok=True)
        self.name_prefix = name_prefix
        self.step_id = 0
        self.video_length = video_length
        self.recording = False
        self.recorded_frames: list[np.ndarray] = []
        try:
            import moviepy  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
        except ImportError as missing:
            raise MissingMoviePy(
                "moviepy is needed to record videos. Install it with `pip install 'gymnasium[other]'`."
            ) from missing

    def reset(self) -> VecEnvObs:
        obs = self.venv.reset()
        if self._video_enabled():
            self._start_video_recorder()
        return obs

    def _start_video_recorder(self) -> None:
        last_step = self.step_id + self.video_length
        self.video_name = f"{self.name_prefix}-step-{self.step_id}-to-step-{last_step}.mp4"
        self.video_path = os.path.join(self.video_folder, self.video_name)
        self._start_recording()
        self._capture_frame()

    def _video_enabled(self) -> bool:
        return self.record_video_trigger(self.step_id)

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        self.step_id += 1
        if self.recording:
            self._capture_frame()
            # The first frame precedes the first step.
            if len(self.recorded_frames) > self.video_length:
                print(f"Saving video to {self.video_path}")
                self._stop_recording()
        elif self._video_enabled():
            self._start_video_recorder()
        return obs, rewards, dones, infos

    def _capture_frame(self) -> None:
        assert self.recording, "Cannot capture a frame, recording wasn't started."
        frame = self.env.render()
        if isinstance(frame, np.ndarray):
            self.recorded_frames.append(frame)
        else:
            self._stop_recording()
            logger.warn(f"Recording stopped: render must return a numpy array, got {type(frame)}.")

    def close(self) -> None:
        """Close the environments and save the video that is being recorded."""
        super().close()
        if self.recording:
            self._stop_recording()

    def _start_recording(self) -> None:
        if self.recording:
            self._stop_recording()
        self.recording = True

    def _stop_recording(self) -> None:
        assert self.recording, "_stop_recording was called, but no recording was started"
        if len(self.recorded_frames) == 0:
            logger.warn("Ignored saving a video as there were zero frames to save.")
        else:
            from moviepy.video.io.ImageSequenceClip import (  # type: ignore[import-not-found,unused-ignore]
                ImageSequenceClip,
            )

            clip = ImageSequenceClip(self.recorded_frames, fps=self.frames_per_sec)
            with atomic_path(self.video_path) as path:
                clip.write_videofile(str(path))
        self.recorded_frames = []
        self.recording = False

    def __del__(self) -> None:
        # The constructor may have failed before creating frames.
        if self.__dict__.get("recorded_frames"):
            logger.warn("Unable to save last video! Did you call close()?")


def _env_metadata(venv: VecEnv) -> dict[str, Any]:
    # The frame rate is an attribute of the environments, not of the vectorised environment.
    metadata: dict[str, Any] = venv.get_attr("metadata")[0] if venv.has_attr("metadata") else venv.metadata
    return metadata
