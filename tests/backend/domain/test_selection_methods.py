"""The methods `cumulative` and `significant`. The others: test_experts.py."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.domain.errors import RuleInvalid
from backend.domain.experts import SelectionRule, agreeing_p, expert_set_digest, select
from backend.domain.vocabulary import Site

SITES = (Site(0, "a", 4, 2), Site(2, "b", 3, 1), Site(5, "c", 4, 2))
EXISTS = np.arange(4) < np.array([4, 3, 4])[:, None]
values = st.one_of(st.just(0.0), st.just(math.nan), st.floats(-1, 1, allow_subnormal=False))
tables = arrays(np.float64, (3, 4), elements=values)
directions = st.sampled_from(["unsafe", "safe", "both"])
shares = st.floats(0.001, 1)


def strengths(table: np.ndarray, direction: str) -> dict[tuple[int, int], float]:
    """How strongly every expert speaks for the direction; those that do not are left out."""
    found = {}
    for row, expert in np.argwhere(EXISTS & np.isfinite(table)):
        value = table[row, expert] * {"unsafe": 1, "safe": -1, "both": np.sign(table[row, expert])}[direction]
        if value > 0:
            found[SITES[row].layer, int(expert)] = float(value)
    return found


def cumulative(table: np.ndarray, direction: str, share: float) -> tuple[tuple[int, int], ...]:
    return select(table, SITES, SelectionRule("cumulative", direction=direction, share=share))


@given(tables, directions, shares)
def test_cumulative_is_the_smallest_set_that_carries_its_share(table: np.ndarray, direction: str, share: float):
    own = strengths(table, direction)
    chosen = cumulative(table, direction, share)
    total, carried = math.fsum(own.values()), math.fsum(own[expert] for expert in chosen)
    assert set(chosen) <= set(own)
    assert carried >= share * total * (1 - 1e-9)
    fewer = sorted(own.values(), reverse=True)[: max(len(chosen) - 1, 0)]  # the most that one expert fewer can carry
    assert not own or math.fsum(fewer) <= share * total * (1 + 1e-9)
    assert bool(chosen) == bool(own)


@given(tables, directions, shares)
def test_no_expert_left_out_is_larger_than_one_chosen(table: np.ndarray, direction: str, share: float):
    own, chosen = strengths(table, direction), cumulative(table, direction, share)
    smallest = min((own[expert] for expert in chosen), default=math.inf)
    assert all(value <= smallest for expert, value in own.items() if expert not in chosen)


@given(tables, directions, shares, shares)
def test_a_larger_share_keeps_what_a_smaller_one_chose(table: np.ndarray, direction: str, one: float, other: float):
    few, many = (set(cumulative(table, direction, share)) for share in sorted((one, other)))
    assert few <= many


@given(tables, shares)
def test_turning_every_sign_turns_unsafe_into_safe(table: np.ndarray, share: float):
    assert cumulative(table, "unsafe", share) == cumulative(-table, "safe", share)
    assert cumulative(table, "both", share) == cumulative(-table, "both", share)


def test_half_of_six_equal_experts_is_three():
    table = np.zeros((3, 4))
    table[0] = table[1, :2] = 0.1  # 0.1 + 0.1 + 0.1 is not half of six of them to the last bit
    assert cumulative(table, "unsafe", 0.5) == ((0, 0), (0, 1), (0, 2))


@given(tables, arrays(np.float64, (3, 4), elements=st.one_of(st.just(math.nan), st.floats(0, 1))), directions)
def test_significant_keeps_what_the_statistics_call_and_nothing_else(table: np.ndarray, p: np.ndarray, direction: str):
    own = strengths(table, direction)
    chosen = select(table, SITES, SelectionRule("significant", alpha=0.3, direction=direction), p)
    called = {(SITES[row].layer, int(expert)) for row, expert in np.argwhere(EXISTS & (p <= 0.3))}
    assert set(chosen) == set(own) & called


def test_a_difference_that_adjusting_turns_around_is_never_called():
    risk_diff, tested = np.array([[0.2, 0.2, -0.1, 0.0]]), np.array([[0.1, -0.1, -0.3, 0.2]])
    found = agreeing_p(np.full((1, 4), 0.01), tested, risk_diff)
    assert np.isfinite(found).tolist() == [[True, False, True, False]]


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ({"method": "significant", "kind": "per_batch"}, "too few prompts"),
        ({"method": "significant", "alpha": 0.0}, "above 0"),
        ({"method": "significant", "correction": "holm"}, "max_t, bh"),
        ({"method": "significant", "share": 0.5}, "means nothing"),
        ({"method": "cumulative"}, "needs share"),
        ({"method": "cumulative", "share": 1.5}, "above 1"),
        ({"method": "cumulative", "share": math.nan}, "above 0"),
        ({"method": "cumulative", "share": True}, "above 0"),
        ({"method": "top_k", "k": 2, "alpha": 0.05}, "means nothing"),
    ],
)
def test_a_rule_without_sense_is_refused(rule: dict, word: str):
    with pytest.raises(RuleInvalid, match=word):
        SelectionRule.from_dict(rule).validate(SITES)


def test_a_rule_comes_back_from_its_dictionary_and_defaults_are_said():
    rule = SelectionRule.from_dict({"method": "significant", "statistics": "a" * 64})
    assert (rule.alpha, rule.correction) == (0.05, "max_t")
    assert SelectionRule.from_dict(rule.to_dict()) == rule
    assert rule.to_dict() == SelectionRule("significant", alpha=0.05, correction="max_t", statistics="a" * 64).to_dict()
    share = SelectionRule("cumulative", share=1)
    assert SelectionRule.from_dict(share.to_dict()) == share


def test_the_statistics_that_a_rule_went_by_are_part_of_the_sets_identity():
    one, other = (SelectionRule("significant", statistics=letter * 64) for letter in "ab")
    assert expert_set_digest("p", one, [(0, 1)]) != expert_set_digest("p", other, [(0, 1)])


def test_sets_that_were_stored_before_there_were_these_methods_keep_their_identity():
    known = {
        SelectionRule("top_k", k=3): "a8a7b7ce1b7ba2d47acbf6f84709affb9985f02601fcc579d91d1990d4527976",
        SelectionRule(
            "threshold", threshold=0, direction="both", kind="per_batch"
        ): "3ea4489c663028043a905a21c85528f7c57fe28b9caa57da6eb00fbac492e2b4",
        SelectionRule("manual", experts=((0, 1),)): "544f463efe572b6d329f55f84f69742fa0390cacd9ae350157ea4c02795b2b07",
    }
    for rule, sha256 in known.items():
        per_batch = {"b": [(0, 1)]} if rule.kind == "per_batch" else None
        assert expert_set_digest("p" * 64, rule, [(0, 1)], per_batch) == sha256
