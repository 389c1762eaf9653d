import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.study.intervals import chi_square_quantile, spread, t_quantile


@pytest.mark.parametrize(("df", "t"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (30, 2.0423)])
def test_quantiles_of_t_are_those_of_the_tables(df: int, t: float) -> None:
    assert t_quantile(0.975, df) == pytest.approx(t, abs=5e-5)
    assert t_quantile(0.025, df) == pytest.approx(-t, abs=5e-5)


@pytest.mark.parametrize(
    ("q", "df", "x"), [(0.95, 1, 3.8415), (0.975, 4, 11.1433), (0.025, 4, 0.4844), (0.5, 100, 99.3341)]
)
def test_quantiles_of_chi_square_are_those_of_the_tables(q: float, df: int, x: float) -> None:
    assert chi_square_quantile(q, df) == pytest.approx(x, abs=5e-5)


def test_one_to_five_by_hand() -> None:
    found = spread([1, 2, 3, 4, 5])
    half = 2.7764451 * math.sqrt(2.5) / math.sqrt(5)
    assert (found.mean, found.sd) == (3, math.sqrt(2.5))
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    assert (found.sd_low, found.sd_high) == pytest.approx((math.sqrt(10 / 11.143287), math.sqrt(10 / 0.48441856)))


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert spread([2.0]).mean == 2
    assert spread([2.0]).sd is None
    assert spread([]).mean is None


@given(st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=2, max_size=12))
def test_a_mean_and_a_deviation_lie_inside_their_intervals(values: list[float]) -> None:
    found = spread(values)
    assert found.low is not None
    assert found.low <= found.mean <= found.high
    assert found.sd_low <= found.sd <= found.sd_high
