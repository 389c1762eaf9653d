"""Confidence intervals of risk_diff by cluster bootstrap.

The unit is the prompt, or its group. Intervals are symmetric and studentised (bootstrap-t): each resample's movement is
divided by its own standard error, and the interval is estimate ± standard error × the quantile of |t| (Hall 1988). Of
the usual kinds this one kept its coverage best (docs/calibration.md); percentiles and BCa were too narrow. Each
interval is for its own expert and says nothing about all of them together (permutation.py does). Not covered: which
answers a model could have written instead, and strata.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.domain.errors import InvalidInput
from backend.domain.statistics.resampling import Table, Units, Vector, drawn_units, moved, standard_error, units_of
from backend.domain.statistics.samples import Progress, Samples, cell_slices

FEWEST_UNITS = 5
"""Units that each label must have: with fewer no resampling can tell how much they vary."""


@dataclass(frozen=True, slots=True, eq=False)
class Intervals:
    """risk_diff [site, expert] with its standard error and interval.

    low, high: within −1 and 1. NaN where none can be given: too few units (`reason` says so), or an expert that so few
    units use that a resample often holds none of them, or that never varies. n_units: of the label that has fewer.
    """

    level: float
    n_resamples: int
    unit_name: str
    n_units: int
    reason: str
    estimate: Table
    standard_error: Table
    low: Table
    high: Table


def bootstrap_intervals(
    samples: Samples,
    *,
    seed: str,
    n_resamples: int = 1999,
    level: float = 0.95,
    progress: Progress | None = None,
) -> Intervals:
    """Return the interval of every cell. Deterministic in (samples, seed, n_resamples).

    Raises InvalidInput where so few resamples cannot hold the quantile that is asked for.
    """
    if not 0 < level < 1 or n_resamples * (1 - level) < 5:
        raise InvalidInput(f"{n_resamples} resamples are too few for an interval of level {level}", ("n_resamples",))
    units = units_of(samples)
    critical, error = np.full(len(units.scale), np.nan), standard_error(units)
    reason = ""
    if units.n_fewest < FEWEST_UNITS:
        reason = f"One label has only {units.n_fewest} units; an interval needs at least {FEWEST_UNITS} on each side."
    else:
        critical = _critical(units, drawn_units(units, seed, n_resamples), level, progress)
    return Intervals(
        level=level,
        n_resamples=n_resamples,
        unit_name="prompt" if samples.n_groups == len(samples.labels) else "group",
        n_units=units.n_fewest,
        reason=reason,
        estimate=samples.as_table(units.estimate),
        standard_error=samples.as_table(np.where(error > 0, error, np.nan)),
        low=samples.as_table(np.maximum(units.estimate - critical * error, -1)),
        high=samples.as_table(np.minimum(units.estimate + critical * error, 1)),
    )


def _critical(units: Units, counts: NDArray[np.float32], level: float, progress: Progress | None) -> Vector:
    """Return the quantile of the studentised |movement| of every cell; NaN where it is not finite."""
    critical = np.full(len(units.scale), np.nan)
    for cells in cell_slices(len(critical)):
        own = critical_t(*moved(units, counts, cells), level)
        critical[cells] = np.where(units.scale[cells] > 0, own, np.nan)
        if progress:
            progress(min(cells.stop, len(critical)), len(critical))
    return critical


def critical_t(shift: NDArray[np.float32], error: NDArray[np.float32], level: float) -> Vector:
    """Return the quantile of |shift / error| over the resamples; NaN where it is not finite. Both: [resample, cell]."""
    rank = min(math.ceil(level * (len(shift) + 1)), len(shift)) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(shift / error)  # 0 / 0: a resample that is like the whole and does not vary
    np.copyto(t, 0, where=np.isnan(t))
    t.partition(rank, axis=0)
    return np.where(np.isfinite(t[rank]), t[rank], np.nan).astype(np.float64)
