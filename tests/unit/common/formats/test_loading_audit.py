"""Loading causes nothing but reading the named file, whatever that says: a child under an audit hook."""

import json
import subprocess
import sys
import textwrap

import pytest

from support import TESTS

# A good file of each kind is loaded first, so that what is imported late is there. Then the watch goes on.
CHILD = """
    import json, pathlib, pickle, random, sys, warnings, zipfile
    tests, folder = map(pathlib.Path, sys.argv[1:3])
    sys.path[:0] = [str(tests), str(tests / "fuzz")]
    warnings.simplefilter("ignore")
    import mlx_baselines3
    import fuzz_archives as fuzz
    from support.audit_hook import Watch
    from mlx_baselines3 import A2C, DQN, PPO, SAC, TD3
    from mlx_baselines3.common.formats.sb3 import torch_file as _torch_file
    from mlx_baselines3.common.formats.vec_normalize import load_vec_normalize
    from mlx_baselines3.common.policies import ActorCriticPolicy
    from mlx_baselines3.common.save_util import ModelFileError
    from mlx_baselines3.common.saving.replay import load_replay_buffer
    from mlx_baselines3.common.vec_env import NativeVecEnv, VecNormalize

    fuzz.users_module()
    (folder / "marker_of_the_audit.py").write_text("raise BaseException('a file caused an import')")
    sys.path.insert(0, str(folder))
    algorithms = {kind.__name__: kind for kind in (PPO, A2C, DQN, SAC, TD3)}
    models = {name: fuzz.small(kind) for name, kind in algorithms.items()}
    readers, good = {}, {}

    def add(kind, read, write):
        readers[kind], good[kind] = read, folder / f"{kind}.zip"
        write(good[kind])

    for name, kind in algorithms.items():
        model = models[name]
        add(f"model {name}", kind.load, model.save)
        add(f"sb3 {name}", kind.load, lambda path, model=model: model.save(path, format="sb3"))
        add(f"checkpoint {name}", kind.load_checkpoint, model.save_checkpoint)
        add(f"parameters {name}", model.set_parameters, model.save)
    native = VecNormalize(NativeVecEnv("CartPole-v1", 2, seed=0))
    model = PPO("MlpPolicy", native, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [3]}).learn(16)
    add("checkpoint native", PPO.load_checkpoint, model.save_checkpoint)
    add("policy", ActorCriticPolicy.load, models["PPO"].policy.save)
    add("policy object", models["DQN"].policy.load, models["DQN"].policy.save)
    # Files that are not archives of ours, and SB3's with tensors of both of torch's formats.
    for kind, name in (("sb3 torch", "models/ppo_cartpole.zip"), ("sb3 legacy", "torch/ppo_legacy.zip")):
        contents = (tests / "data" / name).read_bytes()
        add(kind, PPO.load, lambda path, contents=contents: path.write_bytes(contents))
    small_sb3 = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [3]})
    add("parameters sb3", small_sb3.set_parameters, lambda path: small_sb3.save(path, format="sb3"))
    owner, collected = models["DQN"], {}
    load_buffer = {
        # As its owner does, and with the environments of goals that HER's asks for.
        "replay": lambda path: owner.load_replay_buffer(path),
        "replay_pickle": load_replay_buffer,
        "statistics": lambda path: VecNormalize.load(path, NativeVecEnv("CartPole-v1", 1)),
        "statistics_pickle": lambda path: load_vec_normalize(path, VecNormalize),
        "legacy_torch": lambda path: _torch_file.load(path.read_bytes(), "file"),
    }
    for name, files, _ in fuzz.readers():
        for number, contents in enumerate(files):
            if name in ("replay", "statistics") and number == 0:
                add(f"{name} of a model", load_buffer[name], lambda path, c=contents: path.write_bytes(c))
            read = load_replay_buffer if name == "replay" else load_buffer[name]
            add(f"{name} {number}", read, lambda path, c=contents: path.write_bytes(c))
            collected[f"{name} {number}"] = name

    def rezipped(kind, entry, change):
        path = folder / f"next {kind}.zip"
        with zipfile.ZipFile(good[kind]) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                data = old.read(name)
                if name == entry:
                    data = change(data)
                new.writestr(name, data)
        return path

    def changed(**entries):
        return lambda data: json.dumps({**json.loads(data), **entries}).encode()

    def of_others(rng, kind):
        # Bytes and whole values of what is no archive of a model; pickles that call something, too.
        contents, name = good[kind].read_bytes(), collected.get(kind, "sb3")
        pickled = name.endswith("_pickle")
        for number in range(30 if pickled else 20):
            path = folder / "next.bin"
            path.write_bytes(fuzz.mutate(rng, name, contents, [contents]))
            yield kind, path
        for evil in fuzz.EVIL if pickled else ():
            path.write_bytes(evil)
            yield kind, path

    def forged():
        rng = random.Random(0)
        for kind in readers:
            if kind in collected or kind in ("sb3 torch", "sb3 legacy", "parameters sb3"):
                yield from of_others(rng, kind)
                continue
            if kind.endswith("of a model"):
                for entry in ("replay_buffer/layout", "vec_normalize/attributes"):
                    for _ in range(25):
                        yield kind, rezipped(kind, entry, lambda data: fuzz.json_text(rng, json.loads(data)))
                continue
            if kind.startswith("parameters"):
                yield kind, rezipped(
                    kind, "policy.safetensors", lambda data: fuzz.mutate_bytes(rng, data, [data])
                )
                continue
            names = zipfile.ZipFile(good[kind]).namelist()
            for entry in {"data", "checkpoint/run", "checkpoint/env"}.intersection(names):
                for _ in range(12):
                    yield kind, rezipped(
                        kind, entry, lambda data: json.dumps(fuzz.mutate_json(rng, json.loads(data))).encode()
                    )
            for pickled in fuzz.EVIL:
                value = {":type:": "x", ":serialized:": fuzz.base64.b64encode(pickled).decode()}
                yield kind, rezipped(kind, "data", changed(learning_rate=value, policy_class=value))
        for slot in fuzz.SLOTS:
            for name in (*fuzz.NAMES, "marker_of_the_audit:Thing"):
                for tag in rng.sample(fuzz.TAGS, 2):
                    value = {":type:": tag, "path": name, "class": name, "state": {}}
                    value |= {"name": "X", "items": [1, 2]}
                    kind = rng.choice(("model PPO", "model DQN", "sb3 SAC", "policy", "checkpoint TD3"))
                    arguments = {"net_arch": [3], slot: value, "features_extractor_kwargs": {"env": value}}
                    entries = rng.choice(({slot: value}, {"policy_kwargs": arguments}))
                    yield kind, rezipped(kind, "data", changed(**entries))
        for env in ("marker_of_the_audit:Thing-v0", "CartPole-v1"):
            yield "model PPO", rezipped("model PPO", "data", changed(env=env))

    def edit(change):
        def edited(data):
            table = json.loads(data)
            change(table)
            return json.dumps(table).encode()
        return edited

    def checkpoints():
        kind = "checkpoint native"
        for made in (
            {"monitor_dir": str(folder)},
            {"env_id": "marker_of_the_audit:Thing-v0"},
            {"env_kwargs": {"render_mode": "human"}},
        ):
            change = edit(lambda env: env["make"].update(made))
            yield kind, rezipped(kind, "checkpoint/env", change)

    watch, outcomes = Watch(), {}
    for kind, read in readers.items():
        watch.path = good[kind]
        watch.on = True
        read(good[kind])
        watch.on = False
    # Late imports, which a good file may cause once.
    watch.seen.clear()
    for kind, read in readers.items():
        watch.path, watch.on = good[kind], True
        read(good[kind])
        watch.on = False
    for kind, path in (*forged(), *checkpoints()):
        watch.path, watch.on = path, True
        try:
            readers[kind](path)
            outcome = "loaded"
        except ModelFileError:
            outcome = "refused"
        except ValueError as error:
            outcome = "another" if any(text in str(error) for text in (
                "holds a model of", "is a checkpoint of", "give such environments", "do not match agents",
                "spaces do not match",
            )) else f"{kind}: {error!r}"
        watch.on = False
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    noticed, events = list(watch.seen), watch.events
    # The watch is not blind.
    watch.seen.clear()
    watch.path, watch.on = None, True
    try:
        open(folder / "policy.zip").close()
        open(folder / "written", "w").close()
        import colorsys
        eval("1")
    finally:
        watch.on = False
    controls = sorted({seen.partition(" ")[0] for seen in watch.seen})
    print(json.dumps({"noticed": noticed[:5], "outcomes": outcomes, "controls": controls, "events": events}))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(TESTS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_happens_but_reading_the_named_file(report):
    assert report["noticed"] == []
    # Each load opens its file at least.
    assert report["events"] > sum(report["outcomes"].values())


def test_every_file_is_loaded_or_refused(report):
    assert set(report["outcomes"]) <= {"loaded", "refused", "another"}
    assert report["outcomes"]["refused"] > 300
    assert report["outcomes"]["loaded"] > 300


def test_the_watch_sees_what_it_is_for(report):
    assert {"open", "import", "compile", "exec"} <= set(report["controls"])
