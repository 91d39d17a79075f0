"""
Reads a pickle as data: the opcodes build a graph of inert nodes, and nothing is imported or called.

An :class:`Evaluator` interprets the nodes afterwards. It knows a handful of constructors by name and rejects
the rest. The opcodes are documented in the standard library's ``pickletools``.
"""

import collections
import encodings.raw_unicode_escape  # noqa: F401  pickletools would import it when a file has such text
import io
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

from mlx_baselines3.common.formats.names import UnknownName

_MAX_DEPTH = 64
# A short pickle can refer to one list so often that expanding it would never end.
_MAX_VALUES = 2_000_000
# An opcode of one byte creates an object of sixty bytes or more.
_FREE_OPCODES = 200_000
# No value of a model has more, and Python refuses to print integers of thousands of digits.
_MAX_BITS = 4096
# Larger integers have the hashes of smaller ones, and a table of a hundred thousand keys with the same hash
# takes minutes.
_MAX_KEY = 2**61 - 1
_MOST_LARGE_KEYS = 1000
_MARK = object()
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_IGNORED = {"PROTO", "FRAME"}
# cloudpickle fills functions and cells by calling one of these and discarding the result.
_STATE_SETTERS = {"_function_setstate", "_cell_set"}


class Global:
    """
    The name of a class or function.

    :param module: its module
    :param name: its qualified name
    """

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Node:
    """
    A call in a pickle, not executed.

    :param callee: the callable; itself a node if it is the result of a call
    :param args: the arguments
    """

    __slots__ = ("args", "callee", "items", "pairs", "state")

    def __init__(self, callee: "Global | Node", args: tuple[Any, ...]) -> None:
        self.callee, self.args = callee, args
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: list[tuple[Any, Any]] = []

    @property
    def name(self) -> Global:
        """The name of the callable, by which the constructor is chosen."""
        if not isinstance(self.callee, Global):
            raise TypeError("the result of a call is called")
        return self.callee

    def __str__(self) -> str:
        return "the result of a call"


class Table:
    """A dict as pairs: hashing keys of unchecked size could take forever."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] = []

    def get(self, key: str) -> Any:
        """
        Look up a string key without evaluating anything.

        :param key: the key
        :return: its last value, or None
        """
        return next(
            (item for name, item in reversed(self.pairs) if isinstance(name, str) and name == key), None
        )


class Source:
    """
    A file of consecutive pickles. The length in an opcode is checked against the remaining bytes before
    reading, because ``BufferedReader.read`` allocates whatever is requested.

    :param stream: seekable binary file; read from its current position
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        start = stream.tell()
        self.left = stream.seek(0, io.SEEK_END) - start
        stream.seek(start)

    def read(self, size: int) -> bytes:
        """
        :param size: number of bytes
        :return: that many bytes, or the remaining ones
        """
        data = self._stream.read(max(0, min(size, self.left)))
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        """:return: the rest of the line, with its end"""
        data = self._stream.readline(self.left)
        self.left -= len(data)
        return data


