import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.comparison import Side, compare
from backend.domain.errors import InvalidInput
from backend.domain.side_by_side import MOST_SIDES, side_by_side
from tests.backend.domain.test_comparison import side

several = st.lists(st.integers(0, 500), min_size=2, max_size=MOST_SIDES)


@settings(deadline=None, max_examples=25)  # up to 28 comparisons, twice
@given(several)
def test_each_two_of_several_are_what_their_own_comparison_says(seeds: list[int]):
    sides = [side(seed) for seed in seeds]
    found = side_by_side(sides)
    assert len(found["pairs"]) == len(sides) * (len(sides) - 1) // 2
    for pair in found["pairs"]:
        own = compare(sides[pair["a"]], sides[pair["b"]])
        assert {name: pair[name] for name in ("drift", "correlation", "overlap")} == {
            name: own[name] for name in ("drift", "correlation", "overlap")
        }
    assert found["max_difference"] == pytest.approx(max(pair["drift"]["max_abs"] for pair in found["pairs"]))


@settings(deadline=None, max_examples=25)
@given(several)
def test_the_order_of_the_sides_changes_no_spread(seeds: list[int]):
    sides = [side(seed, missing=seed % 2 == 0) for seed in seeds]
    found, turned = side_by_side(sides), side_by_side(sides[::-1])
    assert [m["spread"] for m in found["movers"]] == [m["spread"] for m in turned["movers"]]
    assert found["max_abs"] == turned["max_abs"]
    for mover in found["movers"]:
        assert mover["spread"] == pytest.approx(max(mover["risk_diff"]) - min(mover["risk_diff"]))
        assert np.isfinite(mover["risk_diff"]).all()


def test_sides_of_other_models_are_refused_by_their_number():
    other = Side((1, 3), (6, 6), side(1).rates[:, :2])
    with pytest.raises(InvalidInput, match=r"Side 3 \(b\) does not go with side 1 \(a\).*only a has the MoE layers 4"):
        side_by_side([side(1), side(2), other])


def test_one_side_is_no_comparison():
    with pytest.raises(InvalidInput, match="Name 2 to 8 sides; these are 1"):
        side_by_side([side(1)])
