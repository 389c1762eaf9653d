"""Rates of behaviour and their intervals: in closed form where every prompt stands for itself, else by drawing groups.

Differences to a baseline are paired: the same prompts under both. Group intervals, and those of perplexities, are the
studentised ones of bootstrap.py, given the two arms as its two labels. Not covered: what was judged, and by whom.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from backend.domain.statistics.bootstrap import FEWEST_UNITS, bootstrap_intervals
from backend.domain.statistics.samples import samples_of, samples_of_rates
from backend.domain.vocabulary import Pool

LEVEL = 0.95
FEWEST_CHANGED = 10
"""Groups that must change for their bootstrap to be trusted."""
N_RESAMPLES = 1999
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval. None: it cannot be given (`how` says why). n: prompts; n_units: units of resampling.

    how: wilson, newcombe or bootstrap, over groups where prompts share them; or a reason.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_units: int
    how: str


def nothing(why: str) -> Estimate:
    """Return an estimate that says why there is none."""
    return Estimate(None, None, None, 0, 0, why)


def wilson(successes: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval of a rate. n: > 0."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half))  # rounding: 0 of n is inside


def newcombe(both: float, first: float, second: float, neither: float) -> tuple[float, float]:
    """Return the interval of rate(first) − rate(second) for paired yes and no. After: Newcombe 1998, method 10.

    both, first, second, neither: how many pairs said yes to both, to the first alone, to the second alone, to none.
    """
    n = both + first + second + neither
    one, two = (both + first) / n, (both + second) / n
    (low1, high1), (low2, high2) = wilson(both + first, n), wilson(both + second, n)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    product = both * neither - first * second
    phi = (max(product - n / 2, 0) if product > 0 else product) / math.sqrt(margins) if margins else 0.0

    def half(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    middle = one - two
    return max(-1.0, middle - half(one - low1, high2 - two)), min(1.0, middle + half(high1 - one, two - low2))


def rate(hits: Sequence[bool], groups: Sequence[str | None], seed: str) -> Estimate:
    """Return how often something is so, over prompts. groups: the group of each, None where it has none.

    Where groups bind prompts together they are the units: drawn anew; where nothing varies between them, Wilson's
    interval with their number.
    """
    if not hits:
        return nothing("no prompt to judge")
    n, n_units = len(hits), _n_units(groups)
    value = float(sum(hits)) / n
    if n_units == n:
        return Estimate(value, *wilson(sum(hits), n), n, n, "wilson")
    own = np.asarray(hits, dtype=np.float32)[:, None]
    found = _against(np.zeros_like(own), own, np.ones(n), groups, seed)[0]
    if found.low is None or found.high is None:
        return Estimate(value, *wilson(value * n_units, n_units), n, n_units, "wilson over groups")
    return Estimate(value, max(0.0, found.low), min(1.0, found.high), n, n_units, "bootstrap over groups")


def rate_differences(
    baseline: Sequence[bool], arms: NDArray[np.bool_], groups: Sequence[str | None], seed: str
) -> list[Estimate]:
    """Return rate − baseline's rate of every arm, paired over prompts. arms: [prompt, arm].

    Newcombe's interval where prompts stand for themselves, or where fewer than FEWEST_CHANGED groups change at all: of
    so few no resampling tells how much they vary.
    """
    if not len(baseline):
        return [nothing("no prompt to judge")] * arms.shape[1]
    base = np.repeat(np.asarray(baseline, dtype=np.bool_)[:, None], arms.shape[1], axis=1)
    n_units = _n_units(groups)
    found: list[Estimate | None] = [None] * arms.shape[1]
    if n_units < len(base):
        drawn = _against(base.astype(np.float32), arms.astype(np.float32), np.ones(len(base)), groups, seed)
        found = [
            one if _n_changed(base[:, i] != arms[:, i], groups) >= FEWEST_CHANGED else None
            for i, one in enumerate(drawn)
        ]
    return [one or _matched(base[:, i], arms[:, i], n_units) for i, one in enumerate(found)]


def _n_changed(changed: NDArray[np.bool_], groups: Sequence[str | None]) -> int:
    return _n_units([groups[i] for i in np.flatnonzero(changed).tolist()])


def _matched(base: NDArray[np.bool_], arm: NDArray[np.bool_], n_units: int) -> Estimate:
    n = len(base)
    cells = [int((a & b).sum()) for a in (arm, ~arm) for b in (base, ~base)]  # both, arm alone, baseline alone, neither
    both, alone, missing, neither = (count * n_units / n for count in cells)
    how = "newcombe" if n_units == n else "newcombe over groups"
    return Estimate((cells[1] - cells[2]) / n, *newcombe(both, alone, missing, neither), n, n_units, how)


def log_perplexities(nll: Vector, tokens: Vector, groups: Sequence[str | None], seed: str) -> list[Estimate]:
    """Return the logarithm of the perplexity of every arm: Σ nll / Σ tokens. nll: [text, arm] in nats."""
    if not len(tokens):
        return [nothing("no text with an answer")] * nll.shape[1]
    return _against(np.zeros_like(nll), nll, tokens, groups, seed)


def log_perplexity_differences(
    baseline: Vector, nll: Vector, tokens: Vector, groups: Sequence[str | None], seed: str
) -> list[Estimate]:
    """Return the log-perplexity of every arm less the baseline's, paired over texts. nll: [text, arm]."""
    if not len(tokens):
        return [nothing("no text with an answer")] * nll.shape[1]
    return _against(np.repeat(baseline[:, None], nll.shape[1], axis=1), nll, tokens, groups, seed)


