# SPDX-License-Identifier: Apache-2.0
"""Reading of a pickle of tensors, containers and objects without running anything from it.

Python's own unpickler calls whatever a file names. This one interprets the opcodes that `torch.save` writes
(`pickletools` lists them all) and builds plain values only: numbers, text, containers, descriptions of tensors
(`TensorRef`), and for an object of a permitted class a `PickledObject` that holds its recorded state. No class is
imported and no function of the file's choosing is called; everything else is refused by name. Nothing is copied or
hashed that could make a small file need much memory or time.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

import torch

from npcr.errors import CheckpointError

STORAGE_TYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MAX_AXES = 8  # of a tensor; the network's have four
MAX_COPIED = 64  # entries of a container that is built from another; a module has fewer children

KEY_TYPES = (str, bytes, int, float, type(None))  # hashing nested tuples could take forever


@dataclass(frozen=True)
class Global:
    """The name of a class or function that the file refers to; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class PickledObject:
    """The description of an object of a permitted class: its class and its recorded state."""

    kind: Global
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StorageRef:
    """A block of `numel` numbers, stored elsewhere in the file under `key`."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class TensorRef:
    """The description of a tensor in a storage; offset and strides count numbers, not bytes."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Mark:
    """The sentinel on the stack where a list of items begins."""


_MARK = _Mark()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
             "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict,
                                        "EMPTY_SET": set}
_NO_EFFECT = {"PROTO", "FRAME"}
_PLAIN_GLOBALS = {
    Global("collections", "OrderedDict"), Global("__builtin__", "set"), Global("builtins", "set"),
    Global("torch", "Size"), Global("torch._utils", "_rebuild_tensor_v2"),
    Global("torch._utils", "_rebuild_parameter"),
}


class PickleContent(NamedTuple):
    """The content of a pickle."""

    value: Any
    storages: dict[str, StorageRef]  # by key, all that it refers to


def read_pickle(stream: IO[bytes], source: str, is_permitted: Callable[[str], bool]) -> PickleContent:
    """Read one pickle without running anything from it.

    Args:
        stream: at the pickle's start; it is left at its end.
        source: what messages begin with.
        is_permitted: whether objects of classes of a module, by its name, may be described by a `PickledObject`.

    Returns:
        The content.

    Raises:
        CheckpointError: the pickle is damaged, or names or does anything else.
    """
    reader = _Reader(source, is_permitted)
    return PickleContent(reader.read(stream), reader.storages)


def named_modules(stream: IO[bytes]) -> Iterator[str]:
    """Find the modules that a pickle names, without building anything.

    Args:
        stream: at the pickle's start.

    Yields:
        Names of modules.

    Raises:
        ValueError: the pickle is damaged.
    """
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            yield str(argument).split(" ")[0]


