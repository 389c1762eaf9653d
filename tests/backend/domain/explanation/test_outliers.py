import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.explanation.outliers import rests


def made(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    controls = rng.normal(size=(3, n))
    return 2 * controls[0].argsort().argsort() / n + 0.1 * rng.normal(size=n), controls


@given(st.integers(0, 10**6), st.sampled_from([-1.0, 1.0]), st.integers(0, 39))
@settings(max_examples=40, deadline=None)
def test_a_batch_far_from_what_was_foretold_is_named_with_its_side(seed: int, side: float, place: int):
    outcome, controls = made(seed)
    outcome[place] += 5 * side
    found = rests(outcome, controls)
    assert found.unusual[place]
    assert np.sign(found.z[place]) == side
    assert found.unusual.sum() <= 4


def test_where_nothing_stands_out_hardly_a_run_names_a_batch():
    named = [rests(*made(seed)).unusual.any() for seed in range(300)]
    assert np.mean(named) < 0.15


def test_a_high_first_loss_alone_makes_no_batch_unusual():
    rng = np.random.default_rng(0)
    first = np.r_[rng.lognormal(0, 0.4, 39), 9.0]
    outcome = first * (0.6 + 0.02 * rng.normal(size=40))
    highest = int(first.argmax())
    assert rests(outcome, np.zeros((0, 40))).unusual[highest]
    assert not rests(outcome, first[None]).unusual[highest]


@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(-10, 10))
@settings(max_examples=40, deadline=None)
def test_the_unit_of_the_loss_does_not_matter(seed: int, scale: float, shift: float):
    outcome, controls = made(seed)
    assert rests(scale * (outcome + shift), controls).z == pytest.approx(rests(outcome, controls).z, abs=1e-2)


@pytest.mark.parametrize("outcome", [np.zeros(20), np.full(20, 1.5), np.r_[np.zeros(19), 1.0]])
def test_where_most_batches_do_not_differ_there_is_no_scale_and_no_outlier(outcome: np.ndarray):
    found = rests(outcome, np.random.default_rng(0).normal(size=(3, 20)))
    assert not found.unusual[:-1].any()
    assert np.isfinite(found.expected).all()


def test_without_controls_the_median_is_expected():
    outcome = np.r_[np.arange(29.0), 300.0]
    found = rests(outcome, np.zeros((0, 30)))
    assert found.unusual.tolist() == [False] * 29 + [True]


def test_among_a_handful_none_is_unusual():
    assert not rests(np.r_[np.arange(18.0), 300.0], np.zeros((0, 19))).unusual.any()
