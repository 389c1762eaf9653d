"""Intervals of the difference of two analyses and of the drift per layer, by cluster bootstrap over their units.

Same plan: every prompt was read on both sides, so a unit (prompt or group) is drawn with both its measurements
(paired), and what it does alike on both sides cancels. Other prompts: units of each side are drawn on their own
(unpaired). The influence of a unit on the difference is its influence on b less that on a (resampling.py); the rest is
the bootstrap-t of bootstrap.py. Not covered: published tables, which hold no prompts.

Drift of a layer: root mean square over its experts. Noise alone makes it positive, so `rms` says too much; `corrected`
takes the mean squared standard error off the mean square (0 where nothing is left), and the interval is of that.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.domain.errors import InvalidInput
from backend.domain.statistics.bootstrap import FEWEST_UNITS, critical_t
from backend.domain.statistics.draws import resample_counts
from backend.domain.statistics.resampling import Table, Units, moved, units_of
from backend.domain.statistics.samples import Progress, Samples, cell_slices

_KINDS = 3
"""Kinds of units of one side: safe only, unsafe only, both."""


@dataclass(frozen=True, slots=True, eq=False)
class DifferenceIntervals:
    """The difference b − a [site, expert] with its interval; NaN where none can be given.

    n_units: of the label (and side) that has fewest. drift: per site, and over all sites under None:
    {"corrected", "low", "high", "noise"} in units of risk_diff; noise: root mean square of the standard errors.
    """

    paired: bool
    level: float
    n_resamples: int
    unit_name: str
    n_units: int
    reason: str
    estimate: Table
    low: Table
    high: Table
    drift: dict[int | None, dict[str, float | None]]


def difference_units(a: Samples, b: Samples, *, paired: bool) -> Units:
    """Return the units' influence on the difference b − a. paired: sample i of both sides is the same prompt."""
    one, other = units_of(a), units_of(b)
    if not paired:
        kind = np.concatenate([one.kind, other.kind + _KINDS])
        scale = np.maximum(one.scale, other.scale)
        influence = np.concatenate([_scaled(one, -1, scale), _scaled(other, 1, scale)])
        return Units(influence, kind, other.estimate - one.estimate, scale)
    if not (np.array_equal(a.groups, b.groups) and np.array_equal(a.labels, b.labels)):
        raise InvalidInput("paired sides must have the same prompts in the same order")
    influence = np.empty_like(one.influence)
    scale = np.zeros(len(one.scale))
    for cells in cell_slices(len(scale)):
        own = other.influence[:, cells] * other.scale[cells] - one.influence[:, cells] * one.scale[cells]
        spread = np.sqrt(np.mean(own**2, axis=0))
        size = np.maximum(one.scale[cells], other.scale[cells])
        scale[cells] = np.where(spread > 1e-6 * size, spread, 0)
        influence[:, cells] = own / np.where(scale[cells] > 0, scale[cells], np.inf)
    return Units(influence, one.kind, other.estimate - one.estimate, scale)


def _scaled(units: Units, sign: int, scale: NDArray[np.float64]) -> NDArray[np.float32]:
    factor = np.divide(sign * units.scale, scale, out=np.zeros(len(scale)), where=scale > 0)
    scaled: NDArray[np.float32] = units.influence * factor.astype(np.float32)
    return scaled


def difference_intervals(
    a: Samples,
    b: Samples,
    n_experts: tuple[int, ...],
    *,
    paired: bool,
    seed: str,
    n_resamples: int = 1999,
    level: float = 0.95,
    progress: Progress | None = None,
) -> DifferenceIntervals:
    """Return the intervals. n_experts: of each site. Deterministic in (a, b, seed, n_resamples).

    Raises InvalidInput where the sides do not belong together or so few resamples cannot hold the quantile.
    """
    if not 0 < level < 1 or n_resamples * (1 - level) < 5:
        raise InvalidInput(f"{n_resamples} resamples are too few for an interval of level {level}", ("n_resamples",))
    units = difference_units(a, b, paired=paired)
    fewest = min(_fewest(kind) for kind in _sides(units, paired=paired))
    shape = a.shape
    critical = np.full(len(units.scale), np.nan)
    error = np.zeros(len(units.scale))
    drift: dict[int | None, dict[str, float | None]] = {}
    reason = ""
    if fewest < FEWEST_UNITS:
        reason = f"One label has only {fewest} units; an interval needs at least {FEWEST_UNITS} on each side."
    else:
        counts = resample_counts(seed, 0, units.kind, n_resamples)
        drift = _by_site(units, counts, n_experts, shape, level, critical, error, progress)
    return DifferenceIntervals(
        paired=paired,
        level=level,
        n_resamples=n_resamples,
        unit_name="prompt" if a.n_groups == len(a.labels) and b.n_groups == len(b.labels) else "group",
        n_units=fewest,
        reason=reason,
        estimate=a.as_table(units.estimate),
        low=a.as_table(np.maximum(units.estimate - critical * error, -2)),
        high=a.as_table(np.minimum(units.estimate + critical * error, 2)),
        drift=drift,
    )


