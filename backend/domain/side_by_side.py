"""Two or more measurements on one scale: which experts differ most between them, how far each two are apart.

Descriptive figures only. Not covered: two sides in depth, with intervals (comparison.py, comparison_intervals.py).
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from backend.domain.comparison import N_MOVERS, Mask, Matrix, Side, check_shapes, drift, overlap
from backend.domain.errors import InvalidInput
from backend.domain.rank_correlation import kendall, spearman

MOST_SIDES = 8
PLACE = ("query", "side")


def side_by_side(sides: Sequence[Side]) -> dict[str, Any]:
    """Return the figures of 2 to MOST_SIDES sides as plain JSON.

    n_cells: experts that have a risk_diff on every side. max_abs: largest |risk_diff| of any side there, the end of one
    scale for all maps; max_difference: the same of the differences between any two. pairs: every two sides by their
    places. movers: the experts whose risk_diff spreads most. Raises InvalidInput where the models differ.
    """
    _check(sides)
    values: Matrix = np.stack([side.risk_diff for side in sides])
    there: Mask = np.asarray(np.isfinite(values).all(axis=0))
    if not there.any():
        raise InvalidInput("No expert has a risk_diff on every side.", PLACE)
    spread = np.where(there, values.max(axis=0) - values.min(axis=0), 0.0)
    return {
        "n_cells": int(there.sum()),
        "max_abs": float(np.abs(values[:, there]).max()),
        "max_difference": float(spread.max()),
        "pairs": [_pair(values, there, a, b) for a, b in combinations(range(len(sides)), 2)],
        "movers": _movers(sides[0], values, spread),
    }


def _check(sides: Sequence[Side]) -> None:
    if not 2 <= len(sides) <= MOST_SIDES:
        raise InvalidInput(f"Name 2 to {MOST_SIDES} sides; these are {len(sides)}.", PLACE)
    for number, other in enumerate(sides[1:], 2):
        try:
            check_shapes(sides[0], other)
        except InvalidInput as error:
            raise InvalidInput(f"Side {number} (b) does not go with side 1 (a). {error}", PLACE) from error


def _pair(values: Matrix, there: Mask, a: int, b: int) -> dict[str, Any]:
    x, y = values[a][there], values[b][there]
    return {
        "a": a,
        "b": b,
        "drift": drift(values[b] - values[a], there),
        "correlation": {"spearman": spearman(x, y), "kendall": kendall(x, y)},
        "overlap": overlap(x, y),
    }


def _movers(first: Side, values: Matrix, spread: Matrix) -> list[dict[str, Any]]:
    """Return the experts with the largest spread, the largest first; spread: [site, expert], 0 where one is missing."""
    best = np.argsort(-spread.ravel(), kind="stable")[:N_MOVERS]
    sites, experts = np.unravel_index(best[spread.ravel()[best] > 0], spread.shape)
    return [
        {
            "site": site,
            "layer": first.layers[site],
            "expert": expert,
            "risk_diff": [float(own[site, expert]) for own in values],
            "spread": float(spread[site, expert]),
        }
        for site, expert in zip(sites.tolist(), experts.tolist(), strict=True)
    ]
