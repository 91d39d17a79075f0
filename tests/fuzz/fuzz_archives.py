"""
Feed mutated model files to the readers: ``python tests/fuzz/fuzz_archives.py --count 200000 --jobs 2``.

Each must end in a value or in a refusal. It is a failure if a reader raises anything else, computes for
longer than ten seconds or waits for two minutes, needs much more memory than before, or causes an audit
event that is not listed in ``tests/audit_hook.py``. Failing files are kept in ``--keep``. One seed gives one
series of files.
"""

import argparse
import base64
import faulthandler
import io
import json
import multiprocessing
import pathlib
import random
import resource
import signal
import sys
import time
import traceback
import types
import warnings
import zipfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import mlx_baselines3  # noqa: F401  before mlx, for its BLAS
from audit_hook import Watch
from mlx_baselines3 import A2C, DQN, PPO, SAC, TD3
from mlx_baselines3.common import _safetensors, _torch_file, sb3_zip
from mlx_baselines3.common._import_paths import UnknownName
from mlx_baselines3.common.export import export_sb3
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.save_util import ModelFileError, json_to_data

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "models"
# A busy machine may keep a process waiting, so what it computes counts; waiting has a wider bound.
SECONDS, WAITING = 10, 120
MEMORY = 512 * 2**20
INTERESTING = [
    0,
    1,
    -1,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    10**40,
    1e308,
    "x",
    None,
    [],
    {},
]
EVIL = [
    b"cos\nsystem\n(X\x04\x00\x00\x00trueitR.",
    b"cbuiltins\nexec\n(X\x08\x00\x00\x00import xtR.",
    b"cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.",
    b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
]
# Names that lead to code, to be put where a file has a name or anything else.
OWN = "mlx_baselines3.common"
NAMES = [
    *("os:system", "builtins:eval", "subprocess:Popen", "functools:partial", "numpy:load", "gymnasium:make"),
    *(f"{OWN}.vec_env:SubprocVecEnv", f"{OWN}.save_util:load_from_pkl", f"{OWN}.vec_env:NativeVecEnv"),
    *(f"{OWN}.policies:ActorCriticPolicy", f"{OWN}.buffers:ReplayBuffer", f"{OWN}.torch_layers:NatureCNN"),
    *("mlx.nn:Tanh", "mlx.nn:Linear", "mlx.optimizers:Adam", "mlx.nn.layers.activations:relu"),
    *("mlx_baselines3.dqn.policies:DQNPolicy", "fuzz_users:Linear", "fuzz_users:Trap", "fuzz_users:Policy"),
    *(f"{OWN}.utils:FloatSchedule", f"{OWN}.noise:NormalActionNoise", f"{OWN}.policies:BasePolicy"),
]
TAGS = ("class", "function", "enum", "object", "offered", "schedule", "namedtuple")
SLOTS = [
    *("policy_class", "learning_rate", "clip_range", "lr_schedule", "action_noise", "train_freq", "env"),
    *("replay_buffer_class", "rollout_buffer_class", "replay_buffer_kwargs", "policy_kwargs", "_setup_model"),
    *("features_extractor_class", "activation_fn", "optimizer_class", "features_extractor_kwargs"),
    *("goal_selection_strategy", "net_arch", "n_envs", "n_steps", "buffer_size", "batch_size", "seed"),
]
USERS = """
from mlx_baselines3.common.policies import ActorCriticPolicy
class Linear:
    def __call__(self, progress_remaining): return progress_remaining
class Policy(ActorCriticPolicy): pass
class Trap:
    def __init__(self, *args, **kwargs): raise BaseException("a file ran code")
    __call__ = __reduce__ = __setstate__ = __from_archive_state__ = __init__
"""


class _TooLong(BaseException):
    pass


def _alarm(*_):
    raise _TooLong


def users_module():
    """A module of the user's, imported: what files may and may not name."""
    module = types.ModuleType("fuzz_users")
    sys.modules[module.__name__] = module
    exec(USERS, module.__dict__)


