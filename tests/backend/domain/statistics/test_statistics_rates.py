import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.statistics import rates
from backend.domain.statistics.rates import newcombe, place_among, rate, rate_differences, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 20, 0.0, 0.1611),
        (8, 10, 0.4902, 0.9433),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)  # the last three: Newcombe 1998, Two-sided confidence intervals for the single proportion, table I
def test_wilsons_interval_has_its_published_values(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize("n", [1, 3, 10, 29, 97])
def test_a_rate_of_none_or_of_all_lies_in_its_interval(n: int) -> None:
    assert wilson(0, n)[0] == 0
    assert wilson(n, n)[1] == 1


def test_newcombes_paired_interval_has_its_published_value() -> None:
    assert newcombe(36, 12, 2, 0) == (pytest.approx(0.0569, abs=5e-5), pytest.approx(0.3404, abs=5e-5))


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(1, 30))
def test_a_paired_interval_holds_the_difference_and_turns_with_its_sides(both, first, second, neither) -> None:
    low, high = newcombe(both, first, second, neither)
    middle = (first - second) / (both + first + second + neither)
    assert -1 <= low <= middle + 1e-12
    assert middle - 1e-12 <= high <= 1
    turned = newcombe(both, second, first, neither)
    assert turned == (pytest.approx(-high, abs=1e-12), pytest.approx(-low, abs=1e-12))


def test_a_paired_interval_covers_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(1), 0
    truth = (0.8 * 0.85 + 0.2 * 0.15) - 0.8
    for _ in range(1000):
        before = rng.random(50) < 0.8
        after = np.where(rng.random(50) < 0.15, ~before, before)
        [found] = rate_differences(before.tolist(), after[:, None], [None] * 50, "s")
        hits += bool(found.low is not None and found.high is not None and found.low <= truth <= found.high)
    assert 930 <= hits <= 985


def test_prompts_alone_get_wilson_and_prompts_in_groups_a_wider_bootstrap() -> None:
    rng = np.random.default_rng(0)
    hits = np.repeat(rng.random(25) < 0.6, 4)  # a group answers as one
    alone = rate(hits.tolist(), [None] * 100, "s")
    grouped = rate(hits.tolist(), [str(i // 4) for i in range(100)], "s")
    assert (alone.how, alone.n_units) == ("wilson", 100)
    assert (grouped.how, grouped.n_units, grouped.value) == ("bootstrap over groups", 25, alone.value)
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    ones = rate([True] * 100, [str(i // 4) for i in range(100)], "s")
    assert (ones.how, ones.low) == ("wilson over groups", pytest.approx(wilson(25, 25)[0]))


def test_differences_in_groups_are_wider_and_those_of_few_changes_stay_in_closed_form() -> None:
    rng = np.random.default_rng(2)
    groups = [str(i // 4) for i in range(200)]
    base = np.repeat(rng.random(50) < 0.9, 4)
    arm = np.where(np.repeat(rng.random(50) < 0.4, 4), False, base)
    one = base.copy()
    one[0] = not one[0]
    drawn, few = rate_differences(base.tolist(), np.stack([arm, one], axis=1), groups, "s")
    [alone] = rate_differences(base.tolist(), arm[:, None], [None] * 200, "s")
    assert (drawn.how, few.how, alone.how) == ("bootstrap", "newcombe over groups", "newcombe")
    assert drawn.high - drawn.low > 1.5 * (alone.high - alone.low)
    assert -0.2 < few.low < few.value < few.high < 0.2


def test_perplexity_is_that_of_all_tokens_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(3)
    tokens = rng.integers(3, 40, 60).astype(float)
    base = tokens * rng.normal(2, 0.3, 60)
    worse = base + 0.1 * tokens
    nll = np.stack([base, worse], axis=1)
    values = rates.log_perplexities(nll, tokens, [None] * 60, "s")
    assert values[0].value == pytest.approx(base.sum() / tokens.sum())
    assert values[0].low < values[0].value < values[0].high
    same, changed = rates.log_perplexity_differences(base, nll, tokens, [None] * 60, "s")
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert changed.value == pytest.approx(0.1, rel=1e-5)
    assert (changed.how, changed.low) == ("every unit alike: no interval", None) or changed.low == pytest.approx(
        0.1, abs=1e-3
    )


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.floats(-1, 1))
def test_p_is_the_share_of_sets_as_extreme_the_real_one_counted_in(others: list[float], own: float) -> None:
    place = place_among(own, others)
    assert place.n_as_extreme == sum(abs(other) >= abs(own) - 1e-12 for other in others)
    assert place.p == (place.n_as_extreme + 1) / (len(others) + 1) >= place.smallest_p == 1 / (len(others) + 1)
    assert math.isclose(place_among(2.0, [0.0] * 20).p, 1 / 21)


def test_without_prompts_there_is_no_rate_and_the_reason_is_said() -> None:
    assert rate([], [], "s").value is None
    [none] = rate_differences([], np.zeros((0, 1), dtype=bool), [], "s")
    assert (none.value, none.how) == (None, "no prompt to judge")
