"""Why a batch did well or badly: what goes with the fall of its loss, and which batches stand out.

outcome `fall`: loss at the first visit less loss at the last. With one complete epoch there is no fall; the outcome is
then `loss`, the loss at the first visit: which batches were hard, not which did well. Batches are what is exchanged.
Associations are not causes, and nothing here says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from backend.domain.explanation.association import Association, associate
from backend.domain.explanation.features import BY_KEY, CONTROLS, FEATURES
from backend.domain.explanation.outliers import Rests, rests
from backend.domain.explanation.visits import Visits

Vector = NDArray[np.float64]

ALPHA = 0.05
FEWEST = 8
"""Batches below which nothing is said: any few points look like a line."""
_MISSING = 0.2
"""A feature that more batches than this share lack is left out itself; else the batches are."""
_FEW_HUNDRED, _MOST, _LEAST, _BUDGET = 500, 9_999, 999, 5_000_000


class Verdict(StrEnum):
    """What the figures of a feature allow to be said.

    BEYOND: goes with the outcome beyond the controls (p over all features <= 0.05: where nothing does, one run in
    twenty has any such feature). GONE: does so only until the controls are taken out. NONE: nothing was shown, which is
    no proof that there is nothing. CONTROL: is one itself. CONSTANT: the same in every batch. ALIASED: cannot be told
    from the controls. ABSENT: too many batches lack it.
    """

    BEYOND = "beyond"
    GONE = "gone"
    NONE = "none"
    CONTROL = "control"
    CONSTANT = "constant"
    ALIASED = "aliased"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Figure:
    """One feature's figures. rho: Spearman's; beyond: after the controls; p of this one alone, p_family of all."""

    key: str
    verdict: Verdict
    n_distinct: int
    rho: float
    p: float
    p_family: float
    rho_beyond: float
    p_beyond: float
    p_family_beyond: float


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """What can be said of a run. reason: why nothing can, else None.

    batches: int64 [used] batch_idx of what the figures stand on; outcome_values, rests: [used]. left_out: batch_idx and
    why.
    """

    outcome: str
    n_complete: int
    reason: str | None
    left_out: tuple[tuple[int, str], ...]
    batches: NDArray[np.int64]
    outcome_values: Vector
    rests: Rests | None
    figures: tuple[Figure, ...]
    n_permutations: int

    @property
    def controls(self) -> tuple[str, ...]:
        """Return the keys of what is held fixed."""
        return CONTROLS[self.outcome]

    @property
    def smallest_p(self) -> float | None:
        """Return the smallest p there could be."""
        return 1 / (self.n_permutations + 1) if self.figures else None


def explain(visits: Visits, features: Mapping[str, Vector], *, seed: int) -> Explanation:
    """Say what goes with the fall. features: [batch] by key, NaN: not known; those that visits give are added."""
    outcome = "loss" if visits.n_complete < 2 else "fall"
    values = visits.first if outcome == "loss" else visits.fall
    known = _with_own(visits, features, outcome)
    absent = [key for key, own in known.items() if np.isnan(own).sum() > _MISSING * len(own)]
    used, left_out = _usable(visits, values, {k: own for k, own in known.items() if k not in absent})
    reason = _why_not(visits, values[used], outcome)
    if reason:
        nothing = np.zeros(0)
        return Explanation(outcome, visits.n_complete, reason, left_out, visits.batches[:0], nothing, None, (), 0)
    n = int(used.sum())
    n_permutations = _MOST if n <= _FEW_HUNDRED else min(_MOST, max(_LEAST, _BUDGET // n))
    controls = np.array([known[key][used] for key in CONTROLS[outcome]])
    looked_at = [key for key in known if key not in absent]
    table = np.array([known[key][used] for key in looked_at])
    found = associate(values[used], table, controls, seed=str(seed), n_permutations=n_permutations)
    figures = {key: _figure(key, table[i], found, i, outcome) for i, key in enumerate(looked_at)}
    return Explanation(
        outcome,
        visits.n_complete,
        None,
        left_out,
        visits.batches[used],
        values[used],
        rests(values[used], controls),
        tuple(figures.get(feature.key) or _absent(feature.key) for feature in FEATURES if _asked(feature.key, outcome)),
        n_permutations,
    )


def _asked(key: str, outcome: str) -> bool:
    """A control that the outcome does not have (or is) is no feature of it either."""
    return not BY_KEY[key].control or key in CONTROLS[outcome]


def _with_own(visits: Visits, features: Mapping[str, Vector], outcome: str) -> dict[str, Vector]:
    own = {
        "loss_first": visits.first,
        "step_first": visits.step_of(0).astype(np.float64),
        "step_last": visits.step_of(visits.n_complete - 1).astype(np.float64),
    }
    given = {key: np.where(np.isfinite(values), values, np.nan) for key, values in features.items() if key in BY_KEY}
    everything = own | given
    return {f.key: everything[f.key] for f in FEATURES if f.key in everything and _asked(f.key, outcome)}


def _usable(
    visits: Visits, values: Vector, known: Mapping[str, Vector]
) -> tuple[NDArray[np.bool_], tuple[tuple[int, str], ...]]:
    used, left_out = np.ones(len(values), dtype=bool), []
    for place, batch_idx in enumerate(visits.batches.tolist()):
        missing = [BY_KEY[key].name for key, own in known.items() if np.isnan(own[place])]
        if np.isnan(values[place]):
            used[place], why = False, "its loss was not finite, or was not recorded"
        elif missing:
            used[place], why = False, f"not known of it: {', '.join(missing)}"
        if not used[place]:
            left_out.append((batch_idx, why))
    return used, tuple(left_out)


def _why_not(visits: Visits, values: Vector, outcome: str) -> str | None:
    total, n_used = len(visits.batches), len(values)
    if not visits.n_complete:
        seen = int((visits.step_of(0) > 0).sum())
        return f"The first epoch is not complete: {seen} of {total} batches were visited."
    if n_used < FEWEST:
        have = f"{n_used} of {total} batches have" if n_used != 1 else f"1 of {total} batches has"
        return f"{have} every figure that is needed; with fewer than {FEWEST}, any few points look like a line."
    if not np.ptp(values):
        return f"The {outcome} is the same in every batch, so nothing can go with it."
    return None


def _figure(key: str, values: Vector, found: Association, place: int, outcome: str) -> Figure:
    plain, beyond = found.plain, found.beyond
    figures = [float(own[place]) for part in (plain, beyond) for own in (part.rho, part.p, part.p_family)]
    if key in CONTROLS[outcome]:
        verdict = Verdict.CONTROL
    elif np.isnan(figures[0]):
        verdict = Verdict.CONSTANT
    elif np.isnan(figures[3]):
        verdict = Verdict.ALIASED
    elif figures[5] <= ALPHA:
        verdict = Verdict.BEYOND
    else:
        verdict = Verdict.GONE if figures[2] <= ALPHA else Verdict.NONE
    return Figure(key, verdict, len(np.unique(values)), *figures)


def _absent(key: str) -> Figure:
    return Figure(key, Verdict.ABSENT, 0, *[float("nan")] * 6)