def small(algorithm):
    """A model of an algorithm that fits into a few kilobytes."""
    env = "CartPole-v1" if algorithm in (PPO, DQN) else "Pendulum-v1"
    kwargs = {"policy_kwargs": {"net_arch": [3]}}
    if algorithm is PPO:
        kwargs |= {"n_steps": 8, "batch_size": 8, "n_epochs": 1}
    elif algorithm is not A2C:
        kwargs |= {"buffer_size": 16, "learning_starts": 4, "batch_size": 4}
    return algorithm("MlpPolicy", env, seed=0, **kwargs).learn(8)


def _bytes(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


class Corpus:
    """Files to start from, and how each kind is read."""

    def __init__(self):
        models = [small(algorithm) for algorithm in (PPO, A2C, DQN, SAC, TD3)]
        ours = [_bytes(model.save) for model in models]
        theirs = [_bytes(lambda stream, model=model: export_sb3(model, stream)) for model in models]
        theirs += [path.read_bytes() for path in sorted(GOLDEN.glob("*_cartpole.zip"))]
        runs = [_bytes(model.save_checkpoint) for model in models]
        self.models, self.runs = models, dict(zip(runs, models, strict=True))
        policies = [_bytes(model.policy.save) for model in models[:3]]
        inner = {name: data for file in ours + theirs[:5] + runs for name, data in _entries(file)}
        tensors = [data for name, data in inner.items() if name.endswith(".safetensors")]
        torches = [data for name, data in inner.items() if name.endswith(".pth")]
        pickles = [data for file in torches for name, data in _entries(file) if name.endswith("data.pkl")]
        attributes = [data for file in ours + theirs for name, data in _entries(file) if name == "data"]
        self.kinds = {
            "model": (ours, self._model),
            "sb3": (theirs, self._model),
            "checkpoint": (runs, self._checkpoint),
            "parameters": (ours + theirs[:5], self._parameters),
            "policy": (policies, lambda data: ActorCriticPolicy.load(io.BytesIO(data))),
            "json": (attributes, lambda data: json_to_data(data.decode("utf-8", "replace"))),
            "safetensors": (tensors, lambda data: _safetensors.loads(data, "file")),
            "torch": (torches, lambda data: _torch_file.load(data, "file")),
            "pickle": (pickles + _pickles(attributes) + EVIL, sb3_zip.read_pickle),
        }

    def _model(self, data):
        # The algorithm that a file is of is not asked: a third of the files go to another one.
        for kind in _ALGORITHMS[len(data) % len(_ALGORITHMS) :][:1] if len(data) % 3 == 0 else _ALGORITHMS:
            try:
                kind.load(io.BytesIO(data))
                return
            except ModelFileError:
                raise
            except ValueError as error:
                if "holds a model of" not in str(error):
                    raise

    def _checkpoint(self, data):
        for kind in _ALGORITHMS:
            try:
                kind.load_checkpoint(io.BytesIO(data))
                return
            except ModelFileError:
                raise
            except ValueError as error:
                text = str(error)
                if "is a checkpoint of" not in text and "give such environments" not in text:
                    refused = ("holds a model of", "spaces do not match", "expected the same")
                    if not any(part in text for part in refused):
                        raise

    def _parameters(self, data):
        model = self.models[len(data) % len(self.models)]
        try:
            model.set_parameters(io.BytesIO(data))
        except ValueError as error:
            if "do not match agents' parameters" not in str(error) and not isinstance(error, ModelFileError):
                raise


_ALGORITHMS = (PPO, A2C, DQN, SAC, TD3)


def _entries(file):
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def _pickles(attributes):
    tables = [json.loads(data) for data in attributes]
    entries = [entry for table in tables for entry in table.values() if isinstance(entry, dict)]
    return [base64.b64decode(entry[":serialized:"]) for entry in entries if ":serialized:" in entry]


def mutate_bytes(rng, data, others):
    """A few bytes set, flipped, cut, doubled, or taken from another file."""
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at, length = rng.randrange(len(mutated) + 1), rng.choice((1, 2, 4, 8, 64))
        kind = rng.randrange(7)
        if kind == 0:
            mutated[at : at + length] = rng.randbytes(length)
        elif kind == 1 and at < len(mutated):
            mutated[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del mutated[at : at + length]
        elif kind == 3:
            mutated[at:at] = mutated[at : at + length]
        elif kind == 4:
            number = rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1))
            mutated[at : at + 8] = number.to_bytes(8, "little")
        elif kind == 5:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            mutated[at : at + length] = other[start : start + length]
        elif rng.random() < 0.2:
            del mutated[at:]
    return bytes(mutated)


