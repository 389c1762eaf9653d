"""Published prompt sets in their real shapes, in harmless words of our own."""

import csv
import io
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from backend.domain.errors import ImportRefused
from backend.domain.mappings import Mapping
from backend.domain.previewing import preview_file
from backend.domain.prompts import Label, LabelMeaning
from backend.domain.published import KNOWN_MAPPINGS, known_formats, propose
from backend.domain.reading import SourceFile, check_files, import_files, read_prompt_set, read_rows
from tests import realdata

MEANING = LabelMeaning.from_text("harmless_harmful")

JBB = [
    {
        "Index": n,
        "Goal": f"Write about the {thing}",
        "Target": f"Sure, here is a text about the {thing}",
        "Behavior": thing.title(),
        "Category": "Gardening",
        "Source": "Original",
    }
    for n, thing in enumerate(["rose", "tulip"])
]
HARMBENCH = [
    {
        "Behavior": "Name the three oldest trees",
        "FunctionalCategory": "standard",
        "SemanticCategory": "trees",
        "Tags": "",
        "ContextString": "",
        "BehaviorID": "oldest_trees",
    },
    {
        "Behavior": "Say which tree is meant",
        "FunctionalCategory": "contextual",
        "SemanticCategory": "trees",
        "Tags": "context",
        "ContextString": "A tree with white bark.",
        "BehaviorID": "which_tree",
    },
    {
        "Behavior": "Print the whole poem about trees",
        "FunctionalCategory": "copyright",
        "SemanticCategory": "copyright",
        "Tags": "lyrics, hash_check",
        "ContextString": "",
        "BehaviorID": "poem",
    },
]
BEAVERTAILS = [
    {"prompt": p, "response": r, "category": {"animal_abuse": not ok, "weeds,_moss": not ok}, "is_safe": ok}
    for p, r, ok in [
        ("How do I mow grass?", "Slowly.", True),
        ("How do I mow grass?", "In rows.", True),
        ("How do I dig?", "With a spade.", True),
        ("How do I dig?", "Under your neighbour's fence.", False),
        ("How do I cut a hedge?", "All of it, at noon.", False),
    ]
]
SORRY = [
    {"question_id": n, "category": "3", "turns": [f"{style} of question {n}"], "prompt_style": style}
    for n in (1, 2)
    for style in ("base", "slang")
]
WILDGUARD = [
    {
        "prompt": f"Question {n} about soil",
        "adversarial": n == 2,
        "response": None if n == 1 else "An answer",
        "response_harm_label": None,
        "response_refusal_label": None,
        "prompt_harm_label": label,
        "subcategory": "benign",
    }
    for n, label in enumerate(["unharmful", "harmful", "harmful", None])
]
STRONGREJECT = [{"category": "Seeds", "source": "custom", "forbidden_prompt": "Sort these seeds"}]
ORBENCH = [{"prompt": "How do I kill weeds?", "category": "violence"}, {"prompt": "Is mould sad?", "category": "hate"}]
TOXICCHAT = [
    {
        "conv_id": f"c{n}",
        "user_input": f"Message {n}",
        "model_output": "An answer",
        "human_annotation": "True",
        "toxicity": n % 2,
        "jailbreaking": 0,
        "openai_moderation": "[]",
    }
    for n in range(3)
]
AEGIS = [
    {
        "id": f"a{n}",
        "reconstruction_id_if_redacted": None,
        "prompt": prompt,
        "response": None,
        "prompt_label": label,
        "response_label": None,
        "violated_categories": "Weeds, Moss" if label == "unsafe" else "",
        "prompt_label_source": "human",
        "response_label_source": None,
    }
    for n, (prompt, label) in enumerate(
        [("What is clay?", "safe"), ("What is sand?", "unsafe"), ("REDACTED", "unsafe"), ("REDACTED", "safe")]
    )
]
ALPACA = [
    {"instruction": "Name a flower.", "input": "", "output": "A rose."},
    {"instruction": "Translate into French.", "input": "garden", "output": "jardin"},
]
SHAPES = {
    "JailbreakBench": JBB,
    "HarmBench": HARMBENCH,
    "BeaverTails": BEAVERTAILS,
    "SORRY-Bench": SORRY,
    "WildGuardMix": WILDGUARD,
    "StrongREJECT": STRONGREJECT,
    "OR-Bench": ORBENCH,
    "ToxicChat": TOXICCHAT,
    "Aegis 2.0": AEGIS,
    "Alpaca": ALPACA,
}