class _Machine:
    """The stack and the memo of the pickle machine."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise IndexError("a mark where a value was expected")
        return value

    def top(self) -> Any:
        value = self.stack[-1]
        if value is _MARK:
            raise IndexError("a mark where a value was expected")
        return value

    def to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise IndexError("no mark on the stack")

    def call(self, callee: Any, args: Any) -> None:
        if not isinstance(callee, (Global, Node)) or not isinstance(args, tuple):
            raise TypeError("something other than a function is called")
        setter = isinstance(callee, Global) and callee.name in _STATE_SETTERS
        if setter and len(args) == 2 and isinstance(args[0], Node):
            args[0].state = args[1]
        self.stack.append(Node(callee, args))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Node):
            target.state = state

    def append(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Node):
            target.items.extend(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise TypeError("items for something that is not a list")

    def set_items(self, flat: list[Any]) -> None:
        target = self.top()
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        if not isinstance(target, (Node, Table)):
            raise TypeError("keys for something that is not a table")
        target.pairs.extend(pairs)

    def new_dict(self) -> None:
        flat = self.to_mark()
        self.stack.append(Table())
        self.set_items(flat)

    def pop_two(self) -> list[Any]:
        second = self.pop()
        return [self.pop(), second]

    def pop_tuple(self, size: int) -> None:
        items = [self.pop() for _ in range(size)]
        self.stack.append(tuple(reversed(items)))

    def stack_global(self) -> None:
        module, name = self.pop_two()
        self.push_global(module, name)

    def push_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is not text")
        # Its name in Python 2's protocols.
        self.stack.append(Global("builtins" if module == "__builtin__" else module, name))

    def new_with_keywords(self) -> None:
        keywords = self.pop()
        callee, args = self.pop_two()
        if keywords:
            raise TypeError("a class is made with keywords")
        self.call(callee, args)


def _call_top(machine: _Machine) -> None:
    machine.call(*machine.pop_two())


_OPERATIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda m, _: m.stack.append(_MARK),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.to_mark(),
    "DUP": lambda m, _: m.stack.append(m.top()),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.to_mark()),
    "EMPTY_DICT": lambda m, _: m.stack.append(Table()),
    "LIST": lambda m, _: m.stack.append(m.to_mark()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.to_mark())),
    "TUPLE1": lambda m, _: m.pop_tuple(1),
    "TUPLE2": lambda m, _: m.pop_tuple(2),
    "TUPLE3": lambda m, _: m.pop_tuple(3),
    "DICT": lambda m, _: m.new_dict(),
    "SETITEM": lambda m, _: m.set_items(m.pop_two()),
    "SETITEMS": lambda m, _: m.set_items(m.to_mark()),
    "EMPTY_SET": lambda m, _: m.stack.append(Node(Global("builtins", "set"), ())),
    "ADDITEMS": lambda m, _: m.append(m.to_mark()),
    "FROZENSET": lambda m, _: m.stack.append(Node(Global("builtins", "frozenset"), (m.to_mark(),))),
    "PUT": lambda m, arg: m.memo.__setitem__(arg, m.top()),
    "BINPUT": lambda m, arg: m.memo.__setitem__(arg, m.top()),
    "LONG_BINPUT": lambda m, arg: m.memo.__setitem__(arg, m.top()),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.top()),
    "GET": lambda m, arg: m.stack.append(m.memo[arg]),
    "BINGET": lambda m, arg: m.stack.append(m.memo[arg]),
    "LONG_BINGET": lambda m, arg: m.stack.append(m.memo[arg]),
    "GLOBAL": lambda m, arg: m.push_global(*arg.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "REDUCE": lambda m, _: _call_top(m),
    "NEWOBJ": lambda m, _: _call_top(m),
    "NEWOBJ_EX": lambda m, _: m.new_with_keywords(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.stack.append(Node(Global("", "persistent"), (m.pop(),))),
}


def parse(pickled: bytes | Source, available: int | None = None) -> Any:
    """
    Read a pickle into lists, tuples, numbers, texts, :class:`Table`, :class:`Node` and :class:`Global`.

    :param pickled: the pickle, or a file whose next pickle is read; memory and time are proportional to its
        length
    :param available: length in bytes of the file that it comes from, if it was compressed there: it can be a
        thousand times as long
    :return: the root of the graph
    :raises UnknownName: if it is corrupted, or uses an opcode that no SB3 file needs
    """
    machine = _Machine()
    source: Any = Source(io.BytesIO(pickled)) if isinstance(pickled, bytes) else pickled
    try:
        most = max(_FREE_OPCODES, source.left if available is None else available)
        for count, (opcode, argument, _) in enumerate(pickletools.genops(source)):
            name = opcode.name
            if count > most:
                raise ValueError(f"more than {most} instructions")
            if type(argument) is int and argument.bit_length() > _MAX_BITS:
                raise ValueError(f"an integer of {argument.bit_length()} bits")
            if name in _LITERALS:
                # A bytearray is kept: it backs NumPy arrays, which are large in buffers.
                machine.stack.append(argument)
            elif name in _CONSTANTS:
                machine.stack.append(_CONSTANTS[name]())
            elif name == "STOP":
                return machine.pop()
            elif name not in _IGNORED:
                _OPERATIONS[name](machine, argument)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error) as error:
        raise UnknownName(f"its pickle is corrupted or of an unknown kind ({error!r:.200})") from error
    raise UnknownName("its pickle has no end")


class Evaluator:
    """
    Evaluates nodes.

    :param constructors: by module and name: called with the evaluator and the node, returns the value
    :param resolve: returns the value of a bare class or function name, or raises :class:`UnknownName`
    :param budget: bytes of arrays that may be created; small files can refer to one array many times
    :param more_values: number of values allowed in addition to those of a model
    """

    def __init__(
        self,
        constructors: Mapping[tuple[str, str], Callable[["Evaluator", Node], Any]],
        resolve: Callable[[Global], Any],
        budget: int,
        more_values: int = 0,
    ) -> None:
        self._constructors = constructors
        self._resolve = resolve
        self._budget = budget
        self._most_values = _MAX_VALUES + more_values
        self._done: dict[int, tuple[Any, int]] = {}
        self._count = 0
        self._open: set[int] = set()

    def spend(self, array: Any) -> None:
        """
        Charge the budget for an array before it is copied.

        :param array: the array; anything else is free
        :raises UnknownName: if the budget is exhausted
        """
        self._budget -= array.nbytes if isinstance(array, np.ndarray) else 0
        if self._budget < 0:
            raise UnknownName("it claims far more data than the file has")

    def __call__(self, value: Any) -> Any:
        """
        Evaluate a part of the graph. Shared parts are evaluated once.

        :param value: the result of :func:`parse`
        :return: the value
        :raises UnknownName: if it needs a name that is not allowed, or contains itself
        """
        self._count += 1
        if not isinstance(value, (list, tuple, Table, Node, Global)):
            return value
        key = id(value)
        if key in self._done:
            made, size = self._done[key]
            self._count += size
            self._check_count()
            return made
        if key in self._open or len(self._open) > _MAX_DEPTH:
            raise UnknownName("it is nested too deeply, or contains itself")
        self._open.add(key)
        start = self._count
        made = self._make(value)
        self._check_count()
        self._open.discard(key)
        self._done[key] = made, self._count - start
        return made

    def _check_count(self) -> None:
        if self._count > self._most_values:
            raise UnknownName(f"it unfolds into more than {self._most_values} values")

    def _make(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self(item) for item in value]
        if isinstance(value, tuple):
            return tuple(self(item) for item in value)
        if isinstance(value, Table):
            keys = checked_keys([self(key) for key, _ in value.pairs])
            return {key: self(item) for key, (_, item) in zip(keys, value.pairs, strict=True)}
        if isinstance(value, Global):
            return self._resolve(value)
        callee = _named_type(value.callee)
        constructor = None
        if isinstance(callee, Global):
            # The key ("", "") is the fallback for all other names.
            known = self._constructors
            constructor = known.get((callee.module, callee.name)) or known.get(("", ""))
        if constructor is None:
            raise UnknownName(f"it needs `{callee}`, which is not called from a model file")
        return constructor(self, value)


def checked_keys(keys: list[Any]) -> list[Any]:
    """
    :param keys: values to be hashed: the keys of a table, or the items of a set
    :return: the same
    :raises ValueError: if more than a thousand are, or contain, integers so large that all of them could have
        the same hash
    """
    if sum(map(_has_large_integer, keys)) > _MOST_LARGE_KEYS:
        raise ValueError(f"more than {_MOST_LARGE_KEYS} keys are integers of more than 60 bits")
    return keys


def _has_large_integer(key: Any) -> bool:
    if isinstance(key, (tuple, frozenset)):
        return any(map(_has_large_integer, key))
    return isinstance(key, int) and abs(key) >= _MAX_KEY


def _named_type(callee: "Global | Node") -> "Global | Node":
    """Early versions of cloudpickle create ``types.LambdaType`` by a function."""
    if isinstance(callee, Node) and str(callee.callee) == "cloudpickle.cloudpickle._builtin_type":
        (name,) = callee.args
        if type(name) is not str:
            raise TypeError("a type without a name")
        return Global("types", name)
    return callee


def ordered_dict(evaluate: Evaluator, node: Node) -> dict[Any, Any]:
    """
    The constructor of ``collections.OrderedDict``; attributes that torch adds to it are dropped.

    :param evaluate: the evaluator
    :param node: the call
    :return: the table
    """
    given = evaluate(node.args[0]) if node.args else ()
    pairs = [*given, *((evaluate(key), evaluate(item)) for key, item in node.pairs)]
    checked_keys([key for key, _ in pairs])
    return collections.OrderedDict(pairs)
