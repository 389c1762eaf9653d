"""What a study found: level and scatter of both arms in every measure, and how far the trained models' maps lie apart.

All differences are preserved − shuffled; all ratios of scatter are shuffled / preserved. The primary question is asked
once, before anything is seen: do the risk_diff maps of the trained models lie closer together where batches were kept?
Everything else is secondary and its p-values are adjusted for their number (Holm). Plain JSON comes out.
Not covered: what that means in words (verdict.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.study.exact import Tested, holm, sign_flip, spread_test, untestable
from backend.domain.study.intervals import spread
from backend.domain.study.outcomes import ARMS, MEASURES, Arm, Measure, Outcome, plain

METHOD = "study-1"
ALPHA = 0.05
_LARGEST = 1e100
"""A model that fell apart can have a perplexity whose square is no number: its seed has none, rather than the study."""

By = Mapping[Arm, Mapping[int, Outcome]]


def findings(
    outcomes: Sequence[Outcome], base: Mapping[str, float | None], base_map: NDArray[np.float64]
) -> dict[str, Any]:
    """Return everything that is said of a study's runs.

    outcomes: one per arm and seed, the same seeds in both arms. base: figures of the untrained model, where it has
    any; base_map: its risk_diff [expert].
    """
    by: By = {arm: {one.seed: one for one in outcomes if one.arm is arm} for arm in ARMS}
    seeds = sorted(by[Arm.PRESERVED])
    if seeds != sorted(by[Arm.SHUFFLED]) or not seeds:
        raise ValueError("both arms of a study need the same seeds")
    measures = [_measure(one, by, seeds, base.get(one.key)) for one in MEASURES]
    measures = [one for one in measures if one["n_seeds"]]
    for kind in ("level", "spread"):
        for one, p in zip(measures, holm([m[kind]["p"] for m in measures]), strict=True):
            one[kind]["p_holm"] = p
    return {
        "method": METHOD,
        "alpha": ALPHA,
        "seeds": seeds,
        "measures": measures,
        "maps": maps(by, seeds, base_map),
        "varies": varies(outcomes),
    }


def _measure(measure: Measure, by: By, seeds: Sequence[int], base: float | None) -> dict[str, Any]:
    """Return one measure, over the seeds that have it in both arms. wider: the arm that scatters more, as tested."""
    values = {arm: [by[arm][seed].figures.get(measure.key) for seed in seeds] for arm in ARMS}
    pairs = [
        (seed, first, second)
        for seed, first, second in zip(seeds, values[Arm.PRESERVED], values[Arm.SHUFFLED], strict=True)
        if first is not None and second is not None and max(abs(first), abs(second)) < _LARGEST
    ]
    both = {
        Arm.PRESERVED: [first for _, first, _ in pairs],
        Arm.SHUFFLED: [second for _, _, second in pairs],
    }
    differences = [first - second for _, first, second in pairs]
    scatter = _scatter(both)
    return {
        "key": measure.key,
        "title": measure.title,
        "unit": measure.unit,
        "what": measure.what,
        "base": base,
        "n_seeds": len(pairs),
        "seeds": [seed for seed, _, _ in pairs],
        "arms": {str(arm): {"values": both[arm]} | asdict(spread(both[arm])) for arm in ARMS},
        "level": asdict(spread(differences)) | {"values": differences} | _tested(sign_flip(differences)),
        "spread": {"ratio": _ratio(both), "wider": _wider(scatter)} | _tested(scatter),
    }


def _scatter(both: Mapping[Arm, Sequence[float]]) -> Tested:
    if min(len(own) for own in both.values()) < 2:
        return untestable("at least two seeds are needed")
    return spread_test(*(np.array(both[arm], dtype=np.float64)[:, None] for arm in ARMS))


def _wider(scatter: Tested) -> str | None:
    return str(ARMS[scatter.statistic > 0]) if scatter.statistic else None


def _ratio(both: Mapping[Arm, Sequence[float]]) -> float | None:
    """Return the standard deviation of the shuffled arm over that of the preserved one."""
    sizes = [spread(both[arm]).sd for arm in ARMS]
    return sizes[1] / sizes[0] if sizes[0] and sizes[1] is not None else None


def _tested(found: Tested) -> dict[str, Any]:
    return plain({name: value for name, value in asdict(found).items() if name != "statistic"})


def maps(by: By, seeds: Sequence[int], base_map: NDArray[np.float64]) -> dict[str, Any]:
    """Return how far apart the trained models' risk_diff maps lie within each arm, and whether one arm scatters more.

    distance: root mean square over the experts; correlation: of two maps; of_changes: of their changes from the
    untrained model. Experts without a risk_diff somewhere are left out everywhere.
    """
    every = np.stack([by[arm][seed].risk_diff for arm in ARMS for seed in seeds])
    there = np.isfinite(every).all(axis=0) & np.isfinite(base_map)
    n_cells = int(there.sum())
    points = {arm: np.stack([by[arm][seed].risk_diff[there] for seed in seeds]) for arm in ARMS}
    base = base_map[there]
    arms = {str(arm): _agreement(points[arm], base, seeds) for arm in ARMS}
    sizes = [arms[str(arm)]["mean_distance"] for arm in ARMS]
    tested = spread_test(*points.values()) if n_cells else untestable("no expert has a risk_diff in every model")
    centres = [points[arm].mean(axis=0) for arm in ARMS]
    return {
        "n_experts": n_cells,
        "arms": arms,
        "between_means": _rms(centres[0] - centres[1]) if n_cells else None,
        "ratio": sizes[1] / sizes[0] if sizes[0] and sizes[1] is not None else None,
        "test": _tested(tested),
    }


def _agreement(points: NDArray[np.float64], base: NDArray[np.float64], seeds: Sequence[int]) -> dict[str, Any]:
    """points: [run, expert]."""
    changes = points - base
    pairs = [
        {
            "seeds": [seeds[i], seeds[j]],
            "distance": _rms(points[i] - points[j]),
            "correlation": _correlation(points[i], points[j]),
            "of_changes": _correlation(changes[i], changes[j]),
        }
        for i, j in combinations(range(len(points)), 2)
        if points.shape[1]
    ]
    return {
        "pairs": pairs,
        **{f"mean_{name}": _mean([pair[name] for pair in pairs]) for name in ("distance", "correlation", "of_changes")},
        "moved": [_rms(own) if own.size else None for own in changes],
    }


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _mean(values: Sequence[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    """Return Pearson's correlation; None where one side does not vary."""
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(np.clip(x @ y / size, -1, 1)) if size > 0 else None


def varies(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return what the stored record says of what differed between runs: targets, verified steps, steps."""
    own = {arm: [one for one in outcomes if one.arm is arm] for arm in ARMS}
    return {
        "same_targets": len({one.targets for one in outcomes}) == 1 and outcomes[0].targets is not None,
        "steps": {str(arm): sum(one.n_steps for one in own[arm]) for arm in ARMS},
        "verified": {str(arm): sum(one.n_verified for one in own[arm]) for arm in ARMS},
    }
