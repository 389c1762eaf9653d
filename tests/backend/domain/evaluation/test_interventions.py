from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.errors import InvalidInput, NotSupported
from backend.domain.evaluation.interventions import (
    Drawn,
    Family,
    _bins,
    by_layer,
    check_deactivate,
    check_possible,
    load_share,
    matched_sets,
    random_sets,
    used_for_activate,
)
from backend.domain.vocabulary import Expert, Site

SITES = tuple(Site(layer, f"l{layer}", 16, 2) for layer in (1, 2, 5))
LOAD = {(layer, expert): float((expert * 7 + layer) % 16) ** 2 for layer in (1, 2, 5) for expert in range(16)}
experts = st.sets(st.tuples(st.sampled_from((1, 2, 5)), st.integers(0, 15)), min_size=1, max_size=12)


def per_layer(chosen: tuple[Expert, ...]) -> Counter[int]:
    return Counter(layer for layer, _ in chosen)


@given(experts, st.integers(1, 12), st.integers(0, 2**31 - 1))
def test_random_sets_have_the_sizes_of_the_real_one_are_never_it_and_never_the_same(chosen, n, seed):
    real = tuple(sorted(chosen))
    drawn = random_sets(real, SITES, n, seed)
    assert len(drawn.sets) == min(n, drawn.n_possible)
    assert len(set(drawn.sets)) == len(drawn.sets)
    assert real not in drawn.sets
    for one in drawn.sets:
        assert per_layer(one) == per_layer(real)
        assert len(set(one)) == len(one)
    assert random_sets(real, SITES, n, seed) == drawn


@given(experts, st.integers(1, 12), st.integers(0, 2**31 - 1))
def test_load_matched_sets_also_take_as_many_from_every_bin_of_load(chosen, n, seed):
    real = tuple(sorted(chosen))
    drawn = matched_sets(real, SITES, LOAD, n, seed)
    assert len(drawn.sets) == min(n, drawn.n_possible)
    assert real not in drawn.sets

    def bins(own: tuple[Expert, ...]) -> Counter[tuple[int, int]]:
        found: Counter[tuple[int, int]] = Counter()
        for layer in (1, 2, 5):
            ranked = sorted(range(16), key=lambda e: (LOAD[layer, e], e))
            for number, members in enumerate(_bins(ranked)):
                found[layer, number] = len(set(members) & set(by_layer(own).get(layer, ())))
        return found

    assert all(bins(one) == bins(real) for one in drawn.sets)


def test_load_matched_sets_carry_about_the_load_of_the_real_one_and_random_ones_do_not():
    heavy = tuple((layer, e) for layer in (1, 2, 5) for e in sorted(range(16), key=lambda e: -LOAD[layer, e])[:2])
    real = load_share(heavy, LOAD)
    assert real is not None

    def mean(drawn: Drawn) -> float:
        return sum(load_share(one, LOAD) or 0 for one in drawn.sets) / len(drawn.sets)

    matched, random = mean(matched_sets(heavy, SITES, LOAD, 50, 0)), mean(random_sets(heavy, SITES, 50, 0))
    assert abs(matched - real) < abs(random - real) / 2


def test_every_other_set_is_drawn_where_there_are_few():
    few = (Site(0, "a", 4, 1),)
    drawn = random_sets([(0, 2)], few, 20, 0)
    assert drawn == Drawn((((0, 0),), ((0, 1),), ((0, 3),)), 3)
    none = random_sets([(0, e) for e in range(4)], few, 20, 0)
    assert none.sets == ()
    with pytest.raises(InvalidInput, match="no other set"):
        check_possible(none, Family.RANDOM)


def test_random_sets_are_drawn_evenly():
    drawn = [random_sets([(1, 0)], SITES, 1, seed).sets[0][0][1] for seed in range(1500)]
    times = Counter(drawn)
    assert set(times) == set(range(1, 16))
    assert all(60 < n < 145 for n in times.values()), times


def test_a_layer_needs_top_k_experts_that_are_left():
    check_deactivate([(1, e) for e in range(14)], SITES)
    with pytest.raises(NotSupported, match="Layer 2 has 16 experts"):
        check_deactivate([(2, e) for e in range(15)], SITES)


def test_a_layer_with_two_sites_counts_by_the_narrower_one():
    two = (Site(0, "a", 8, 2), Site(0, "b", 6, 3))
    with pytest.raises(NotSupported):
        check_deactivate([(0, e) for e in range(4)], two)
    assert all(expert < 6 for one in random_sets([(0, 1)], two, 5, 0).sets for _, expert in one)


def test_at_most_top_k_of_a_layer_are_activated_the_strongest_first():
    chosen = [(1, 3), (1, 4), (1, 9), (5, 0)]
    used, left = used_for_activate(chosen, SITES, {(1, 9): 0.5, (1, 3): 0.1, (1, 4): 0.1})
    assert used == ((1, 3), (1, 9), (5, 0))
    assert left == ((1, 4),)
