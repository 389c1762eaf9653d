import numpy as np
import pytest

from backend.domain.comparison_intervals import difference_intervals, difference_units
from backend.domain.errors import InvalidInput
from backend.domain.statistics.resampling import risk_diffs, units_of
from backend.domain.statistics.samples import Samples, risk_diff, samples_of, samples_of_rates
from backend.domain.vocabulary import Pool

SHAPE = (2, 4)


def two_sides(
    seed: int, n: int = 60, *, drift: float = 0.0, noise: float = 0.03, topic: float = 0.1, groups: bool = False
) -> tuple[Samples, Samples]:
    """Rates of the same n prompts on two models: what a prompt is about shows on both; `drift` moves one expert."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    names = [f"g{i // 4}" for i in range(n)] if groups else None
    common = 0.5 + topic * rng.normal(size=(n, *SHAPE))
    moved = np.zeros(SHAPE)
    moved[0, 1] = drift
    b = common + noise * rng.normal(size=common.shape) + moved * labels[:, None, None]
    a = common + noise * rng.normal(size=common.shape)
    return tuple(samples_of_rates(own, labels, groups=names) for own in (a, b))  # type: ignore[return-value]


def intervals(a: Samples, b: Samples, *, paired: bool = True, seed: str = "s", **more):
    return difference_intervals(a, b, (4, 4), paired=paired, seed=seed, n_resamples=399, **more)


@pytest.mark.parametrize("paired", [True, False])
def test_the_estimate_is_the_difference_of_the_risk_diffs(paired: bool):
    a, b = two_sides(0, drift=0.2)
    found = intervals(a, b, paired=paired)
    np.testing.assert_allclose(found.estimate, risk_diff(b) - risk_diff(a), atol=1e-9)
    assert (found.low < found.estimate).all()
    assert (found.estimate < found.high).all()
    assert found.low[0, 1] > 0.1


@pytest.mark.parametrize("pool", Pool)
def test_a_paired_unit_moves_the_difference_as_drawn_anew(pool: Pool):
    rng = np.random.default_rng(3)
    labels, tokens = np.arange(40) % 2, rng.integers(5, 30, 40)
    groups = [f"g{i // 3}" for i in range(40)]
    a, b = (
        samples_of(rng.binomial(tokens[:, None, None], 0.3, (40, *SHAPE)), tokens, labels, groups=groups, pool=pool)
        for _ in range(2)
    )
    units = difference_units(a, b, paired=True)
    counts = np.ones((1, len(units.kind)), dtype=np.float32)
    counts[0, :2] = 2, 0
    exact = (risk_diffs(b, counts) - risk_diffs(a, counts))[0]
    linear = units.estimate + (counts @ units.influence)[0] * units.scale
    np.testing.assert_allclose(linear, exact, atol=0.01)


def test_pairing_takes_out_what_the_prompts_share():
    for groups in (False, True):
        a, b = two_sides(1, groups=groups)
        widths = [(own.high - own.low).mean() for own in (intervals(a, b, paired=paired) for paired in (True, False))]
        assert widths[0] < 0.5 * widths[1]


def test_without_a_common_part_pairing_gains_nothing_and_costs_little():
    a, b = two_sides(2, n=200, topic=0.0)
    widths = [(own.high - own.low).mean() for own in (intervals(a, b, paired=paired) for paired in (True, False))]
    assert widths[0] == pytest.approx(widths[1], rel=0.15)


def test_exchanging_the_sides_turns_the_intervals():
    a, b = two_sides(4, drift=0.1)
    there, back = intervals(a, b), intervals(b, a)
    np.testing.assert_allclose(there.low, -back.high, atol=1e-6)
    np.testing.assert_allclose(there.drift[0]["corrected"], back.drift[0]["corrected"], atol=1e-9)
    np.testing.assert_allclose(there.drift[None]["high"], back.drift[None]["high"], rtol=1e-3)


def test_a_comparison_with_itself_has_no_drift_and_no_interval():
    a, _ = two_sides(5)
    found = intervals(a, a)
    assert (found.estimate == 0).all()
    assert np.isnan(found.low).all()
    assert found.drift[None] == {"corrected": 0, "low": 0, "high": 0, "noise": 0}


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """300 pairs of measurements: 2 x 4 experts each, one of which truly moved by 0.05."""
    truth = np.zeros(SHAPE)
    truth[0, 1] = 0.05
    hits = {True: [], False: []}
    for seed in range(300):
        a, b = two_sides(seed, n=40, drift=0.05)
        for paired in (True, False):
            found = intervals(a, b, paired=paired, seed=str(seed))
            hits[paired].append((found.low <= truth) & (truth <= found.high))
    assert 0.93 < np.mean(hits[True]) < 0.975
    assert np.mean(hits[False]) > 0.95, "unpaired intervals of paired data are too wide, never too narrow"


@pytest.mark.parametrize("drift", [0.0, 0.03, 0.2])
def test_the_drift_of_a_layer_is_covered_with_and_without_drift(drift: float):
    truth = [drift / 2, 0.0]  # root mean square over 4 experts, one of which moved
    covered, plain, corrected = [], [], []
    for seed in range(200):
        a, b = two_sides(seed, n=40, drift=drift)
        found = intervals(a, b, seed=str(seed))
        covered.append([found.drift[site]["low"] <= truth[site] <= found.drift[site]["high"] for site in (0, 1)])
        plain.append(float(np.sqrt((found.estimate[0] ** 2).mean())))
        corrected.append(found.drift[0]["corrected"] ** 2)
    moved, still = np.mean(covered, axis=0)
    assert moved > 0.9
    assert still > 0.97, "where nothing drifted the interval begins at 0"
    if drift:
        assert abs(np.sqrt(np.mean(corrected)) - truth[0]) < 0.002
    else:
        assert np.mean(np.array(corrected) == 0) > 0.4, "never below zero, so half of the time nothing is left"
    assert np.mean(plain) > truth[0], "noise alone makes the plain figure too large"


def test_too_few_units_give_no_interval_and_say_why():
    a, b = two_sides(0, n=8)
    found = intervals(a, b)
    assert np.isnan(found.low).all()
    assert "only 4 units" in found.reason
    assert found.drift == {}
    far, near = two_sides(0, n=60)[0], two_sides(0, n=8)[1]
    assert "only 4 units" in intervals(far, near, paired=False).reason


def test_sides_that_are_not_the_same_prompts_cannot_be_paired():
    a, b = two_sides(0)
    other = samples_of_rates(b.as_table(b.numerators)[::-1], b.labels[::-1])
    with pytest.raises(InvalidInput, match="same prompts"):
        intervals(a, other)
    with pytest.raises(InvalidInput, match="resamples"):
        difference_intervals(a, b, (4, 4), paired=True, seed="s", n_resamples=50)


def test_the_same_seed_gives_the_same_intervals():
    a, b = two_sides(6)
    one, again, other = (intervals(a, b, seed=seed) for seed in ("x", "x", "y"))
    np.testing.assert_array_equal(one.low, again.low)
    assert one.drift == again.drift
    assert (one.low != other.low).any()
    assert units_of(a).kind.shape == (60,)
