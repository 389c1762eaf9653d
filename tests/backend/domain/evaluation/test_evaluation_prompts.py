import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.errors import InvalidInput
from backend.domain.evaluation.prompts import AskedPrompt, Used, choose_prompts, mark_seen, overlap
from backend.domain.vocabulary import Label


def prompt(i: int, label: Label = Label.SAFE, group: str | None = None) -> AskedPrompt:
    return AskedPrompt(i, f"row-{i}", f"key-{i}", label, group)


USED = [
    Used("analysis", "an_1", frozenset({"key-1", "key-9"}), frozenset({"a"})),
    Used("training", "tr_1", frozenset({"key-2"}), frozenset()),
]


def test_a_prompt_is_seen_by_its_messages_or_by_its_group():
    marked = mark_seen([prompt(0), prompt(1), prompt(2, group="b"), prompt(3, group="a"), prompt(4, group="b")], USED)
    assert [(p.seen_prompt, p.seen_group) for p in marked] == [
        (False, False),
        (True, False),
        (True, False),
        (False, True),
        (False, False),
    ]
    found = overlap(marked, USED)
    assert (found["in_sample"], found["n_seen_prompts"], found["n_seen_groups"], found["n_seen"]) == (True, 2, 1, 3)
    assert found["used_by"] == [
        {"kind": "analysis", "id": "an_1", "n_prompts": 1, "n_groups": 1},
        {"kind": "training", "id": "tr_1", "n_prompts": 1, "n_groups": 0},
    ]


def test_nothing_in_common_is_no_overlap_and_prompts_without_groups_share_none():
    marked = mark_seen([prompt(5), prompt(6)], [Used("analysis", "an_1", frozenset(), frozenset())])
    assert overlap(marked, USED)["in_sample"] is False


@given(
    st.lists(st.tuples(st.sampled_from(list(Label)), st.booleans()), min_size=1, max_size=60),
    st.integers(2, 40),
    st.integers(0, 99),
    st.booleans(),
)
def test_prompts_are_drawn_evenly_by_label_and_held_out_ones_are_all_new(rows, most, seed, holdout):
    prompts = [AskedPrompt(i, f"r{i}", f"k{i}", label, None, seen) for i, (label, seen) in enumerate(rows)]
    usable = [p for p in prompts if not (holdout and p.seen)]
    if not usable:
        with pytest.raises(InvalidInput, match="is new"):
            choose_prompts(prompts, holdout=holdout, max_prompts=most, seed=seed)
        return
    chosen = choose_prompts(prompts, holdout=holdout, max_prompts=most, seed=seed)
    assert len(chosen) == min(most, len(usable))
    assert [p.row_idx for p in chosen] == sorted({p.row_idx for p in chosen})
    assert not (holdout and any(p.seen for p in chosen))
    counts = {label: sum(p.label is label for p in chosen) for label in Label}
    left = {label: sum(p.label is label for p in usable) - counts[label] for label in Label}
    if all(left.values()):
        assert abs(counts[Label.SAFE] - counts[Label.UNSAFE]) <= 1
    assert choose_prompts(prompts, holdout=holdout, max_prompts=most, seed=seed) == chosen
