#!/usr/bin/env bash
# SuperSuit's vector of several processes: `reset` returns an info per process, `step` one dictionary for all environments.
#
# supersuit 3.11.0, pettingzoo 1.27.0, Gymnasium 1.4.0, NumPy 2.4.6, Python 3.11.7, Linux x86-64. Seen 2026-11-29.
# `concat_vec_envs_v1(..., num_cpus=2)` returns a ProcConcatVec. Its `reset` hands over the lists of pairs
# (index, info) in which the processes send their infos, so `infos[i]` is not environment i's and
# `len(infos)` is not `num_envs`. Its `step` starts from `[{}] * num_envs`: all environments without an info of their own
# share one dictionary, and whoever writes "episode" or "terminal_observation" into one writes it into all of them.
# One would expect what `num_cpus=1` returns: one dictionary for each environment from both.
#
# Output seen:
#   ConcatVecEnv of 8
#     reset: 8 infos, the first {'name': 'a'}
#     step: 8 infos, 8 dictionaries, 1 of them hold what was written to the first
#   ProcConcatVec of 8
#     reset: 2 infos, the first [(0, {'name': 'a'}), (1, {'name': 'b'}), (2, {'name': 'a'}), (3, {'name': 'b'})]
#     step: 8 infos, 1 dictionaries, 8 of them hold what was written to the first
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet supersuit==3.11.0 pettingzoo==1.27.0 gymnasium==1.4.0 numpy==2.4.6
cat >"$folder/program.py" <<'PYTHON'
import functools

import numpy as np
import supersuit
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Two(ParallelEnv):
    """Two agents; the infos of a reset say who they are, those of a step are empty."""

    metadata = {"name": "two_v0"}
    possible_agents = ["a", "b"]
    render_mode = None

    @functools.cache
    def observation_space(self, agent):
        return spaces.Box(-1, 1, (1,), np.float32)

    @functools.cache
    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return self.each(np.zeros(1, np.float32)), {agent: {"name": agent} for agent in self.agents}

    def step(self, actions):
        return self.each(np.zeros(1, np.float32)), self.each(0.0), self.each(False), self.each(False), self.each({})

    def each(self, value):
        return {agent: value.copy() if hasattr(value, "copy") else value for agent in self.agents}


if __name__ == "__main__":
    for num_cpus in (1, 2):
        env = supersuit.concat_vec_envs_v1(supersuit.pettingzoo_env_to_vec_env_v1(Two()), 4, num_cpus=num_cpus)
        _, reset_infos = env.reset(seed=0)
        *_, step_infos = env.step(np.zeros(env.num_envs, np.int64))
        print(type(env).__name__, "of", env.num_envs)
        print("  reset:", len(reset_infos), "infos, the first", reset_infos[0])
        distinct = len({id(info) for info in step_infos})
        step_infos[0]["episode"] = 1
        written = sum("episode" in info for info in step_infos)
        print("  step:", len(step_infos), f"infos, {distinct} dictionaries,", end=" ")
        print(written, "of them hold what was written to the first")
        env.close()
        seen = (len(reset_infos), distinct, written)
        assert seen == {1: (8, 8, 1), 2: (2, 1, 8)}[num_cpus], f"num_cpus={num_cpus} gives {seen} now"
PYTHON
"$folder/env/bin/python" "$folder/program.py"
