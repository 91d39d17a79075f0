"""Saving and loading of models."""

from __future__ import annotations

import io
import pathlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

import mlx.core as mx

from mlx_baselines3.common._model import Model
from mlx_baselines3.common.formats.archive import Content, ModelFileError
from mlx_baselines3.common.formats.model_data import Attributes
from mlx_baselines3.common.formats.model_fields import (
    MissingEntry,
    check_fields,
    check_last_observations,
    honoured,
    reading,
)
from mlx_baselines3.common.formats.model_sizes import check_sizes
from mlx_baselines3.common.formats.names import derives, public_path
from mlx_baselines3.common.nn.interop import to_mlx
from mlx_baselines3.common.policies.base import BasePolicy
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.save_util import (
    load_from_zip_file,
    recursive_getattr,
    recursive_setattr,
    save_to_zip_file,
)
from mlx_baselines3.common.utils import check_for_correct_spaces, get_system_info
from mlx_baselines3.common.vec_env.abstract import GymEnv
from mlx_baselines3.common.vec_env.patch_gym import _convert_space

Algorithm = TypeVar("Algorithm", bound=Model)
# The algorithms that use each policy class.
_FAMILIES = {
    "mlx_baselines3.common.policies:ActorCriticPolicy": ("PPO", "A2C"),
    "mlx_baselines3.contrib.ars.policies:ARSPolicy": ("ARS",),
    "mlx_baselines3.contrib.crossq.policies:CrossQPolicy": ("CrossQ",),
    "mlx_baselines3.contrib.common.maskable.policies:MaskableActorCriticPolicy": ("MaskablePPO",),
    "mlx_baselines3.contrib.common.recurrent.policies:RecurrentActorCriticPolicy": ("RecurrentPPO",),
    "mlx_baselines3.contrib.qrdqn.policies:QRDQNPolicy": ("QRDQN",),
    "mlx_baselines3.contrib.tqc.policies:TQCPolicy": ("TQC",),
    "mlx_baselines3.dqn.policies:DQNPolicy": ("DQN",),
    "mlx_baselines3.sac.policies:SACPolicy": ("SAC",),
    "mlx_baselines3.td3.policies:TD3Policy": ("TD3", "DDPG"),
}
# Attributes that A2C does not have.
_PPO_ONLY = {"n_epochs", "clip_range"}


def get_parameters(model: Model) -> dict[str, dict[str, Any]]:
    """
    :param model: an algorithm
    :return: object name ("policy", "policy.optimizer", …) -> name -> array
    """
    names, _ = model._get_torch_save_params()
    return {name: recursive_getattr(model, name).state_dict() for name in names}


def set_parameters(model: Model, source: str | Mapping[str, Any], exact_match: bool) -> None:
    """
    Replace all parameters in place, or none after an error; see :meth:`BaseAlgorithm.set_parameters`.

    :param model: the algorithm to change
    :param source: a file, or object name -> name -> array
    :param exact_match: every object and every array must be given, and nothing else
    :raises ValueError: if an object is unknown, or one is missing and ``exact_match``
    :raises RuntimeError: if arrays are missing or unknown, or a shape differs
    """
    given = isinstance(source, Mapping)
    params = source if isinstance(source, Mapping) else load_from_zip_file(source, load_data=False)[1]
    expected, _ = model._get_torch_save_params()
    for name in params:
        try:
            if not given and name not in expected:
                # A file must not choose which attributes are accessed.
                raise AttributeError(name)
            recursive_getattr(model, name).state_dict  # noqa: B018  tests that it exists
        except AttributeError as error:
            kind = ValueError if given else ModelFileError
            raise kind(
                f"Key {name} is an invalid object name; {type(model).__name__} has {', '.join(expected)}."
            ) from error
    if given:
        _set_states(model, params, expected, exact_match)
    else:
        with reading(str(source), "the parameters"):
            _set_states(model, params, expected, exact_match)


