"""Which statistics a page shows: those that its address names, or else the newest of the scope and pool."""

from collections.abc import Mapping

import numpy as np

from dashboard import address, cells, charts, data
from dashboard.client import Api, Json

MARKS = {"family": "family-wise p", "q": "q-value", "none": "none"}
Q_LIMIT = 0.05


def heads(analysis: Json, scope: str, pool: str) -> list[Json]:
    """Return [{id, scope, pool, status}, ...] of one scope and pool, newest first."""
    return [head for head in analysis["statistics"] if (head["scope"], head["pool"]) == (scope, pool)]


def newest(analysis: Json, scope: str, pool: str) -> Json | None:
    """Return the head that the address names, or else the newest one, whatever became of it."""
    found, asked = heads(analysis, scope, pool), address.text("statistics")
    return next((head for head in found if head["id"] == asked), found[0] if found else None)


def finished(api: Api, analysis: Json, scope: str, pool: str) -> Json | None:
    """Return the finished statistics that the address names, or else the newest finished ones."""
    found = [head for head in heads(analysis, scope, pool) if head["status"] == "succeeded"]
    asked = address.text("statistics")
    head = next((head for head in found if head["id"] == asked), found[0] if found else None)
    return dict(data.remember(api, f"/statistics/{head['id']}", "succeeded")) if head else None


def testable(stored: Json) -> bool:
    """Whether any expert could have been called significant."""
    return bool(stored["summary"]["design"]["scheme"] != "not_testable")


def marked(kind: str, stored: Json, figures: Mapping[str, charts.Matrix | None]) -> charts.Cells:
    """Return the cells that get a mark: by p of the whole family, or by q."""
    if kind == "family":
        return cells.below(figures["p_max_t"], stored["summary"]["alpha"])
    return cells.below(figures["q"], Q_LIMIT) if kind == "q" else ()


def mark_words(kind: str, stored: Json) -> str:
    """Say what a mark means: 'family-wise p ≤ 0.05'."""
    return f"family-wise p ≤ {stored['summary']['alpha']:g}" if kind == "family" else f"q ≤ {Q_LIMIT:g}"


def interval_words(stored: Json) -> str:
    """Name the interval: '95 % interval'."""
    return interval_words_of(stored["summary"])


def interval_words_of(summary: Json) -> str:
    """Name the interval of a summary."""
    return f"{100 * summary['intervals']['level']:g} % interval"


def figure(figures: Mapping[str, charts.Matrix | None], name: str, row: int, expert: int) -> float | None:
    """Return one figure of one expert; None where there is none."""
    table = figures[name]
    return None if table is None or not np.isfinite(table[row, expert]) else float(table[row, expert])
