"""What a file claims is held against what it has before anything large is made; all wrong files end alike."""

import io
import json
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest

from mlx_baselines3 import DQN, PPO, SAC
from mlx_baselines3.common.formats.spaces import build_generator
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.save_util import ModelFileError
from mlx_baselines3.common.vec_env import NativeVecEnv, VecNormalize


def small():
    # SAC adds to the caller's own table.
    return {"policy_kwargs": {"net_arch": [3]}}


def bytes_of(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def files():
    ppo = PPO(
        "MlpPolicy",
        VecNormalize(NativeVecEnv("CartPole-v1", 2, seed=0)),
        seed=0,
        n_steps=8,
        batch_size=8,
        n_epochs=1,
        **small(),
    ).learn(16)
    dqn = DQN(
        "MlpPolicy", NativeVecEnv("CartPole-v1", seed=0), buffer_size=40, learning_starts=9, **small()
    ).learn(8)
    sac = SAC(
        "MlpPolicy", NativeVecEnv("Pendulum-v1", seed=0), use_sde=True, buffer_size=40, **small()
    ).learn(8)
    return {
        **{
            name: bytes_of(model.save_checkpoint)
            for name, model in (("ppo", ppo), ("dqn", dqn), ("sac", sac))
        },
        "policy": bytes_of(ppo.policy.save),
    }


LOADERS = {"ppo": PPO.load, "dqn": DQN.load, "sac": SAC.load, "policy": ActorCriticPolicy.load}
CHECKPOINTS = {"ppo": PPO.load_checkpoint, "dqn": DQN.load_checkpoint, "sac": SAC.load_checkpoint}


def forged(contents, change, entry="data"):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(contents)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == entry:
                table = json.loads(data)
                change(table)
                data = json.dumps(table).encode()
            new.writestr(name, data)
    out.seek(0)
    return out


def kwargs(**changes):
    return lambda data: data["policy_kwargs"].update(changes)


def attributes(**changes):
    return lambda data: data.update(changes)


def space(class_, **state):
    dtype = {":type:": "dtype", "value": "<i8"}
    return {":type:": "space", "class": class_, "state": {"_np_random": None, "dtype": dtype, **state}}


def dotted(tag, **rest):
    return {":type:": tag, **rest}


BAD = [
    ("ppo", kwargs(net_arch=[2000] * 2), r"policy_kwargs\.net_arch asks for 4012000 numbers.*has only"),
    ("ppo", kwargs(net_arch=[1] * 100_000), r"policy_kwargs\.net_arch asks for 100000 layers"),
    ("ppo", kwargs(net_arch={"pi": [2000, 2000], "vf": [1]}), r"policy_kwargs\.net_arch\.pi asks for"),
    ("ppo", kwargs(net_arch=[-1]), r"policy_kwargs\.net_arch\.0 is -1"),
    ("ppo", kwargs(net_arch="x"), r"policy_kwargs\.net_arch is 'x'"),
    ("ppo", kwargs(net_arch=[2.5]), r"policy_kwargs\.net_arch\.0 is 2\.5"),
    ("ppo", kwargs(net_arch={"pi": 3}), r"policy_kwargs\.net_arch\.pi is 3"),
    ("ppo", kwargs(net_arch=[4]), "size mismatch"),
    ("ppo", kwargs(unknown=1), "unknown"),
    ("ppo", kwargs(features_extractor_kwargs={"features_dim": 10**12}), "features_dim asks for"),
    ("ppo", kwargs(features_extractor_kwargs=[1]), "features_extractor_kwargs"),
    ("ppo", kwargs(optimizer_kwargs={"eps": "x"}), r"the model file: a model"),
    ("ppo", attributes(policy_kwargs=[1]), "`policy_kwargs` is"),
    ("ppo", attributes(policy_kwargs=dotted("dict", items=[[1, 2]])), "`policy_kwargs` is"),
    ("ppo", attributes(policy_kwargs=None), "`policy_kwargs` is None"),
    ("ppo", attributes(observation_space=space("Discrete", n=10**9, start=0)), "observation_space asks for"),
    ("ppo", attributes(observation_space=space("MultiBinary", n=10**12)), "observation_space asks for"),
    ("ppo", attributes(observation_space=3), "`observation_space` is 3"),
    ("ppo", attributes(action_space=space("Discrete", n=10**9, start=0)), "action_space asks for"),
    ("ppo", attributes(action_space=space("Text", max_length=3, min_length=1, characters="ab")), "the model"),
    ("ppo", attributes(n_steps=10**12), r"10{12} rows.*custom_objects"),
    ("ppo", attributes(n_steps=10**30), "`n_steps` is 1000"),
    ("ppo", attributes(n_steps=0), "`n_steps` is 0"),
    ("ppo", attributes(n_envs=10**12), "rows for 10{12}|not of 10{12} environments"),
    ("ppo", attributes(n_envs=None), "`n_envs` is None"),
    ("ppo", attributes(batch_size="8"), "`batch_size` is '8'"),
    ("ppo", attributes(seed="abc"), "`seed` is 'abc'"),
    ("ppo", attributes(seed=2**40), "`seed` is"),
    ("ppo", attributes(verbose=[]), "`verbose` is"),
    ("ppo", attributes(gamma="x"), "`gamma` is 'x'"),
    ("ppo", attributes(use_sde=3), "`use_sde` is 3"),
    ("ppo", attributes(learning_rate=None), "`learning_rate` is None"),
    ("ppo", attributes(learning_rate={"a": 1}), "`learning_rate` is"),
    ("ppo", attributes(ep_info_buffer=[1]), "`ep_info_buffer` is"),
    ("ppo", attributes(_last_obs=5), "`_last_obs` is 5"),
    ("ppo", attributes(policy_class="MlpPolicy"), "policy class could not be restored"),
    ("ppo", attributes(tensorboard_log=3), "`tensorboard_log` is 3"),
    ("dqn", attributes(buffer_size=10**13), r"10{13}.*custom_objects|rows"),
    ("dqn", attributes(buffer_size=10**19), "`buffer_size` is"),
    ("dqn", attributes(buffer_size=-5), "`buffer_size` is -5"),
    ("dqn", attributes(train_freq="x"), "`train_freq` is 'x'"),
    ("dqn", attributes(replay_buffer_kwargs={"unknown": 1}), "unknown"),
    ("sac", kwargs(n_critics=10**9), "n_critics asks for 1000000000"),
    ("sac", kwargs(n_critics=-1), "n_critics is -1"),
    ("sac", attributes(action_noise=3), "`action_noise` is 3"),
    ("sac", attributes(ent_coef=[1]), "`ent_coef` is"),
    ("sac", attributes(target_entropy={}), "`target_entropy` is"),
    ("policy", attributes(net_arch=[100_000] * 2), "net_arch asks for"),
    ("policy", attributes(surprise=1), "surprise"),
    ("policy", attributes(observation_space=None), "."),
]


@pytest.mark.parametrize(
    ("name", "change", "said"), BAD, ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.filterwarnings("ignore:This system does not have")
def test_wrong_attributes_end_in_one_error_that_names_them(name, change, said, files):
    with pytest.raises(ModelFileError, match=said):
        LOADERS[name](forged(files[name], change))


@pytest.mark.parametrize("key", ["policy_class", "observation_space", "action_space", "n_envs"])
def test_missing_attributes(key, files):
    with pytest.raises(ModelFileError, match=key):
        PPO.load(forged(files["ppo"], lambda data: data.pop(key)))


def test_damage_is_named_with_its_keys(files):
    bad = {":type:": "ndarray", "dtype": "<f4", "shape": [3], "base64": "AAAA"}
    with pytest.raises(
        ModelFileError, match=r"the model file: data: .*`mine` is damaged: a\.b\.1: .*ndarray"
    ):
        PPO.load(forged(files["ppo"], attributes(mine={"a": {"b": [1, bad]}})))


def test_names_of_parameters_and_variables_are_those_of_the_model(files):
    with zipfile.ZipFile(io.BytesIO(files["sac"])) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    for old, new in (
        ("policy.safetensors", "policy._device.safetensors"),
        ("actor.optimizer.safetensors", "predict.__func__.safetensors"),
    ):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in entries.items():
                archive.writestr(new if name == old else name, data)
        with pytest.raises(ModelFileError, match=r"\w"):
            SAC.load(out)
        with pytest.raises(ModelFileError, match="invalid object name"):
            SAC.load(io.BytesIO(files["sac"])).set_parameters(out)
    variables = entries["variables.safetensors"].replace(b"log_ent_coef", b"_setup_model")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, variables if name == "variables.safetensors" else data)
    with pytest.raises(ModelFileError, match="variables: `_setup_model` is none of this model's"):
        SAC.load(out)


CHILD = """
    import io, json, resource, sys, warnings, zipfile
    import mlx_baselines3
    from mlx_baselines3 import PPO, DQN, SAC
    warnings.simplefilter("ignore")
    algorithm, path, change = getattr(mlx_baselines3, sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    algorithm.load(path)
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "data":
                data = json.dumps({**json.loads(data), **change}).encode()
            new.writestr(name, data)
    out.seek(0)
    def mapped():
        return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    if sys.platform == "linux":
        limit = mapped() + 2**29
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        algorithm.load(out)
        said = "loaded"
    except mlx_baselines3.common.save_util.ModelFileError as error:
        said = "refused"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(said, grown // (1 if sys.platform == "linux" else 1024))
"""


@pytest.mark.parametrize(
    ("name", "change", "ends"),
    [
        ("ppo", {"policy_kwargs": {"net_arch": [100_000, 100_000]}}, "refused"),
        ("ppo", {"policy_kwargs": {"net_arch": [1] * 10**6}}, "refused"),
        ("ppo", {"observation_space": space("Discrete", n=10**8, start=0)}, "refused"),
        ("ppo", {"n_steps": 10**9}, "refused"),
        # As many as are lent without being touched.
        ("ppo", {"n_steps": 10**5}, "loaded"),
        ("dqn", {"buffer_size": 10**12}, "refused"),
        (
            "dqn",
            {"n_envs": 10**9, "buffer_size": 10**9, "_last_obs": None, "_last_original_obs": None},
            "refused",
        ),
        ("sac", {"policy_kwargs": {"net_arch": [3], "n_critics": 10**7}}, "refused"),
        ("ppo", {"mine": [[]] * 10**6}, "refused"),
        ("ppo", {"mine": json.loads("[" * 300 + "]" * 300)}, "refused"),
    ],
)
def test_a_small_file_makes_nothing_large(name, change, ends, files, tmp_path):
    path = tmp_path / "model.zip"
    path.write_bytes(files[name])
    command = [sys.executable, "-c", textwrap.dedent(CHILD), name.upper(), str(path), json.dumps(change)]
    if len(command[-1]) > 100_000:
        command[-2:] = [str(path), "{}"]
        change_path = tmp_path / "change"
        change_path.write_text(json.dumps(change))
        command[2] = command[2].replace("json.loads(sys.argv[3])", f"json.load(open({str(change_path)!r}))")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said, kilobytes = done.stdout.split()
    assert said == ends
    assert int(kilobytes) < 64 * 1024


def state_of(kind):
    generator = np.random.Generator(kind(0))
    generator.random(3, dtype=np.float32)
    return generator.bit_generator.state


KINDS = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    return {**value, path[0]: replaced(value[path[0]], path[1:], new)}


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_generators_are_possible_ones(kind):
    state = state_of(KINDS[kind])
    assert build_generator(state).random() == np.random.Generator(_continued(KINDS[kind], state)).random()
    wrong = [None, -1, 2**200, "x", [], {}, np.zeros(3, np.uint32), np.zeros(624), True, 1.5]
    for path in places(state):
        for value in wrong:
            with pytest.raises(ModelFileError):
                build_generator(replaced(state, path, value))
    if kind == "MT19937":
        # Without the check it reads behind its words: the process ends.
        for pos in (625, 10**6, 2**31 - 1):
            with pytest.raises(ModelFileError, match="pos is"):
                build_generator(replaced(state, ("state", "pos"), pos))
        with pytest.raises(ModelFileError, match="key is zero"):
            build_generator(replaced(state, ("state", "key"), np.zeros(624, np.uint32)))
    if kind == "Philox":
        with pytest.raises(ModelFileError, match="buffer_pos is"):
            build_generator(replaced(state, ("buffer_pos",), 5))


def _continued(kind, state):
    bits = kind(1)
    bits.state = state
    return bits


RUNS = [
    (lambda run: run["generators"]["python"]["items"].__setitem__(0, 2), "python"),
    (lambda run: run["generators"]["python"]["items"][1]["items"].__setitem__(624, 625), "pos"),
    (lambda run: run["generators"]["python"]["items"][1]["items"].__setitem__(0, -1), "words"),
    (lambda run: run["generators"]["python"]["items"][1]["items"].pop(), "words"),
    (lambda run: run["generators"]["python"]["items"].__setitem__(2, "x"), "python"),
    (lambda run: run["generators"]["numpy"]["state"].update(pos=10**6), "pos"),
    (lambda run: run["generators"]["numpy"].update(bit_generator="PCG64"), "state"),
    (lambda run: run["generators"]["numpy"].update(gauss=[1]), "run"),
    (lambda run: run["generators"]["numpy"].update(has_gauss=7), "numpy"),
    (lambda run: run["generators"].update(mlx=[1, 2**32]), "generators.mlx"),
    (lambda run: run["generators"].update(mlx=["1", 2]), "generators.mlx"),
    (lambda run: run["generators"].update(actor=[2**128, 1]), "generators.actor"),
    (lambda run: run["generators"].update(actor=[2, 2]), "increment"),
    (lambda run: run.update(generators=None), "run"),
    (lambda run: run.update(elapsed=10**40), "run"),
    (lambda run: run.update(elapsed=None), "run"),
    (lambda run: run.update(logged={"a": [1, 2]}), "run"),
    (lambda run: run.update(logged={"a": [1, 2, [3]]}), "run"),
    (lambda run: run.update(logged={"a": [dotted("class", path="mlx.nn:Tanh"), 2, []]}), "logged.a"),
    (lambda run: run.update(lost=3), "damaged"),
    (lambda run: run.update(lost=[[]]), "damaged"),
]


@pytest.mark.parametrize(("change", "said"), RUNS)
def test_forged_runs_are_refused(change, said, files):
    with pytest.raises(ModelFileError, match=said):
        PPO.load_checkpoint(forged(files["ppo"], change, "checkpoint/run"))


def test_exploration_matrices_have_to_fit(files):
    for matrix in (3, {":type:": "ndarray", "dtype": "<i4", "shape": [3, 1], "base64": "AAAAAAAAAAAAAAAA"}):
        change = lambda run, m=matrix: run["matrices"].update(exploration_mat=m)  # noqa: E731
        with pytest.raises(ModelFileError, match="exploration_mat"):
            SAC.load_checkpoint(forged(files["sac"], change, "checkpoint/run"))


def native(**changes):
    return lambda env: env["native"].update(changes)


def first(**changes):
    return lambda env: env["native"]["envs"][0].update(changes)


def layer(**changes):
    return lambda env: env["layers"][0].update({name: {"value": value} for name, value in changes.items()})


ENVS = [
    (lambda env: env["make"].update(env_id="marker_module:CartPole-v1"), "no native environment"),
    (lambda env: env["make"].update(env_id="FrozenLake-v1"), "no native environment"),
    (lambda env: env["make"].update(env_id=[1]), "no native environment"),
    (lambda env: env["make"].update(env_kwargs={"max_episode_steps": "x"}), "give such environments"),
    (lambda env: env["make"].update(env_kwargs={"additional_wrappers": 1}), "give such environments"),
    (lambda env: env["make"].update(env_kwargs=[1]), "not a table"),
    (lambda env: env.update(n_envs=10**12), "but not their states"),
    (lambda env: env.update(n_envs=-1), "damaged"),
    (native(version=9), "version"),
    (native(time_limit=0), "time_limit"),
    (native(time_limit="x"), "time_limit"),
    (native(seeds=[1]), "seeds"),
    (native(last_seeds=["x", 1]), "last_seeds"),
    (native(options=[{"low": []}, {}]), "options"),
    (native(t_start=None), "t_start"),
    (native(envs=[1, 2]), "steps"),
    (first(steps=-1), "steps"),
    (first(steps=2**70), "steps"),
    (first(rng={"state": 1, "inc": 2, "has_uint32": 0, "uinteger": 0}), "increment"),
    (first(rng={"state": -1, "inc": 3, "has_uint32": 0, "uinteger": 0}), "state is -1"),
    (first(rng=5), "damaged"),
    (first(state=["x"]), "damaged"),
    (layer(gamma="x"), "`gamma`"),
    (layer(training=3), "`training`"),
    (layer(norm_obs_keys=3), "`norm_obs_keys`"),
    (layer(step_wait=3), "step_wait"),
    (layer(returns=[1.0, 2.0]), "returns"),
    (layer(returns=dotted("ndarray", dtype="<f8", shape=[1], base64="AAAAAAAAAAA=")), "returns"),
    (layer(obs_rms=3), "obs_rms"),
    (
        layer(
            ret_rms=dotted(
                "object", **{"class": "mlx_baselines3.common.utils:ConstantSchedule"}, state={"val": 1}
            )
        ),
        "ret_rms",
    ),
    (layer(extra=dotted("class", path="mlx.nn:Tanh")), "extra"),
]


@pytest.mark.parametrize(("change", "said"), ENVS)
def test_forged_environments_are_refused(change, said, files):
    with pytest.raises(ValueError, match=said) as error:
        PPO.load_checkpoint(forged(files["ppo"], change, "checkpoint/env"))
    assert "give such environments" in said or isinstance(error.value, ModelFileError)


def structure(contents, change):
    """The replay buffer's entry with another structure."""
    entry = "checkpoint/replay_buffer.safetensors"
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(contents)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == entry:
                size = int.from_bytes(data[:8], "little")
                header = json.loads(data[8 : 8 + size])
                table = json.loads(header["__metadata__"]["structure"])
                change(table)
                header["__metadata__"]["structure"] = json.dumps(table)
                text = json.dumps(header).encode()
                data = len(text).to_bytes(8, "little") + text + data[8 + size :]
            new.writestr(name, data)
    out.seek(0)
    return out


@pytest.mark.parametrize(
    "fields",
    [
        *({"pos": 40}, {"pos": -1}, {"pos": "x"}, {"buffer_size": 10**9}, {"n_envs": 7}, {"full": 3}),
        *({"actions": 3}, {"obs_shape": [1]}, {"action_dim": 9}, {"add": 1}, {"rewards": None}),
        *({"_device": 5}, {"optimize_memory_usage": 1}),
    ],
    ids=str,
)
def test_forged_buffers_are_refused(fields, files):
    change = lambda table: table.update({name: {"value": value} for name, value in fields.items()})  # noqa: E731
    with pytest.raises(ModelFileError, match=next(iter(fields))):
        DQN.load_checkpoint(structure(files["dqn"], change))