def _against(
    first: NDArray[np.floating], second: NDArray[np.floating], weights: Vector, groups: Sequence[str | None], seed: str
) -> list[Estimate]:
    """Return Σ second / Σ weights − Σ first / Σ weights per column; a unit is drawn with both of its sides."""
    names = [name if name is not None else f"\x00{place}" for place, name in enumerate(groups)]
    both, sizes, labels = np.concatenate([first, second]), np.tile(weights, 2), np.repeat([0, 1], len(first))
    scale = max(float(np.abs(both / sizes[:, None]).max()), 1e-12)  # intervals end at ±1
    stacked = (both / scale)[:, None, :]
    if np.all(weights == 1):
        samples = samples_of_rates(stacked, labels, groups=names * 2)
    else:
        samples = samples_of(stacked, sizes, labels, groups=names * 2, pool=Pool.POOLED)
    found = bootstrap_intervals(samples, seed=seed, n_resamples=N_RESAMPLES, level=LEVEL)
    value = ((second - first).sum(axis=0, dtype=np.float64) / weights.sum()).tolist()
    n_units, same = len(set(names)), np.all(first == second, axis=0).tolist()
    ends = zip((found.low[0] * scale).tolist(), (found.high[0] * scale).tolist(), strict=True)
    return [_estimate(v, *end, equal, len(first), n_units) for v, end, equal in zip(value, ends, same, strict=True)]


def _estimate(value: float, low: float, high: float, equal: bool, n: int, n_units: int) -> Estimate:
    if equal:
        return Estimate(0.0, 0.0, 0.0, n, n_units, "every unit the same in both")
    if math.isfinite(low) and math.isfinite(high):
        return Estimate(value, low, high, n, n_units, "bootstrap")
    few = f"only {n_units} units; an interval needs {FEWEST_UNITS}"
    return Estimate(value, None, None, n, n_units, few if n_units < FEWEST_UNITS else "every unit alike: no interval")


def _n_units(groups: Sequence[str | None]) -> int:
    named = [name for name in groups if name is not None]
    return len(set(named)) + len(groups) - len(named)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one value stands among random ones. n_as_extreme: how many are at least as far from zero.

    p = (n_as_extreme + 1) / (n + 1); smallest_p: what it could be at best with so few.
    """

    n: int
    n_as_extreme: int
    p: float
    smallest_p: float


def place_among(value: float, others: Sequence[float]) -> Place:
    """Return the place of a difference among the differences of random sets, by absolute value (either direction)."""
    extreme = sum(abs(other) >= abs(value) - 1e-12 for other in others)
    n = len(others)
    return Place(n, extreme, (extreme + 1) / (n + 1), 1 / (n + 1))
