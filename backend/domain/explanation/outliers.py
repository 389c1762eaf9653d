"""Which batches did better or worse than their first loss and their place in the run foretell: a rule, not a test.

expected: a robust fit (Huber's weights) of the outcome on the controls and on the terms of their ranks
(association.py). A batch whose first loss is far from all others' pulls the fit to itself: it is then not called
unusual, on the side of saying too little. z: the modified z-score of what is left, 0.6745 × (rest − median) / median
absolute rest (Iglewicz and Hoaglin 1993), the latter over the quarter of the batches (at least 15) that are nearest by
the first control, since a batch with a high loss has more room to move. Among fewer than 20 batches none is compared:
the fit would follow any of them. Beyond 5 a batch is called unusual. In
simulated runs of 20 to 400 batches in which none stood out, 0.0 to 0.4 batches a run were; with the usual 3.5, up to 2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.domain.explanation.association import control_basis

Vector = NDArray[np.float64]

LIMIT = 5.0
FEWEST = 20
_TO_SIGMA = 0.6745
_HUBER = 1.345
_ROUNDS = 50
_NEAREST, _FEWEST_NEAREST = 0.25, 15


@dataclass(frozen=True, slots=True, eq=False)
class Rests:
    """[batch] what was expected, and the modified z-score of the rest: NaN where those around it are equal or few."""

    expected: Vector
    z: Vector

    @property
    def unusual(self) -> NDArray[np.bool_]:
        """[batch] whether the rest is beyond the limit."""
        return np.abs(np.nan_to_num(self.z)) > LIMIT


def rests(outcome: Vector, controls: NDArray[np.float64]) -> Rests:
    """Compare an outcome [batch] with what controls [control, batch] foretell. All are finite."""
    terms = np.column_stack([np.ones(len(outcome)), control_basis(controls), _standard(controls).T])
    rounding = 1e-9 * float(np.abs(outcome).max(initial=0))
    expected = _fit(terms, outcome, rounding)
    rest = outcome - expected
    rest = rest - np.median(rest)
    spread = _spread(np.abs(rest), controls[0] if len(controls) else np.zeros(len(rest)))
    known = (spread > rounding) & (len(rest) >= FEWEST)
    return Rests(expected, np.where(known, _TO_SIGMA * rest / np.where(known, spread, 1.0), np.nan))


def _fit(terms: NDArray[np.float64], outcome: Vector, rounding: float) -> Vector:
    weights, expected = np.ones(len(outcome)), np.zeros(len(outcome))
    for _ in range(_ROUNDS):
        root, before = np.sqrt(weights), expected
        expected = terms @ np.linalg.lstsq(terms * root[:, None], outcome * root, rcond=None)[0]
        size = np.abs(outcome - expected)
        scale = float(np.median(size)) / _TO_SIGMA
        if scale <= rounding or np.abs(expected - before).max() <= 1e-6 * scale:
            break
        weights = np.minimum(1, _HUBER * scale / np.maximum(size, 1e-300))
    return expected


def _spread(size: Vector, order: Vector) -> Vector:
    """Return [batch] the median size among those that are nearest in this order."""
    n = len(size)
    by_order = np.argsort(order, kind="stable")
    near = min(n, max(_FEWEST_NEAREST, int(n * _NEAREST)))
    starts = np.clip(np.arange(n) - near // 2, 0, n - near)
    medians = np.array([np.median(size[by_order[start : start + near]]) for start in starts])
    spread = np.empty(n)
    spread[by_order] = medians
    return spread


def _standard(controls: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = controls - controls.mean(axis=1, keepdims=True)
    size = centred.std(axis=1, keepdims=True)
    standard: NDArray[np.float64] = centred / np.where(size > 0, size, np.inf)
    return standard
