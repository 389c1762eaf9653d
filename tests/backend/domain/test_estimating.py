import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.estimating import ALONE, Past, reading_bytes, seconds, training_bytes

paces = st.floats(1e-3, 1e3)
runs = st.lists(st.builds(Past, seconds=st.floats(0.1, 1e4), work=st.floats(1, 1e6)), min_size=2, max_size=10)


@given(runs, st.floats(1, 1e6))
def test_every_pace_that_was_seen_lies_inside_the_range(past: list[Past], work: float):
    found = seconds(past, work)
    assert found is not None
    for run in past:
        at_that_pace = run.seconds / run.work * work
        assert found.low * (1 - 1e-9) <= at_that_pace <= found.high * (1 + 1e-9)


@given(runs, st.floats(1, 1e6), st.floats(1, 10))
def test_what_differs_only_widens_the_range(past: list[Past], work: float, widen: float):
    narrow, wide = seconds(past, work), seconds(past, work, widen=widen)
    assert narrow is not None
    assert wide is not None
    assert wide.low <= narrow.low * (1 + 1e-9)
    assert wide.high >= narrow.high * (1 - 1e-9)


def test_nothing_to_go_by_is_no_estimate():
    assert seconds([], 100) is None
    assert seconds([Past(0.0, 10)], 100) is None


def test_one_run_alone_says_how_little_it_tells():
    found = seconds([Past(10.0, 100)], 200)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(20 / ALONE), pytest.approx(20 * ALONE))


@given(st.integers(1, 10**12), st.floats(0, 1), st.sampled_from(["auto", "float32", "bfloat16", "float16"]))
def test_training_takes_at_least_what_reading_does_and_more_for_more_that_learns(n: int, share: float, dtype: str):
    read, some, all_of_it = reading_bytes(n, dtype), training_bytes(n, share), training_bytes(n, 1.0)
    assert read.low <= read.high
    assert some.low <= some.high
    assert (some.low, some.high) <= (all_of_it.low, all_of_it.high)
    assert reading_bytes(n, "bfloat16").low <= some.low