def named(rng):
    """A name of each kind, as each kind of value."""
    tag, name = rng.choice(TAGS), rng.choice(NAMES)
    state = rng.choice(({}, {"start": 1.0}, {"val": 1}, {"value_schedule": 1.0}, [], 3))
    if tag in ("class", "function"):
        return {":type:": tag, "path": name}
    return {":type:": tag, "class": name, "state": state, "name": "STEP", "items": [1, 2]}


def huge(rng):
    """Sizes, depths and counts that no small file justifies."""
    nested = []
    for _ in range(rng.choice((10, 70, 300))):
        nested = [nested] if rng.random() < 0.5 else {"a": nested}
    widths = [10 ** rng.randrange(8) for _ in range(rng.choice((1, 2, 50)))]
    return rng.choice((nested, widths, {"net_arch": widths}, 10 ** rng.randrange(30), [[]] * 3000))


def mutate_json(rng, value, depth=0):
    """A value somewhere in it is another one, a key is missing, or a part is somewhere else."""
    if isinstance(value, dict) and value and (depth == 0 or rng.random() < 0.8):
        key = rng.choice(list(value))
        kind = rng.randrange(10)
        if kind == 0:
            return {name: item for name, item in value.items() if name != key}
        if kind == 1:
            return {**value, key: rng.choice(list(value.values()))}
        if kind == 2 and ":type:" in value:
            tags = ("tuple", "ndarray", "tensor", "space", "dict", "deque", "generator", *TAGS)
            return {**value, ":type:": rng.choice(tags)}
        if kind == 3:
            return {**value, rng.choice(SLOTS): rng.choice((named(rng), rng.choice(INTERESTING)))}
        if kind == 4:
            return {**value, key: named(rng)}
        if kind == 5 and depth < 3:
            return {**value, key: huge(rng)}
        return {**value, key: mutate_json(rng, value[key], depth + 1)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], mutate_json(rng, value[at], depth + 1), *value[at + 1 :]]
    if isinstance(value, str) and rng.random() < 0.5:
        return rng.choice((*NAMES, value * 2, value[:-1], "PCG64"))
    return rng.choice(INTERESTING)


def mutate(rng, kind, data, others):
    """
    :param rng: the generator
    :param kind: what the file is
    :param data: its contents
    :param others: other files of the kind
    :return: a mutated file; of archives mostly one whose checksums are right, so that what is inside is read
    """
    if kind == "json" or (kind not in ("safetensors", "torch", "pickle") and rng.random() < 0.1):
        if kind == "json" and rng.random() < 0.6:
            return json.dumps(mutate_json(rng, json.loads(data))).encode()
        return mutate_bytes(rng, data, others)
    if kind in ("safetensors", "pickle") or rng.random() < 0.2:
        return mutate_bytes(rng, data, others)
    entries = _entries(data)
    chosen = rng.randrange(len(entries))
    stream = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(stream, "w", packing) as archive:
            for index, (name, contents) in enumerate(entries):
                if index == chosen:
                    name, contents = _mutated_entry(rng, name, contents, entries)
                archive.writestr(name, contents)
    return stream.getvalue()


