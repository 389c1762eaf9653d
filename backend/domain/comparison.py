"""Two measurements side by side: their difference, which experts stay on top, how far the routing drifted.

A side is an analysis or a published table; both must have the same MoE layers and experts. The difference is b − a.
Descriptive figures only; what resampling says of them is in comparison_intervals.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.errors import InvalidInput
from backend.domain.rank_correlation import kendall, spearman
from backend.domain.vocabulary import LABELS

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

TOP = (8, 16, 32, 64)
TOP_SHARE = 0.05
N_MOVERS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """What one side measured. layers, n_experts: per site. rates: [label, site, expert]; NaN: none there."""

    layers: tuple[int, ...]
    n_experts: tuple[int, ...]
    rates: Matrix

    @property
    def risk_diff(self) -> Matrix:
        """risk_diff [site, expert]: rate_unsafe − rate_safe."""
        difference: Matrix = self.rates[1] - self.rates[0]
        return difference


def check_shapes(a: Side, b: Side) -> None:
    """Raise InvalidInput, saying what differs, unless both sides have the same layers and experts."""
    if a.layers == b.layers and a.n_experts == b.n_experts:
        return
    only = [sorted(set(one.layers) - set(other.layers)) for one, other in ((a, b), (b, a))]
    sizes_a, sizes_b = (dict(zip(side.layers, side.n_experts, strict=True)) for side in (a, b))
    unequal = [layer for layer in sizes_a if layer in sizes_b and sizes_a[layer] != sizes_b[layer]]
    said = [f"only {name} has the MoE layers {_list(own)}" for name, own in zip("ab", only, strict=True) if own]
    said += [f"layer {n} has {sizes_a[n]} experts in a and {sizes_b[n]} in b" for n in unequal[:3]]
    if not said:
        said = [f"a has the MoE sites of layers {_list(a.layers)}, b those of {_list(b.layers)}"]
    raise InvalidInput(f"These two have different models: {'; '.join(said)}.", ("body", "analysis_b"))


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")


def compare(a: Side, b: Side) -> dict[str, Any]:
    """Return the figures of a comparison as plain JSON (None where a figure does not exist).

    n_cells: experts that have a risk_diff on both sides. max_abs: largest |risk_diff| of either side and of the
    difference, the end of one scale for all three maps. Raises InvalidInput where the models differ.
    """
    check_shapes(a, b)
    there: Mask = np.isfinite(a.risk_diff) & np.isfinite(b.risk_diff)
    one, other = a.risk_diff, b.risk_diff
    difference = other - one
    if not there.any():
        raise InvalidInput("No expert has a risk_diff on both sides.", ("body", "analysis_b"))
    x, y = one[there], other[there]
    return {
        "n_cells": int(there.sum()),
        "max_abs": float(max(np.abs(part[there]).max() for part in (one, other, difference))),
        "correlation": {"spearman": spearman(x, y), "kendall": kendall(x, y)},
        "overlap": overlap(x, y),
        "drift": drift(difference, there),
        "layers": [_layer(a, b, site, there[site]) for site in range(len(a.layers))],
        "movers": _movers(a, b, difference, there),
    }


def overlap(x: Matrix, y: Matrix) -> list[dict[str, Any]]:
    """Return, for each direction and k, how many of both sides' top k experts are the same.

    x, y: [cell]. Directions as in expert sets: unsafe (the largest above 0), safe (the smallest below 0), both (by
    absolute value); ties go to the lower place. expected: what two sets of these sizes drawn at random share on average
    (the mean of the hypergeometric distribution, n_a × n_b / cells); jaccard_by_chance follows from it.
    """
    n = len(x)
    share = max(1, round(TOP_SHARE * n))
    sizes = [(str(k), k) for k in TOP if k < n] + [("5 %", share)]
    scores = {"unsafe": (x, y), "safe": (-x, -y), "both": (np.abs(x), np.abs(y))}
    found = []
    for direction, (first, second) in scores.items():
        for words, k in sizes:
            top_a, top_b = _top(first, k), _top(second, k)
            n_a, n_b, both = len(top_a), len(top_b), len(top_a & top_b)
            expected = n_a * n_b / n
            found.append(
                {
                    "direction": direction,
                    "top": words,
                    "k": k,
                    "n_a": n_a,
                    "n_b": n_b,
                    "both": both,
                    "jaccard": both / (n_a + n_b - both) if n_a + n_b else None,
                    "expected": expected,
                    "jaccard_by_chance": expected / (n_a + n_b - expected) if n_a + n_b else None,
                }
            )
    return found


def _top(scores: Matrix, k: int) -> set[int]:
    best = np.argsort(-scores, kind="stable")[:k]
    return set(best[scores[best] > 0].tolist())


def drift(difference: Matrix, there: Mask) -> dict[str, Any]:
    """Return {n, mean_abs, rms, max_abs} of the difference over these cells."""
    own = difference[there]
    if not own.size:
        return {"n": 0, "mean_abs": None, "rms": None, "max_abs": None}
    size = np.abs(own)
    return {
        "n": int(own.size),
        "mean_abs": float(size.mean()),
        "rms": float(np.sqrt(np.mean(own**2))),
        "max_abs": float(size.max()),
    }


def split(a: Side, b: Side, marked: Mask) -> dict[str, Any]:
    """Return the drift inside and outside a set of experts [site, expert]."""
    difference = b.risk_diff - a.risk_diff
    there: Mask = np.isfinite(difference)
    return {"inside": drift(difference, there & marked), "outside": drift(difference, there & ~marked)}


def _layer(a: Side, b: Side, site: int, there: Mask) -> dict[str, Any]:
    one, other = a.risk_diff[site], b.risk_diff[site]
    figures: dict[str, Any] = {"site": site, "layer": a.layers[site], **drift(other - one, there)}
    figures |= {"spearman": spearman(one[there], other[there]), "kendall": kendall(one[there], other[there])}
    exists = slice(0, a.n_experts[site])
    for code, label in enumerate(LABELS):
        p, q = a.rates[code, site, exists], b.rates[code, site, exists]
        figures[f"jensen_shannon_{label}"] = jensen_shannon(p, q)
        figures[f"cosine_{label}"] = cosine_distance(p, q)
    return figures


def jensen_shannon(p: Matrix, q: Matrix) -> float | None:
    """Return the Jensen-Shannon distance (base 2, so 0 to 1) of two layers' activations, as shares of their sums.

    p, q: rates [expert]. None where a rate is missing or nothing fired.
    """
    if not (np.isfinite(p).all() and np.isfinite(q).all() and p.sum() > 0 and q.sum() > 0):
        return None
    one, other = p / p.sum(), q / q.sum()
    middle = (one + other) / 2
    divergence = (_relative(one, middle) + _relative(other, middle)) / 2
    return float(np.sqrt(min(max(divergence, 0.0), 1.0)))


def _relative(p: Matrix, m: Matrix) -> float:
    there = p > 0
    return float(np.sum(p[there] * np.log2(p[there] / m[there])))


def cosine_distance(p: Matrix, q: Matrix) -> float | None:
    """Return 1 − cosine of two layers' rates [expert]; None where a rate is missing or nothing fired."""
    sizes = np.linalg.norm(p), np.linalg.norm(q)
    if not (np.isfinite(sizes).all() and min(sizes) > 0):
        return None
    return float(np.sum((p / sizes[0] - q / sizes[1]) ** 2) / 2)  # exact for equal vectors


def _movers(a: Side, b: Side, difference: Matrix, there: Mask) -> list[dict[str, Any]]:
    """Return the experts whose risk_diff moved most, the largest movement first."""
    size = np.where(there, np.abs(difference), -1).ravel()
    first = np.argsort(-size, kind="stable")[:N_MOVERS]
    sites, experts = np.unravel_index(first[size[first] > 0], difference.shape)
    return [
        {
            "site": site,
            "layer": a.layers[site],
            "expert": expert,
            "risk_diff_a": float(a.risk_diff[site, expert]),
            "risk_diff_b": float(b.risk_diff[site, expert]),
            "difference": float(difference[site, expert]),
        }
        for site, expert in zip(sites.tolist(), experts.tolist(), strict=True)
    ]
