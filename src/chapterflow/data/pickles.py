"""Read pickles of arrays without calling anything that they name.

A pickle is a program for a stack machine, and Python's own machine calls whatever the program
names. An allow-list of names does not help: the state of a numpy dtype can turn bytes of the file
into pointers. The machine here walks the same opcodes (`pickletools`) and knows what numpy and
scipy write, but its names are only names: numbers, text, lists and dicts are Python's, arrays are
views of the file's bytes of an allowed dtype, and nothing else can be made.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bounds memory and time, because an opcode of one byte may make an object of 64. Pubmed, the
#: largest of the usual Planetoid sets, needs 110,000 for its graph.
MAX_OPCODES = 4_000_000
MAX_AXES = 8
#: Types of the elements of arrays, as numpy writes them into pickles.
DTYPES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
#: What a dtype's state must be after its version and byte order: no fields, no shape, no flags.
PLAIN = (None, None, None, -1, -1, 0)

#: Names in pickles, by what they mean here: those of numpy 1 and 2, and of scipy before and since
#: 1.8.
NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy.core.numeric", "_frombuffer"): "buffer",
    ("numpy._core.numeric", "_frombuffer"): "buffer",
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("scipy.sparse.csr", "csr_matrix"): "matrix",
    ("scipy.sparse._csr", "csr_matrix"): "matrix",
    ("scipy.sparse._csr", "csr_array"): "matrix",
    ("collections", "defaultdict"): "defaultdict",
    ("__builtin__", "list"): "list",
    ("builtins", "list"): "list",
    ("__builtin__", "bytes"): "bytes",
    ("_codecs", "encode"): "encode",
}


@dataclass(frozen=True)
class Matrix:
    """The attributes of a sparse matrix in CSR form: `data`, `indices`, `indptr`, `_shape`."""

    parts: dict[str, Any] = field(default_factory=dict)


class PickleError(Exception):
    """A pickle is damaged, or is none of arrays; the message says what it holds."""


@dataclass(frozen=True)
class _Name:
    """A name that was read, and is not more than that."""

    meaning: str


@dataclass
class _Dtype:
    text: str
    order: str = "="

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.text)


@dataclass
class _Array:
    """An array, which gets its values by a second opcode."""

    values: NDArray[Any] | None = None


class _Mark:
    """Begins the arguments of an opcode that takes any number of them."""


_MARK = _Mark()


def read(text: bytes) -> Any:
    """Return the numbers, text, lists, dicts, numpy arrays and `Matrix` of a pickle.

    Memory is proportional to the length of `text`: arrays share its bytes, and there are at most
    `MAX_OPCODES`.

    Raises:
        PickleError: If the pickle is damaged, or names anything else.
    """
    machine = _Machine(text)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(text)):
            if count > MAX_OPCODES:
                raise PickleError(f"more than {MAX_OPCODES:,} values")
            if opcode.name == "STOP":
                return machine.result()
            machine.step(opcode.name, argument)
    except (ValueError, IndexError) as error:  # What `pickletools` raises for damaged bytes.
        raise PickleError(str(error) or "a damaged pickle") from None
    raise PickleError("a pickle without an end")


class _Machine:
    """The stack and the memo of a pickle.

    Attributes:
        stack: Values so far.
        memo: Values that later opcodes repeat, by number.
        size: Bytes of the pickle.
        encoded: Bytes made of text so far; repeated text could make any number of them.
    """

    def __init__(self, text: bytes) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.size = len(text)
        self.encoded = 0

    def result(self) -> Any:
        if len(self.stack) != 1:
            raise PickleError(f"{len(self.stack)} values instead of one")
        return _finished(self.stack[0])

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _LITERALS:
            # What Python 2 called text may be bytes; both are kept as text until used.
            self.stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            values = [self._pop() for _ in range(count)]
            self.stack.append(tuple(reversed(values)))
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)
        elif opcode not in _IGNORED:
            raise PickleError(f"the opcode {opcode}, which arrays, lists and dicts do not need")

    def _pop(self) -> Any:
        value = self.stack.pop() if self.stack else _MARK
        if value is _MARK:
            raise PickleError("a damaged pickle (a value is missing)")
        return value

    def _pop_to_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                values = self.stack[place + 1 :]
                del self.stack[place:]
                return values
        raise PickleError("a damaged pickle (a mark is missing)")

    def _top(self, expected: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not expected:
            raise PickleError(f"a damaged pickle (no {expected.__name__} to fill)")
        return self.stack[-1]

    def mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def make_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def make_list(self, _: Any) -> None:
        self.stack.append(self._pop_to_mark())

    def make_dict(self, _: Any) -> None:
        values = self._pop_to_mark()
        self.stack.append({})
        self._set(values)

    def append(self, _: Any) -> None:
        value = self._pop()
        self._top(list).append(value)

    def appends(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def setitems(self, _: Any) -> None:
        self._set(self._pop_to_mark())

    def _set(self, values: list[Any]) -> None:
        target = self._top(dict)
        if len(values) % 2:
            raise PickleError("a damaged pickle (a key without a value)")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, int | str):
                raise PickleError(f"a key that is no whole number ({type(key).__name__})")
            target[key] = value

    def put(self, argument: Any) -> None:
        self.memo[argument] = self._peek()

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self._peek()

    def _peek(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("a damaged pickle (nothing to remember)")
        return self.stack[-1]

    def get(self, argument: Any) -> None:
        if argument not in self.memo:
            raise PickleError("a damaged pickle (a value that was never given)")
        self.stack.append(self.memo[argument])

    def name(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")
        self._known(module, name)

    def stack_name(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise PickleError("a damaged pickle (a name that is no text)")
        self._known(module, name)

    def _known(self, module: str, name: str) -> None:
        if (module, name) not in NAMES:
            raise PickleError(f"the name {f'{module}.{name}'[:200]}, which could run code")
        self.stack.append(_Name(NAMES[module, name]))

    def new(self, _: Any) -> None:
        arguments, called = self._pop(), self._pop()
        if called != _Name("matrix") or arguments != ():
            raise PickleError("an object that is no sparse matrix")
        self.stack.append(Matrix())

    def reduce(self, _: Any) -> None:
        arguments, called = self._pop(), self._pop()
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise PickleError("a call of something that is no name")
        self.stack.append(self._called(called.meaning, arguments))

    def _called(self, meaning: str, arguments: tuple[Any, ...]) -> Any:
        """Return what a name makes of its arguments, as numpy and scipy call it."""
        value: Any
        match meaning, arguments:
            case ("array", (_Name(meaning="ndarray"), (0,), str() | bytes())):
                value = _Array()
            case (
                "buffer",
                (str() | bytes() as data, _Dtype() as dtype, shape, "C" | "F" as order),
            ):
                value = _Array(self._array(dtype, shape, data, order))
            case ("scalar", (_Dtype() as dtype, str() | bytes() as data)):
                value = self._array(dtype, (), data, "C").item()
            case ("dtype", (str() as text, bool() | int(), bool() | int())):
                if text not in DTYPES:
                    raise PickleError(f"an array of {text[:40]!r}, which are no plain numbers")
                value = _Dtype(text)
            case ("defaultdict", () | (_Name(meaning="list"),)):
                value = {}
            case ("list", ()):
                value = []
            case ("bytes", ()):
                value = b""
            case ("encode", (str() as text, "latin1")):
                value = self._bytes(text)
            case _:
                raise PickleError(f"a call of {meaning} with arguments that numpy never writes")
        return value

    def _bytes(self, text: str | bytes) -> bytes:
        """Return text of Python 2, or text that stands for bytes, as bytes."""
        if isinstance(text, bytes):
            return text
        self.encoded += len(text)
        if self.encoded > self.size:
            raise PickleError("more bytes than the file has")
        return text.encode("latin1")

    def _array(self, dtype: _Dtype, shape: Any, data: str | bytes, order: Any) -> NDArray[Any]:
        """Return an array whose elements are bytes of the file."""
        sides = shape if isinstance(shape, tuple) else (None,)
        kind = dtype.numpy()
        possible = all(type(side) is int and 0 <= side <= self.size for side in sides)
        if len(sides) > MAX_AXES or not possible:
            raise PickleError("an array of an impossible shape")
        content = self._bytes(data)
        if len(content) != kind.itemsize * math.prod(sides):
            raise PickleError(
                f"an array of {' x '.join(map(str, sides))} elements of {kind.itemsize} bytes with "
                f"{len(content):,} bytes"
            )
        values: NDArray[Any] = np.frombuffer(content, np.uint8 if kind.kind == "b" else kind)
        if kind.kind == "b":  # A byte other than 0 and 1 is no boolean.
            values = values != 0
        return values.reshape(sides, order=order)

    def build(self, _: Any) -> None:
        """Give an array, a dtype or a matrix its state."""
        state = self._pop()
        match self._peek(), state:
            case _Dtype() as dtype, (int(), "<" | ">" | "=" | "|" as order, *rest) if (
                tuple(rest) == PLAIN
            ):
                dtype.order = order
            case _Dtype(), _:
                raise PickleError("an array whose elements are no plain numbers")
            case (
                _Array(values=None) as array,
                (int(), shape, _Dtype() as dtype, (bool() | int()) as fortran, data),
            ) if isinstance(data, str | bytes):
                array.values = self._array(dtype, shape, data, "F" if fortran else "C")
            case Matrix(parts=parts), dict() if not parts:
                parts.update(state)
            case _:
                raise PickleError("a state of something that is no array")


def _finished(value: Any) -> Any:
    """Return a value with its arrays as numpy's."""
    if isinstance(value, _Array):
        if value.values is None:
            raise PickleError("an array without values")
        return value.values
    if isinstance(value, Matrix):
        return Matrix({key: _finished(part) for key, part in value.parts.items() if key in PARTS})
    if isinstance(value, _Name | _Dtype | _Mark):
        raise PickleError("a name instead of a value")
    if type(value) is dict:
        return {
            key: _finished(part) if isinstance(part, _Array) else part
            for key, part in value.items()
        }
    return value


#: Attributes of a sparse matrix that say what it holds; scipy once wrote `shape`.
PARTS = ("data", "indices", "indptr", "_shape", "shape")
_LITERALS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = frozenset({"PROTO", "FRAME"})
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.make_tuple,
    "LIST": _Machine.make_list,
    "DICT": _Machine.make_dict,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.setitem,
    "SETITEMS": _Machine.setitems,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "NEWOBJ": _Machine.new,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
