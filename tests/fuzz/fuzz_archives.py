"""
Feed mutated model files to the readers: ``python tests/fuzz/fuzz_archives.py --count 200000 --jobs 2``.

Each must end in a value or in a refusal. It is a failure if a reader raises anything else, computes for
longer than ten seconds or waits for two minutes, needs much more memory than before, or causes an audit
event that is not listed in ``tests/support/audit_hook.py``. Loaded values are used once, which may raise
anything but not end the process. Failing files are kept in ``--keep``, and so is the file that a process was
reading when it ended. One seed gives one series of files.
"""

import argparse
import base64
import faulthandler
import io
import json
import multiprocessing
import pathlib
import queue
import random
import resource
import signal
import sys
import time
import traceback
import types
import warnings

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from mutations import (  # noqa: F401  some are used through this module
    EVIL,
    NAMES,
    SLOTS,
    TAGS,
    entries,
    json_text,
    mutate,
    mutate_bytes,
    mutate_json,
)
from readers import readers

import mlx_baselines3  # noqa: F401  before mlx, for its BLAS
from mlx_baselines3 import A2C, DQN, PPO, SAC, TD3
from mlx_baselines3.common.base_class import BaseAlgorithm
from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.export import export_sb3
from mlx_baselines3.common.formats import safetensors as _safetensors
from mlx_baselines3.common.formats.names import UnknownName
from mlx_baselines3.common.formats.sb3 import torch_file as _torch_file
from mlx_baselines3.common.formats.sb3 import zip as sb3_zip
from mlx_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from mlx_baselines3.common.save_util import ModelFileError, json_to_data
from mlx_baselines3.common.vec_env import VecNormalize
from support.audit_hook import Watch

DATA = pathlib.Path(__file__).parents[1] / "data"
GOLDEN = DATA / "models"
# A busy machine may keep a process waiting, so what it computes counts; waiting has a wider bound.
SECONDS, WAITING = 10, 120
MEMORY = 512 * 2**20
WEIGHTS = {
    "model": 20,
    "sb3": 10,
    "checkpoint": 10,
    "parameters": 5,
    "policy": 5,
    "json": 12,
    "safetensors": 8,
    "torch": 8,
    "pickle": 10,
    "replay": 10,
    "replay_pickle": 15,
    "statistics": 6,
    "statistics_pickle": 8,
    "legacy_torch": 6,
}
USERS = """
from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.policies import ActorCriticPolicy
class Linear:
    def __call__(self, progress_remaining): return progress_remaining
class Policy(ActorCriticPolicy): pass
class Buffer(ReplayBuffer): pass
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
        theirs.append((DATA / "torch" / "ppo_legacy.zip").read_bytes())
        old = [path.read_bytes() for path in sorted((DATA / "archives" / "0.1.0").glob("*.zip"))]
        runs = [_bytes(model.save_checkpoint) for model in models]
        self.models, self.runs = models, dict(zip(runs, models, strict=True))
        policies = [_bytes(model.policy.save) for model in models[:3]]
        others = readers()
        inner = {name: data for file in ours + theirs[:5] + runs for name, data in entries(file)}
        tensors = [data for name, data in inner.items() if name.endswith(".safetensors")]
        torches = [data for name, data in inner.items() if name.endswith(".pth")]
        pickles = [data for file in torches for name, data in entries(file) if name.endswith("data.pkl")]
        attributes = [data for file in ours + theirs for name, data in entries(file) if name == "data"]
        self.kinds = {
            "model": (ours + old, self._model),
            "sb3": (theirs, self._model),
            "checkpoint": (runs, self._checkpoint),
            "parameters": (ours + theirs[:5], self._parameters),
            "policy": (policies, lambda data: ActorCriticPolicy.load(io.BytesIO(data))),
            "json": (attributes, lambda data: json_to_data(data.decode("utf-8", "replace"))),
            "safetensors": (tensors, lambda data: _safetensors.loads(data, "file")),
            "torch": (torches, lambda data: _torch_file.load(data, "file")),
            "pickle": (pickles + _pickles(attributes) + EVIL, sb3_zip.read_pickle),
            **{name: (files, read) for name, files, read in others},
        }

    def _model(self, data):
        # The algorithm that a file is of is not asked: a third of the files go to another one.
        for kind in _ALGORITHMS[len(data) % len(_ALGORITHMS) :][:1] if len(data) % 3 == 0 else _ALGORITHMS:
            try:
                return kind.load(io.BytesIO(data))
            except ModelFileError:
                raise
            except ValueError as error:
                if "holds a model of" not in str(error):
                    raise
        return None

    def _checkpoint(self, data):
        for kind in _ALGORITHMS:
            try:
                return kind.load_checkpoint(io.BytesIO(data))
            except ModelFileError:
                raise
            except ValueError as error:
                text = str(error)
                if "is a checkpoint of" not in text and "give such environments" not in text:
                    refused = ("holds a model of", "spaces do not match", "expected the same")
                    if not any(part in text for part in refused):
                        raise
        return None

    def _parameters(self, data):
        model = self.models[len(data) % len(self.models)]
        try:
            model.set_parameters(io.BytesIO(data))
        except ValueError as error:
            if "do not match agents' parameters" not in str(error) and not isinstance(error, ModelFileError):
                raise


_ALGORITHMS = (PPO, A2C, DQN, SAC, TD3)


def _pickles(attributes):
    tables = [json.loads(data) for data in attributes]
    entries = [entry for table in tables for entry in table.values() if isinstance(entry, dict)]
    return [base64.b64decode(entry[":serialized:"]) for entry in entries if ":serialized:" in entry]


def use(value):
    """What the owner of a loaded object does next."""
    try:
        if isinstance(value, (BaseAlgorithm, BasePolicy)):
            value.predict(value.observation_space.sample())
        elif isinstance(value, ReplayBuffer) and value.size():
            value.sample(2)
        elif isinstance(value, VecNormalize):
            value.normalize_obs(value.observation_space.sample())
            value.normalize_reward(np.ones(2))
    except Exception:  # a sound file of odd numbers; nothing but an exception may come of it
        return


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
        value, problem = read(data), None
        watch.on = False
        use(value)
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
    current = pathlib.Path(keep) / f"at_the_end_of_{seed}.bin"
    counts = dict.fromkeys(corpus.kinds, 0)
    before = _peak()
    for number in range(count):
        if time.time() > deadline:
            break
        kind = rng.choices(list(corpus.kinds), [WEIGHTS[kind] for kind in corpus.kinds])[0]
        files, read = corpus.kinds[kind]
        data = mutate(rng, kind, rng.choice(files), files)
        current.write_bytes(data)
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
    current.unlink(missing_ok=True)
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
        except queue.Empty:
            if any(worker.exitcode not in (None, 0) for worker in workers):
                print("a process crashed:", [worker.exitcode for worker in workers])
                print("at", *pathlib.Path(options.keep).glob("at_the_end_of_*.bin"))
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
