import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.domain.errors import InvalidInput
from backend.domain.explanation.association import Association, associate, control_basis
from backend.domain.rank_correlation import spearman

small = st.integers(-5, 5).map(float)
NONE = np.zeros((0, 0))


def tables(rows: int) -> st.SearchStrategy[np.ndarray]:
    return st.integers(2, 12).flatmap(lambda n: arrays(np.float64, (rows, n), elements=small))


def look(table: np.ndarray, n_controls: int = 0, seed: str = "0", n: int = 99) -> Association:
    controls = table[-n_controls:] if n_controls else np.zeros((0, table.shape[1]))
    return associate(table[0], table[1 : len(table) - n_controls], controls, seed=seed, n_permutations=n)


@given(tables(4))
@settings(max_examples=60, deadline=None)
def test_the_plain_correlation_is_spearmans_and_without_controls_so_is_the_other(table: np.ndarray):
    found = look(table)
    for i, feature in enumerate(table[1:]):
        rho = spearman(table[0], feature)
        assert found.plain.rho[i] == pytest.approx(rho, abs=1e-12) if rho is not None else np.isnan(found.plain.rho[i])
    for name in ("rho", "p", "p_family"):
        assert getattr(found.beyond, name) == pytest.approx(getattr(found.plain, name), abs=1e-9, nan_ok=True)


@given(tables(5))
@settings(max_examples=60, deadline=None)
def test_p_is_never_zero_never_above_one_and_never_smaller_over_all_features_than_alone(table: np.ndarray):
    found = look(table, 2)
    for part in (found.plain, found.beyond):
        there = ~np.isnan(part.rho)
        assert (np.isnan(part.p) == ~there).all()
        assert (np.abs(part.rho[there]) <= 1).all()
        assert (part.p[there] >= found.smallest_p - 1e-12).all()
        assert (part.p_family[there] >= part.p[there] - 1e-12).all()
        assert (part.p_family[there] <= 1).all()


@given(tables(5))
@settings(max_examples=60, deadline=None)
def test_only_the_order_of_values_matters(table: np.ndarray):
    bent = np.sign(table) * np.abs(table) ** 3 + 7
    one, other = look(table, 1), look(bent, 1)
    for part in ("plain", "beyond"):
        for name in ("rho", "p", "p_family"):
            bent_figure, figure = getattr(getattr(other, part), name), getattr(getattr(one, part), name)
            assert bent_figure == pytest.approx(figure, abs=1e-9, nan_ok=True)


@given(tables(4), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_in_which_batches_are_given_changes_no_correlation(table: np.ndarray, random):
    order = list(range(table.shape[1]))
    random.shuffle(order)
    for part in ("plain", "beyond"):
        found = getattr(look(table[:, order], 1), part).rho
        assert found == pytest.approx(getattr(look(table, 1), part).rho, abs=1e-6, nan_ok=True)


def test_the_same_seed_gives_the_same_p_and_another_seed_another():
    table = np.random.default_rng(0).normal(size=(4, 30))
    assert (look(table, 1).beyond.p == look(table, 1).beyond.p).all()
    assert (look(table, 1).beyond.p != look(table, 1, seed="1").beyond.p).any()


def test_a_constant_feature_has_no_figure_and_does_not_count_in_the_family():
    table = np.random.default_rng(1).normal(size=(3, 30))
    alone = look(table[:2])
    table[2] = 4.0
    both = look(table)
    assert np.isnan([both.plain.rho[1], both.plain.p[1], both.plain.p_family[1], both.beyond.p[1]]).all()
    assert both.plain.p_family[0] == alone.plain.p_family[0] == alone.plain.p[0]


@pytest.mark.parametrize("n", [30, 120])
def test_what_is_a_control_itself_or_rises_with_one_cannot_be_told_from_it(n: int):
    table = np.random.default_rng(2).normal(size=(4, n))
    table[1] = np.exp(table[3])
    found = look(table, 2)
    assert np.isnan(found.beyond.rho[0])
    assert not np.isnan(found.plain.rho[0])


def test_an_outcome_that_the_controls_settle_leaves_nothing_to_go_with():
    table = np.random.default_rng(3).normal(size=(3, 30))
    table[0] = 2 * table[2] + 1
    assert np.isnan(look(table, 1).beyond.p).all()


def test_controls_that_tell_the_same_count_once():
    control = np.random.default_rng(4).normal(size=20)
    assert control_basis(np.array([control, control])).shape == (20, 1)
    assert control_basis(np.zeros((2, 20))).shape == (20, 0)
    assert control_basis(np.zeros((0, 20))).shape == (20, 0)


def test_without_any_effect_p_is_spread_evenly_and_the_family_errs_no_more_than_it_says():
    rng = np.random.default_rng(5)
    alone, family = [], []
    for seed in range(400):
        table = rng.normal(size=(6, 20))
        table[1] += table[4]  # a feature that goes with a control, not with the outcome
        table[0] += table[4]
        found = look(table, 2, str(seed))
        alone.extend(found.beyond.p)
        family.append(found.beyond.p_family.min())
    for limit in (0.05, 0.25, 0.5, 0.75):
        assert np.mean(np.array(alone) <= limit) == pytest.approx(limit, abs=0.045)
    assert np.mean(np.array(family) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize(("n", "permutations"), [(1, 9), (9, 0)])
def test_too_little_to_exchange_is_refused(n: int, permutations: int):
    with pytest.raises(InvalidInput):
        associate(np.ones(n), np.ones((1, n)), np.zeros((0, n)), seed="0", n_permutations=permutations)
