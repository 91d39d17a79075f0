"""
Changes to model files, for ``fuzz_archives.py``: bytes, and whole values in each of the formats that a file
is made of (JSON, pickles opcode by opcode, headers of safetensors, entries of a zip), with checksums that are
right, so that what is inside is read.
"""

import base64
import binascii
import io
import json
import pickle
import pickletools
import struct
import warnings
import zipfile

INTERESTING = [
    *(0, 1, -1, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), 10**40),
    *(1e308, float("inf"), float("-inf"), float("nan"), True, "x", "\ud800", "\0", "ß" * 300, None, [], {}),
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
    *("mlx_baselines3.her:HerReplayBuffer", f"{OWN}.vec_env:VecNormalize", "fuzz_users:Buffer"),
]
# What pickles call, with arguments that are not theirs.
CALLABLES = [
    *("numpy:dtype", "numpy:ndarray", "numpy.core.multiarray:_reconstruct", "numpy.core.multiarray:scalar"),
    *("numpy._core.numeric:_frombuffer", "collections:OrderedDict", "collections:deque", "builtins:set"),
    *("builtins:getattr", "_codecs:encode", "numpy.random._pickle:__generator_ctor", "torch:device"),
    *("gymnasium.spaces.box:Box", "gym.spaces.dict:Dict", "gymnasium.spaces.discrete:Discrete"),
    *(
        "stable_baselines3.common.buffers:ReplayBuffer",
        "torch:FloatStorage",
        "torch._utils:_rebuild_tensor_v2",
    ),
    *("stable_baselines3.common.running_mean_std:RunningMeanStd", "_pickle:loads", "types:FunctionType"),
    *("cloudpickle.cloudpickle:_make_function", "cloudpickle.cloudpickle:_fill_function"),
    *("stable_baselines3.common.vec_env.vec_normalize:VecNormalize", "mlx_baselines3._native:TerminalObs"),
]
TAGS = ("class", "function", "enum", "object", "offered", "schedule", "namedtuple")
ALL_TAGS = (
    *TAGS,
    *("tuple", "ndarray", "tensor", "space", "dict", "deque", "generator", "set", "numpy", "dtype", "bytes"),
)
SLOTS = [
    *("policy_class", "learning_rate", "clip_range", "lr_schedule", "action_noise", "train_freq", "env"),
    *("replay_buffer_class", "rollout_buffer_class", "replay_buffer_kwargs", "policy_kwargs", "_setup_model"),
    *("features_extractor_class", "activation_fn", "optimizer_class", "features_extractor_kwargs"),
    *("goal_selection_strategy", "net_arch", "n_envs", "n_steps", "buffer_size", "batch_size", "seed"),
    # Of buffers and statistics.
    *("class", "observation_space", "action_space", "pos", "full", "infos", "ep_length", "sample", "add"),
    *("obs_rms", "ret_rms", "norm_obs_keys", "observations", "venv", "_columns", "__class__", "optimizer"),
]
# Entries of our archives that are JSON.
JSON_ENTRIES = (
    "data",
    "checkpoint/run",
    "checkpoint/env",
    "replay_buffer/layout",
    "vec_normalize/attributes",
)
ARCHIVES = ("model", "sb3", "checkpoint", "parameters", "policy", "replay", "statistics")
PICKLES = ("pickle", "replay_pickle", "statistics_pickle")
_VALUES = (
    "INT",
    "LONG",
    "FLOAT",
    "UNICODE",
    "STRING",
    "BYTES",
    "NONE",
    "TRUE",
    "FALSE",
    "EMPTY",
    "GET",
    "DUP",
)
_CALLS = ("REDUCE", "NEWOBJ", "BUILD", "APPENDS", "SETITEMS", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST")


def entries(file):
    """:return: pairs of name and contents of what is in a zip"""
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


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
            return {**value, ":type:": rng.choice(ALL_TAGS)}
        if kind == 3:
            return {**value, rng.choice(SLOTS): rng.choice((named(rng), rng.choice(INTERESTING)))}
        if kind == 4:
            return {**value, key: named(rng)}
        if kind == 5 and depth < 3:
            return {**value, key: huge(rng)}
        if key == ":serialized:" and kind < 9:
            return {**value, key: _serialized(rng, value[key])}
        return {**value, key: mutate_json(rng, value[key], depth + 1)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], mutate_json(rng, value[at], depth + 1), *value[at + 1 :]]
    if isinstance(value, str) and rng.random() < 0.5:
        return rng.choice((*NAMES, value * 2, value[:-1], "PCG64"))
    return rng.choice(INTERESTING)