def _set_states(model: Model, params: Mapping[str, Any], expected: list[str], exact_match: bool) -> None:
    if exact_match and set(params) != set(expected):
        raise ValueError(
            "Names of parameters do not match agents' parameters: "
            f"expected {sorted(expected)}, got {sorted(params)}"
        )
    before: dict[str, Any] = {}
    try:
        for name, values in params.items():
            target = recursive_getattr(model, name)
            before[name] = target.state_dict()
            if name.endswith("optimizer"):
                target.load_state_dict(values)
            else:
                target.load_state_dict(values, strict=exact_match)
    except Exception:
        # Each object rejects unsuitable parameters as a whole; earlier objects must be restored then.
        for name, state in before.items():
            recursive_getattr(model, name).load_state_dict(state)
        raise


def save(
    model: Model,
    path: str | pathlib.Path | io.BufferedIOBase,
    exclude: Iterable[str] | None,
    include: Iterable[str] | None,
    allow_pickle: bool = False,
    extra: Mapping[str, Content] | None = None,
) -> None:
    """
    Write a model; see :meth:`BaseAlgorithm.save`.

    :param model: the algorithm
    :param path: the file
    :param exclude: attributes to omit in addition to the default ones
    :param include: attributes to write although they are omitted by default
    :param allow_pickle: pickle values that JSON cannot express
    :param extra: further entries of the archive, see :func:`save_to_zip_file`
    """
    objects, variables = model._get_torch_save_params()
    # The schedule is derived from `learning_rate`; a function would be stored, or warned about, twice.
    left_out = {*model._excluded_save_params(), "lr_schedule"}
    left_out = left_out.union(exclude or ()).difference(include or ())
    # Values saved as arrays are not saved again among the attributes.
    left_out |= {name.split(".")[0] for name in objects + variables}
    save_to_zip_file(
        path,
        data={name: value for name, value in vars(model).items() if name not in left_out},
        params=get_parameters(model),
        pytorch_variables={name: recursive_getattr(model, name) for name in variables},
        verbose=model.verbose,
        allow_pickle=allow_pickle,
        extra=extra,
    )


def load(
    cls: type[Algorithm],
    path: str | pathlib.Path | io.BufferedIOBase,
    env: GymEnv | None,
    device: mx.Device | str,
    custom_objects: dict[str, Any] | None,
    print_system_info: bool,
    force_reset: bool,
    changes: dict[str, Any],
    allow_pickle: bool = False,
) -> Algorithm:
    """
    Create a model from a file; see :meth:`BaseAlgorithm.load`.

    :param cls: the algorithm's class
    :param path: the file
    :param env: environments to use, or None
    :param device: device to compute on
    :param custom_objects: values to use instead of stored ones
    :param print_system_info: print the system that saved the file and the current one
    :param force_reset: start new episodes at the next ``learn``
    :param changes: attributes to change
    :param allow_pickle: open pickles in the file
    :return: the model
    """
    if print_system_info:
        print("== CURRENT SYSTEM INFO ==")
        get_system_info()
    label = str(path) if isinstance(path, (str, pathlib.Path)) else "the model file"
    loaded, params, variables = load_from_zip_file(
        path,
        device=device,
        custom_objects=custom_objects,
        print_system_info=print_system_info,
        allow_pickle=allow_pickle,
    )
    if loaded is None or not params:
        missing = "no attributes" if loaded is None else "no parameters"
        raise ModelFileError(f"{label} holds {missing} of a model.")
    data = cast(Attributes, loaded)
    check_fields(data)
    check_last_observations(data, label)
    _check_attributes(data, changes, label)
    _check_algorithm(cls, data)
    if env is None and "env" in data.trusted:
        env = data.pop("env", None)
    if env is not None:
        env = cls._wrap_env(env, data.get("verbose", 0))
        check_for_correct_spaces(env, data["observation_space"], data["action_space"])
        if force_reset:
            data["_last_obs"] = None
        data["n_envs"] = env.num_envs
    spaces = data["observation_space"], data["action_space"]
    check_sizes(data["policy_class"], *spaces, data.get("policy_kwargs", {}), params, label)
    model = cls(
        policy=data["policy_class"],
        env=env,
        device=device,
        _init_setup_model=False,
    )
    model.__dict__.update(honoured(model, data))
    model.__dict__.update(changes)
    with ModelCall(model):
        with reading(label, "a model of these attributes"):
            model._setup_model()
        with reading(label, "the parameters"):
            _put_parameters(model, params, device)
            _put_variables(model, variables or {})
        if model.use_sde:
            with reading(label, "a model of these attributes"):
                model.policy.reset_noise()
    return model


