"""
Run by an interpreter that has SB3 and torch: writes tensors and a model in torch's format from before 1.6,
and what they are. ``python record_legacy_torch.py FOLDER`` wrote ``tests/data/torch``.
"""

import functools
import pathlib
import sys

import numpy as np
import torch  # noqa: TID251  this file is SB3's side

torch.save = functools.partial(torch.save, _use_new_zipfile_serialization=False)

from stable_baselines3 import PPO  # noqa: E402, TID251  with torch.save as it was


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 8
    tensors = {
        "f4": base,
        "window": base[1:, ::2],
        "transposed": base.T,
        "f8": base.double(),
        "f2": base.half(),
        "bf16": base.bfloat16(),
        "i8": torch.tensor([-(2**40), 7]),
        "i4": torch.tensor([[-3], [4]], dtype=torch.int32),
        "i2": torch.tensor([-300, 4], dtype=torch.int16),
        "i1": torch.tensor([-3, 4], dtype=torch.int8),
        "u1": torch.tensor([200], dtype=torch.uint8),
        "flags": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base[0]),
    }
    torch.save({**tensors, "nested": [{"step": torch.tensor(3.0), "lr": 1e-3}]}, folder / "legacy.pth")
    arrays = {name: value.detach().float().numpy() for name, value in tensors.items() if name == "bf16"}
    arrays |= {name: value.detach().numpy() for name, value in tensors.items() if name != "bf16"}
    np.savez(folder / "legacy.npz", **arrays)
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [3]}, n_steps=8, batch_size=8, seed=0)
    model.learn(8).save(folder / "ppo_legacy")
    obs = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    np.savez(folder / "ppo_legacy.npz", obs=obs, actions=model.predict(obs, deterministic=True)[0])


if __name__ == "__main__":
    main()
