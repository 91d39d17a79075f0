"""The methods of an algorithm that read and write files. Reached through ``base_class``."""

import io
import pathlib
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, cast

import mlx.core as mx

from mlx_baselines3.common._run_state import RunState
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.saving import checkpoint
from mlx_baselines3.common.saving import model as model_io
from mlx_baselines3.common.saving.to_sb3 import export_sb3
from mlx_baselines3.common.type_aliases import GymEnv, TensorDict

SelfSaving = TypeVar("SelfSaving", bound="Saving")


class Saving(RunState):
    """The part of :class:`BaseAlgorithm` that deals with files; it has no own arguments."""

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """:return: object name ("policy", "policy.optimizer", …) -> name -> array"""
        with ModelCall(self):
            return model_io.get_parameters(cast(Any, self))

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, TensorDict],
        exact_match: bool = True,
        device: mx.Device | str = "auto",
    ) -> None:
        """
        Replace parameters in place.

        :param load_path_or_dict: a file written by ``save``, or what :meth:`get_parameters` gives
        :param exact_match: every object and every array must be given, and nothing else
        :param device: kept for SB3's signature; MLX arrays belong to no device
        :raises ValueError: if an object is unknown, or one is missing and ``exact_match``
        :raises RuntimeError: if arrays are missing or unknown, or a shape differs
        """
        with ModelCall(self):
            model_io.set_parameters(cast(Any, self), load_path_or_dict, exact_match)

    @classmethod
    def load(
        cls: type[SelfSaving],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: mx.Device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        allow_pickle: bool = False,
        **kwargs: Any,
    ) -> SelfSaving:
        """
        Make a model from a file. To change an existing model, use :meth:`set_parameters`.

        :param path: a file written by ``save`` (".zip" may be left away) or an open binary file
        :param env: environments to use; None makes a model that predicts only
        :param device: "auto", "cpu", "gpu" or an ``mx.Device``
        :param custom_objects: values to use instead of stored ones, by attribute name
        :param print_system_info: print the system that saved the file and the present one
        :param force_reset: start new episodes at the next ``learn``
        :param allow_pickle: open the pickles that are in the file, with a warning that names them; they can
            run any code
        :param kwargs: attributes to change
        :return: the model
        :raises ValueError: if ``policy_kwargs`` or the spaces of ``env`` differ from the stored ones
        :raises ModelFileError: if the file is damaged or no model
        """
        return model_io.load(
            *(cast(Any, cls), path, env, device, custom_objects, print_system_info, force_reset),
            *(kwargs, allow_pickle),
        )

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
        allow_pickle: bool = False,
        format: Literal["mlx", "sb3"] = "mlx",
    ) -> None:
        """
        Write the model to a file.

        :param path: the file (".zip" is added if there is no suffix) or an open binary file
        :param exclude: attributes to leave out besides the usual ones
        :param include: attributes to write although they are usually left out
        :param allow_pickle: pickle what the format cannot express, such as a lambda, instead of leaving it
            out
        :param format: "mlx", which cannot run code, or "sb3", which SB3 loads; see :func:`export_sb3`
        :raises ValueError: if the format is unknown, or SB3 has no counterpart of a part of the model
        """
        if format not in ("mlx", "sb3"):
            raise ValueError(f"The format must be 'mlx' or 'sb3', got {format!r}.")
        if format == "sb3":
            export_sb3(cast(Any, self), path, exclude, include)
        else:
            model_io.save(cast(Any, self), path, exclude, include, allow_pickle)

    def save_checkpoint(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        within_learn: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        """
        Write everything that a later process needs to go on exactly: the model, its buffers, all random
        generators, native environments and their wrappers. Written as a whole or not at all.

        Call it between two calls of ``learn``. Inside one, use :class:`CheckpointCallback` with
        ``resumable=True``, which waits for a moment at which nothing is half done.

        :param path: the file (".zip" is added if there is no suffix) or an open binary file
        :param within_learn: from a callback's ``_on_rollout_start``: the next ``learn`` goes on with this one
        :param allow_pickle: see :meth:`save`
        """
        with ModelCall(self):
            checkpoint.save_checkpoint(cast(Any, self), path, within_learn, allow_pickle)

    @classmethod
    def load_checkpoint(
        cls: type[SelfSaving],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: mx.Device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        allow_pickle: bool = False,
        monitor_dir: str | None = None,
        **kwargs: Any,
    ) -> SelfSaving:
        """
        Go on from a checkpoint: ``learn(total_timesteps - model.num_timesteps, reset_num_timesteps=False)``
        does what the interrupted run would have done. The random generators of Python, NumPy and MLX are set.

        :param path: what :meth:`save_checkpoint` wrote
        :param env: environments with the same wrappers; None makes native ones, normalised or not. Those in
            Python start new episodes, with a warning
        :param device: "auto", "cpu", "gpu" or an ``mx.Device``
        :param custom_objects: values to use instead of stored ones, by attribute name
        :param allow_pickle: see :meth:`load`
        :param monitor_dir: folder with the monitor files of the run, which native environments go on with;
            a file does not decide where anything is written
        :param kwargs: attributes to change
        :return: the model
        :raises ModelFileError: if it is not a checkpoint, or is damaged
        :raises ValueError: if it is another algorithm's, or ``env`` is needed or does not fit
        """
        return checkpoint.load_checkpoint(
            cast(Any, cls), path, env, device, custom_objects, allow_pickle, kwargs, monitor_dir
        )
