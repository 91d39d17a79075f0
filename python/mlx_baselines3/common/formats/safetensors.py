"""
The safetensors format in NumPy: eight bytes of header length, a JSON header, raw little-endian data.

MLX's reader multiplies shapes without an overflow check (a tensor of shape ``[2**31, 2**31]`` without data
passes). This one checks every number before it allocates.
The format: https://huggingface.co/docs/safetensors
"""

import io
import json
import math
import struct
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_baselines3.common.formats.archive import ModelFileError, bounded_json

_TO_DTYPE = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # NumPy has no bfloat16: the bits are stored as uint16
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}
_FROM_DTYPE = {dtype: tag for tag, dtype in _TO_DTYPE.items() if tag != "BF16"}
_MAX_DIMS = 32
# The header is JSON, which takes some thirty times its size in Python: it must not dominate a large file.
_MAX_HEADER = 64 * 2**20
# The infos of HER's buffers are in it, and may exceed that relative to the rows.
_HEADER_SHARE = 4
# Size of the pieces of streamed reading and writing.
PIECE = 2**20

Tensor = mx.array | np.ndarray


def as_tensor(array: np.ndarray) -> Tensor:
    """
    Convert an array to MLX if MLX can represent it without loss of precision.

    :param array: any numeric array
    :return: the same values as an ``mx.array``; float64 and complex128 stay in NumPy, because MLX would
        narrow them
    """
    if array.dtype.newbyteorder("=") in (np.dtype(np.float64), np.dtype(np.complex128)):
        return array
    return mx.array(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape))


def is_storable(dtype: np.dtype[Any]) -> bool:
    """
    :param dtype: a NumPy dtype
    :return: whether the format supports it
    """
    return dtype.newbyteorder("<") in _FROM_DTYPE


