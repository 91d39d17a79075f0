"""The snippets of docs/ do what the page says. test_docs_blocks.py runs the blocks of all pages."""

import inspect
import pathlib
import re
import runpy

import gymnasium as gym
import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3 import PPO
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.policy_checker import check_policy
from mlx_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from mlx_baselines3.common.vec_env import NativeVecEnv, SubprocVecEnv

DOCS = pathlib.Path(__file__).parents[2] / "docs"
TOOLS = runpy.run_path(str(DOCS / "time_snippets.py"))
PAGE = (DOCS / "efficient-policies.md").read_text()
BLOCKS = TOOLS["snippets"](PAGE)
# What check_policy says about the first snippet of each section.
SAYS = {
    "Host reads": r"forward\(\) reads numbers of an array on the host in line \d+",
    "Loops over rows": "forward.* a Python loop iterates over the rows",
    "Non-contiguous inputs": "The input of features_extractor.layer is a non-contiguous view",
    "Wrong shapes and dtypes": r"values of predict_values\(\) for 1 rows must have the shape \(1, 1\)",
    "Deterministic": "returns a different action each time: the argument is ignored",
}


def names_of(code):
    names = {}
    exec(TOOLS["shared_imports"](BLOCKS) + code, names)
    return names


def policy_of(names):
    mx.random.seed(0)
    space = gym.spaces.Box(-1, 1, (3 if "EverySecond" in names else 6,), np.float32)
    own = {"features_extractor_class": names["Features"]} if "Features" in names else {}
    return names.get("Policy", ActorCriticPolicy)(space, gym.spaces.Discrete(2), lambda _: 1e-3, **own)


def test_every_section_with_two_snippets_is_checked():
    assert {title for title in SAYS if len(BLOCKS[title]) == 2} == set(SAYS)
    assert {title for title, codes in _titles().items() if len(codes) == 2} == set(SAYS)


def _titles():
    return {
        title: [c for c in codes if c.startswith(("# before", "# after"))] for title, codes in BLOCKS.items()
    }


@pytest.mark.parametrize("title", SAYS)
def test_before_is_found_and_after_is_fine(title):
    before, after = (policy_of(names_of(code)) for code in BLOCKS[title])
    try:
        said = "\n".join(check_policy(before, warn=False))
    except AssertionError as error:
        said = str(error)
    assert re.search(SAYS[title], said)
    assert check_policy(after, warn=False) == []


@pytest.mark.parametrize("title", ["Host reads", "Loops over rows", "Non-contiguous inputs"])
def test_before_and_after_compute_the_same(title):
    before, after = (policy_of(names_of(code)) for code in BLOCKS[title])
    after.load_state_dict(before.state_dict())
    obs = mx.random.normal((5, 6)) * 3
    # The last section chooses its columns outside the network.
    other = obs if title != "Non-contiguous inputs" else mx.contiguous(obs[:, ::2])
    np.testing.assert_allclose(before.predict_values(obs), after.predict_values(other), atol=1e-6)


def test_the_wrapper_chooses_the_columns():
    wrapper = names_of(BLOCKS["Non-contiguous inputs"][1])["EverySecond"]
    env = wrapper(gym.make("CartPole-v1"))
    assert env.observation_space.shape == (2,)
    assert env.observation_space.contains(env.reset(seed=0)[0])


def test_a_host_read_acts_but_cannot_learn_and_the_other_way_can():
    before, after = (names_of(code)["Features"] for code in BLOCKS["Host reads"])
    kwargs = {"n_steps": 8, "batch_size": 8, "n_epochs": 1}
    with pytest.raises(ValueError, match="during function transformations"):
        PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"features_extractor_class": before}, **kwargs).learn(8)
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"features_extractor_class": after}, **kwargs).learn(8)


def test_links_from_the_advice_lead_to_sections():
    source = pathlib.Path(check_policy.__code__.co_filename).read_text()
    anchors = set(re.findall(r"efficient-policies\.md#([a-z-]+)", source.replace('"\n        "', "")))
    titles = {title.lower().replace(" ", "-") for title in BLOCKS}
    assert len(anchors) == 4
    assert anchors <= titles


def test_the_timings_run(capsys, monkeypatch):
    monkeypatch.setitem(TOOLS["main"].__globals__, "ROUNDS", 1)
    TOOLS["main"]()
    assert len(re.findall(r"before \d+ us, after \d+ us, ratio \d+\.\d", capsys.readouterr().out)) == 3


def test_a_gradient_step_of_the_loop_on_the_ppo_page_is_one_of_ppo():
    page = (DOCS / "algorithms" / "ppo.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (loop,) = [block for block in blocks if "def loss(batch)" in block]
    names = {"NativeVecEnv": NativeVecEnv}
    # Up to the end of the first rollout.
    exec(loop.partition("    for epoch in range")[0].replace("range(2)", "range(1)"), names)
    own, rollout = names["policy"], names["rollout"]
    settings = {"learning_rate": 1e-3, "ent_coef": 0.01, "max_grad_norm": 0.5, "n_epochs": 1}
    model = PPO("MlpPolicy", names["env"], n_steps=rollout.buffer_size, batch_size=256, **settings)
    model._setup_learn(0)
    model.policy.load_state_dict(own.state_dict())
    before = {name: np.array(array) for name, array in own.named_parameters()}
    model.rollout_buffer = rollout
    model.train()
    names["update"](next(rollout.get(256)))
    for name, array in model.policy.named_parameters():
        np.testing.assert_allclose(np.array(own.state_dict()[name]), np.array(array), atol=1e-6)
        assert np.abs(np.array(array) - before[name]).max() > 1e-5


def test_the_migration_page_names_what_differs():
    """The two signatures that are not SB3's, and the attributes that are not kept."""
    page = (DOCS / "migration.md").read_text()
    for name in ("RMSpropTFLike", "batch_norm_stats", "work_remotes", "autoreset_step"):
        assert f"`{name}" in page or f'"{name}"' in page
    parameters = inspect.signature(RMSpropTFLike).parameters
    assert "params" not in parameters
    assert not hasattr(SubprocVecEnv, "work_remotes")
