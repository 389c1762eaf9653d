from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.context import PairSums, RoutedTokens, TokenSums, coactivation, contributions, top_pairs
from backend.domain.counts import BatchCounts
from backend.domain.errors import NoTokens
from backend.domain.risk import RiskSums
from backend.domain.vocabulary import Pool, Site

SITES = (Site(1, "a", 6, 3), Site(2, "b", 4, 2), Site(3, "c", 5, 1))
EXPERTS = [(site, expert) for site, spec in enumerate(SITES) for expert in range(spec.n_experts)]


@st.composite
def routed(draw: st.DrawFn, min_samples: int = 0) -> RoutedTokens:
    """Samples of random tokens out of a small vocabulary; every token goes to k different experts of each site."""
    lengths = draw(st.lists(st.integers(0, 9), min_size=min_samples, max_size=6))
    labels = draw(st.lists(st.integers(0, 1), min_size=len(lengths), max_size=len(lengths)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sample = np.repeat(np.arange(len(lengths)), lengths)
    n = len(sample)
    chosen = [rng.random((n, s.n_experts)).argsort(axis=1)[:, : s.top_k].astype(np.int32) for s in SITES]
    return RoutedTokens(rng.integers(0, 7, n) * 1000, sample, np.array(labels, dtype=np.int8), chosen)


def counts_of(tokens: RoutedTokens) -> BatchCounts:
    n, widest = len(tokens.labels), max(site.n_experts for site in SITES)
    counts = np.zeros((n, len(SITES), widest), np.int32)
    for site, chosen in enumerate(tokens.chosen):
        for sample, experts in zip(tokens.sample, chosen, strict=True):
            counts[sample, site, experts] += 1
    return BatchCounts(tokens.labels, np.bincount(tokens.sample, minlength=n), counts)


@given(routed())
def test_every_pair_of_experts_of_a_token_is_counted_and_not_neighbours_alone(tokens: RoutedTokens) -> None:
    sums = PairSums(SITES)
    sums.add(tokens)
    of_token = tokens.labels[tokens.sample]
    for spec, chosen, pairs in zip(SITES, tokens.chosen, sums.pairs, strict=True):
        slow: Counter[tuple[int, int, int]] = Counter()
        for label, experts in zip(of_token, chosen, strict=True):
            for a, b in combinations(sorted(experts.tolist()), 2):
                slow[int(label), a, b] += 1
        assert {key: pairs[key] for key in zip(*map(np.ndarray.tolist, np.nonzero(pairs)), strict=True)} == slow
        k = spec.top_k
        assert pairs.sum(axis=(1, 2)).tolist() == [int((of_token == code).sum()) * k * (k - 1) // 2 for code in (0, 1)]


@given(routed())
def test_row_sums_of_the_pairs_are_k_minus_one_times_the_count(tokens: RoutedTokens) -> None:
    sums = PairSums(SITES)
    sums.add(tokens)
    risk = RiskSums.of(counts_of(tokens))
    for site, (spec, pairs) in enumerate(zip(SITES, sums.pairs, strict=True)):
        rows = (pairs + pairs.transpose(0, 2, 1)).sum(axis=2)
        assert rows.tolist() == ((spec.top_k - 1) * risk.counts[:, site, : spec.n_experts]).tolist()


@given(routed())
def test_what_the_tokens_do_for_an_expert_adds_up_to_its_sums_to_the_last_unit(tokens: RoutedTokens) -> None:
    sums = TokenSums(EXPERTS)
    sums.add(tokens)
    risk = RiskSums.of(counts_of(tokens))
    assert sums.samples.tolist() == risk.samples.tolist()
    assert sums.tokens.tolist() == risk.tokens.tolist() == sums.occurrences.sum(axis=1).tolist()
    for column, (site, expert) in enumerate(EXPERTS):
        assert sums.hits[:, :, column].sum(axis=1).tolist() == risk.counts[:, site, expert].tolist()
        assert sums.shares[:, :, column].sum(axis=1).tolist() == risk.rate_sums[:, site, expert].tolist()
    assert (sums.hits <= sums.occurrences[:, :, None]).all()


@given(st.lists(routed(), min_size=1, max_size=3))
def test_parts_added_one_after_another_are_the_whole_in_any_order(parts: list[RoutedTokens]) -> None:
    found = []
    for order in (parts, parts[::-1]):
        pairs, sums = PairSums(SITES), TokenSums(EXPERTS)
        for part in order:
            pairs.add(part)
            sums.add(part)
        found.append([[p.tolist() for p in pairs.pairs], sums.ids.tolist(), sums.hits.tolist(), sums.shares.tolist()])
    assert found[0] == found[1]


@given(routed(min_samples=2), st.sampled_from(list(Pool)))
def test_contributions_of_all_tokens_add_up_to_the_risk_diff_of_the_pool(tokens: RoutedTokens, pool: Pool) -> None:
    sums = TokenSums(EXPERTS)
    sums.add(tokens)
    risk = RiskSums.of(counts_of(tokens))
    for column, (site, expert) in enumerate(EXPERTS):
        own = (sums.samples, sums.tokens, sums.hits[:, :, column], sums.shares[:, :, column])
        if not sums.tokens.all():
            with pytest.raises(NoTokens):
                contributions(*own, pool)
            continue
        found = contributions(*own, pool)
        assert found.risk_diff == risk.table(pool).risk_diff[site, expert]  # to the bit
        assert abs(found.values.sum() - found.risk_diff) < 1e-12
        exact = _exact(tokens, site, expert, pool)
        for id_, value in zip(sums.ids.tolist(), found.values.tolist(), strict=True):
            assert abs(exact.get(id_, Fraction(0)) - Fraction(value)) < Fraction(1, 10**9)
        assert found.concentration is None or 0 < found.concentration <= 1 + 1e-12


def _exact(tokens: RoutedTokens, site: int, expert: int, pool: Pool) -> dict[int, Fraction]:
    """Slow and obvious, in fractions: every hit contributes its prompt's, or its label's, share of one."""
    lengths = np.bincount(tokens.sample, minlength=len(tokens.labels))
    n_samples = [int(((tokens.labels == code) & (lengths > 0)).sum()) for code in (0, 1)]
    n_tokens = [int(lengths[tokens.labels == code].sum()) for code in (0, 1)]
    found: dict[int, Fraction] = {}
    for id_, sample, experts in zip(tokens.ids.tolist(), tokens.sample.tolist(), tokens.chosen[site], strict=True):
        code = int(tokens.labels[sample])
        weight = n_samples[code] * int(lengths[sample]) if pool is Pool.MEAN else n_tokens[code]
        if expert in experts:
            found[id_] = found.get(id_, Fraction(0)) + Fraction(1 if code else -1, weight)
    return found


@given(routed())
def test_the_pairs_that_independence_gives_are_as_many_as_there_are(tokens: RoutedTokens) -> None:
    sums = PairSums(SITES)
    sums.add(tokens)
    for spec, pairs in zip(SITES, sums.pairs, strict=True):
        found = coactivation(pairs.sum(axis=0), spec.top_k)
        assert (found.observed == found.observed.T).all()
        assert not np.diag(found.observed).any()
        assert found.expected.sum() == pytest.approx(found.observed.sum())
        for order in ("count", "excess", "lift"):
            chosen = top_pairs(found, order, 3, least_expected=0.1)
            assert len(chosen) == len(set(chosen)) <= 3
            assert all(a < b and found.observed[a, b] for a, b in chosen)


def test_lift_is_one_where_experts_pair_as_often_as_they_are_chosen_and_more_where_they_seek_each_other() -> None:
    even = np.triu(np.full((4, 4), 10), 1)
    assert np.allclose(coactivation(even, 2).lift[~np.eye(4, dtype=bool)], 1)
    friends = even.copy()
    friends[0, 1] = 100
    found = coactivation(friends, 2)
    assert top_pairs(found, "lift", 1) == top_pairs(found, "excess", 1) == top_pairs(found, "count", 1) == [(0, 1)]
    assert found.lift[0, 1] > 1 > found.lift[0, 2]


def test_a_pair_that_was_hardly_expected_is_not_the_first_by_lift() -> None:
    pairs = np.triu(np.full((5, 5), 60), 1)
    pairs[:, 4] = 0
    pairs[3, 4] = 2  # expert 4 was chosen twice, both times with expert 3
    found = coactivation(pairs, 2)
    assert found.lift[3, 4] > 2
    assert top_pairs(found, "lift", 1) != [(3, 4)]
    assert top_pairs(found, "lift", 1, least_expected=0) == [(3, 4)]