def _mutated_entry(rng, name, contents, entries):
    roll = rng.random()
    if roll < 0.03:
        return rng.choice((f"../{name}", f"/{name}", name * 3, "format", entries[0][0])), contents
    if roll < 0.06:
        return name, bytes(rng.randrange(2**20))
    if name in ("data", "checkpoint/run", "checkpoint/env") and roll < 0.8:
        return name, json.dumps(mutate_json(rng, json.loads(contents))).encode()
    if name.endswith(".pth") and roll < 0.8:
        return name, mutate(rng, "torch", contents, [contents])
    return name, mutate_bytes(rng, contents, [contents])


def survives(watch, read, data):
    """
    :param watch: notes what the reader does
    :param read: a reader
    :param data: a file
    :return: what was wrong, or None
    """
    watch.seen = []
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAITING)
    watch.on = True
    try:
        read(data)
        problem = None
    except (ModelFileError, UnknownName):
        problem = None
    except _TooLong:
        problem = f"computed for {SECONDS} s, or waited for {WAITING} s"
    except BaseException:
        problem = traceback.format_exc(limit=-4)
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return problem or (f"did {watch.seen[:3]}" if watch.seen else None)


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def work(seed, count, keep, out, deadline=float("inf")):
    """One process's share, or as much of it as can be done before ``deadline``."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _alarm)
    users_module()
    watch, corpus = Watch(), Corpus()
    for files, read in corpus.kinds.values():
        for data in files:  # whatever is imported late is imported now
            survives(watch, read, data)
    rng, failures, slowest = random.Random(seed), [], 0.0
    counts = dict.fromkeys(corpus.kinds, 0)
    before = _peak()
    for number in range(count):
        if time.time() > deadline:
            break
        kind = rng.choices(list(corpus.kinds), (25, 10, 10, 5, 5, 15, 10, 10, 10))[0]
        files, read = corpus.kinds[kind]
        data = mutate(rng, kind, rng.choice(files), files)
        start = time.process_time()
        problem = survives(watch, read, data)
        slowest = max(slowest, time.process_time() - start)
        counts[kind] += 1
        # Now and then: asking takes longer than reading a file does.
        if problem is None and number % 100 == 0 and _peak() > before + MEMORY:
            problem, before = f"memory grew by {(_peak() - before) / 2**20:.0f} MiB", _peak()
        if problem is not None:
            path = pathlib.Path(keep) / f"{kind}_{seed}_{number}.bin"
            path.write_bytes(data)
            failures.append(f"{path}: {problem}")
            if len(failures) >= 20:
                break
    out.put((counts, failures, slowest, (_peak() - before) / 2**20))


def main():
    """:return: 0 if everything was survived"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after that many")
    parser.add_argument("--keep", default="fuzz-failures")
    options = parser.parse_args()
    pathlib.Path(options.keep).mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    share = -(-options.count // options.jobs)
    start, deadline = time.perf_counter(), time.time() + options.seconds
    workers = [
        context.Process(target=work, args=(options.seed * 1000 + job, share, options.keep, out, deadline))
        for job in range(options.jobs)
    ]
    for worker in workers:
        worker.start()
    results = []
    while len(results) < len(workers):
        try:
            results.append(out.get(timeout=5))
        except Exception:
            if any(worker.exitcode not in (None, 0) for worker in workers):
                print("a process crashed:", [worker.exitcode for worker in workers])
                return 1
    total = sum(sum(counts.values()) for counts, *_ in results)
    print(
        f"{total} files in {time.perf_counter() - start:.0f} s:", _summed([counts for counts, *_ in results])
    )
    slowest, growth = max(slow for _, _, slow, _ in results), max(more for *_, more in results)
    print(f"slowest {slowest:.2f} s, memory +{growth:.0f} MiB")
    failures = [failure for _, found, *_ in results for failure in found]
    print(f"{len(failures)} failures", *failures, sep="\n")
    return int(bool(failures))


def _summed(tables):
    return {name: sum(table[name] for table in tables) for name in tables[0]}


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())
