"""
Writes a pickle from inert nodes, the inverse of :mod:`~mlx_baselines3.common.formats.sb3.pickle_reader`.

A class of a package that is not installed here is written by its name. The opcodes are documented in the
standard library's ``pickletools``.
"""

import io
import pickle
import struct
from collections.abc import Callable
from typing import IO, Any

from mlx_baselines3.common.formats.sb3.pickle_reader import Global, Node

__all__ = ["Global", "NewObject", "Node", "persistent", "write", "write_to"]

_SINGLETONS = {None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}


class NewObject(Node):
    """
    An object created by ``cls.__new__(cls, *args)``, with its attributes in ``state``.

    :param callee: the class
    :param args: arguments of ``__new__``
    :param state: argument of ``__setstate__``, or the attributes
    """

    def __init__(self, callee: Global, args: tuple[Any, ...] = (), state: Any = None) -> None:
        super().__init__(callee, args)
        self.state = state


def persistent(identity: tuple[Any, ...]) -> Node:
    """
    :param identity: argument of the reader's ``persistent_load``
    :return: the node
    """
    return Node(Global("", "persistent"), (identity,))


# Size of the output buffer.
_PIECE = 2**20


class _Writer:
    def __init__(self, protocol: int, stream: IO[bytes]) -> None:
        self._stream = stream
        self.out = bytearray(pickle.PROTO + bytes([protocol]))
        # Memo numbers by id. The objects are kept alive, so that no id is reused.
        self._memo: dict[int, tuple[int, Any]] = {}

    def save(self, value: Any) -> None:
        kind = type(value)
        if value is None or kind is bool:
            self.out += _SINGLETONS[value]
            return
        if id(value) in self._memo:
            self.out += pickle.LONG_BINGET + struct.pack("<I", self._memo[id(value)][0])
            return
        method = _METHODS.get(kind)
        if method is None:
            raise TypeError(f"a {kind.__name__} has no place in a pickle written here")
        method(self, value)
        if len(self.out) > _PIECE:
            self.flush()

    def flush(self) -> None:
        self._stream.write(self.out)
        self.out = bytearray()

    def _remember(self, value: Any) -> None:
        number = len(self._memo)
        self._memo[id(value)] = number, value
        self.out += pickle.LONG_BINPUT + struct.pack("<I", number)

    def _int(self, value: int) -> None:
        if -(2**31) <= value < 2**31:
            self.out += pickle.BININT + struct.pack("<i", value)
            return
        data = pickle.encode_long(value)
        self.out += pickle.LONG1 + bytes([len(data)]) + data

    def _float(self, value: float) -> None:
        self.out += pickle.BINFLOAT + struct.pack(">d", value)

    def _str(self, value: str) -> None:
        data = value.encode("utf-8", "surrogatepass")
        self.out += pickle.BINUNICODE + struct.pack("<I", len(data)) + data
        self._remember(value)

    def _bytes(self, value: bytes) -> None:
        self.out += pickle.BINBYTES + struct.pack("<I", len(value)) + value
        self._remember(value)

    def _view(self, value: memoryview) -> None:
        """A view of bytes without a copy: a buffer may use most of the machine's memory."""
        self.out += pickle.BINBYTES8 + struct.pack("<Q", value.nbytes)
        self.flush()
        for start in range(0, value.nbytes, _PIECE):
            self._stream.write(value[start : start + _PIECE])
        self._remember(value)

    def _items(self, values: Any, end: bytes) -> None:
        self.out += pickle.MARK
        for value in values:
            self.save(value)
        self.out += end

    def _tuple(self, value: tuple[Any, ...]) -> None:
        if not value:
            self.out += pickle.EMPTY_TUPLE
            return
        self._items(value, pickle.TUPLE)
        self._remember(value)

    def _list(self, value: list[Any]) -> None:
        self.out += pickle.EMPTY_LIST
        self._remember(value)
        if value:
            self._items(value, pickle.APPENDS)

    def _dict(self, value: dict[Any, Any]) -> None:
        self.out += pickle.EMPTY_DICT
        self._remember(value)
        self._pairs(value.items())

    def _pairs(self, pairs: Any) -> None:
        if pairs:
            self._items((part for pair in pairs for part in pair), pickle.SETITEMS)

    def _global(self, value: Global) -> None:
        self.out += pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode()
        self._remember(value)

    def _node(self, value: Node) -> None:
        if isinstance(value.callee, Global) and not value.callee.module:
            self.save(value.args[0])
            self.out += pickle.BINPERSID
            self._remember(value)
            return
        self.save(value.callee)
        self.save(value.args)
        self.out += pickle.NEWOBJ if isinstance(value, NewObject) else pickle.REDUCE
        self._remember(value)
        if value.items:
            self._items(value.items, pickle.APPENDS)
        self._pairs(value.pairs)
        if value.state is not None:
            self.save(value.state)
            self.out += pickle.BUILD


_METHODS: dict[type, Callable[[_Writer, Any], None]] = {
    int: _Writer._int,
    float: _Writer._float,
    str: _Writer._str,
    bytes: _Writer._bytes,
    memoryview: _Writer._view,
    tuple: _Writer._tuple,
    list: _Writer._list,
    dict: _Writer._dict,
    Global: _Writer._global,
    Node: _Writer._node,
    NewObject: _Writer._node,
}


def write(root: Any, protocol: int = 4) -> bytes:
    """
    Write a pickle.

    :param root: numbers, strings, bytes, memory, tuples, lists, dicts and nodes. Shared objects are shared
        for the reader too
    :param protocol: the declared protocol; ``torch.load`` expects 2, which has no bytes
    :return: the pickle
    :raises TypeError: if it contains anything else
    """
    stream = io.BytesIO()
    write_to(stream, root, protocol)
    return stream.getvalue()


def write_to(stream: IO[bytes], root: Any, protocol: int = 4) -> None:
    """
    Write a pickle to a file, see :func:`write`.

    :param stream: binary file to write to
    :param root: see :func:`write`
    :param protocol: see :func:`write`
    :raises TypeError: see :func:`write`
    """
    writer = _Writer(protocol, stream)
    writer.save(root)
    writer.out += pickle.STOP
    writer.flush()
