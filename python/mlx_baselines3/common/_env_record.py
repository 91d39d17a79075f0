"""The state of vectorised environments and their wrappers, for checkpoints."""

import os
from typing import Any

from mlx_baselines3.common._archive import ModelFileError
from mlx_baselines3.common._attributes import put, take
from mlx_baselines3.common._import_paths import UnknownName, path_of
from mlx_baselines3.common._json_codec import Decoder, Encoder, Unencodable
from mlx_baselines3.common.vec_env import NativeVecEnv, VecEnv, VecEnvWrapper, VecNormalize

__all__ = ["env_record", "rebuild", "restore_env"]

# Made anew by the wrapper's constructor.
_SKIPPED = (
    *("venv", "env", "class_attributes", "num_envs", "obs_spaces", "render_mode", "metadata"),
    *("reset_infos", "_seeds", "_options"),
)
_NORMALIZE_ARGUMENTS = (
    *("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys"),
)


def _layers(env: VecEnv) -> tuple[list[VecEnvWrapper], VecEnv]:
    layers = []
    while isinstance(env, VecEnvWrapper):
        layers.append(env)
        env = env.venv
    return layers, env


def _name(env: Any) -> str:
    try:
        return path_of(type(env))
    except UnknownName:
        return type(env).__qualname__


def env_record(env: VecEnv, lost: list[str]) -> dict[str, Any]:
    """
    :param env: environments, with their wrappers
    :param lost: receives what cannot be expressed, in words
    :return: their state, JSON-ready
    """
    layers, base = _layers(env)
    record: dict[str, Any] = {
        "n_envs": env.num_envs,
        "names": [_name(layer) for layer in (*layers, base)],
        "layers": [take(layer, _SKIPPED, lost, type(layer).__name__) for layer in layers],
    }
    if isinstance(base, NativeVecEnv):
        record["native"] = Encoder().encode(base.get_state(), "env")
        make = {"env_id": base.env_id, "env_kwargs": base._make_kwargs, "monitor_dir": base._monitor_dir}
        try:
            record["make"] = Encoder().encode(make, "env")
        except Unencodable:
            lost.append("the arguments of the environments")
    return record


def rebuild(record: dict[str, Any]) -> VecEnv:
    """
    Make environments like those of a checkpoint: native ones, normalised or not.

    :param record: what :func:`env_record` gave
    :return: the environments, not yet in their state
    :raises ValueError: if they are of another kind
    """
    names = [name.rpartition(":")[2] for name in record["names"]]
    normalized = all(name == _name_of(VecNormalize) for name in record["names"][:-1])
    if "make" not in record or not normalized:
        raise ValueError(
            f"The checkpoint's environments are {'('.join(names)}{')' * (len(names) - 1)}, which cannot be "
            "made from the file: give such environments as `env`."
        )
    try:
        return _made(record)
    except (LookupError, TypeError, AttributeError) as error:
        raise ModelFileError(f"the record of the environments is damaged ({error!r:.200}).") from error


def _made(record: dict[str, Any]) -> VecEnv:
    make = Decoder().decode(record["make"])
    # Before anything of that size is made.
    if record["n_envs"] != len(record["native"]["envs"]):
        raise ModelFileError(f"the record is of {record['n_envs']} environments, but not their states.")
    native = NativeVecEnv(make["env_id"], record["n_envs"], env_kwargs=make["env_kwargs"])
    folder, indices = make["monitor_dir"], range(record["n_envs"])
    # The run's own files go on; a file from elsewhere makes none.
    if folder and all(os.path.isfile(os.path.join(folder, f"{i}.monitor.csv")) for i in indices):
        native._monitor_dir = folder
        native._writers = native._open_monitor_files(override_existing=False)
    env: VecEnv = native
    for fields in reversed(record["layers"]):
        arguments = {name: Decoder().decode(fields[name]["value"]) for name in _NORMALIZE_ARGUMENTS}
        env = VecNormalize(env, **arguments)
    return env


def _name_of(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def restore_env(env: VecEnv, record: dict[str, Any]) -> bool:
    """
    Put environments into the state of a checkpoint.

    :param env: environments with the wrappers that those of the checkpoint had
    :param record: what :func:`env_record` gave
    :return: whether they are in the middle of the checkpoint's episodes; else they are to be reset
    :raises ValueError: if number or wrappers differ
    """
    layers, base = _layers(env)
    names = [_name(layer) for layer in (*layers, base)]
    if names[:-1] != record["names"][:-1] or env.num_envs != record["n_envs"]:
        raise ValueError(
            f"The checkpoint is of {record['n_envs']} environments with the wrappers {record['names'][:-1]}, "
            f"expected the same, got {env.num_envs} with {names[:-1]}."
        )
    try:
        for layer, fields in zip(layers, record["layers"], strict=True):
            put(layer, fields, lambda encoded, _: Decoder().decode(encoded))
        if "native" not in record or not isinstance(base, NativeVecEnv):
            return False
        base.set_state(Decoder().decode(record["native"]))
    except (LookupError, TypeError, AttributeError) as error:
        raise ModelFileError(f"the state of the environments is damaged ({error!r:.200}).") from error
    return True
