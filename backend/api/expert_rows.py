"""One row per expert: its risk figures, and beside them what the statistics say of it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Depends, Query
from numpy.typing import NDArray

from backend.domain.risk import risk_columns
from backend.store import risks
from backend.store.statistics import Figures

TESTED = ("ci_low", "ci_high", "standard_error", "t", "p", "p_max_t", "q", "frequency", "drift_slope", "load")
"""What the statistics add to the columns of a risk table."""

Sort = Literal["p", "p_max_t", "q", "abs", "-abs", "risk_diff", "-risk_diff", "frequency", "load", "-load", "layer"]
SORT_WORDS = (
    "p, p_max_t, q: the smallest first, equal ones by |t|; abs, -abs: the largest |risk_diff| first; -risk_diff: the "
    "most unsafe first; frequency: the most often chosen first; -load: the busiest first."
)
Columns = dict[str, NDArray[Any]]


Share = Annotated[float | None, Query(ge=0, le=1)]
Direction = Annotated[
    Literal["unsafe", "safe", "both"],
    Query(description="unsafe: risk_diff > 0, safe: risk_diff < 0; neither where the tested difference contradicts."),
]
Layer = Annotated[int | None, Query(ge=0, le=2**31 - 1, description="The experts of one layer only.")]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which experts a listing shows. A limit on a test leaves out every expert that has none."""

    max_q: float | None
    max_p_max_t: float | None
    direction: str
    layer: int | None

    def keeps(self, columns: Columns) -> NDArray[np.bool_]:
        """Return, per row of `columns`, whether it is shown."""
        wanted = np.ones(len(columns["expert"]), dtype=bool)
        for name, limit in (("q", self.max_q), ("p_max_t", self.max_p_max_t)):
            if limit is not None:
                wanted &= columns[name] <= limit  # NaN is no test
        if self.direction != "both":
            sign = 1 if self.direction == "unsafe" else -1
            wanted &= (sign * columns["risk_diff"] > 0) & ~(sign * columns["t"] < 0)
        if self.layer is not None:
            wanted &= columns["layer"] == self.layer
        return wanted

    def ordered(self, columns: Columns, sort: Sort) -> NDArray[np.int64]:
        """Return the positions of the rows that are shown, in the wanted order."""
        order = order_of(columns, sort)
        return order[self.keeps(columns)[order]]


def _filter(
    max_q: Share = None, max_p_max_t: Share = None, direction: Direction = "both", layer: Layer = None
) -> Filter:
    """Read the query parameters of a listing of experts."""
    return Filter(max_q, max_p_max_t, direction, layer)


Filtered = Annotated[Filter, Depends(_filter)]


def columns_of(view: risks.RiskView) -> Columns:
    """Return the table of a view as columns, one entry per expert that exists."""
    assert view.table is not None
    return risk_columns(view.table, [s.layer for s in view.sites], [s.n_experts for s in view.sites])


def with_statistics(view: risks.RiskView, figures: Figures | None) -> Columns:
    """Return those columns with the site's name and TESTED; NaN where there are no statistics."""
    columns = columns_of(view)
    there = risks.exists(view.sites)
    nothing = np.full(len(columns["expert"]), np.nan)
    names = np.repeat([site.site for site in view.sites], [site.n_experts for site in view.sites])
    tested = {name: nothing if figures is None else figures[name][there] for name in TESTED}
    return {"layer": columns.pop("layer"), "expert": columns.pop("expert"), "site": names} | columns | tested


def order_of(columns: Columns, sort: Sort) -> NDArray[np.int64]:
    """Return the rows' positions in the wanted order; NaN comes last, ties keep layer and expert order."""
    size = np.abs(columns["risk_diff"])
    by_t = -np.abs(columns["t"])
    keys: dict[str, tuple[NDArray[Any], ...]] = {
        "p": (by_t, columns["p_max_t"], columns["p"]),
        "p_max_t": (by_t, columns["p_max_t"]),
        "q": (by_t, columns["q"]),
        "abs": (-size,),
        "-abs": (-size,),
        "risk_diff": (columns["risk_diff"],),
        "-risk_diff": (-columns["risk_diff"],),
        "frequency": (-size, -columns["frequency"]),
        "load": (columns["load"],),
        "-load": (-columns["load"],),
        "layer": (np.zeros_like(size),),
    }
    return np.lexsort(keys[sort])  # the last key counts first


def expert_row(columns: Columns, row: int) -> dict[str, Any]:
    """Return one row as plain values."""
    return {name: values[row].item() for name, values in columns.items()}
