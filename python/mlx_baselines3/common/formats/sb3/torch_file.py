"""The files of ``torch.save`` without torch: a pickle, and the raw bytes of each storage."""

import io
import math
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_baselines3.common.formats.archive import ArchiveReader, ModelFileError, write_entries
from mlx_baselines3.common.formats.names import UnknownName
from mlx_baselines3.common.formats.safetensors import as_tensor, is_shape
from mlx_baselines3.common.formats.sb3.pickle_reader import (
    Evaluator,
    Global,
    Node,
    Source,
    Table,
    ordered_dict,
    parse,
)
from mlx_baselines3.common.formats.sb3.pickle_writer import persistent, write

_STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "c8",
}
_STORAGE_NAMES = {np.dtype(code): name for name, code in _STORAGES.items() if name != "BFloat16Storage"}
_SLACK = 2**20
# Start of a file from before torch 1.6.
_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, MemoryError)


class _Tensors:
    """
    Evaluates the pickle of a file of tensors: storages, and tensors that are views of them.

    :param label: name of the file in error messages
    :param length: its length in bytes
    :param available: length in bytes of the archive that it comes from, or its own
    """

    # Byte order of the storages.
    big_endian = False

    def __init__(self, label: str, length: int, available: int) -> None:
        self.label = label
        self.available = available
        self._budget = 8 * length + _SLACK

    def parsed(self) -> Any:
        """:return: the pickle of the file, parsed by :func:`parse`"""
        raise NotImplementedError

    def stored(self, key: str) -> np.ndarray:
        """
        :param key: the name of a storage
        :return: its bytes
        """
        raise NotImplementedError

    def read(self) -> Any:
        constructors = {
            ("", "persistent"): self._storage,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda evaluate, node: evaluate(node.args[0]),
            ("collections", "OrderedDict"): ordered_dict,
        }
        evaluate = Evaluator(constructors, _refuse, self._budget)
        try:
            return evaluate(self.parsed())
        except UnknownName as error:
            raise ModelFileError(f"{self.label}: {error}.") from error
        except _DAMAGE as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(f"{self.label} is corrupted ({error!r:.200}).") from error

    def _storage(self, evaluate: Evaluator, node: Node) -> np.ndarray:
        """
        The id is ``("storage", type, key, device, number of elements)``; the device is ignored. Before 1.6
        there was a sixth part, for storages that are views of others: ``(key, offset, size)``.
        """
        tag, kind, key, _, count, *window = node.args[0]
        name = storage_kind(kind)
        if tag != "storage" or len(window) > 1 or type(key) is not str or type(count) is not int:
            raise TypeError("the name or the length of a storage")
        dtype = np.dtype(_STORAGES[name]).newbyteorder(">" if self.big_endian else "<")
        stored = self.stored(key)
        if count < 0 or stored.size != count * dtype.itemsize:
            raise ModelFileError(
                f"{self.label}: storage {key:.40} has {stored.size} bytes, not {count} of {dtype}."
            )
        if window and window[0] is not None:
            stored = self._window(stored, window[0], dtype.itemsize)
        if name == "BFloat16Storage":
            # The upper half of a float32.
            wide = stored.view(dtype).astype(np.uint32) << 16
            evaluate.spend(wide)
            values: np.ndarray = wide.view(np.float32)
        else:
            values = (stored != 0) if name == "BoolStorage" else stored.view(dtype)
        return values

    def _window(self, stored: np.ndarray, window: Any, itemsize: int) -> np.ndarray:
        _, offset, size = window
        if not is_shape((offset, size)) or (offset + size) * itemsize > stored.size:
            raise ModelFileError(f"{self.label}: a storage reaches beyond the one that it is part of.")
        return stored[offset * itemsize : (offset + size) * itemsize]

    def _tensor(self, evaluate: Evaluator, node: Node) -> Any:
        storage, offset, shape, strides = (evaluate(argument) for argument in node.args[:4])
        if not isinstance(storage, np.ndarray) or not is_shape(shape) or not is_shape(strides):
            raise TypeError("a tensor without storage, shape or strides")
        if type(offset) is not int or offset < 0 or len(shape) != len(strides):
            raise ValueError("the offset or the strides of a tensor")
        count = math.prod(shape)
        last = (
            offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
            if count
            else 0
        )
        if count > storage.size or last >= max(storage.size, 1):
            raise ModelFileError(f"{self.label}: a tensor of shape {shape} reaches beyond its storage.")
        if count == 0:
            return as_tensor(np.zeros(shape, storage.dtype))
        steps = [stride * storage.itemsize for stride in strides]
        view = np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)
        evaluate.spend(view)
        return as_tensor(np.array(view))


