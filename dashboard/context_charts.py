"""Data -> what the room "Experts in context" draws. Pure, like charts.py. Not risk, so the colours are others."""

from collections.abc import Sequence

import numpy as np

from dashboard.charts import Heat, Matrix, round_up, site_labels
from dashboard.client import Json

MOST = 3.0
"""Furthest end of the colour scale, in doublings: eight times as much, or an eighth."""
LEAST = 0.5
"""Nearest end: smaller differences are not worth a colour."""


def doublings(ratio: Matrix) -> Matrix:
    """Return log2 of a ratio, cut at the ends of the scale: nothing at all is the lowest value, not a hole."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(np.log2(ratio), -MOST, MOST).astype("<f4")


def _end(z: Matrix) -> float:
    """Return the end of the colour scale for these doublings."""
    largest = float(np.nanmax(np.abs(z))) if np.isfinite(z).any() else 0.0
    return min(MOST, round_up(max(largest, LEAST)))


def load_heat(load: Json, what: str) -> Heat:
    """Return how each expert's load differs from an even share; experts that nothing reaches get a dot."""
    relative = load["relative"]
    rows = {site["layer"]: row for row, site in enumerate(load["sites"])}
    label = f"{what}: load of every expert, {len(load['sites'])} layers by {relative.shape[1]} experts."
    z = doublings(relative)
    return Heat(
        z=z,
        labels=site_labels(load["sites"]),
        vmax=_end(z),
        label=label + " Arrow keys walk the cells, Enter opens one.",
        unit="log₂ load",
        marks=tuple((rows[layer], expert) for layer, expert in load["dead"]),
        palette="share",
        digits=2,
        more=relative,
        more_words="times an even share:",
    )


def pairs_heat(lift: Matrix, observed: Matrix, what: str) -> Heat:
    """Return how much more often than by chance two experts of a layer share a token. Both: [a, b], symmetric."""
    n, z = len(lift), doublings(lift)
    return Heat(
        z=z,
        labels=tuple(map(str, range(n))),
        vmax=_end(z),
        label=f"{what}: co-activation of {n} experts with one another. Arrow keys walk the cells.",
        unit="log₂ lift",
        row="Expert",
        palette="share",
        digits=2,
        more=observed,
        more_words="tokens that reached both:",
    )


def layer_rows(load: Json) -> list[Json]:
    """Return one line per layer: evenness, effective experts, the busiest expert and how many nothing reaches."""
    dead = [layer for layer, _ in load["dead"]]
    found = []
    for row, (site, label) in enumerate(zip(load["sites"], site_labels(load["sites"]), strict=True)):
        own = np.nan_to_num(load["relative"][row], nan=-1.0)
        busiest = int(own.argmax())
        found.append(
            {
                "label": label,
                "layer": site["layer"],
                "n_experts": site["n_experts"],
                "entropy": load["entropy"][row],
                "effective": load["effective_experts"][row],
                "busiest": busiest,
                "busiest_load": float(own[busiest]),
                "dead": dead.count(site["layer"]),
            }
        )
    return found


def most(values: Sequence[float]) -> float:
    """Return the largest size of the values, for the end of a bar; 1 where there is none."""
    return max((abs(v) for v in values), default=0.0) or 1.0