def _serialized(rng, text):
    try:
        return base64.b64encode(mutate_pickle(rng, base64.b64decode(text))).decode()
    except (binascii.Error, TypeError):
        return text[:-1]


def json_text(rng, value):
    """JSON of a value, now and then with a key that is there twice."""
    text = json.dumps(mutate_json(rng, value))
    if rng.random() < 0.03 and text.startswith("{") and len(text) > 2:
        text = f'{{"{rng.choice(SLOTS)}": {json.dumps(rng.choice(INTERESTING))}, {text[1:]}'
    return text.encode()


def opcodes(data):
    """:return: of a pickle, pairs of an opcode's name and its bytes, and how long it is"""
    stream, parts, start = io.BytesIO(data), [], 0
    for opcode, _, _ in pickletools.genops(stream):
        parts.append((opcode.name, data[start : stream.tell()]))
        start = stream.tell()
    return [part for part in parts if part[0] != "FRAME"], start


def _pushed(value):
    """What pushes a number, a text or the like: a pickle without its beginning and its end."""
    try:
        return pickle.dumps(value, protocol=2)[2:-1]
    except UnicodeEncodeError:
        return b"N"


def _call(rng):
    """A call of something, with arguments and a state of all kinds."""
    module, _, name = rng.choice((*NAMES, *CALLABLES)).partition(":")
    arguments = [
        _pushed(rng.choice((*INTERESTING, (2**62,), b"\0" * 8, "<f8", "O8"))) for _ in range(rng.randrange(5))
    ]
    made = f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"t" + rng.choice((b"R", b"\x81"))
    if rng.random() < 0.5:
        made += (
            _pushed(rng.choice(({}, {"_mean_": 3}, {"n": 2**40, "start": 0}, (1, (2**40,), 0, 0, b""))))
            + b"b"
        )
    return made


def mutate_pickle(rng, data):
    """Values, names, sizes and calls of a pickle exchanged; what comes after its end stays."""
    try:
        parts, end = opcodes(data)
    except (ValueError, IndexError, struct.error):
        return mutate_bytes(rng, data, [data])
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not parts:  # the last opcode has been taken out
            break
        at = rng.randrange(len(parts))
        parts[at : at + 1] = _other_opcode(rng, *parts[at], parts)
    return b"".join(part for _, part in parts) + data[end:]


def _other_opcode(rng, name, part, parts):
    value = any(text in name for text in _VALUES) and "EMPTY_SET" not in name
    roll = rng.random()
    if name == "GLOBAL" or "UNICODE" in name or "STRING" in name:
        module, _, qualified = rng.choice((*NAMES, *CALLABLES)).partition(":")
        if name == "GLOBAL" and roll < 0.8:
            return [(name, f"c{module}\n{qualified}\n".encode())]
        if roll < 0.5:
            return [("BINUNICODE", _pushed(rng.choice((module, qualified, *SLOTS, "x" * 5000))))]
    if value and roll < 0.4:
        return [("CALL", _call(rng))]
    if value and roll < 0.85:
        return [("VALUE", _pushed(rng.choice((*INTERESTING, huge(rng), (2**40, 2), (2**62, 4), b"\0" * 64))))]
    if name in _CALLS and roll < 0.5:
        codes = {opcode.name: opcode.code.encode("latin-1") for opcode in pickletools.opcodes}
        other = rng.choice(_CALLS)
        return [(other, codes[other])]
    return rng.choice(([], [(name, part)] * 2, [rng.choice(parts)], [(name, part), ("CALL", _call(rng))]))


