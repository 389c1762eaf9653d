"""Wrong files in, problems by row number out."""

import json
import tracemalloc

import pyarrow as pa
import pytest
from pyarrow import parquet

from backend.domain import reading_lines, reading_tables
from backend.domain.mappings import Mapping
from backend.domain.previewing import preview_file
from backend.domain.prompts import Label, PromptRow
from backend.domain.reading import SourceFile
from tests.backend.domain.reads import BOTH, jsonl, problems_of, refusal, rows_of, write_table

# ---- hostile files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "empty"),
        ("a.jsonl", b"\xef\xbb\xbf \n", "empty"),
        ("a.csv", b"prompt,label\n", "no data rows"),
        ("a.json", b"[]", "no data rows"),
        ("a.csv", b"id,score\n1,2\n", "No column looks like a prompt"),
        ("a.jsonl", b'{"id": 1}\n', "No column looks like a prompt"),
        ("a.csv", b"prompt,label,prompt\na,safe,b\n", "'prompt' is there twice"),
        ("a.csv", b"prompt,la\xffbel\na,safe\n", "not UTF-8"),
        ("a.csv", b"prompt,la\x00bel\na,safe\n", "holds NUL"),
        ("a.csv", "prompt,label\na,safe\n".encode("utf-16"), "UTF-16"),
        ("a.json", b'{\n"data": []}', "array of objects"),
        ("a.parquet", b"PAR1 but not really PAR1", "cannot be read as Parquet"),
        ("a.xlsx", b"PK\x03\x04", "must be called"),
        ("a.csv", b'prompt,"label\na,safe\n', "header cannot be read"),
        ("a.csv", b",,,\n" + b"remark,,,\n" * 9, "no header"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_one_problem(put, name, content, message):
    path = put(name, content)
    preview = preview_file(path, name)
    assert [p.row for p in preview.problems] == [0]
    assert message in preview.problems[0].message
    (problem,) = refusal(SourceFile(path, name, label=Label.SAFE))
    assert (problem.row, problem.file) == (0, name)
    assert message in problem.message


LONG = b"x" * (reading_lines.MAX_LINE + 10)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"a\x00b,safe", "NUL character at position 1"),
        (b"a\xff,safe", "not UTF-8"),
        (b"\xed\xa0\x80,safe", "not UTF-8"),
        (b" ,safe", "prompt is missing"),
        (b"a", "1 cells, but the header has 2"),
        (b"a,safe,more", "3 cells, but the header has 2"),
        (b'"a"b,safe', "not CSV"),
        (LONG + b",safe", "longer than 1,048,576"),
        (b'"' + LONG + b'",safe', "longer than 1,048,576"),
        (b"a,maybe", "'maybe' is not known"),
    ],
)
def test_a_csv_row_that_is_wrong_is_named_and_the_rest_is_read(put, line, message):
    path = put("a.csv", b"prompt,label\ngood,safe\n" + line + b"\nfine,unsafe\n")
    assert [row.text for row in rows_of(path) if isinstance(row, PromptRow)] == ["good", "fine"]
    ((number, said),) = problems_of(path)
    assert number == 2
    assert message in said


