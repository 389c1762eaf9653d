"""A pickle read as data: its opcodes build inert records, and nothing that it names is imported, looked up or called.

Why not an Unpickler with an allow-list: that one still calls what it allows, with arguments of the file's choosing.
Here a "call" is a record of the name and its arguments; the reader of pickled tables (pickled_tables.py) takes from it
what it understands. A name that is not on its list is refused as soon as the file mentions it. Used by
`routeprint convert-table` only; the services never read a pickle.
"""

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from backend.domain.errors import InvalidInput

MAX_BYTES = 64 * 2**20
MAX_OPCODES = 2_000_000
"""So many parts a pickle may have; each takes some ten bytes of memory at least."""


class PickleRefused(InvalidInput):
    """The pickle holds something else than the plain data of a table. Nothing of it was run."""


@dataclass(frozen=True, slots=True)
class Name:
    """Something that the pickle names, such as `pandas.DataFrame`."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Made:
    """What the pickle would have made by calling `maker` with `args`; `state` is what it would have set afterwards."""

    maker: Name
    args: Any
    state: Any = None


@dataclass(slots=True)
class _Machine:
    """The stack machine of the pickle format, over records."""

    allowed: Collection[tuple[str, str]]
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError("nothing above the mark")
        return self.stack.pop()

    def name(self, module: Any, name: Any) -> Name:
        if (module, name) not in self.allowed:
            raise PickleRefused(
                f"The pickle names {_short(module)}.{_short(name)}, which has no place in a table of numbers: it is "
                "refused, and nothing of it was run."
            )
        return Name(module, name)

    def call(self) -> None:
        args, maker = self.pop(), self.pop()
        if not isinstance(maker, Name) or not isinstance(args, tuple):
            raise PickleRefused("The pickle calls something that is not a name: it is refused, and nothing was run.")
        self.stack.append(Made(maker, args))

    def build(self) -> None:
        state = self.pop()
        made = self.stack[-1]
        if not isinstance(made, Made) or made.state is not None:
            raise PickleRefused("The pickle sets the state of something that is not an object of a table.")
        made.state = state

    def append(self, items: list[Any]) -> None:
        held = self.stack[-1]
        if not isinstance(held, list):
            raise PickleRefused("The pickle appends to something that is not a list.")
        held.extend(items)

    def set_items(self, items: list[Any]) -> None:
        held = self.stack[-1]
        if not isinstance(held, dict) or not all(isinstance(key, str | int) for key in items[::2]):
            raise PickleRefused("The pickle sets items of something that is not a dictionary of plain keys.")
        held.update(zip(items[::2], items[1::2], strict=True))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def last(self, n: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(n)]))


_PUSH_ARGUMENT = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)

_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(_PUSH_ARGUMENT, lambda m, arg: m.stack.append(arg)),
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, arg: None),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "LIST": lambda m, _: m.stack.append(m.since_mark()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.stack.append(m.last(1)),
    "TUPLE2": lambda m, _: m.stack.append(m.last(2)),
    "TUPLE3": lambda m, _: m.stack.append(m.last(3)),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.since_mark()),
    "SETITEM": lambda m, _: m.set_items(list(m.last(2))),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "GET": lambda m, arg: m.stack.append(m.memo[arg]),
    "BINGET": lambda m, arg: m.stack.append(m.memo[arg]),
    "LONG_BINGET": lambda m, arg: m.stack.append(m.memo[arg]),
    "PUT": lambda m, arg: m.put(arg),
    "BINPUT": lambda m, arg: m.put(arg),
    "LONG_BINPUT": lambda m, arg: m.put(arg),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "GLOBAL": lambda m, arg: m.stack.append(m.name(*arg.split(" ", 1))),
    "STACK_GLOBAL": lambda m, _: m.stack.append(m.name(*m.last(2))),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
}
"""What each opcode does. Opcodes that are not here are refused by name."""


def read_pickle(content: bytes, allowed: Collection[tuple[str, str]]) -> Any:
    """Return what the pickle holds: plain values, lists, tuples, dictionaries, and `Made` records.

    allowed: (module, name) pairs that it may mention. Raises PickleRefused, which names what was in the way.
    """
    if len(content) > MAX_BYTES:
        raise PickleRefused(f"The file has {len(content):,} bytes; a table of numbers has at most {MAX_BYTES:,}.")
    machine = _Machine(allowed)
    try:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(content), 1):
            if opcode.name == "STOP":
                return machine.pop()
            if count > MAX_OPCODES:
                raise PickleRefused(f"The pickle has more than {MAX_OPCODES:,} parts: that is no table of numbers.")
            step = _STEPS.get(opcode.name)
            if step is None:
                raise PickleRefused(f"The pickle uses {opcode.name}, which has no place in a table of numbers.")
            step(machine, arg)
    except (ValueError, IndexError, KeyError, TypeError, UnicodeError, OverflowError) as error:
        raise PickleRefused(f"The file is not a whole pickle: {_short(str(error))}.") from None
    raise PickleRefused("The file is not a whole pickle: it has no end.")


def _short(text: Any) -> str:
    return ascii(text)[1:-1][:120] if isinstance(text, str) else f"({type(text).__name__})"
