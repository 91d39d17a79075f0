"""The state of vectorised environments and their wrappers, for checkpoints."""

from collections.abc import Callable
from typing import Any

from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.formats.attributes import encode_attributes, restore_attributes
from mlx_baselines3.common.formats.json_codec import Decoder, Encoder, Unencodable
from mlx_baselines3.common.formats.names import UnknownName, current_path, path_of, public_path
from mlx_baselines3.common.formats.spaces import check_generator_state
from mlx_baselines3.common.vec_env import NativeVecEnv, VecEnv, VecEnvWrapper, VecNormalize

__all__ = ["env_record", "rebuild", "restore_env"]

# Created by the wrapper's constructor.
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


def env_record(env: VecEnv, unsaved: list[str]) -> dict[str, Any]:
    """
    :param env: environments, with their wrappers
    :param unsaved: receives descriptions of what cannot be stored
    :return: their state, JSON-ready
    """
    layers, base = _layers(env)
    record: dict[str, Any] = {
        "n_envs": env.num_envs,
        "names": [_name(layer) for layer in (*layers, base)],
        "layers": [encode_attributes(layer, _SKIPPED, unsaved, type(layer).__name__) for layer in layers],
    }
    if isinstance(base, NativeVecEnv):
        record["native"] = Encoder().encode(base.get_state(), "env")
        make = {"env_id": base.env_id, "env_kwargs": base._make_kwargs, "monitor_dir": base._monitor_dir}
        try:
            record["make"] = Encoder().encode(make, "env")
        except Unencodable:
            unsaved.append("the arguments of the environments")
    return record


def rebuild(record: dict[str, Any], monitor_dir: str | None = None) -> VecEnv:
    """
    Create environments like those of a checkpoint: native ones, normalised or not. Only the id and numbers
    are taken from the file.

    :param record: the result of :func:`env_record`
    :param monitor_dir: folder with the monitor files of the run, to continue them; None writes none
    :return: the environments, without their state
    :raises ValueError: if they are not native
    """
    names = [name.rpartition(":")[2] for name in record["names"]]
    normalized = all(current_path(name) == public_path(VecNormalize) for name in record["names"][:-1])
    if "make" not in record or not normalized:
        raise ValueError(
            f"The checkpoint's environments are {'('.join(names)}{')' * (len(names) - 1)}, which cannot be "
            "made from the file: give such environments as `env`."
        )
    try:
        return _made(record, monitor_dir)
    except (LookupError, TypeError, AttributeError) as error:
        raise ModelFileError(f"the record of the environments is corrupted ({error!r:.200}).") from error


def _made(record: dict[str, Any], monitor_dir: str | None) -> VecEnv:
    make = Decoder().decode(record["make"])
    # Checked before anything of that size is allocated.
    if record["n_envs"] != len(record["native"]["envs"]):
        raise ModelFileError(f"the record is of {record['n_envs']} environments, but not their states.")
    if not isinstance(make["env_id"], str) or not NativeVecEnv.supports(make["env_id"]):
        raise ModelFileError(f"there is no native environment {make['env_id']!r:.80}.")
    env_kwargs = _arguments(make["env_kwargs"])
    try:
        native = NativeVecEnv(make["env_id"], record["n_envs"], env_kwargs=env_kwargs)
    except (ValueError, OverflowError) as error:
        raise ModelFileError(f"the environments cannot be made with {env_kwargs!s:.200}: {error}") from error
    if monitor_dir is not None:
        native._monitor_dir = monitor_dir
        native._writers = native._open_monitor_files(override_existing=False)
    env: VecEnv = native
    for fields in reversed(record["layers"]):
        arguments = {name: Decoder().decode(fields[name]["value"]) for name in _NORMALIZE_ARGUMENTS}
        for name, value in arguments.items():
            if not _ARGUMENT_TESTS.get(name, _is_number)(value):
                raise ModelFileError(f"`{name}` of a VecNormalize is {value!r:.80}.")
        try:
            env = VecNormalize(env, **arguments)
        except (ValueError, AssertionError) as error:
            raise ModelFileError(f"a VecNormalize cannot be made of {arguments!s:.200}: {error}") from error
    return env