def _put_variables(model: Model, variables: Mapping[str, Any]) -> None:
    expected = model._get_torch_save_params()[1]
    for name, value in variables.items():
        # SAC has `log_ent_coef` only if the coefficient is tuned.
        if value is None:
            continue
        if name not in expected:
            raise ModelFileError(f"variables: `{name}` is not a variable of this model: {expected}.")
        own, array = recursive_getattr(model, name), to_mlx(value)
        if getattr(own, "size", 1) != array.size:
            raise ModelFileError(f"variables: `{name}` has the shape {array.shape}, expected {own.shape}.")
        recursive_setattr(model, name, array)


def _put_parameters(model: Model, params: dict[str, Any], device: mx.Device | str) -> None:
    """Set the parameters of a file, with a warning for files of early SB3 versions."""
    try:
        model.set_parameters(params, exact_match=True, device=device)
        return
    except RuntimeError as error:
        said = str(error)
        if "pi_features_extractor" not in said or "Missing key(s) in state_dict" not in said:
            raise
        # One extractor had one name then; it is loaded under that.
        model.set_parameters(params, exact_match=False, device=device)
        version, done = "an A2C or PPO model of SB3 before 1.7.0", "missing names were allowed"
    except ValueError as error:
        said = str(error)
        groups = params.get("policy.optimizer", {}).get("param_groups")
        count = len(getattr(getattr(model.policy, "optimizer", None), "known_names", ()))
        if not groups or len(groups[0]["params"]) != 2 * count:
            raise
        # The target network's parameters were listed too, without a state.
        group = {**groups[0], "params": groups[0]["params"][:count]}
        optimizer = {**params["policy.optimizer"], "param_groups": [group]}
        model.set_parameters({**params, "policy.optimizer": optimizer}, exact_match=True, device=device)
        version, done = "a DQN model of SB3 before 2.4.0", "the target network's part of it was omitted"
    warnings.warn(
        f"This is probably {version}: {done}, and the model should work. "
        f"Save it again to remove this warning. The mismatch: {said}",
        stacklevel=4,
    )


def _check_attributes(data: Attributes, changes: dict[str, Any], label: str) -> None:
    """Convert stored attributes of old versions, and reject changes that contradict the stored weights."""
    policy_kwargs = data.get("policy_kwargs") or {}
    policy_kwargs.pop("device", None)
    # SB3 before 1.8 wrote `net_arch=[dict(pi=…, vf=…)]`.
    net_arch = policy_kwargs.get("net_arch")
    if isinstance(net_arch, list) and net_arch and isinstance(net_arch[0], dict):
        policy_kwargs["net_arch"] = net_arch[0]
    if "policy_kwargs" in changes and changes["policy_kwargs"] != policy_kwargs:
        raise ValueError(
            "The specified policy kwargs do not equal the stored policy kwargs. "
            f"Stored kwargs: {policy_kwargs}, specified kwargs: {changes['policy_kwargs']}"
        )
    if "observation_space" not in data or "action_space" not in data:
        raise MissingEntry(
            f"{label}: The observation_space and action_space were not given, can't verify new environments"
        )
    for key in ("observation_space", "action_space"):
        data[key] = _convert_space(data[key])
    if not derives(data.get("policy_class"), BasePolicy):
        raise MissingEntry(
            f"{label}: "
            "The policy class could not be restored: import the module that defines it before loading, "
            "or pass custom_objects={'policy_class': ...}."
        )


def _check_algorithm(cls: type[Model], data: dict[str, Any]) -> None:
    """Reject another algorithm's model; TD3 and DDPG are one algorithm with different settings."""
    stored = _family(data["policy_class"])
    own = _family(next(iter(cls.policy_aliases.values()), BasePolicy))
    if len(stored) == 2 and "PPO" in stored:
        stored = ("PPO",) if _PPO_ONLY & data.keys() else ("A2C",)
        own = tuple(name for name in own if any(base.__name__ == name for base in cls.__mro__))
    if stored and own and stored != own:
        raise ValueError(
            f"The file holds a model of {' or '.join(stored)}, which {cls.__name__} cannot load."
        )


def _family(policy_class: type) -> tuple[str, ...]:
    paths = [public_path(base) for base in policy_class.__mro__]
    return next((_FAMILIES[path] for path in paths if path in _FAMILIES), ())