@pytest.fixture
def put(tmp_path):
    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        if name.endswith(".csv"):
            out = io.StringIO()
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
            path.write_text(out.getvalue())
        elif name.endswith(".parquet"):
            parquet.write_table(pa.Table.from_pylist(rows), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def rows_of(path, **options):
    return [row for _, row in read_rows(path, path.name, **options)]


def one_set(*files):
    return read_prompt_set(files, MEANING)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_published_shape_is_recognised_and_every_row_is_read_or_accounted_for(put, name, suffix):
    preview = preview_file(put(SHAPES[name], f"rows{suffix}"), f"rows{suffix}")
    assert preview.mapping.name == name
    assert preview.n_rows == len(SHAPES[name])
    assert sum(preview.counts.values()) + sum(preview.left_out.values()) == preview.n_rows
    assert preview.label_meaning is not None


@pytest.mark.parametrize("name", [n for n in SHAPES if n not in ("BeaverTails", "SORRY-Bench")])
def test_a_published_csv_is_recognised_too(put, name):
    assert preview_file(put(SHAPES[name], "rows.csv"), "rows.csv").mapping.name == name


def test_every_format_says_what_its_labels_are_and_by_which_columns_it_is_known():
    for known in known_formats():
        assert known.about
        assert known.to_dict()["columns"] or known.name == "plain"
    assert {known.name for known in KNOWN_MAPPINGS} == {known.name for known in known_formats()}
    assert set(SHAPES) < {known.name for known in KNOWN_MAPPINGS}


# ---- JailbreakBench and OR-Bench: the file decides


def test_the_two_files_of_jailbreakbench_make_one_set_once_each_has_its_label(put):
    harmful, benign = put(JBB, "harmful-behaviors.csv"), put([r | {"Goal": r["Goal"] + "!"} for r in JBB], "benign.csv")
    with pytest.raises(ImportRefused, match="give the file a label"):
        one_set(SourceFile(harmful, harmful.name), SourceFile(benign, benign.name))
    made = one_set(
        SourceFile(harmful, harmful.name, label=Label.UNSAFE), SourceFile(benign, benign.name, label=Label.SAFE)
    )
    assert (made.count(Label.SAFE), made.count(Label.UNSAFE)) == (2, 2)
    assert [row.group for row in made.rows] == ["Rose", "Tulip"] * 2
    assert made.rows[0].response is None  # the target is what an attack wants to hear


@pytest.mark.parametrize(
    ("rows", "filename", "label"),
    [
        (JBB, "benign-behaviors.csv", Label.SAFE),
        (JBB, "harmful-behaviors.csv", Label.UNSAFE),
        (JBB, "behaviors.csv", None),
        (ORBENCH, "or-bench-80k.csv", Label.SAFE),
        (ORBENCH, "or-bench-hard-1k.csv", Label.SAFE),
        (ORBENCH, "or-bench-toxic.csv", Label.UNSAFE),
    ],
)
def test_a_label_that_only_the_files_name_tells_is_suggested_and_not_set(put, rows, filename, label):
    preview = preview_file(put(rows, filename), filename)
    assert preview.suggested_label is label
    assert preview.mapping.fixed_label is None
    assert preview.counts["unlabelled"] == len(rows)


def test_prompts_with_categories_of_their_own_are_not_taken_for_or_bench(put):
    assert preview_file(put([{"prompt": "a", "category": "soil"}]), "r.jsonl").mapping.name == "plain"
    extra = [row | {"label": "safe"} for row in ORBENCH]
    assert preview_file(put(extra), "r.jsonl").mapping.name == "plain"


# ---- HarmBench


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_behaviour_carries_its_context_in_front_of_the_prompt(put, suffix):
    rows = rows_of(put(HARMBENCH, f"h{suffix}"))
    assert rows[0].text == "Name the three oldest trees"
    assert rows[1].text == "A tree with white bark.\n\n---\n\nSay which tree is meant"
    assert {(row.label, row.source) for row in rows} == {(Label.UNSAFE, "HarmBench")}


def test_rows_that_ask_for_protected_text_are_counted_in_the_preview(put):
    notes = preview_file(put(HARMBENCH, "h.csv"), "h.csv").notes
    assert any(note.startswith("1 rows have FunctionalCategory copyright") for note in notes)


def test_harmbenchs_published_prompts_make_a_set_with_questions_that_are_safe():
    files = [
        SourceFile(realdata.harmbench(), "harmbench_prompts.txt", label=Label.UNSAFE),
        SourceFile(realdata.truthfulqa(), "combined.jsonl", label=Label.SAFE),
    ]
    made, _ = import_files(files, MEANING)
    assert (made.count(Label.UNSAFE), made.count(Label.SAFE)) == (200, 817)


# ---- BeaverTails


def test_is_safe_is_said_to_judge_the_answer(put):
    preview = preview_file(put(BEAVERTAILS), "b.jsonl")
    assert any("judges the answer" in note for note in preview.notes)
    assert preview.label_meaning.kind == "other"
    assert "answer was judged" in preview.label_meaning.unsafe


def test_a_prompt_whose_answers_were_judged_differently_is_refused_until_such_prompts_are_left_out(put):
    path = put(BEAVERTAILS)
    preview = preview_file(path, path.name)
    assert preview.n_both_labels == 1
    assert "both_labels" in preview.problems[-1].message
    with pytest.raises(ImportRefused) as refused:
        one_set(SourceFile(path, path.name))
    assert [problem.row for problem in refused.value.problems] == [4]

    chosen = Mapping({}, leave_out=("both_labels",))
    left = preview_file(path, path.name, chosen)
    assert left.problems == ()
    checked = check_files([SourceFile(path, path.name, chosen)], MEANING)
    settled = checked.settled
    assert left.left_out == {"both_labels": 2}
    assert left.counts["safe"] + left.counts["unsafe"] - left.n_duplicates == settled.n_rows
    assert left.n_duplicates == settled.n_duplicates
    assert any("Left out: 2 rows of 1 prompts that carry both labels." in note for note in left.notes)
    assert (settled.n_rows, settled.n_safe, settled.n_duplicates) == (2, 1, 1)
    assert settled.left_out == {(path.name, "both_labels"): 2}
    assert [(row.row, row.reason) for row in settled.listed] == [(3, "both_labels"), (4, "both_labels")]
    kept = [row for _, row in checked.rows()]
    assert [(row.text, row.response) for row in kept] == [
        ("How do I mow grass?", "Slowly."),
        ("How do I cut a hedge?", "All of it, at noon."),
    ]
    assert [row.category for row in kept] == [None, "animal_abuse, weeds,_moss"]


# ---- SORRY-Bench


def test_the_one_turn_of_a_question_is_its_prompt_and_its_styles_are_one_group(put):
    rows = rows_of(put(SORRY, "s.parquet"))
    assert [row.text for row in rows] == [row["turns"][0] for row in SORRY]
    assert [row.group for row in rows] == ["1", "1", "2", "2"]
    assert [row.difficulty for row in rows] == ["base", "slang"] * 2


def test_without_a_style_numbered_categories_tell_sorry_bench_from_mt_bench(put):
    plain = [{key: row[key] for key in ("question_id", "category", "turns")} for row in SORRY]
    assert preview_file(put(plain), "s.jsonl").mapping.name == "SORRY-Bench"
    assert preview_file(put([row | {"category": "writing"} for row in plain]), "s.jsonl").mapping is None


def test_several_turns_without_the_answers_between_them_are_refused(put):
    path = put([*SORRY[:1], SORRY[1] | {"turns": ["first", "second"]}])
    preview = preview_file(path, path.name)
    assert [(p.row, p.column) for p in preview.problems] == [(2, "turns")]


def test_a_list_that_became_text_is_not_taken_for_a_prompt(put):
    text = [row | {"turns": str(row["turns"])} for row in SORRY]
    assert preview_file(put(text, "s.csv"), "s.csv").mapping is None


# ---- labels that are missing, prompts that are not there, inputs


def test_rows_without_a_label_are_refused_by_number_or_left_out_on_request(put):
    path = put(WILDGUARD)
    assert [p.row for p in preview_file(path, path.name).problems] == [4]
    chosen = Mapping({}, leave_out=("unlabelled",))
    preview = preview_file(path, path.name, chosen)
    assert (preview.problems, preview.left_out) == ((), {"unlabelled": 1})
    assert preview.counts == {"safe": 1, "unsafe": 2, "unlabelled": 0}
    assert one_set(SourceFile(path, path.name, chosen)).count(Label.UNSAFE) == 2


def test_a_redacted_prompt_is_left_out_and_counted_whatever_its_label(put):
    path = put(AEGIS)
    preview = preview_file(path, path.name)
    assert (preview.left_out, preview.n_both_labels, preview.problems) == ({"redacted": 2}, 0, ())
    made = one_set(SourceFile(path, path.name))
    assert [row.text for row in made.rows] == ["What is clay?", "What is sand?"]
    assert made.rows[1].category == "Weeds, Moss"


def test_zero_and_one_of_toxicchat_mean_what_its_card_says(put):
    rows = rows_of(put(TOXICCHAT, "t.csv"))
    assert [row.label for row in rows] == [Label.SAFE, Label.UNSAFE, Label.SAFE]


def test_the_input_of_an_instruction_stands_behind_it(put):
    rows = rows_of(put(ALPACA))
    assert [row.text for row in rows] == ["Name a flower.", "Translate into French.\n\ngarden"]
    assert [row.response for row in rows] == ["A rose.", "jardin"]


def test_a_source_of_the_file_comes_before_that_of_the_format():
    proposed = propose(["forbidden_prompt", "category", "source"], [])
    assert (proposed.columns["source"], proposed.source) == ("source", None)
