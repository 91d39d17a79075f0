"""What one update step of MLX is made of: nodes and kernels, and the known wastes that stay out of it."""

import ast
import io
import pathlib
import re
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from mlx_baselines3.common import on_policy_algorithm
from mlx_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from mlx_baselines3.common.nn import structure
from mlx_baselines3.common.nn.optimizers import Adam
from mlx_baselines3.common.policies.critics import ContinuousCritic
from mlx_baselines3.common.torch_layers import FlattenExtractor
from mlx_baselines3.common.training import compiled_update
from mlx_baselines3.common.training.updater import Updater
from mlx_baselines3.ppo import losses
from support.memory import growth

pytestmark = pytest.mark.usefixtures("mlx_updates")

ON = {"n_steps": 8, "device": "cpu", "seed": 1}
OFF = {"learning_starts": 10, "buffer_size": 50, "batch_size": 4, "device": "cpu", "seed": 1}
CARTPOLE, PENDULUM = "CartPole-v1", "Pendulum-v1"
MODELS: dict[str, Any] = {
    "PPO": lambda **kw: PPO("MlpPolicy", CARTPOLE, batch_size=4, n_epochs=2, **ON, **kw).learn(8),
    "A2C": lambda **kw: A2C("MlpPolicy", CARTPOLE, **ON, **kw).learn(8),
    "DQN": lambda **kw: DQN("MlpPolicy", CARTPOLE, **OFF, **kw).learn(9),
    "SAC": lambda **kw: SAC("MlpPolicy", PENDULUM, **OFF, **kw).learn(9),
    "TD3": lambda **kw: TD3("MlpPolicy", PENDULUM, **OFF, **kw).learn(9),
    "DDPG": lambda **kw: DDPG("MlpPolicy", PENDULUM, **OFF, **kw).learn(9),
}
OFF_POLICY = ("DQN", "SAC", "TD3", "DDPG")


class Counted(NamedTuple):
    """Nodes of a compiled step's graph, and the kernels that MLX compiles for it."""

    nodes: int
    kernels: int


# Today's figures on a Linux CPU; macOS and GPUs need fewer, their tanh is one node. Lower them when a step
# gets smaller. TD3 and DDPG: a step that moves the actor too.
BOUNDS = {
    "PPO": Counted(192, 21),
    "A2C": Counted(154, 14),
    "DQN": Counted(96, 11),
    "SAC": Counted(373, 30),
    "TD3": Counted(274, 17),
    "DDPG": Counted(205, 15),
}


def make(name: str, depth: int = 2) -> Any:
    """A model with eight steps in its buffer (nine off-policy)."""
    # A dictionary of its own: algorithms add to it.
    return MODELS[name](policy_kwargs={"net_arch": [8] * depth})


def count(outputs: Any) -> Counted:
    text = io.StringIO()
    mx.export_to_dot(text, *[leaf for _, leaf in tree_flatten(outputs)])
    labels = re.findall(r'label ?="([^"]*)", shape=rectangle', text.getvalue())
    return Counted(len(labels), len({label for label in labels if label.startswith("Compiled")}))


def train(model: Any, steps: int = 1) -> None:
    """Two minibatches for each step, or so many gradient steps."""
    if isinstance(model, (PPO, A2C)):
        model.train()
    else:
        model.train(gradient_steps=steps, batch_size=4)


@pytest.fixture(params=list(MODELS))
def name(request):
    return request.param


def compiled_steps(monkeypatch, model: Any, steps: int) -> list[Counted]:
    """What the compiled functions of a ``train()`` are made of."""
    seen: list[Counted] = []
    compile_ = mx.compile

    def counted(function, *args, **kwargs):
        compiled = compile_(function, *args, **kwargs)

        def call(*inputs):
            # What the inputs were computed from is not the step's.
            mx.eval(list(inputs))
            outputs = compiled(*inputs)
            seen.append(count(outputs))
            return outputs

        return call

    monkeypatch.setattr(mx, "compile", counted)
    model._updater = Updater()
    train(model, steps)
    return seen


def test_nodes_of_a_step(monkeypatch, name):
    seen = compiled_steps(monkeypatch, make(name), steps=2)
    largest = Counted(*(max(column) for column in zip(*seen, strict=True)))
    assert largest.nodes <= BOUNDS[name].nodes, largest
    assert largest.kernels <= BOUNDS[name].kernels, largest
    # The counting itself works: a step has products, sums and an optimizer.
    assert largest.nodes > 50
    assert largest.kernels > 5


