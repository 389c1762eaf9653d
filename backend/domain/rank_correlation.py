"""Rank correlations with ties, in n log n steps: Spearman's rho, and Kendall's tau-b.

Not covered: p-values (experts of one layer are not independent, so a textbook p would be wrong). For batches see
explanation/association.py.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[Any]


def spearman(x: Vector, y: Vector) -> float | None:
    """Return the correlation of the ranks (ties share their mean rank); None below two values or for a constant."""
    if len(x) < 2 or not (np.ptp(x) and np.ptp(y)):
        return None
    one, other = ranks(x), ranks(y)
    one, other = one - one.mean(), other - other.mean()
    return float(np.clip(np.dot(one, other) / np.sqrt(np.dot(one, one) * np.dot(other, other)), -1, 1))


def kendall(x: Vector, y: Vector) -> float | None:
    """Return tau-b: agreeing less disagreeing pairs, over the pairs that are not tied. None as for Spearman."""
    if len(x) < 2 or not (np.ptp(x) and np.ptp(y)):
        return None
    one, other = (np.unique(values, return_inverse=True)[1].astype(np.int64) for values in (x, y))
    order = np.lexsort((other, one))
    discordant = _inversions(other[order])
    n = len(one)
    pairs = n * (n - 1) // 2
    tied_x, tied_y = _tied(one), _tied(other)
    tied_both = _tied(np.unique(one * (int(other.max()) + 1) + other, return_inverse=True)[1])
    agreement = pairs - tied_x - tied_y + tied_both - 2 * discordant
    return float(agreement / np.sqrt(float(pairs - tied_x) * float(pairs - tied_y)))


def ranks(values: Vector) -> NDArray[np.float64]:
    """Return the ranks from 1; ties share their mean rank. Values must be finite."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranked: NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return ranked


def _tied(codes: Vector) -> int:
    counts = np.bincount(codes).astype(object)  # exact, however many pairs there are
    return int(sum(count * (count - 1) // 2 for count in counts))


def _inversions(codes: NDArray[np.int64]) -> int:
    """Count the pairs i < j with codes[i] > codes[j].

    Two codes are told apart at their highest differing bit: for each bit, among codes that are equal above it (kept
    together, in their order), count for every 0 the 1s before it.
    """
    total = 0
    for bit in reversed(range(int(codes.max()).bit_length())):
        ones = (codes >> bit) & 1
        before = np.cumsum(ones) - ones
        above = codes >> (bit + 1)
        start = np.searchsorted(above, above)
        total += int((before - before[start])[ones == 0].sum())
        codes = codes[np.argsort(codes >> bit, kind="stable")]
    return total
