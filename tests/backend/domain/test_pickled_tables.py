"""Old pickles are read as data: what real pandas wrote comes out whole, and nothing that is not a table ever runs."""

import builtins
import collections
import copyreg
import functools
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain import pickled_data
from backend.domain.pickled_data import MAX_BYTES, Made, PickleRefused, read_pickle
from backend.domain.pickled_tables import ALLOWED, read_table

PICKLES = sorted((Path(__file__).parent / "pickles").glob("*.pkl"))
"""The same table, as pandas 2.2 (NumPy 2.1) and pandas 3.1 (NumPy 2.4) wrote it with `DataFrame.to_pickle`."""


class Calls:
    """A pickle that calls `what(*args)` when it is opened."""

    def __init__(self, what: Any, *args: Any) -> None:
        self.call = (what, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("path", PICKLES, ids=lambda path: path.stem)
def test_a_table_that_pandas_wrote_comes_out_whole(path: Path) -> None:
    table = read_table(path.read_bytes())
    names = ["layer", "expert", "a1", "a2", "d1", "d2", "a1_n", "a2_n", "risk_diff", "risk_diff_abs"]
    assert list(table.columns) == names
    assert table.left_out == ("Layer_Expert",)
    own = table.columns
    assert sorted(zip(own["layer"].tolist(), own["expert"].tolist(), strict=True)) == [
        (i, j) for i in (0, 1) for j in range(4)
    ]
    np.testing.assert_allclose(own["risk_diff"], own["a1_n"] - own["a2_n"])
    assert set((own["a1"] + own["d1"]).tolist()) == {29.0}
    assert set((own["a2"] + own["d2"]).tolist()) == {19.0}
    assert np.all(np.diff(own["risk_diff_abs"]) <= 0)


@settings(deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, width=32), min_size=1, max_size=20),
    st.sampled_from(["<f8", ">f8", "<f4", "<i4", "|i1", "|b1"]),
    st.sampled_from([2, 3, 4, 5]),
)
def test_numbers_of_any_type_come_back_the_same(values: list[float], kind: str, protocol: int) -> None:
    with np.errstate(invalid="ignore"):
        column = np.array(values).astype(kind)
    frame = pd.DataFrame({"x": column, "n": range(len(column))})
    table = read_table(pickle.dumps(frame, protocol=protocol))
    np.testing.assert_array_equal(table.columns["x"], frame["x"].to_numpy())
    np.testing.assert_array_equal(table.columns["n"], frame["n"].to_numpy())


def harmful(marker: Path) -> dict[str, Any]:
    """Things that would touch `marker` when unpickled, each in another way."""
    code = f"open({str(marker)!r}, 'w').close()"
    inner = pickle.dumps(Calls(os.system, f"touch {marker}"))
    return {
        "os.system": Calls(os.system, f"touch {marker}"),
        "builtins.eval": Calls(builtins.eval, code),
        "builtins.exec": Calls(builtins.exec, code),
        "subprocess": Calls(subprocess.check_call, ["touch", str(marker)]),
        "getattr": Calls(getattr, Calls(builtins.__import__, "os"), "system"),
        "functools.partial": Calls(functools.partial, os.system, f"touch {marker}"),
        "copyreg": Calls(copyreg._reconstructor, collections.OrderedDict, object, None),  # type: ignore[attr-defined]
        "pickle.loads": Calls(pickle.loads, inner),
        "numpy.load": Calls(np.load, str(marker), None, True),
        "in a list": [1, {"x": Calls(os.system, f"touch {marker}")}],
        "in an object array": np.array([Calls(os.system, f"touch {marker}")], dtype=object),
    }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("what", list(harmful(Path("x"))))
def test_a_pickle_that_would_do_something_is_refused_and_does_nothing(tmp_path: Path, what: str, protocol: int) -> None:
    marker = tmp_path / "touched"
    content = pickle.dumps(harmful(marker)[what], protocol=protocol)
    with pytest.raises(PickleRefused, match=r"refused|has no place|not hold"):
        read_table(content)
    assert not marker.exists()


def test_these_pickles_are_dangerous_so_the_test_above_can_fail(tmp_path: Path) -> None:
    marker = tmp_path / "touched"
    pickle.loads(pickle.dumps(harmful(marker)["os.system"]))
    assert marker.exists()