class Calls(dict):
    """How often functions are called; ``patch`` counts one from now on."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.monkeypatch = monkeypatch

    def patch(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            self[name] = self.get(name, 0) + 1
            return original(*args, **kwargs)

        self.monkeypatch.setattr(owner, name, counted)


def calls_of_train(name: str, steps: int) -> dict[str, int]:
    """Calls in a ``train()`` of so many steps whose functions are compiled already."""
    model = make(name)
    if name == "PPO":
        model.batch_size = 8 // steps
    train(model, steps)
    with pytest.MonkeyPatch.context() as monkeypatch:
        calls = Calls(monkeypatch)
        for waiting in ("eval", "async_eval"):
            calls.patch(mx, waiting)
        for read in ("item", "tolist", "__float__", "__bool__", "__int__"):
            calls.patch(mx.array, read)
        calls.patch(compiled_update, "named_parameters")
        calls.patch(structure, "find_arrays")
        calls.patch(compiled_update, "set_named_parameters")
        calls.patch(compiled_update, "sources")
        calls.patch(on_policy_algorithm, "all_to_mlx")
        calls.patch(RolloutBuffer, "flattened")
        calls.patch(RolloutBuffer, "get")
        calls.patch(ReplayBuffer, "sample_many")
        train(model, steps)
    return dict(calls)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "A2C"])
def test_what_the_host_does_does_not_depend_on_the_number_of_steps(name):
    few, many = calls_of_train(name, 2), calls_of_train(name, 8)
    assert few == many
    # Waits: when the outcome is put in its place, and when the call ends, for what another thread could not
    # compute (inside of learn() when that ends). An epoch that nothing may stop is only handed over.
    assert many["eval"] == 2
    assert many.get("async_eval", 0) == (2 if name == "PPO" else 0)
    # Keys of the target networks were checked when the update was made.
    assert "sources" not in many
    # Nor are networks looked through that are what they were.
    assert "find_arrays" not in many
    if name in OFF_POLICY:
        assert many["sample_many"] == 1
    else:
        assert many["flattened"] == 1
        assert "get" not in many


def test_a2c_asks_once_and_once_when_the_call_ends():
    calls = calls_of_train("A2C", 1)
    assert calls["eval"] == 2
    assert calls["flattened"] == 1


def test_there_is_one_way_to_clip_a_gradient():
    folder = pathlib.Path(compiled_update.__file__).parents[1]
    functions = [
        node.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and re.search("clip.*(norm|grad)|(norm|grad).*clip", node.name)
    ]
    assert functions == ["clip_by_global_norm"]


@pytest.mark.parametrize(("name", "extractions"), [("PPO", 1), ("A2C", 1), ("DQN", 2)])
def test_features_are_extracted_once_for_each_batch_and_targets_stay_outside(monkeypatch, name, extractions):
    """DQN has two batches: what was seen, and, for the target, what came next."""
    model = make(name)
    inside: list[bool] = []
    depth = 0
    value_and_grad, extract = mx.value_and_grad, FlattenExtractor.forward

    def differentiated(function, *args, **kwargs):
        gradient = value_and_grad(function, *args, **kwargs)

        def call(*inputs):
            nonlocal depth
            depth += 1
            try:
                return gradient(*inputs)
            finally:
                depth -= 1

        return call

    def extracted(self, observations):
        inside.append(depth > 0)
        return extract(self, observations)

    monkeypatch.setattr(mx, "value_and_grad", differentiated)
    monkeypatch.setattr(FlattenExtractor, "forward", extracted)
    model._updater = Updater()
    train(model)
    # The trace of a step runs the Python code once.
    assert inside == [False, True][-extractions:]


@pytest.mark.parametrize("name", ["SAC", "TD3", "DDPG"])
def test_target_critics_stay_outside_the_gradient(monkeypatch, name):
    model = make(name)
    seen: list[bool] = []
    depth = 0
    descend, forward = compiled_update.GradientStep.descend, ContinuousCritic.forward

    def descended(self, *args, **kwargs):
        nonlocal depth
        depth += 1
        try:
            return descend(self, *args, **kwargs)
        finally:
            depth -= 1

    def called(self, *args, **kwargs):
        if self is model.critic_target:
            seen.append(depth > 0)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(compiled_update.GradientStep, "descend", descended)
    monkeypatch.setattr(ContinuousCritic, "forward", called)
    model._updater = Updater()
    train(model)
    assert seen == [False]


def test_advantages_are_normalised_in_one_pass():
    rows = mx.array(np.arange(8, dtype=np.float32))
    # Two reductions, and a centred copy that is computed once: not a mean and a deviation of their own. Two
    # nodes take the first one off all, so that equal ones become 0.
    assert count(losses.normalize(rows)).nodes <= 16


@pytest.mark.parametrize("depth", [1, 4])
def test_the_optimizer_is_one_pass_over_all_small_arrays(monkeypatch, depth):
    passes = []
    apply_single = Adam.apply_single
    monkeypatch.setattr(
        Adam, "apply_single", lambda *args: (passes.append(args[1].shape), apply_single(*args))[1]
    )
    model = make("DQN", depth)
    train(model)
    # One call, for one vector, in the trace of a step.
    assert len(passes) == 1
    assert len(passes[0]) == 1


def test_a_thousand_updates_take_no_memory():
    """Nor does the compile cache grow: a step is traced once, whatever the numbers that go in."""
    model = make("DQN")
    ppo = make("PPO")

    def updates(count: int) -> None:
        for i in range(count):
            model.lr_schedule = ppo.lr_schedule = lambda _, i=i: 1e-4 / (1 + i)
            model.train(1, 4)
            if i % 4 == 0:
                ppo.train()

    used, grown = growth(updates, 40, 800)
    assert used <= 4096
    assert grown <= 60_000
