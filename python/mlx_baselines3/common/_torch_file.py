"""The files of ``torch.save`` without torch: a zip of one pickle and the raw bytes of each storage."""

import io
import math
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_baselines3.common._archive import ArchiveReader, ModelFileError, write_entries
from mlx_baselines3.common._import_paths import UnknownName
from mlx_baselines3.common._pickle_reader import Evaluator, Global, Node, ordered_dict, parse
from mlx_baselines3.common._pickle_writer import persistent, write
from mlx_baselines3.common._safetensors import is_shape, to_mlx

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


class _TorchFile:
    def __init__(self, contents: bytes, label: str) -> None:
        self.label = label
        self._archive = ArchiveReader(io.BytesIO(contents), label)
        pickles = [name for name in self._archive.names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ModelFileError(
                f"{label}: {len(pickles)} data.pkl entries, expected one as torch.save writes it."
            )
        self._pickle = pickles[0]
        self._prefix = pickles[0].removesuffix("data.pkl")
        order = f"{self._prefix}byteorder"
        self._big_endian = order in self._archive.names and self._archive.text(order) == "big"
        self._storages: dict[str, np.ndarray] = {}
        self._budget = 8 * len(contents) + _SLACK

    def read(self) -> Any:
        constructors = {
            ("", "persistent"): self._storage,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda evaluate, node: evaluate(node.args[0]),
            ("collections", "OrderedDict"): ordered_dict,
        }
        evaluate = Evaluator(constructors, _refuse, self._budget)
        try:
            return evaluate(parse(self._archive.read(self._pickle)))
        except UnknownName as error:
            raise ModelFileError(f"{self.label}: {error}.") from error
        except (
            TypeError,
            ValueError,
            IndexError,
            KeyError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(f"{self.label} is damaged ({error!r:.200}).") from error

    def _storage(self, evaluate: Evaluator, node: Node) -> np.ndarray:
        """The id is ``("storage", type, key, device, number of elements)``; the device is of no interest."""
        tag, kind, key, _, count = node.args[0]
        if (
            tag != "storage"
            or not isinstance(kind, Global)
            or kind.module != "torch"
            or kind.name not in _STORAGES
        ):
            named = str(kind) if isinstance(kind, Global) else type(kind).__name__
            raise UnknownName(f"it has a storage of the unknown kind {named}")
        if type(key) is not str or type(count) is not int:
            raise TypeError("the name or the length of a storage")
        dtype = np.dtype(_STORAGES[kind.name]).newbyteorder(">" if self._big_endian else "<")
        if key not in self._storages:
            contents = self._archive.read(f"{self._prefix}data/{key}")
            self._storages[key] = np.frombuffer(contents, dtype=np.uint8)
        stored = self._storages[key]
        if count < 0 or stored.size != count * dtype.itemsize:
            raise ModelFileError(
                f"{self.label}: storage {key} has {stored.size} bytes, not {count} of {dtype}."
            )
        if kind.name == "BFloat16Storage":
            # The upper half of a float32, which NumPy does have.
            wide = stored.view(dtype).astype(np.uint32) << 16
            evaluate.spend(wide)
            values: np.ndarray = wide.view(np.float32)
        else:
            values = (stored != 0) if kind.name == "BoolStorage" else stored.view(dtype)
        return values

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
            return to_mlx(np.zeros(shape, storage.dtype))
        steps = [stride * storage.itemsize for stride in strides]
        view = np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)
        evaluate.spend(view)
        return to_mlx(np.array(view))


def _refuse(name: Global) -> Any:
    raise UnknownName(f"it refers to `{name}`, which has no place in a file of tensors")


def load(contents: bytes, label: str) -> Any:
    """
    Read a ``.pth`` file as torch 1.6 and later write them.

    :param contents: the file's contents
    :param label: what to call the file in error messages
    :return: the object that was saved, with arrays for tensors (64-bit floats in NumPy, others in MLX)
    :raises ModelFileError: if it is damaged or holds anything but tensors, containers, numbers and texts
    """
    return _TorchFile(contents, label).read()


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
    Write a ``.pth`` file as ``torch.save`` does; ``torch.load`` opens it with ``weights_only=True``.

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
