"""A set is settled from digests alone exactly as it is from rows in memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.errors import ImportRefused
from backend.domain.ledger import Ledger
from backend.domain.prompts import Label, LabelMeaning, Message, PromptRow, RowOrigin, build_prompt_set

MEANING = LabelMeaning.from_text("harmless_harmful")
ROWS = st.lists(
    st.builds(
        lambda text, label, source: PromptRow((Message("user", text),), label, source=source),
        st.sampled_from("abcdefgh"),
        st.sampled_from(Label),
        st.sampled_from([None, "x"]),
    ),
    max_size=24,
)


def entered(rows):
    ledger = Ledger()
    ledger.begin("a.csv")
    for number, row in enumerate(rows, 1):
        ledger.add(number, row)
    return ledger


def outcome(make):
    try:
        return make()
    except ImportRefused as error:
        return error.problems


@given(ROWS)
def test_digests_settle_the_same_set_as_rows_in_memory(rows):
    expected = outcome(lambda: build_prompt_set(((RowOrigin("a.csv", n), r) for n, r in enumerate(rows, 1)), MEANING))
    found = outcome(lambda: entered(rows).settle(MEANING))
    if isinstance(expected, tuple):
        assert found == expected  # the same problems at the same rows, in the same words
        return
    assert (found.sha256, found.n_rows) == (expected.sha256, len(expected.rows))
    assert (found.n_safe, found.n_duplicates) == (expected.count(Label.SAFE), expected.n_duplicates)
    kept = np.flatnonzero(found.keep)
    assert [rows[place] for place in kept] == list(expected.rows)
    assert [found.row_id(place) for place in kept] == [row.digest for row in expected.rows]


@given(ROWS)
def test_what_is_left_out_for_both_labels_and_what_is_kept_make_up_all_rows(rows):
    found = outcome(lambda: entered(rows).settle(MEANING, leave_out_both_labels=True))
    labels = {}
    for row in rows:
        labels.setdefault(row.text, set()).add(row.label)
    torn = [number for number, row in enumerate(rows, 1) if len(labels[row.text]) == 2]
    if isinstance(found, tuple):  # a class alone, or nothing, was left
        assert len({row.label for row in rows if len(labels[row.text]) == 1}) < 2
        return
    assert [row.row for row in found.listed] == torn
    assert found.n_rows + found.n_duplicates + len(torn) == len(rows)
    assert {rows[place].text for place in np.flatnonzero(found.keep)} == {
        t for t, seen in labels.items() if len(seen) == 1
    }


def test_a_contradiction_names_both_places_across_files():
    ledger = Ledger()
    for file, label in (("a.csv", Label.SAFE), ("b.csv", Label.UNSAFE)):
        ledger.begin(file)
        ledger.add(7, PromptRow((Message("user", file),), label))
        ledger.add(9, PromptRow((Message("user", "same"),), label))
    with pytest.raises(ImportRefused) as refused:
        ledger.settle(MEANING)
    (problem,) = refused.value.problems
    assert (problem.file, problem.row) == ("b.csv", 9)
    assert "safe at row 9 of a.csv and unsafe here" in problem.message