class _Reader:
    """Pickle's stack machine, restricted to harmless opcodes; reads one pickle."""

    def __init__(self, source: str, is_permitted: Callable[[str], bool]) -> None:
        self.source = source
        self.is_permitted = is_permitted
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}

    def read(self, stream: IO[bytes]) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        except (ValueError, IndexError, MemoryError) as error:
            raise CheckpointError(f"{self.source}: truncated or damaged pickle ({error})") from None
        raise CheckpointError(f"{self.source}: truncated or damaged pickle (it does not end)")

    def _step(self, name: str, argument: Any) -> None:
        # One branch for each opcode; see `pickletools` for what each does.
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self._top()
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self._top()
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self._recall(argument))
        elif name == "TUPLE":
            self.stack.append(tuple(self._items()))
        elif name in _TUPLES:
            self.stack.append(tuple(self._pop_many(_TUPLES[name])))
        elif name in ("APPEND", "APPENDS"):
            items = [self._pop()] if name == "APPEND" else self._items()
            self._container(list, name).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop_many(2) if name == "SETITEM" else self._items()
            self._container(dict, name).update(self._pairs(items))
        elif name == "ADDITEMS":
            items = self._items()
            self._container(set, name).update(self._keys(items))
        elif name == "GLOBAL":
            self.stack.append(self._global(*str(argument).partition(" ")[::2]))
        elif name == "STACK_GLOBAL":
            self.stack.append(self._global(*self._pop_many(2)))
        elif name == "REDUCE":
            function, arguments = self._pop_many(2)
            self.stack.append(self._reduce(function, arguments))
        elif name == "NEWOBJ":
            kind, _ = self._pop_many(2)
            self.stack.append(self._object(kind))
        elif name == "BUILD":
            self._build(self._pop())
        elif name == "BINPERSID":
            self.stack.append(self._persistent(self._pop()))
        elif name not in _NO_EFFECT:
            raise CheckpointError(f"{self.source}: refused: pickle opcode {name}, which no model needs")

    # --- the stack

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a value is missing")
        return value

    def _pop_many(self, count: int) -> list[Any]:
        values = [self._pop() for _ in range(count)]
        return values[::-1]

    def _top(self) -> Any:
        value = self._pop()
        self.stack.append(value)
        return value

    def _recall(self, number: int) -> Any:
        if number not in self.memo:
            raise ValueError("a reference to nothing")
        return self.memo[number]

    def _items(self) -> list[Any]:
        """Everything above the last mark."""
        items = []
        while (value := self.stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def _container(self, kind: type, opcode: str) -> Any:
        target = self._top()
        if not isinstance(target, kind):
            raise ValueError(f"{opcode} into {type(target).__name__}")
        return target

    # --- values

    def _keys(self, values: list[Any]) -> list[Any]:
        if not all(isinstance(value, KEY_TYPES) for value in values):
            raise ValueError("a key that is neither text nor a number")
        return values

    def _pairs(self, items: list[Any]) -> list[tuple[Any, Any]]:
        return list(zip(self._keys(items[::2]), items[1::2], strict=True))

    def _global(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a class whose name is no text")
        named = Global(module, name)
        is_storage = module in ("torch", "torch.cuda") and name in STORAGE_TYPES
        if not (named in _PLAIN_GLOBALS or is_storage or self.is_permitted(module)):
            raise CheckpointError(f"{self.source}: refused: the file names {str(named)[:100]}, which is "
                                  "no tensor, container, or part of the published network; nothing was run")
        return named

    def _object(self, kind: Any) -> PickledObject:
        if not isinstance(kind, Global) or not self.is_permitted(kind.module):
            raise ValueError("an object whose class is not part of the network")
        return PickledObject(kind)

    def _reduce(self, function: Any, arguments: Any) -> Any:
        """The result of a call, of the few functions that are known; of a permitted class a `PickledObject`."""
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no function")
        if self.is_permitted(function.module):
            return PickledObject(function)
        if function.name == "_rebuild_tensor_v2":
            return _tensor(*arguments[:4])
        if function.name == "_rebuild_parameter":
            return self._parameter(*arguments[:1])
        if function.name == "OrderedDict":
            pairs = [self._copied((pair,)) for pair in self._copied(arguments)]
            return OrderedDict(self._pairs([entry for pair in pairs for entry in pair]))
        if function.name == "set":
            return set(self._keys(self._copied(arguments)))
        if function.name == "Size":
            return tuple(self._copied(arguments))
        raise ValueError(f"a call of {function}")

    def _copied(self, arguments: tuple[Any, ...]) -> list[Any]:
        """The entries of the one container that `arguments` holds, if any."""
        values = arguments[0] if arguments else ()
        if not isinstance(values, (list, tuple)) or len(values) > MAX_COPIED:
            raise ValueError(f"a container made of something else than at most {MAX_COPIED} entries")
        return list(values)

    def _parameter(self, value: Any = None) -> TensorRef:
        if not isinstance(value, TensorRef):
            raise ValueError("a parameter that is no tensor")
        return value

    def _build(self, state: Any) -> None:
        """Record an object's state; a container's attributes (a state dict's `_metadata`) are left out."""
        target = self._top()
        if isinstance(target, OrderedDict):
            return
        if not isinstance(target, PickledObject) or not isinstance(state, dict):
            raise ValueError(f"state of type {type(state).__name__} for a {type(target).__name__}")
        target.state = state

    def _persistent(self, record: Any) -> Any:
        """Resolve torch's references to data outside the pickle: storages, and before 1.6 classes with their source."""
        if isinstance(record, tuple) and len(record) == 4 and record[0] == "module":
            return record[1]
        if not isinstance(record, tuple) or len(record) not in (5, 6) or record[0] != "storage":
            raise ValueError("an unknown reference")
        _, kind, key, _, numel, *view = record
        if not isinstance(kind, Global) or kind.name not in STORAGE_TYPES:
            raise ValueError("a storage without a type")
        if any(entry is not None for entry in view):
            raise ValueError("a storage that views another")
        if not isinstance(key, str) or not key.isalnum() or not _is_count(numel):
            raise ValueError("a storage whose name or size makes no sense")
        storage = StorageRef(key, STORAGE_TYPES[kind.name], numel)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("one storage described in two ways")
        return storage


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _tensor(storage: Any = None, offset: Any = None, size: Any = None, stride: Any = None) -> TensorRef:
    """Describe a tensor; ValueError unless it lies within its storage and is no larger."""
    if not isinstance(storage, StorageRef) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError("a tensor without storage or shape")
    if not all(_is_count(number) for number in (offset, *size, *stride)) or len(size) != len(stride) \
            or len(size) > MAX_AXES:
        raise ValueError("a tensor whose shape makes no sense")
    numel, last = 1, offset
    for length, step in zip(size, stride, strict=True):
        numel *= length
        last += (length - 1) * step
    if numel and (last >= storage.numel or numel > storage.numel):
        raise ValueError(f"a tensor of size {size}, stride {stride}, offset {offset} in a storage of "
                         f"{storage.numel} numbers")
    return TensorRef(storage, offset, size, stride)