def _arguments(given: Any) -> dict[str, Any]:
    """The arguments of the environments: numbers and strings. A file cannot open a window."""
    if not isinstance(given, dict) or not all(type(key) is str for key in given):
        raise ModelFileError("the arguments of the environments are not a table.")
    kept = {name: value for name, value in given.items() if name != "render_mode"}
    unknown = kept.keys() - _ENV_ARGUMENTS
    if unknown or not all(_is_number(value) for value in kept.values()):
        raise ValueError(
            f"The checkpoint's environments were made with the arguments {kept!s:.200}, of which a file may "
            f"give numbers for {', '.join(sorted(_ENV_ARGUMENTS))}: give such environments as `env`."
        )
    images = {"render_mode": "rgb_array"} if given.get("render_mode") == "rgb_array" else {}
    return {**kept, **images}


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) and abs(value) < 2**53


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_keys(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(type(key) is str for key in value))


_ENV_ARGUMENTS = {"max_episode_steps", "sutton_barto_reward", "g", "goal_velocity"}
_ARGUMENT_TESTS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("training", "norm_obs", "norm_reward"), _is_flag),
    "norm_obs_keys": _are_keys,
}


def restore_env(env: VecEnv, record: dict[str, Any]) -> bool:
    """
    Restore the state of environments from a checkpoint.

    :param env: environments with the same wrappers as those of the checkpoint
    :param record: the result of :func:`env_record`
    :return: whether they continue the checkpoint's episodes; else they must be reset
    :raises ValueError: if their number or wrappers differ
    """
    layers, base = _layers(env)
    names = [_name(layer) for layer in (*layers, base)]
    stored = [current_path(name) if ":" in name else name for name in record["names"]]
    if names[:-1] != stored[:-1] or env.num_envs != record["n_envs"]:
        raise ValueError(
            f"The checkpoint is of {record['n_envs']} environments with the wrappers {stored[:-1]}, "
            f"expected the same, got {env.num_envs} with {names[:-1]}."
        )
    try:
        for layer, fields in zip(layers, record["layers"], strict=True):
            restore_attributes(
                layer, fields, lambda encoded, _: Decoder().decode(encoded), _SKIPPED, same_shapes=True
            )
        if "native" not in record or not isinstance(base, NativeVecEnv):
            return False
        state = Decoder().decode(record["native"])
        _check_state(state, base.num_envs)
        base.set_state(state)
    except ModelFileError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"the state of the environments is corrupted ({error!r:.200}).") from error
    return True


def _check_state(state: Any, n_envs: int) -> None:
    """Check what Rust does not check: generator states, and values that stay in Python."""
    limit, seeds, options = state["time_limit"], state["seeds"], state["options"]
    if not (limit is None or (type(limit) is int and 0 < limit < 2**53)) or not _is_number(state["t_start"]):
        raise ValueError(f"time_limit={limit!r:.60}, t_start={state['t_start']!r:.60}")
    for name, values in (("seeds", seeds), ("last_seeds", state["last_seeds"])):
        if not isinstance(values, list) or len(values) != n_envs:
            raise ValueError(f"{name} are not {n_envs}")
        if not all(value is None or (type(value) is int and value >= 0) for value in values):
            raise ValueError(f"{name} are not whole numbers")
    if not isinstance(options, list) or len(options) != n_envs or not all(map(_are_options, options)):
        raise ValueError(f"the options are not {n_envs} tables of numbers")
    for env in state["envs"]:
        if not isinstance(env, dict) or type(env.get("steps")) is not int or not 0 <= env["steps"] < 2**53:
            raise ValueError("the steps of an episode")
        if env["rng"] is not None:
            rng = {**env["rng"], "has_uint32": int(env["rng"]["has_uint32"])}
            words = {name: rng.pop(name) for name in ("state", "inc")}
            check_generator_state({"bit_generator": "PCG64", "state": words, **rng})


def _are_options(options: Any) -> bool:
    return isinstance(options, dict) and all(
        type(key) is str and _is_number(value) for key, value in options.items()
    )
