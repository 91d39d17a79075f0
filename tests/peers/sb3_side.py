"""
Run by the interpreter that has SB3: loads every model of a folder, notes what it does and holds, and goes on
training it. ``python sb3_side.py FOLDER`` writes ``NAME.sb3.npz`` beside each ``NAME.zip``.
"""

import pathlib
import sys
import warnings

import numpy as np
import sb3_contrib
import stable_baselines3 as sb3  # noqa: TID251  this file is SB3's side
from stable_baselines3.common.envs import BitFlippingEnv  # noqa: TID251

from support.random_env import RandomEnv

warnings.simplefilter("error")
# What SB3 says of such small models whenever it makes them, from its own files as well.
warnings.filterwarnings("ignore", message=".*(enough memory|smallest of the three|custom replay buffer).*")


def _copied(value):
    # Training changes the tensors where they are.
    return np.array(value.detach().numpy() if hasattr(value, "detach") else value)


def observations(path):
    with np.load(path) as arrays:
        if "obs" in arrays:
            return arrays["obs"]
        return {key.removeprefix("obs/"): arrays[key] for key in arrays if key.startswith("obs/")}


def optimizer_arrays(model):
    names = {id(parameter): name for name, parameter in reversed(list(model.policy.named_parameters()))}
    held = {}
    for name in model._get_torch_save_params()[0]:
        if not name.endswith("optimizer"):
            continue
        optimizer = model
        for part in name.split("."):
            optimizer = getattr(optimizer, part)
        (group,) = optimizer.param_groups
        held[f"{name}|lr"] = np.array(group["lr"])
        for parameter in group["params"]:
            for slot, value in optimizer.state[parameter].items():
                held[f"{name}|{slot}|{names.get(id(parameter), 'log_ent_coef')}"] = _copied(value)
    return held


def check(path):
    name = path.stem.partition("_")[0].upper()
    algorithm = getattr(sb3, name, None) or getattr(sb3_contrib, {"CROSSQ": "CrossQ"}.get(name, name))
    env = BitFlippingEnv(n_bits=4, continuous=False) if "her" in path.stem else None
    if env is None:
        plain = algorithm.load(path, device="cpu")
        env = RandomEnv(plain.observation_space, plain.action_space)
    model = algorithm.load(path, env=env, device="cpu")
    actions, _ = model.predict(observations(path.with_suffix(".npz")), deterministic=True)
    found = {"actions": actions, **optimizer_arrays(model)}
    found |= {f"policy|{name}": _copied(value) for name, value in model.policy.state_dict().items()}
    before, updates = model.num_timesteps, model._n_updates
    model.learn(48, reset_num_timesteps=False)
    found |= {"steps": model.num_timesteps - before, "updates": model._n_updates - updates}
    found["lr_half"] = model.lr_schedule(0.5)
    np.savez(path.with_suffix(".sb3.npz"), **found)


if __name__ == "__main__":
    for file in sorted(pathlib.Path(sys.argv[1]).glob("*.zip")):
        print(file.stem, flush=True)
        check(file)
