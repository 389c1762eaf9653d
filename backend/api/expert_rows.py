"""One row per expert: its risk figures, and beside them what the statistics say of it."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backend.domain.risk import risk_columns
from backend.store import risks
from backend.store.statistics import Figures

TESTED = ("ci_low", "ci_high", "standard_error", "t", "p", "p_max_t", "q", "frequency", "drift_slope", "load")
"""What the statistics add to the columns of a risk table."""

Sort = Literal["p", "q", "abs", "-abs", "risk_diff", "-risk_diff", "frequency", "layer"]
SORT_WORDS = (
    "p, q: the smallest first, equal ones by |t|; abs, -abs: the largest |risk_diff| first; -risk_diff: the most "
    "unsafe first; frequency: the most often chosen first."
)
Columns = dict[str, NDArray[Any]]


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
        "q": (by_t, columns["q"]),
        "abs": (-size,),
        "-abs": (-size,),
        "risk_diff": (columns["risk_diff"],),
        "-risk_diff": (-columns["risk_diff"],),
        "frequency": (-size, -columns["frequency"]),
        "layer": (np.zeros_like(size),),
    }
    return np.lexsort(keys[sort])  # the last key counts first


def expert_row(columns: Columns, row: int) -> dict[str, Any]:
    """Return one row as plain values."""
    return {name: values[row].item() for name, values in columns.items()}
