"""Drawing units (prompts, or groups where there are any) anew: how far risk_diff would move with other prompts.

A unit is drawn with all its prompts, tokens and both its labels. Units are drawn within their kind (safe only, unsafe
only, both), so that every resample keeps its sides. The movement is linearised: unit u moves risk_diff by its influence
(numerator − rate × weight) / Σ weight, unsafe less safe. For equal weights per unit this is exact. Not covered: strata
(intervals hold for prompt sets drawn like this one, whatever their mix of strata).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.domain.statistics.draws import resample_counts
from backend.domain.statistics.samples import Parts, Samples, cell_slices, label_rates, parts_of

Table = NDArray[np.float64]
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """The influence of every unit on risk_diff.

    influence: float32 [unit, cell], in units of `scale`. kind: [unit] 0 safe only, 1 unsafe only, 2 both. estimate,
    scale: float64 [cell], in rates. n_of_kind: (safe only, unsafe only, both).
    """

    influence: NDArray[np.float32]
    kind: NDArray[np.int64]
    estimate: NDArray[np.float64]
    scale: NDArray[np.float64]

    @property
    def n_of_kind(self) -> tuple[int, int, int]:
        """Number of units that hold safe prompts only, unsafe only, both."""
        safe, unsafe, both = np.bincount(self.kind, minlength=3).tolist()
        return safe, unsafe, both

    @property
    def n_fewest(self) -> int:
        """Number of units on the label that has fewer."""
        safe, unsafe, both = self.n_of_kind
        return min(safe, unsafe) + both


def units_of(samples: Samples) -> Units:
    """Return the units' influences."""
    parts = parts_of(samples)
    rates = label_rates(samples)
    totals = np.bincount(parts.labels, weights=parts.weights, minlength=2)
    sign = np.where(parts.labels == 1, 1.0, -1.0) / totals[parts.labels]
    kind = _kinds(parts, samples.n_groups)
    starts = np.searchsorted(parts.groups, np.arange(samples.n_groups))
    influence = np.empty((samples.n_groups, rates.shape[1]), dtype=np.float32)
    scale = np.empty(rates.shape[1])
    for cells in cell_slices(rates.shape[1]):
        own = parts.numerators[:, cells].astype(np.float64)
        size = np.sqrt(np.mean(own**2, axis=0)) / totals.min()
        own -= rates[:, cells][parts.labels] * parts.weights[:, None]
        own *= sign[:, None]
        if len(starts) < len(own):
            own = np.add.reduceat(own, starts, axis=0)
        spread = np.sqrt(np.mean(own**2, axis=0))
        scale[cells] = np.where(spread > 1e-6 * size, spread, 0)
        own /= np.where(scale[cells] > 0, scale[cells], np.inf)
        influence[:, cells] = own
    return Units(influence, kind, rates[1] - rates[0], scale)


def _kinds(parts: Parts, n_groups: int) -> NDArray[np.int64]:
    holds = np.zeros((2, n_groups), dtype=bool)
    holds[parts.labels, parts.groups] = True
    return np.where(holds.all(axis=0), 2, np.where(holds[1], 1, 0))


def standard_error(units: Units) -> NDArray[np.float64]:
    """Return the cluster-robust standard error of risk_diff [cell]."""
    once = np.ones((1, len(units.kind)), dtype=np.float32)
    n_cells = len(units.scale)
    found = [moved(units, once, cells)[1][0] for cells in cell_slices(n_cells)]
    return np.concatenate(found).astype(np.float64) * units.scale


def moved(units: Units, counts: NDArray[np.float32], cells: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return how far risk_diff moves in each resample, and its standard error there: [resample, cell], scaled.

    counts: [resample, unit], how often each unit was drawn; a resample may be smaller than the whole. The variance is
    n / (n − 1) × Σ (influence − mean)² within each kind of unit; a kind with one unit adds nothing.
    """
    shape = (len(counts), units.influence[:1, cells].shape[1])
    shift, variance = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for kind in np.unique(units.kind):
        members = np.flatnonzero(units.kind == kind)
        own, drawn = units.influence[members, cells], counts[:, members]
        size = np.maximum(drawn.sum(axis=1)[:, None], 1)  # none drawn: a half may lack the only one of its kind
        larger = np.float32(len(members)) / size  # what a unit weighs in the resample, to what it weighs in the whole
        sums = drawn @ own
        shift += sums * larger
        shift -= own.sum(axis=0)
        if len(members) > 1:
            squares = drawn @ own**2
            squares -= sums**2 / size
            np.maximum(squares, 0, out=squares)
            variance += squares * (larger**2 * size / np.maximum(size - 1, 1))
    return shift, np.sqrt(variance)


def risk_diffs(samples: Samples, counts: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return risk_diff [resample, cell] of each resample: [resample, unit] counts. Not linearised."""
    parts = parts_of(samples)
    rates = []
    for code in range(2):
        own = np.flatnonzero(parts.labels == code)
        drawn = counts[:, parts.groups[own]]
        sums = [drawn @ parts.numerators[own, cells] for cells in cell_slices(parts.numerators.shape[1])]
        rates.append(np.concatenate(sums, axis=1) / (drawn @ parts.weights[own])[:, None])
    return rates[1] - rates[0]


def drawn_units(units: Units, seed: str, n_resamples: int) -> NDArray[np.float32]:
    """Return the counts of n bootstrap resamples: [resample, unit]."""
    return resample_counts(seed, 0, units.kind, n_resamples)
