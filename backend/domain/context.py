"""Experts in context, token by token: which experts work on the same token, and which tokens drive an expert.

Everything added up is a whole number, so the order of adding never changes a bit. What the tokens of an expert
contribute adds up to its risk_diff exactly: a prompt's rate is dealt out to its distinct tokens without remainder.
After: risk_diff, domain.md §4. Not covered: load and drift, which counts alone tell (statistics/context.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.domain.errors import NoTokens
from backend.domain.noise import RATE_SCALE, fixed_rates
from backend.domain.vocabulary import LABELS, Pool, Site

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Place = tuple[int, int]
"""(position of the site among the model's MoE sites, expert)"""


@dataclass(frozen=True, slots=True, eq=False)
class RoutedTokens:
    """The counted tokens of some samples, sample after sample.

    ids: int64 [token]. sample: int64 [token], which sample each belongs to. labels: int8 [sample], 0 safe, 1 unsafe.
    chosen: per site, [token, k], the experts each was sent to.
    """

    ids: Ints
    sample: Ints
    labels: NDArray[np.int8]
    chosen: Sequence[NDArray[np.integer]]


class PairSums:
    """How often two experts of one site were chosen for the same token: all k(k-1)/2 pairs of it, not neighbours alone.

    pairs: per site, int64 [label, a, b] with a < b; the other half of the matrix is its mirror image.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.pairs = [np.zeros((len(LABELS), site.n_experts, site.n_experts), np.int64) for site in sites]

    def add(self, tokens: RoutedTokens) -> None:
        """Count the pairs of these tokens."""
        label = tokens.labels[tokens.sample].astype(np.int64)[:, None]
        for total, chosen in zip(self.pairs, tokens.chosen, strict=True):
            n_experts = total.shape[1]
            first, second = np.triu_indices(chosen.shape[1], 1)
            ordered = np.sort(chosen.astype(np.int64), axis=1)
            cell = (label * n_experts + ordered[:, first]) * n_experts + ordered[:, second]
            np.add(total, np.bincount(cell.ravel(), minlength=total.size).reshape(total.shape), out=total)


class TokenSums:
    """What every distinct token id did for some chosen experts.

    experts: which. samples, tokens: int64 [label], samples with a counted token and their tokens. ids: int64 [id],
    ascending. occurrences: int64 [label, id]. hits: int64 [label, id, expert], occurrences sent to the expert. shares:
    int64 likewise, the sum over prompts of hits / tokens of the prompt in units of 1 / RATE_SCALE.
    """

    def __init__(self, experts: Sequence[Place]) -> None:
        self.experts = tuple(experts)
        self.samples, self.tokens = np.zeros(len(LABELS), np.int64), np.zeros(len(LABELS), np.int64)
        self.ids = np.zeros(0, np.int64)
        self.occurrences = np.zeros((len(LABELS), 0), np.int64)
        self.hits = np.zeros((len(LABELS), 0, len(self.experts)), np.int64)
        self.shares = np.zeros_like(self.hits)

    def add(self, tokens: RoutedTokens) -> None:
        """Add these tokens. A sample is added whole: its rates are dealt out over all of its tokens."""
        lengths = np.bincount(tokens.sample, minlength=len(tokens.labels))
        for code in range(len(LABELS)):
            own = lengths[tokens.labels == code]
            self.samples[code] += int((own > 0).sum())
            self.tokens[code] += int(own.sum())
        if not len(tokens.ids):
            return
        self._know(np.unique(tokens.ids))
        order = np.lexsort((tokens.ids, tokens.sample))
        ids, sample = tokens.ids[order], tokens.sample[order]
        hit = _hits(tokens, self.experts)[order]
        last = np.flatnonzero(np.append((np.diff(ids) != 0) | (np.diff(sample) != 0), True))  # of each id in a sample
        ids, sample = ids[last], sample[last]
        # Rates are dealt out by the running count, so that rounding never loses or adds a unit to a prompt's rate.
        running = np.cumsum(hit, axis=0, dtype=np.int64)[last]
        opens = np.append(True, np.diff(sample) != 0)
        before = np.vstack([np.zeros_like(running[:1]), running[:-1]])
        of_sample = running - before[opens][np.cumsum(opens) - 1]
        units = fixed_rates(of_sample, lengths[sample])
        place, label = np.searchsorted(self.ids, ids), tokens.labels[sample]
        np.add.at(self.occurrences, (label, place), np.diff(last, prepend=-1))
        np.add.at(self.hits, (label, place), running - before)
        np.add.at(self.shares, (label, place), np.where(opens[:, None], units, np.diff(units, axis=0, prepend=0)))

    def _know(self, ids: Ints) -> None:
        """Make room for these token ids."""
        known = np.union1d(self.ids, ids)
        if len(known) == len(self.ids):
            return
        place = np.searchsorted(known, self.ids)
        for name in ("occurrences", "hits", "shares"):
            old = getattr(self, name)
            new = np.zeros((old.shape[0], len(known), *old.shape[2:]), np.int64)
            new[:, place] = old
            setattr(self, name, new)
        self.ids = known


def _hits(tokens: RoutedTokens, experts: Sequence[Place]) -> NDArray[np.bool_]:
    """Return bool [token, expert]: whether a token was sent to each of these experts."""
    hit = np.zeros((len(tokens.ids), len(experts)), dtype=np.bool_)
    for site, chosen in enumerate(tokens.chosen):
        columns = [i for i, place in enumerate(experts) if place[0] == site]
        if columns:
            wanted = np.array([experts[i][1] for i in columns])
            width = int(max(wanted.max(), chosen.max(initial=0))) + 1
            reached = np.zeros((len(chosen), width), dtype=np.bool_)
            np.put_along_axis(reached, chosen.astype(np.int64), True, axis=1)
            hit[:, columns] = reached[:, wanted]
    return hit


@dataclass(frozen=True, slots=True, eq=False)
class Contributions:
    """What each token id contributes to one expert's risk_diff. values: float64 [id]; they add up to `risk_diff`.

    concentration: share of the five largest |values| in the sum of all of them; None where all are zero.
    """

    values: Floats
    risk_diff: float
    concentration: float | None


def contributions(samples: Ints, tokens: Ints, hits: Ints, shares: Ints, pool: Pool) -> Contributions:
    """Return the contributions of all token ids to one expert. samples, tokens: [label]; hits, shares: [label, id].

    pooled: hits / tokens of the label; mean: the sum over prompts of hits / tokens of the prompt, over the label's
    prompts; unsafe less safe. Raises NoTokens where a label has no counted token.
    """
    for label, n in zip(LABELS, tokens, strict=True):
        if not n:
            raise NoTokens(f"No token of an {label} sample was counted here, so there is no risk_diff to explain.")
    parts, size = (shares, samples * float(RATE_SCALE)) if pool is Pool.MEAN else (hits, tokens.astype(np.float64))
    safe, unsafe = parts / size[:, None]
    values = unsafe - safe
    sizes = np.sort(np.abs(values))[::-1]
    total = float(sizes.sum())
    rate_safe, rate_unsafe = parts.sum(axis=1) / size
    return Contributions(values, float(rate_unsafe - rate_safe), float(sizes[:5].sum()) / total if total else None)


@dataclass(frozen=True, slots=True, eq=False)
class Coactivation:
    """Pairs of experts of one site. observed: int64 [a, b], symmetric, zero where a = b: tokens sent to both.

    expected: float64 [a, b], what independence would give. lift: observed / expected, NaN where nothing is expected.
    """

    observed: Ints
    expected: Floats
    lift: Floats


def coactivation(upper: Ints, top_k: int) -> Coactivation:
    """Return the co-activation of a site from its pairs [a, b] with a < b.

    expected(a, b) = P x count_a x count_b / sum over all pairs i < j of count_i x count_j, where P is the number of
    pairs there are (tokens x k(k-1)/2): the pairs, dealt out in proportion to how often both experts are chosen at all.
    """
    observed = upper + upper.T
    counts = observed.sum(axis=1) / max(top_k - 1, 1)
    products = np.outer(counts, counts)
    np.fill_diagonal(products, 0.0)
    total = products.sum() / 2
    expected = products * (upper.sum() / total if total else 0.0)
    lift = np.divide(observed, expected, out=np.full_like(expected, np.nan), where=expected > 0)
    return Coactivation(observed, expected, lift)


def top_pairs(found: Coactivation, order: str, n: int, least_expected: float = 5.0) -> list[Place]:
    """Return the n first pairs (a, b), a < b, by `count`, `excess` (observed - expected) or `lift`.

    By lift only pairs of which at least `least_expected` were expected take part: rare ones jump for nothing.
    """
    first, second = np.triu_indices(len(found.observed), 1)
    observed, expected = found.observed[first, second], found.expected[first, second]
    keys = {"count": observed.astype(np.float64), "excess": observed - expected}
    if order == "lift":
        keys["lift"] = np.where(expected >= least_expected, found.lift[first, second], -np.inf)
    best = np.argsort(-keys[order], kind="stable")[:n]
    kept = [i for i in best.tolist() if observed[i] > 0 and np.isfinite(keys[order][i])]
    return [(int(first[i]), int(second[i])) for i in kept]