def mutate_legacy(rng, data):
    """One of the five pickles of torch's old format, or what follows them: numbers of elements and bytes."""
    pieces, rest = [], data
    for _ in range(5):
        _, end = opcodes(rest)
        pieces.append(rest[:end])
        rest = rest[end:]
    which = rng.choice((0, 1, 2, 3, 3, 3, 3, 4, 5, 5))
    if which == 5:
        # Without tensors nothing follows.
        at = rng.choice((0, rng.randrange(len(rest) + 1)))
        count = rng.choice((0, 1, 2**31, 2**32, 2**40, 2**61, 2**62, 2**63, 2**64 - 1)).to_bytes(8, "little")
        return b"".join(pieces) + rest[:at] + count + rest[at + 8 :]
    pieces[which] = mutate_pickle(rng, pieces[which])
    return b"".join(pieces) + rest


def mutate_tensors(rng, data):
    """The header of a safetensors file, or the structure in its metadata, with a length that is right."""
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    metadata = header.get("__metadata__")
    if metadata and "structure" in metadata and rng.random() < 0.6:
        structure = json_text(rng, json.loads(metadata["structure"])).decode()
        header["__metadata__"] = {**metadata, "structure": structure}
        text = json.dumps(header).encode()
    else:
        text = json_text(rng, _forged_shape(rng, header) if rng.random() < 0.4 else header)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _forged_shape(rng, header):
    """Of one tensor another shape, of which the product may be right modulo 2**64."""
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return header
    name = rng.choice(names)
    shapes = [
        [2**31, 2**33],
        [-1, -4],
        [2**62, 4],
        [0, 2**63 - 1],
        [1] * 40,
        [2**32, 2**32],
        [1.5],
        ["1"],
        [True],
    ]
    return {**header, name: {**header[name], "shape": rng.choice(shapes)}}


def mutate(rng, kind, data, others):
    """
    :param rng: the generator
    :param kind: what the file is
    :param data: its contents
    :param others: other files of the kind
    :return: a mutated file; of archives mostly one whose checksums are right, so that what is inside is read
    """
    roll = rng.random()
    if kind == "json" and roll < 0.7:
        return json_text(rng, json.loads(data))
    if kind in PICKLES and roll < 0.7:
        return mutate_pickle(rng, data)
    if kind == "legacy_torch" and roll < 0.7:
        return mutate_legacy(rng, data)
    if kind == "safetensors" and roll < 0.6:
        return mutate_tensors(rng, data)
    if (kind in ARCHIVES and roll > 0.1) or (kind == "torch" and roll > 0.2):
        return _rezipped(rng, data)
    return mutate_bytes(rng, data, others)


def _rezipped(rng, data):
    inside = entries(data)
    chosen = rng.randrange(len(inside))
    told = [index for index, (name, _) in enumerate(inside) if name in JSON_ENTRIES]
    if told and rng.random() < 0.4:
        # Most of what a file can say is said there.
        chosen = rng.choice(told)
    stream = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(stream, "w", packing) as archive:
            for index, (name, contents) in enumerate(inside):
                if index == chosen:
                    name, contents = _mutated_entry(rng, name, contents, inside)
                archive.writestr(name, contents)
    return stream.getvalue()


def _mutated_entry(rng, name, contents, inside):
    roll = rng.random()
    if roll < 0.03:
        return rng.choice((f"../{name}", f"/{name}", name * 3, "format", "ä\u202e", inside[0][0])), contents
    if roll < 0.06:
        return name, bytes(rng.randrange(2**20))
    if roll > 0.8:
        return name, mutate_bytes(rng, contents, [contents])
    if name in JSON_ENTRIES:
        return name, json_text(rng, json.loads(contents))
    if name.endswith(".pth"):
        return name, mutate(rng, "torch" if contents[:2] == b"PK" else "legacy_torch", contents, [contents])
    if name.endswith(".safetensors"):
        return name, mutate_tensors(rng, contents)
    if name.endswith("data.pkl"):
        return name, mutate_pickle(rng, contents)
    return name, mutate_bytes(rng, contents, [contents])