def tensor_bytes(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    """
    Serialize a tensor.

    :param tensor: array of any shape, of a dtype that safetensors supports
    :return: safetensors' name of the dtype, the shape, the data in C order, little-endian
    :raises TypeError: if the format has no such dtype
    """
    if isinstance(tensor, mx.array) and tensor.dtype == mx.bfloat16:
        return "BF16", tuple(tensor.shape), np.asarray(tensor.view(mx.uint16)).astype("<u2").tobytes()
    array = np.asarray(tensor)
    tag = _FROM_DTYPE.get(array.dtype.newbyteorder("<"))
    if tag is None:
        raise TypeError(f"an array of dtype {array.dtype} cannot be stored as a tensor")
    return tag, array.shape, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def tensor_from_bytes(tag: str, shape: tuple[int, ...], data: bytes | memoryview) -> Tensor:
    """
    Deserialize a tensor.

    :param tag: safetensors' name of the dtype
    :param shape: shape, already checked against the data
    :param data: the bytes, little-endian, C order
    :return: see :func:`as_tensor`
    """
    array = np.frombuffer(data, dtype=_TO_DTYPE[tag]).reshape(shape)
    if tag == "BF16":
        return mx.array(array.astype(np.uint16)).view(mx.bfloat16)
    if tag == "BOOL":
        # Bytes other than 0 and 1 are invalid booleans in NumPy and MLX.
        array = np.frombuffer(data, dtype=np.uint8).reshape(shape) != 0
    return as_tensor(array)


class Place(NamedTuple):
    """
    Position of a tensor in a file.

    :param name: its name
    :param tag: safetensors' name of its dtype
    :param shape: its shape
    :param start: first byte, relative to the end of the header
    :param stop: the byte after the last
    """

    name: str
    tag: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """:return: NumPy's dtype (bfloat16 as the bits in uint16)"""
        return _TO_DTYPE[self.tag]


def dumps(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """
    Write tensors as safetensors.

    :param tensors: name and array
    :param metadata: additional text
    :return: the file's contents
    :raises TypeError: if a dtype is not one of the format's
    """
    parts = {name: tensor_bytes(tensor) for name, tensor in tensors.items()}
    sizes = {name: (tag, shape, len(data)) for name, (tag, shape, data) in parts.items()}
    return b"".join([_header(sizes, metadata), *(data for _, _, data in parts.values())])


def pieces(arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    """
    Write arrays as safetensors without a second copy of them in memory.

    :param arrays: name and array
    :param metadata: additional text
    :return: the file's contents in pieces; the arrays must not change meanwhile
    :raises TypeError: if a dtype is not one of the format's
    """
    sizes = {}
    for name, array in arrays.items():
        tag = _FROM_DTYPE.get(array.dtype.newbyteorder("<"))
        if tag is None:
            raise TypeError(f"an array of dtype {array.dtype} cannot be stored as a tensor")
        sizes[name] = tag, array.shape, array.nbytes
    header = _header(sizes, metadata)
    length = len(header) + sum(size for _, _, size in sizes.values())
    if len(header) - 8 > _largest_header(length):
        raise ValueError(
            f"values other than arrays take {len(header)} of {length} bytes, which could not be read back: "
            "store fewer of them, for instance with a HerReplayBuffer without copy_info_dict."
        )
    yield header
    for array in arrays.values():
        rows = array.reshape(1) if array.ndim == 0 else array
        count = max(1, PIECE // max(1, rows[:1].nbytes))
        for start in range(0, len(rows), count):
            part = np.ascontiguousarray(rows[start : start + count], rows.dtype.newbyteorder("<"))
            yield part.reshape(-1).view(np.uint8).data


def _largest_header(length: int) -> int:
    return max(_MAX_HEADER, length // _HEADER_SHARE)


def _header(sizes: Mapping[str, tuple[str, tuple[int, ...], int]], metadata: dict[str, str] | None) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (tag, shape, size) in sizes.items():
        header[name] = {"dtype": tag, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def loads(
    contents: bytes, label: str, available: int | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """
    Read safetensors that may be corrupted or forged.

    :param contents: the file's contents
    :param label: name of the file in error messages
    :param available: length in bytes of the archive that it comes from, if it was packed there
    :return: the tensors by name (see :func:`as_tensor`), and the metadata
    :raises ModelFileError: unless header and data fit each other exactly, without overlap or gap
    """
    stream = io.BytesIO(contents)
    places, metadata = read_header(stream, len(contents), label, available)
    data = memoryview(contents)[stream.tell() :]
    tensors = {}
    for place in places:
        try:
            tensor = tensor_from_bytes(place.tag, place.shape, data[place.start : place.stop])
        except (ValueError, OverflowError) as error:
            # An empty array can claim any shape, and neither NumPy nor MLX accepts all.
            raise ModelFileError(f"{label}: tensor '{place.name}' of shape {place.shape}: {error}") from error
        tensors[place.name] = tensor
    return tensors, metadata


def load_arrays(contents: bytes, label: str, available: int | None = None) -> dict[str, np.ndarray]:
    """
    :func:`loads` with NumPy arrays.

    :param contents: the file's contents
    :param label: name of the file in error messages
    :param available: see :func:`loads`
    :return: writable arrays by name (bfloat16 as float32)
    :raises ModelFileError: see :func:`loads`
    """
    tensors, _ = loads(contents, label, available)
    wide = {
        name: tensor.astype(mx.float32)
        for name, tensor in tensors.items()
        if isinstance(tensor, mx.array) and tensor.dtype == mx.bfloat16
    }
    return {name: np.array(tensor) for name, tensor in {**tensors, **wide}.items()}


def read_header(
    stream: IO[bytes], length: int, label: str, available: int | None = None
) -> tuple[list[Place], dict[str, str]]:
    """
    Read the positions of a file's tensors. The stream is then at the first of them.

    :param stream: the file, at its start
    :param length: its length in bytes
    :param label: name of the file in error messages
    :param available: length in bytes of the archive that it comes from, if it was packed there
    :return: the places in the order of the data, and the metadata
    :raises ModelFileError: unless header and data fit each other exactly, without overlap or gap
    """
    if length < 8:
        raise ModelFileError(f"{label}: {length} bytes are too few for a safetensors file.")
    (size,) = struct.unpack("<Q", stream.read(8))
    if size > min(length - 8, _largest_header(length)):
        raise ModelFileError(f"{label}: a header of {size} bytes in a file of {length}.")
    try:
        # json would guess the encoding of bytes.
        text = stream.read(size).decode("utf-8")
    except ValueError as error:
        raise ModelFileError(f"{label}: the header is not text ({error}).") from error
    header = bounded_json(text, length if available is None else available, f"{label}: the header is")
    if not isinstance(header, dict):
        raise ModelFileError(
            f"{label}: the header is a {type(header).__name__}, expected a table of tensors."
        )
    metadata = header.pop("__metadata__", None)
    # MLX writes null if there is none.
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelFileError(f"{label}: the metadata is not a table of texts.")
    return _places(header, length - 8 - size, label), metadata


def _places(header: dict[str, Any], available: int, label: str) -> list[Place]:
    spans = sorted((*_span(name, entry, label), name) for name, entry in header.items())
    end = 0
    for start, stop, name in spans:
        if start != end or stop > available:
            raise ModelFileError(f"{label}: tensor '{name}' lies at [{start}, {stop}), expected it at {end}.")
        end = stop
    if end != available:
        raise ModelFileError(f"{label}: {available} bytes of data, but the tensors take {end}.")
    return [
        Place(name, header[name]["dtype"], tuple(header[name]["shape"]), start, stop)
        for start, stop, name in spans
    ]


def _span(name: str, entry: Any, label: str) -> tuple[int, int]:
    """Check a single line of the header; the caller checks the position of the tensor."""
    if not isinstance(entry, dict):
        raise ModelFileError(f"{label}: tensor '{name}' has no description.")
    tag, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(tag, str) or tag not in _TO_DTYPE:
        raise ModelFileError(f"{label}: tensor '{name}' has the unknown dtype {tag!r:.40}.")
    if shape is None or offsets is None or not is_shape(shape) or not is_shape(offsets) or len(offsets) != 2:
        raise ModelFileError(f"{label}: tensor '{name}' has no valid shape and offsets.")
    start, stop = offsets
    if stop - start != math.prod(shape) * _TO_DTYPE[tag].itemsize:
        raise ModelFileError(
            f"{label}: tensor '{name}' of shape {shape} and dtype {tag} is not {stop - start} bytes."
        )
    return start, stop


def is_shape(value: Any) -> bool:
    """
    Whether a value read from a file can be a shape.

    :param value: anything
    :return: true for a short list or tuple of integers from 0 to 2**63 - 1
    """
    return (
        isinstance(value, (list, tuple))
        and len(value) <= _MAX_DIMS
        and all(type(size) is int and 0 <= size < 2**63 for size in value)
    )