def storage_kind(kind: Any) -> str:
    """
    :param kind: node of the type of a storage
    :return: its name
    :raises UnknownName: if it is not a numeric storage of torch
    """
    if not isinstance(kind, Global) or kind.module != "torch" or kind.name not in _STORAGES:
        named = str(kind) if isinstance(kind, Global) else type(kind).__name__
        raise UnknownName(f"it has a storage of the unknown kind {named:.80}")
    return kind.name


class _ZipFile(_Tensors):
    def __init__(self, contents: bytes, label: str, available: int) -> None:
        super().__init__(label, min(len(contents), available), available)
        self._archive = ArchiveReader(io.BytesIO(contents), label)
        pickles = [name for name in self._archive.names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ModelFileError(
                f"{label}: {len(pickles)} data.pkl entries, expected one as torch.save writes it."
            )
        self._pickle = pickles[0]
        self._prefix = pickles[0].removesuffix("data.pkl")
        order = f"{self._prefix}byteorder"
        self.big_endian = order in self._archive.names and self._archive.text(order) == "big"
        self._read: dict[str, np.ndarray] = {}

    def parsed(self) -> Any:
        return parse(self._archive.read(self._pickle), min(self._archive.length, self.available))

    def stored(self, key: str) -> np.ndarray:
        if key not in self._read:
            contents = self._archive.read(f"{self._prefix}data/{key}")
            self._read[key] = np.frombuffer(contents, dtype=np.uint8)
        return self._read[key]


class _LegacyFile(_Tensors):
    """
    torch's format from before 1.6: five consecutive pickles (a magic number, the version, the machine, the
    object, the names of its storages), then the number of elements and the bytes of each storage.
    """

    def __init__(self, contents: bytes, label: str, available: int) -> None:
        super().__init__(label, len(contents), available)
        self._contents = contents
        self._stored: dict[str, np.ndarray] = {}

    def parsed(self) -> Any:
        source = Source(io.BytesIO(self._contents))
        if self._magic(source) != _MAGIC:
            raise ModelFileError(
                f"{self.label} is neither a zip-file nor in torch's format from before 1.6: it is corrupted, "
                "or something else."
            )
        version, machine = self._number(source), parse(source, self.available)
        if version != _LEGACY_VERSION:
            raise ModelFileError(f"{self.label} is in version {version} of torch's old format.")
        if not isinstance(machine, Table) or machine.get("little_endian") is not True:
            raise ModelFileError(f"{self.label} was written on a big-endian machine.")
        root, keys = parse(source, self.available), parse(source, self.available)
        self._find(storages_of(root), keys, len(self._contents) - source.left)
        return root

    def _magic(self, source: Source) -> int | None:
        try:
            return self._number(source)
        except UnknownName:
            return None

    def _number(self, source: Source) -> int | None:
        number = parse(source, self.available)
        return number if type(number) is int else None

    def _find(self, kinds: dict[str, str], keys: Any, position: int) -> None:
        """Locate all storages; they must fit, and the file must end after the last."""
        if not isinstance(keys, list) or not all(type(key) is str and key in kinds for key in keys):
            raise ModelFileError(f"{self.label}: its storages are not those of its tensors.")
        for key in keys:
            count = int.from_bytes(self._contents[position : position + 8], "little")
            position += 8
            size = count * np.dtype(_STORAGES[kinds[key]]).itemsize
            if position + size > len(self._contents) or key in self._stored:
                raise ModelFileError(f"{self.label} is truncated, or has a storage twice: {key:.40}.")
            self._stored[key] = np.frombuffer(self._contents, np.uint8, size, position)
            position += size
        if position != len(self._contents):
            raise ModelFileError(f"{self.label} is longer than it says.")

    def stored(self, key: str) -> np.ndarray:
        return self._stored[key]


def storages_of(root: Any) -> dict[str, str]:
    """
    :param root: a graph of nodes
    :return: kinds of the storages in it, by name
    """
    found: dict[str, str] = {}
    todo, seen = [root], set()
    while todo:
        value = todo.pop()
        if not isinstance(value, (list, tuple, Table, Node)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Node) and isinstance(value.callee, Global) and value.callee.module == "":
            _, kind, key, *_ = value.args[0]
            if type(key) is not str:
                # Only types are inspected here: hashing deeply nested tuples could take forever.
                raise TypeError("the name of a storage")
            if found.setdefault(key, storage_kind(kind)) != storage_kind(kind):
                raise UnknownName(f"it has the storage {key!r:.40} in two kinds")
        elif isinstance(value, Node):
            todo += [value.callee, value.state, *value.args, *value.items]
            todo += [part for pair in value.pairs for part in pair]
        elif isinstance(value, Table):
            todo += [part for pair in value.pairs for part in pair]
        else:
            todo += value
    return found


def _refuse(name: Global) -> Any:
    raise UnknownName(f"it refers to `{name}`, which has no place in a file of tensors")


def load(contents: bytes, label: str, available: int | None = None) -> Any:
    """
    Read a ``.pth`` file of torch: the zip that 1.6 and later write, or the earlier format.

    :param contents: the file's contents
    :param label: name of the file in error messages
    :param available: length in bytes of the archive that it comes from, if it was packed there
    :return: the saved object, with arrays for tensors (64-bit floats in NumPy, others in MLX)
    :raises ModelFileError: if it is corrupted or holds anything but tensors, containers, numbers and texts
    """
    kind = _ZipFile if contents.startswith(b"PK") else _LegacyFile
    return kind(contents, label, len(contents) if available is None else available).read()


class _TorchWriter:
    def __init__(self) -> None:
        self.storages: list[bytes] = []

    def encode(self, value: Any) -> Any:
        if isinstance(value, (mx.array, np.ndarray, np.generic)):
            return self._tensor(np.asarray(value))
        if isinstance(value, dict):
            return {key: self.encode(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.encode(item) for item in value)
        return value

    def _tensor(self, array: np.ndarray) -> Node:
        kind = _STORAGE_NAMES.get(array.dtype.newbyteorder("="))
        if kind is None:
            raise TypeError(f"torch has no tensor of dtype {array.dtype}")
        key = str(len(self.storages))
        self.storages.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        storage = persistent(("storage", Global("torch", kind), key, "cpu", array.size))
        strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        hooks = Node(Global("collections", "OrderedDict"), ())
        arguments = (storage, 0, array.shape, strides, False, hooks)
        return Node(Global("torch._utils", "_rebuild_tensor_v2"), arguments)


def dumps(value: Any) -> bytes:
    """
    Write a ``.pth`` file as ``torch.save`` does; ``torch.load`` reads it with ``weights_only=True``.

    :param value: numbers, texts, tuples, lists and dicts, with arrays for tensors
    :return: the file's contents
    :raises TypeError: if there is something else in it, or an array of a dtype that torch does not have
    """
    writer = _TorchWriter()
    pickled = write(writer.encode(value), protocol=2)
    storages = {f"archive/data/{key}": data for key, data in enumerate(writer.storages)}
    stream = io.BytesIO()
    entries = {"archive/data.pkl": pickled, "archive/byteorder": b"little", **storages}
    write_entries(stream, {**entries, "archive/version": b"3\n"})
    return stream.getvalue()
