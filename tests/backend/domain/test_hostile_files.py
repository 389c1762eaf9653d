"""Files that are made to break the reader: each is refused with its place, in bounded memory."""

import gzip
import io
import json
import tracemalloc
import zipfile

import pyarrow as pa
import pytest
from pyarrow import parquet

from backend.domain import reading, reading_parquet
from backend.domain.errors import ImportRefused
from backend.domain.previewing import preview_file
from backend.domain.prompts import Label, LabelMeaning
from backend.domain.reading import SourceFile, check_files

MEANING = LabelMeaning.from_text("harmless_harmful")
BOTH = b"prompt,label\na,safe\nb,unsafe\n"


def zipped(content):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("rows.csv", content)
    return out.getvalue()


def written(**columns):
    out = io.BytesIO()
    parquet.write_table(pa.table(columns), out)
    return out.getvalue()


def refused(tmp_path, name, content, label=None):
    """Return the problems of an import, which the preview must have as well."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImportRefused) as error:
        check_files([SourceFile(path, name, label=label)], MEANING)
    return error.value.problems


@pytest.mark.parametrize(
    ("name", "content", "row", "words"),
    [
        ("a.csv", b"", 0, "empty"),
        ("a.csv", b"prompt,label\n", 0, "no data rows"),
        ("a.csv", b"prompt,label\na,safe\nb,safe\n", 0, "none is unsafe"),
        ("a.csv", gzip.compress(BOTH, mtime=0), 0, "packed (gzip)"),
        ("a.jsonl", gzip.compress(BOTH, mtime=0), 0, "packed (gzip)"),
        ("a.csv", zipped(BOTH), 0, "packed (zip"),
        ("a.parquet", zipped(BOTH), 0, "packed (zip"),
        ("a.csv", BOTH + b"c\x00,safe\n", 3, "NUL"),
        ("a.csv", BOTH + b"c\xff,safe\n", 3, "not UTF-8"),
        ("a.csv", BOTH.decode().encode("utf-16"), 0, "UTF-16"),
        ("a.jsonl", b'{"prompt": "a", "label": NaN}\n', 1, "NaN"),
        ("a.jsonl", b'{"prompt": 9223372036854775808, "label": "safe"}\n', 1, "a number"),
        ("a.jsonl", b'{"prompt": {"text": "a"}, "label": "safe"}\n', 1, "an object"),
        ("a.jsonl", b'{"prompt": "a", "label": {"is": "safe"}}\n', 1, "not known"),
        ("a.jsonl", b'{"prompt": "a", "label": "safe", "category": ' + b"[" * 5000 + b"]" * 5000 + b"}\n", 1, "nested"),
        ("a.parquet", written(prompt=[["a"], ["b"]], label=["safe", "unsafe"]), 1, "a list"),
        ("a.parquet", written(prompt=[{"text": "a"}], label=["safe"]), 1, "an object"),
        ("a.parquet", written(prompt=["a"], label=["safe"], category=[{"x": 1}]), 1, "an object"),
        ("a.parquet", b"PAR1" + b"\x00" * 64 + b"\xff\xff\xff\x7fPAR1", 0, "cannot be read as Parquet"),
    ],
)
def test_a_hostile_file_is_refused_with_its_place(tmp_path, name, content, row, words):
    problems = refused(tmp_path, name, content)
    assert problems[0].row == row
    assert words in problems[0].message
    if "none is" not in words:  # one file alone may hold one class: another one follows
        assert preview_file(tmp_path / name, name).n_problems


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_a_line_without_an_end_is_refused_in_bounded_memory(tmp_path, name):
    path = tmp_path / name
    with path.open("wb") as file:
        file.write({"a.csv": b"prompt,label\n", "a.jsonl": b'{"prompt": "', "a.txt": b""}[name])
        for _ in range(64):
            file.write(b"x" * (1 << 20))
    tracemalloc.start()
    with pytest.raises(ImportRefused, match="longer than"):
        check_files([SourceFile(path, name, label=Label.SAFE)], MEANING)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


ENDLESS = {  # records that go on over any number of lines, none of them long: (what the file begins with, a line)
    "cells": (b'prompt,label\n"a\n', b'","' + b"x" * 50_000 + b"\n"),
    "empty cells": (b'prompt,label\n"a\n', b'","' * 20_000 + b"\n"),
    "one cell": (b'prompt,label\n"a\n', b"x" * 50_000 + b"\n"),
    "the header": (b'prompt,label,"a\n', b'","' + b"x" * 50_000 + b"\n"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_csv_record_without_an_end_is_refused_in_bounded_memory_and_the_rows_before_it_are_read(tmp_path, name):
    head, line = ENDLESS[name]
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.write(head.replace(b"label\n", b"label\nfirst,unsafe\n"))
        for _ in range((32 << 20) // len(line)):
            file.write(line)
    tracemalloc.start()
    with pytest.raises(ImportRefused) as error:
        check_files([SourceFile(path, "a.csv")], MEANING)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "longer than" in error.value.problems[0].message
    assert error.value.problems[0].row == (0 if name == "the header" else 2)
    assert peak < 24 << 20


def test_a_record_of_many_lines_that_fits_is_read_whatever_came_before(tmp_path):
    text = "line\n" * 30_000
    path = tmp_path / "a.csv"
    path.write_text("prompt,label\n" + "".join(f'"{n} {text}",{("safe", "unsafe")[n % 2]}\n' for n in range(20)))
    assert check_files([SourceFile(path, "a.csv")], MEANING).settled.n_rows == 20


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_hundred_thousand_columns_are_compared_in_one_pass(tmp_path, name):
    columns = [f"c{n}" for n in range(90_000)]
    csv = ",".join(columns) + "\n" + "," * 89_999 + "\n"
    pairs = ", ".join(f'"{column}": 1' for column in [*columns[:60_000], columns[59_999]])
    (problem, *_) = refused(tmp_path, name, (csv if name == "a.csv" else "{" + pairs + "}\n").encode())
    assert "No column looks like a prompt" in problem.message or "'c59999' is there twice" in problem.message
    assert len(problem.message) < 5000


def test_a_parquet_file_that_unpacks_to_a_thousand_times_its_size_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(reading_parquet, "MAX_UNPACKED", 1 << 20)
    out = io.BytesIO()
    table = pa.table({"prompt": ["x" * 4_000_000, "y"], "label": ["safe", "unsafe"]})
    parquet.write_table(table, out, compression="zstd", use_dictionary=False)
    (problem,) = refused(tmp_path, "a.parquet", out.getvalue())
    assert problem.row == 0
    assert "would grow from" in problem.message


def test_more_rows_than_a_set_may_have_are_refused_where_they_begin(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_ROWS", 5)
    rows = "".join(json.dumps({"prompt": "the same", "label": "safe"}) + "\n" for _ in range(9))
    (problem,) = refused(tmp_path, "a.jsonl", rows.encode())
    assert problem.row == 6
    assert "split it" in problem.message