def _sides(units: Units, *, paired: bool) -> list[NDArray[np.int64]]:
    return [units.kind] if paired else [units.kind[units.kind < _KINDS], units.kind[units.kind >= _KINDS] - _KINDS]


def _fewest(kind: NDArray[np.int64]) -> int:
    safe, unsafe, both = np.bincount(kind, minlength=_KINDS).tolist()
    return int(min(safe, unsafe) + both)


def _by_site(
    units: Units,
    counts: NDArray[np.float32],
    n_experts: tuple[int, ...],
    shape: tuple[int, int],
    level: float,
    critical: NDArray[np.float64],
    error: NDArray[np.float64],
    progress: Progress | None,
) -> dict[int | None, dict[str, float | None]]:
    """Fill critical and error [cell], and return the drift of every site and of all together."""
    once = np.ones((1, len(units.kind)), dtype=np.float32)
    found: dict[int | None, dict[str, float | None]] = {}
    whole: _Squares | None = None
    for site, n in enumerate(n_experts):
        cells = slice(site * shape[1], site * shape[1] + n)
        scale, estimate = units.scale[cells], units.estimate[cells]
        shift, spread = moved(units, counts, cells)
        error[cells] = moved(units, once, cells)[1][0] * scale
        critical[cells] = np.where(scale > 0, critical_t(shift, spread, level), np.nan)
        drawn, noise = estimate + shift * scale, (spread * scale) ** 2
        own = _Squares(
            n=n,
            square=float((estimate**2).sum()),
            noise=float((error[cells] ** 2).sum()),
            drawn=(drawn**2).sum(axis=1),
            drawn_noise=noise.sum(axis=1),
            curve=((shift * scale) ** 2 - noise).sum(axis=1),
            influence=units.influence[:, cells] @ (2 * estimate * scale),
        )
        found[site] = _drift(own, units.kind, counts, level)
        whole = own if whole is None else whole + own
        if progress:
            progress(site + 1, len(n_experts))
    assert whole is not None
    found[None] = _drift(whole, units.kind, counts, level)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Squares:
    """Sums over the n cells of a site. square: of the estimates squared; noise: of the standard errors squared.

    Per resample: drawn, drawn_noise, the same there; curve, of the movements squared, less their noise. influence:
    [unit], how far each unit moves `square`, to first order.
    """

    n: int
    square: float
    noise: float
    drawn: NDArray[np.float64]
    drawn_noise: NDArray[np.float64]
    curve: NDArray[np.float64]
    influence: NDArray[np.float64]

    def __add__(self, other: "_Squares") -> "_Squares":
        return _Squares(
            self.n + other.n,
            self.square + other.square,
            self.noise + other.noise,
            self.drawn + other.drawn,
            self.drawn_noise + other.drawn_noise,
            self.curve + other.curve,
            self.influence + other.influence,
        )


def _drift(
    own: _Squares, kind: NDArray[np.int64], counts: NDArray[np.float32], level: float
) -> dict[str, float | None]:
    """Return the corrected drift with its interval: bootstrap-t of the mean square, then its root.

    The standard error of the mean square has two parts: of its first order, which grows with the drift and is
    computed anew in each resample, and of its curve, which is all there is where nothing drifted.
    """
    corrected, curve, reach = own.square - own.noise, float(own.curve.var()), 0.0
    size = float(np.sqrt(np.mean(own.influence**2)))
    if size > 0:
        one = Units((own.influence / size).astype(np.float32)[:, None], kind, np.zeros(1), np.ones(1))
        once, cell = np.ones((1, len(kind)), dtype=np.float32), slice(0, 1)
        first = moved(one, counts, cell)[1][:, 0].astype(np.float64) * size
        error = float(moved(one, once, cell)[1][0, 0]) * size
        moves = np.abs(own.drawn - own.drawn_noise - own.square)
        t = moves / np.sqrt(own.drawn / own.square * first**2 + curve)
        reach = float(np.quantile(t, level) * np.sqrt(error**2 + curve))
    squares = {"corrected": corrected, "low": corrected - reach, "high": corrected + reach, "noise": own.noise}
    return {name: float(np.sqrt(max(square, 0.0) / own.n)) for name, square in squares.items()}