def test_a_quote_that_is_never_closed_does_not_pass_unseen(put):
    path = put("a.csv", b'prompt,label\na,safe\n"b,unsafe\nc,safe\n')
    ((number, said),) = problems_of(path)
    assert number == 2
    assert "quote left open" in said


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "a\\u0000b"}', "NUL"),
        (b'{"prompt": "a\\ud800b"}', "half a surrogate pair) at position 1"),
        (b'{"prompt": "a\xff"}', "not UTF-8"),
        (b'{"prompt": NaN}', "NaN is not JSON"),
        (b'{"prompt": "a", "x": -Infinity}', "-Infinity is not JSON"),
        (b'{"prompt": "a", "prompt": "b"}', "'prompt' is there twice"),
        (b'{"pro\\u0000mpt": "a"}', "holds NUL"),
        (b'{"prompt": "a"', "not a JSON object"),
        (b"[1]", "not list"),
        (b"3", "not int"),
        (b'{"prompt": 3}', "must be text, not a number"),
        (b'{"prompt": ["a"]}', "must be text, not a list"),
        (b'{"prompt": true}', "must be text, not true or false"),
        (b'{"prompt": null}', "prompt is missing"),
        (b"{}", "prompt is missing"),
        (b'{"prompt": "a", "category": {"b": 1}}', "not an object"),
        (b'{"prompt": "a", "x": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"prompt": "a", "x": ' + b"9" * 5000 + b"}", "not a JSON object"),
        (b'{"prompt": "' + LONG + b'"}', "longer than 1,048,576"),
        (b'{"prompt": "a", "x": [' + b"1, " * (reading_lines.MAX_LINE // 3) + b"1]}", "longer than 1,048,576"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_json_row_that_is_wrong_is_named(put, name, line, message):
    rows = [b'{"prompt": "good"}', line, b'{"prompt": "fine"}']
    content = b"[" + b",".join(rows) + b"]" if name == "a.json" else b"\n".join(rows)
    path = put(name, content)
    ((number, said),) = problems_of(path, label=Label.SAFE)
    assert number == 2
    assert message in said or (name == "a.json" and "reading ends here" in said)
    read = [row.text for row in rows_of(path, label=Label.SAFE) if isinstance(row, PromptRow)]
    assert read == ["good", "fine"] or (name == "a.json" and read == ["good"])


@pytest.mark.parametrize("end", ["", ",", ",]", "] x", "]]", ' {"prompt": "b"}]'])
def test_a_json_array_that_ends_wrongly_does_not_pass_unseen(put, end):
    assert len(problems_of(put("a.json", '[{"prompt": "a"}' + end), label=Label.SAFE)) == 1


def test_a_json_array_larger_than_the_window_is_read_whole(put):
    n, text = 40, "é" * 60_000
    path = put("a.json", json.dumps([{"prompt": f"{k} {text}"} for k in range(n)], indent=3, ensure_ascii=False))
    assert [row.text for row in rows_of(path, label=Label.SAFE)] == [f"{k} {text}" for k in range(n)]


def test_parquet_is_read_with_lists_numbers_and_empty_cells(tmp_path):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    records = [
        {"messages": chat, "label": 1.0, "difficulty": 2},
        {"messages": chat[:1], "label": None, "difficulty": None},
    ]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist(records), path)
    first, second = rows_of(path, mapping=Mapping({}, {"1": Label.UNSAFE}))
    assert (first.text, first.response, first.difficulty, first.label) == ("hi", "hello", "2", Label.UNSAFE)
    assert second.message == "The label is missing."


def test_parquet_text_that_is_no_utf8_is_named_by_row(tmp_path):
    raw = pa.array([b"a", b"b\xff", b"c"], pa.binary())
    table = pa.table({"prompt": pa.Array.from_buffers(pa.string(), 3, raw.buffers())})
    parquet.write_table(table, tmp_path / "a.parquet")
    ((number, said),) = problems_of(tmp_path / "a.parquet", label=Label.SAFE)
    assert number == 2
    assert "utf-8" in said


def test_a_damaged_parquet_file_is_a_problem(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"prompt": [f"prompt {n}" for n in range(5000)]}), path, row_group_size=1000)
    content = bytearray(path.read_bytes())
    content[200 : len(content) // 2] = bytes(len(content) // 2 - 200)
    path.write_bytes(content)
    assert problems_of(path, label=Label.SAFE)


def test_a_mapping_for_another_file_is_one_problem_that_lists_the_columns(put):
    for name, content in [("a.csv", BOTH), ("a.jsonl", jsonl({"prompt": "a", "label": "safe"}))]:
        ((number, said),) = problems_of(put(name, content), mapping=Mapping({"prompt": "question"}), label=Label.SAFE)
        assert number == 0
        assert "'question' is not there" in said
        assert "'prompt', 'label'" in said


def test_a_column_that_only_later_rows_have_is_read(put):
    rows = [{"prompt": f"p{n}", "label": "safe"} for n in range(reading_tables.PEEK_ROWS + 5)]
    rows[-1]["response"] = "late"
    mapping = Mapping({"prompt": "prompt", "label": "label", "response": "response"})
    assert rows_of(put("a.jsonl", jsonl(*rows)), mapping=mapping)[-1].response == "late"


def test_a_preview_is_short_and_safe_to_send_whatever_the_cells_hold(put):
    rows = [{"prompt": "x" * 5000, "n": 1e999, "s": "a\x00\ud800b", "deep": {"k": ["y" * 5000]}}] * 30
    text = "".join(json.dumps(row).replace("Infinity", "1e999") + "\n" for row in rows)
    preview = preview_file(put("a.jsonl", text), "a.jsonl")
    assert preview.n_rows == 30
    assert len(preview.first_rows) == 20
    assert preview.first_rows[0]["prompt"] == "x" * 2000 + "…"
    assert preview.first_rows[0]["n"] == "inf"
    assert preview.first_rows[0]["s"] == "a�?b"
    assert len(json.dumps(preview.first_rows, allow_nan=False).encode()) < 20 * 10_000


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_a_preview_holds_a_small_part_of_a_large_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_table(path, [{"prompt": f"{n} " + "x" * 4000, "label": "safe"} for n in range(8000)])  # 32 MB
    parquet.ParquetFile  # noqa: B018 - loaded before measuring
    tracemalloc.start()
    try:
        assert preview_file(path, path.name).n_rows == 8000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16e6
