"""The numbers of a pickled pandas.DataFrame, without pandas and without unpickling (see pickled_data.py).

Reads what pandas 1.3 to 3 write: a block manager of NumPy blocks. Columns of text, and anything else that is not a
plain number, are left out and named. Not covered: what the columns mean (risk_tables.py).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.pickled_data import Made, PickleRefused, read_pickle

_INDEXES = ("Index", "RangeIndex")
ALLOWED = frozenset(
    [
        ("_codecs", "encode"),
        *((builtin, name) for builtin in ("builtins", "__builtin__") for name in ("bytearray", "bytes", "slice")),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
        ("pandas", "DataFrame"),
        ("pandas", "StringDtype"),
        ("pandas._libs.internals", "_unpickle_block"),
        ("pandas.arrays", "ArrowStringArray"),
        ("pandas.core.arrays.string_arrow", "ArrowStringArray"),
        ("pandas.core.arrays.string_", "StringDtype"),
        ("pandas.core.frame", "DataFrame"),
        ("pandas.core.indexes.base", "_new_Index"),
        *(("pandas", name) for name in _INDEXES),
        ("pandas.core.indexes.base", "Index"),
        ("pandas.core.indexes.range", "RangeIndex"),
        ("pandas.core.internals.managers", "BlockManager"),
        *(("pyarrow.lib", name) for name in ("_restore_array", "type_for_alias", "py_buffer")),
    ]
)
"""Everything that a pickled table of numbers mentions. None of it is imported or called."""
_NUMBERS = "biuf"
MAX_CELLS = 50_000_000


@dataclass(frozen=True, slots=True, eq=False)
class NumberTable:
    """Columns of numbers in their order; `left_out` names the columns that hold something else."""

    columns: dict[str, NDArray[Any]]
    left_out: tuple[str, ...]


def read_table(content: bytes) -> NumberTable:
    """Read a pickled DataFrame. Raises PickleRefused, naming what is in the way; nothing of the file is ever run."""
    frame = read_pickle(content, ALLOWED)
    if not isinstance(frame, Made) or frame.maker.name != "DataFrame" or not isinstance(frame.state, dict):
        raise PickleRefused("The pickle does not hold one pandas.DataFrame.")
    try:
        return _columns(frame.state["_mgr"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise PickleRefused(
            f"The pickled DataFrame is not laid out as pandas 1.3 or later does it ({type(error).__name__}). Open it "
            "with the pandas that wrote it, where you trust it, and save it as CSV."
        ) from None


def _columns(manager: Made) -> NumberTable:
    blocks, axes = manager.args
    names = _names(axes[0])
    found: dict[int, NDArray[Any] | None] = {}
    for block in blocks:
        values, placement, _ = block.args
        places, array = _places(placement), _numbers(values)
        if array is not None and (array.ndim != 2 or len(array) != len(places)):
            raise ValueError("a block does not fit its place")
        for row, place in enumerate(places):
            found[place] = None if array is None else array[row]
    columns = {name: own for place, name in enumerate(names) if (own := found[place]) is not None}
    if len({len(own) for own in columns.values()}) > 1 or len(set(names)) < len(names):
        raise ValueError("columns of different lengths, or two of one name")
    return NumberTable(columns, tuple(name for place, name in enumerate(names) if found[place] is None))


def _places(placement: Any) -> list[int]:
    if isinstance(placement, Made) and placement.maker.name == "slice":
        places = range(*_bounded(placement.args))
        return list(places)
    array = _numbers(placement)
    if array is None or array.dtype.kind not in "iu":
        raise ValueError("a placement that is no list of numbers")
    return [int(place) for place in array]


def _bounded(args: Any) -> tuple[int, ...]:
    if len(args) != 3 or any(type(part) is not int or abs(part) > 100_000 for part in args):
        raise ValueError("a placement out of range")
    return tuple(args)


def _numbers(value: Any) -> NDArray[Any] | None:
    """Return an array of plain numbers, or None for one of anything else."""
    if not isinstance(value, Made):
        raise TypeError("no array")
    if value.maker.name == "_frombuffer":
        data, dtype, shape, order = value.args
        return _array(data, dtype, shape, order)
    if value.maker.name == "_reconstruct":
        _, shape, dtype, fortran, data = value.state
        return _array(data, dtype, shape, "F" if fortran else "C")
    return None


def _array(data: Any, dtype: Made, shape: Any, order: Any) -> NDArray[Any] | None:
    kind = dtype.args[0]
    if not (isinstance(kind, str) and kind[:1] in _NUMBERS and kind[1:].isdigit()):
        return None
    byte_order = dtype.state[1] if dtype.state else "<"
    if byte_order not in ("<", ">", "|", "=") or order not in ("C", "F"):
        raise ValueError("an unknown byte order")
    real = np.dtype(f"{'<' if byte_order == '=' else byte_order}{kind}")
    sizes = [size for size in shape if type(size) is int and 0 <= size <= MAX_CELLS]
    if len(sizes) != len(shape):
        raise ValueError("an array of an impossible shape")
    # What is there decides how much memory is taken; a shape that promises more is refused here.
    return np.frombuffer(_bytes(data), dtype=real).reshape(sizes, order=order)


def _bytes(data: Any) -> bytes:
    """Return bytes, also in the disguises of older protocols."""
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    if isinstance(data, Made) and data.maker.name == "encode" and data.args[1] == "latin1":
        return str(data.args[0]).encode("latin1")
    if isinstance(data, Made) and data.maker.name in ("bytearray", "bytes"):
        return _bytes(data.args[0]) if data.args else b""
    raise TypeError("no bytes")


def _names(index: Made) -> list[str]:
    data = index.args[1]["data"]
    if data.maker.name == "_reconstruct":
        names = data.state[4]
    elif data.maker.name == "ArrowStringArray":
        names = _arrow_texts(data.state["_pa_array"])
    else:
        raise ValueError("columns without names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("a column whose name is no text")
    return names


def _arrow_texts(array: Made) -> list[str]:
    kind, length, n_null, offset, buffers, *_ = array.args[0]
    width = {"large_string": "<i8", "string": "<i4"}[kind.args[0]]
    if n_null or offset or type(length) is not int:
        raise ValueError("names that are missing")
    ends = np.frombuffer(_bytes(buffers[1].args[0]), dtype=width).tolist()
    text = _bytes(buffers[2].args[0])
    if not 0 <= length < len(ends) or any(b < a for a, b in pairwise(ends)) or ends[0] < 0:
        raise ValueError("names that do not fit")
    return [text[ends[i] : ends[i + 1]].decode() for i in range(length)]
