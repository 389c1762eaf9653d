import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.study.exact import distances, holm, sign_flip, spread_test

figures = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 3))


def test_five_differences_of_one_sign_reach_two_of_thirty_two_and_no_less() -> None:
    found = sign_flip([1, 2, 3, 4, 5])
    assert (found.p, found.smallest_p, found.n_arrangements) == (2 / 32, 2 / 32, 32)


def test_a_sign_flip_counted_by_hand() -> None:
    # means of ±1 ±2 ±3 in absolute value: 2, 4/3, 2/3, 0 (and their mirror images); observed |1 - 2 + 3| / 3 = 2/3
    assert sign_flip([1, -2, 3]).p == 6 / 8
    assert sign_flip([1, 2, 3]).p == 2 / 8
    assert sign_flip([0, 0, 0]).p == 1


@given(st.lists(figures, min_size=2, max_size=8), st.floats(0.01, 100))
def test_a_sign_flip_knows_neither_sign_nor_order_nor_scale(values: list[float], factor: float) -> None:
    p = sign_flip(values).p
    assert p is not None
    assert 2 / 2 ** len(values) <= p <= 1
    assert sign_flip([-x for x in values]).p == p
    assert sign_flip(values[::-1]).p == p
    assert sign_flip([x * factor for x in values]).p == pytest.approx(p)


def test_many_seeds_are_drawn_and_the_draw_is_the_same_every_time() -> None:
    values = list(range(-3, 17))
    found = sign_flip(values)
    assert (found.exact, found.n_arrangements) == (False, 10_000)
    assert found == sign_flip(values)


def test_a_spread_counted_by_hand() -> None:
    # 2 + 2 runs: the deals {01|23}, {02|13}, {03|12} and their mirrors; aligned -1 1 | -3 3, distances 2 | 6
    found = spread_test(np.array([[4.0], [6.0]]), np.array([[0.0], [6.0]]))
    assert found.statistic == pytest.approx(math.log(3))
    # {02|13}: -1 -3 | 1 3 -> 2 | 2; {03|12}: -1 3 | 1 -3 -> 4 | 4; the observed and its mirror alone reach log 3
    assert found.p == pytest.approx(2 / 6)
    assert found.smallest_p == pytest.approx(2 / 6)


@given(st.lists(st.tuples(figures, figures), min_size=4, max_size=8), st.floats(-100, 100))
def test_a_spread_does_not_see_a_shift_and_turns_its_sign_with_the_arms(
    rows: list[tuple[float, float]], shift: float
) -> None:
    points = np.array(rows)
    first, second = points[:2], points[2:]
    found = spread_test(first, second)
    if found.p is None:
        return
    assert found.smallest_p is not None
    assert 0 < found.smallest_p <= found.p <= 1
    turned = spread_test(second, first)
    assert turned.p == pytest.approx(found.p)
    assert turned.statistic == pytest.approx(-found.statistic, abs=1e-6)
    moved = spread_test(first, second + round(shift, 2))
    assert moved.statistic == pytest.approx(found.statistic, abs=1e-3)


def test_runs_that_are_all_the_same_tell_nothing() -> None:
    found = spread_test(np.ones((5, 1)), np.ones((5, 1)))
    assert (found.p, found.why) == (None, "every run of an arm gave the same")
    assert spread_test(np.ones((1, 3)), np.ones((1, 3))).p is None


def test_one_arm_without_any_scatter_is_as_far_as_it_goes() -> None:
    found = spread_test(np.ones((5, 64)), np.random.default_rng(0).normal(size=(5, 64)))
    assert found.statistic == pytest.approx(300 * math.log(10))
    assert found.p == found.smallest_p


def test_two_arms_without_any_scatter_in_some_deal_scatter_alike_there() -> None:
    # 0 1 | 0 1: aligned -½ ½ | -½ ½; the deal {-½ -½ | ½ ½} leaves no scatter on either side: ratio 1, not 0 / 0
    found = spread_test(np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]]))
    assert (found.statistic, found.p, found.smallest_p) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("dim", [1, 64])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_under_equal_scatter_five_percent_or_fewer_fall_below_five_percent(dim: int, shift: float) -> None:
    rng = np.random.default_rng(dim)
    tried = 300
    below = 0
    for _ in range(tried):
        # exponential: skewed, which is where moving to the mean went wrong
        first, second = rng.exponential(size=(5, dim)), rng.exponential(size=(5, dim)) + shift
        p = spread_test(first, second).p
        assert p is not None
        below += p <= 0.05
    assert below / tried <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tried)


def test_a_planted_difference_in_scatter_is_found_with_enough_seeds() -> None:
    rng = np.random.default_rng(3)
    found = [spread_test(rng.normal(size=(12, 1)), 4 * rng.normal(size=(12, 1))) for _ in range(20)]
    assert sum(one.p <= 0.05 for one in found if one.p is not None) >= 17
    assert all(one.statistic is not None and one.statistic > 0 for one in found)
    maps = [spread_test(rng.normal(size=(5, 64)), 2 * rng.normal(size=(5, 64))) for _ in range(20)]
    assert all(one.p == one.smallest_p for one in maps)


def test_distances_of_runs_by_hand() -> None:
    assert distances(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])).tolist() == [[0, 5, 0], [5, 0, 5], [0, 5, 0]]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_and_keeps_the_order(ps: list[float]) -> None:
    found = holm(list(ps))
    assert all(after is not None and before <= after <= 1 for before, after in zip(ps, found, strict=True))
    assert [found[i] for i in sorted(range(len(ps)), key=ps.__getitem__)] == sorted(found)
