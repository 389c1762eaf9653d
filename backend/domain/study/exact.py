"""Exact tests for a handful of runs: sign flips of paired differences, and whether one arm scatters more.

A run is the unit: with n seeds there are n runs per arm, whatever the number of prompts in them. Where there are too
many arrangements to try all, some are drawn at random, the same ones every time. Not covered: which figures are tested
(findings.py), intervals (intervals.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from backend.domain.statistics.draws import random_bits

MOST_EXACT = 20_000
"""Arrangements up to which all are tried."""
N_DRAWN = 9_999
_NONE = 1e-300
_TIE = 1e-9
"""Figures within this part of the largest count as equal: sums in another order differ in their last digits."""

Points = NDArray[np.float64]
"""[run, dimension]: a single figure has one dimension, a map one per expert."""


@dataclass(frozen=True, slots=True)
class Tested:
    """The outcome of a test. statistic: what was compared; p: two-sided, the observed arrangement among those counted.

    smallest_p: the smallest p that could have come out with these runs. None: nothing can be told, `why` says why.
    """

    statistic: float | None
    p: float | None
    smallest_p: float | None
    n_arrangements: int
    exact: bool
    why: str = ""


def untestable(why: str) -> Tested:
    """Return a test that says why there is none."""
    return Tested(None, None, None, 0, exact=True, why=why)


def sign_flip(differences: Sequence[float]) -> Tested:
    """Test whether paired differences have mean 0: each is as likely to have the other sign. After: Fisher 1935.

    differences: one per seed. Two-sided; the smallest p is 2 / 2^n.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 2:
        return untestable("at least two seeds are needed")
    exact = n <= math.log2(MOST_EXACT)
    means = np.abs(_signs(n, exact=exact) @ values) / n
    return _among(float(values.mean()), means, 2 / 2**n, exact=exact)


def _signs(n: int, *, exact: bool) -> NDArray[np.float64]:
    """Return signs [arrangement, n], the observed arrangement (all plus) first."""
    if exact:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        bits = (random_bits("", "sign flips of a study", n, (N_DRAWN + 1, n)) >> np.uint64(63)).astype(np.int64)
        bits[0] = 0
    signs: NDArray[np.float64] = np.where(bits, -1.0, 1.0)
    return signs


def spread_test(first: Points, second: Points) -> Tested:
    """Test whether two arms scatter equally. first, second: [run, dimension].

    Each arm is moved to its own median, so that a difference of level is none of scatter; then the runs are dealt to
    the arms in all ways. The statistic is log(mean distance between the runs of the second arm / of the first): above
    0, the second scatters more. Moving to the median errs towards calling nothing different: under equal scatter, 0 to
    4 % of 5 + 5 runs fell below p = 0.05 (tests/backend/domain/study; moving to the mean gave up to 15 %).
    """
    n, m = len(first), len(second)
    if min(n, m) < 2:
        return untestable("at least two seeds are needed")
    aligned = np.concatenate([arm - np.median(arm, axis=0) for arm in (first, second)])
    apart = distances(aligned)
    if not apart.any():
        return untestable("every run of an arm gave the same")
    chosen, exact = _deals(n, n + m)
    sizes = np.stack([_mean_distance(apart, chosen), _mean_distance(apart, ~chosen)])
    # An arm whose runs are all the same scatters infinitely less; two such arms scatter alike.
    logs = np.log(np.maximum(sizes, sizes.max() * _NONE))
    ratios = logs[1] - logs[0]
    return _among(float(ratios[0]), np.abs(ratios), None, exact=exact)


def distances(points: Points) -> NDArray[np.float64]:
    """Return the Euclidean distance of every pair of runs [run, run]."""
    squares = np.sum(points**2, axis=1)
    gram = np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0.0)
    np.fill_diagonal(gram, 0.0)
    tiny = squares.max() * 1e-14  # what rounding leaves of two equal runs
    found: NDArray[np.float64] = np.sqrt(np.where(gram <= tiny, 0.0, gram))
    return found


def _deals(n: int, total: int) -> tuple[NDArray[np.bool_], bool]:
    """Return which runs are dealt to the first arm [arrangement, run], the observed deal first."""
    exact = math.comb(total, n) <= MOST_EXACT
    if exact:
        places = np.array(list(combinations(range(total), n)))
    else:
        places = np.argsort(random_bits("", "deals of a study", total, (N_DRAWN + 1, total)), axis=1)[:, :n]
        places[0] = np.arange(n)
    chosen = np.zeros((len(places), total), dtype=np.bool_)
    np.put_along_axis(chosen, places, values=True, axis=1)
    return chosen, exact


def _mean_distance(apart: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean distance between the chosen runs of each arrangement."""
    own = chosen.astype(np.float64)
    n = int(chosen[0].sum())
    found: NDArray[np.float64] = np.einsum("ai,ai->a", own @ apart, own) / (n * (n - 1))
    return found


def _among(statistic: float, sizes: NDArray[np.float64], smallest_p: float | None, *, exact: bool) -> Tested:
    """Place the observed arrangement (the first) among all. sizes: |statistic| of each, the observed one included."""
    room = _TIE * max(float(sizes.max()), 1e-300)
    p = float((sizes >= sizes[0] - room).mean())
    if smallest_p is None:  # ties can make fewer outcomes possible than there are arrangements
        smallest_p = float((sizes >= sizes.max() - room).mean())
    return Tested(statistic, p, max(smallest_p, 1 / len(sizes)), len(sizes), exact)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for their number (Holm 1979); None stays None and counts for nothing."""
    order = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    found: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        found[place] = largest
    return found
