"""Pickles followed on paper: the content of a file of `torch.save`, found out without running it.

A pickle is a program that builds objects, and unpickling runs it. `torch.load(weights_only=True)` restricts the program to few
functions. These are enough to ask for any amount of memory and to crash the interpreter (a key nested a million deep), and files
with anything else beside the weights are refused.

Nothing runs here. The few instructions that describe dicts, lists and tensors build plain values; every other instruction is an
error. Objects of other classes or functions, such as the arguments of a training script, become an `Opaque` value: a name that no
later instruction changes. A reader of weights passes over opaque values beside the weights and refuses them among the weights.
"""

import io
import pickletools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from zoo_gen.reader import TENSORS, shortened

STEPS = 40 * TENSORS
"""Instructions that a file may have; a tensor takes about 40."""

_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_PUSHES = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_PUSHES |= {"SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"}
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
_ARGUMENTS = 10  # at most, of a call that describes a tensor; longer ones, used again and again, would take long to look through
_MARK = object()
_MADE = object()  # stands for a harmless value that a pickle would have made by a call, such as a device


class Name(NamedTuple):
    """A class or function that a pickle names; it is never looked up."""

    text: str


class Opaque(NamedTuple):
    """An unknown class or function, or a result of it; neither is ever looked up or made."""

    text: str


class Storage(NamedTuple):
    """A run of numbers in the file."""

    kind: str
    key: str
    length: int


@dataclass(frozen=True)
class Described:
    """A tensor on paper: a window of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str | None


class Refused(ValueError):
    """The reason why a pickle does not describe weights."""


def follow(stream: io.BytesIO, *, programs: int, storages: dict[str, Storage]) -> Iterator[Any]:
    """Follows pickles on paper, yields the result of each, and adds the storages that they name to `storages`."""
    steps = 0
    for _ in range(programs):
        paper = _Paper(storages)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in texts
            for opcode, argument, _ in pickletools.genops(stream):
                steps += 1
                if steps > STEPS:
                    raise Refused(f"its description has more than {STEPS:,} instructions")
                try:
                    paper.step(opcode.name, argument)
                except (IndexError, KeyError, TypeError) as error:
                    raise ValueError(f"the instruction {opcode.name} has nothing to work on") from error
        yield paper.result


class _Paper:
    """The stack of an unpickler, on paper."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None

    def step(self, name: str, argument: Any) -> None:
        """Follows one instruction. Raises `Refused` for all but the few that describe plain values and tensors."""
        stack = self.stack
        if name in _PUSHES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "EMPTY_SET":
            stack.append(Opaque("builtins.set"))
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [stack.pop() for _ in range(int(name[-1]))]
            stack.append(tuple(reversed(items)))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):  # ADDITEMS adds to a set, which is opaque
            items = [stack.pop()] if name == "APPEND" else self.since_mark()
            self.top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self.since_mark()
            target = self.top(dict)
            for key, value in zip(items[::2], items[1::2], strict=True):
                if isinstance(key, str | int | Opaque):  # others name no weight, and hashing them may never end
                    target[key] = value
        elif name == "GLOBAL":
            stack.append(_known(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            member, module = stack.pop(), stack.pop()
            stack.append(_known(f"{module}.{member}" if isinstance(module, str) and isinstance(member, str) else "?"))
        elif name == "BINPERSID":
            stack.append(storage := _storage(stack.pop()))
            if isinstance(storage, Storage):
                known = self.storages.setdefault(storage.key, storage)
                if known.kind != storage.kind:  # torch writes none, and reads all by the first type
                    raise ValueError(f"storage {shortened(storage.key)} has numbers of two types, {known.kind} and {storage.kind}")
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(_call(function, arguments))
        elif name == "BUILD":  # the attributes of an ordered dict: versions of modules
            stack.pop()
            self.top(dict)
        elif name == "STOP":
            self.result = stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise Refused(f"its pickle has the instruction {name}, which no dict of tensors needs")

    def since_mark(self) -> list[Any]:
        """Takes everything above the last mark off the stack, and the mark."""
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def top(self, kind: type) -> Any:
        """Returns the top of the stack: a dict, a list, or an empty one in place of an opaque value, which stays as it is."""
        if isinstance(self.stack[-1], Opaque):
            return kind()
        if type(self.stack[-1]) is not kind:
            raise TypeError
        return self.stack[-1]


def _known(name: str) -> Name | Opaque:
    """Returns a class or function by its name, opaque if it has no part in describing weights."""
    module, _, member = name.rpartition(".")
    parts = {"OrderedDict", "defaultdict"} if module == "collections" else {"Size", "device"} if module == "torch" else set()
    storage = module in ("torch", "torch.storage") and (member in _TYPES or member == "UntypedStorage")
    dtype = module == "torch" and isinstance(getattr(torch, member, None), torch.dtype)
    if name in _TENSORS | _PARAMETERS or member in parts or storage or dtype:
        return Name(name)
    return Opaque(name)


def _call(function: Any, arguments: Any) -> Any:
    """Returns the result of a call on paper; a call of or with an opaque value is opaque."""
    if isinstance(function, Opaque):
        return function
    if not isinstance(function, Name) or type(arguments) is not tuple or len(arguments) > _ARGUMENTS:
        raise TypeError
    if odd := [one for one in arguments if isinstance(one, Opaque)]:
        return odd[0]
    if function.text in _TENSORS:
        storage, offset, shape, strides, *rest = arguments
        if not isinstance(storage, Storage) or len(shape) != len(strides) or len(shape) > 64:
            raise TypeError
        whole = [_whole(size) for size in (offset, *shape, *strides)]
        dtype = rest[2].text if len(rest) > 2 and isinstance(rest[2], Name) else None
        return Described(storage, whole[0], tuple(whole[1 : 1 + len(shape)]), tuple(whole[1 + len(shape) :]), dtype)
    if function.text in _PARAMETERS:
        return arguments[0]
    if function.text in ("collections.OrderedDict", "collections.defaultdict"):
        if function.text == "collections.OrderedDict" and arguments:
            raise Refused("it has an ordered dict of an unknown form")
        return {}
    return _MADE


def _storage(described: Any) -> Storage | Opaque:
    """Reads the name of a storage: ("storage", type, key, device, count); or, in the older format, of a class and its source."""
    if type(described) is tuple and described[:1] == ("module",) and isinstance(described[1], Opaque):
        return described[1]
    word, kind, key, _, count, *view = described
    if word != "storage" or not isinstance(kind, Name) or not isinstance(key, str) or any(part is not None for part in view):
        raise Refused("it names a storage of an unknown form")
    return Storage(kind.text, key, _whole(count))


def _whole(number: Any) -> int:
    """Returns a size or place. Raises `Refused` for any other value."""
    if type(number) is not int or not 0 <= number < 2**62:
        raise Refused("it describes a tensor whose sizes are no whole numbers")
    return number


def dtype_of(kind: str, given: str | None = None) -> torch.dtype:
    """Returns the type of a storage's numbers; an untyped one is bytes, whose type the tensor tells."""
    member = (given or kind).rpartition(".")[2]
    found = _TYPES.get(member, torch.uint8 if member == "UntypedStorage" else getattr(torch, member, None) if given else None)
    if not isinstance(found, torch.dtype):
        raise Refused(f"it has tensors of the unknown type {shortened(member)}")
    return found