def test_a_harmful_object_inside_a_real_table_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "touched"
    frame = pd.DataFrame({"layer": [0], "x": pd.Series([Calls(os.system, f"touch {marker}")], dtype=object)})
    with pytest.raises(PickleRefused, match=r"posix\.system|nt\.system"):
        read_table(pickle.dumps(frame))
    hidden = pd.DataFrame({"layer": [0]})
    hidden.attrs["x"] = Calls(builtins.eval, "1")
    with pytest.raises(PickleRefused, match=r"builtins\.eval"):
        read_table(pickle.dumps(hidden))
    assert not marker.exists()


def test_names_on_the_list_are_never_imported_or_called() -> None:
    """Even an allowed name with hostile arguments stays a record."""
    stream = b"cnumpy\nndarray\n(I1000000000000\ntR."
    made = read_pickle(stream, ALLOWED)
    assert isinstance(made, Made)
    assert str(made.maker) == "numpy.ndarray"
    code = (
        "import sys; from backend.domain.pickled_tables import read_table; "
        "assert read_table(open(sys.argv[1], 'rb').read()).columns; "
        "assert not {'pandas', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(PICKLES[-1])], check=True)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.", "not a whole|not hold"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"x.", "not a whole"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "not a whole"),
        (b"\x80\x04Nr\xff\xff\xff\x7f.", "not hold"),
        (b"\x80\x04L" + b"9" * 10_000 + b"L\n.", "not a whole"),
        (b"\x80\x04" + b"(" * 1000 + b"t" * 1000 + b".", "not hold"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"Pabc\n.", "PERSID"),
        (b"\x80\x04(ios\nsystem\n.", "INST"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x04\x8f.", "EMPTY_SET"),
        (b"", "not a whole"),
        (b"not a pickle", "not a whole|has no place"),
        (b"\x80\x04N", "not a whole"),
        (b"\x80\x04.", "not a whole"),
        (b"\x80\x04h\x07.", "not a whole"),
        (b"\x80\x04NNR.", "not a name"),
        (b"\x80\x04NNb.", "state"),
        (b"\x80\x04NNa.", "not a list"),
        (b"\x80\x04]\x94NNs.", "dictionary"),
    ],
)
def test_bombs_and_broken_pickles_are_refused_in_bounded_memory(content: bytes, word: str) -> None:
    with pytest.raises(PickleRefused, match=word):
        read_table(content)


def test_numbers_wrapped_too_deep_to_follow_are_refused() -> None:
    """bytes(bytes(... the data ...)) in the place of an array's data."""
    content, deep = pickle.dumps(pd.DataFrame({"layer": [0, 1]}), protocol=3), 5000
    parts = [(arg, start) for _, arg, start in pickletools.genops(content)]
    at = next(i for i, (arg, _) in enumerate(parts) if arg == np.array([0, 1]).tobytes())
    start, stop = parts[at][1], parts[at + 1][1]
    data = b"cbuiltins\nbytes\n" * deep + content[start:stop] + b"\x85R" * deep
    with pytest.raises(PickleRefused, match="RecursionError"):
        read_table(content[:start] + data + content[stop:])


def test_a_pickle_of_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled_data, "MAX_OPCODES", 1000)
    with pytest.raises(PickleRefused, match="more than 1,000 parts"):
        read_table(b"\x80\x04" + b"]" * 1010 + b".")


def test_a_file_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(PickleRefused, match="bytes"):
        read_table(b"N" * (MAX_BYTES + 1))


def test_an_array_whose_shape_promises_more_than_its_bytes_is_refused() -> None:
    content = PICKLES[2].read_bytes()
    assert b"K\x08\x86" in content
    with pytest.raises(PickleRefused, match="not laid out"):
        read_table(content.replace(b"K\x08\x86", b"K\x7f\x86"))


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_make_anything_but_a_refusal(content: bytes) -> None:
    with pytest.raises(PickleRefused):
        read_table(content)


@settings(deadline=None)
@given(st.sampled_from(PICKLES), st.integers(0, 3000), st.integers(0, 255))
def test_no_damaged_table_makes_anything_but_a_table_or_a_refusal(path: Path, at: int, value: int) -> None:
    content = bytearray(path.read_bytes())
    content[at % len(content)] = value
    try:
        table = read_table(bytes(content))
    except PickleRefused:
        return
    assert all(column.dtype.kind in "biuf" for column in table.columns.values())
