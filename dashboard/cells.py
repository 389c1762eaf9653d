"""Which cells (row, expert) of a map are meant: by an address, by a set of experts, by a limit. Pure."""

from collections.abc import Sequence

import numpy as np

from dashboard.charts import Cells, Matrix
from dashboard.client import Json


def of_experts(experts: Sequence[Sequence[int]], sites: Sequence[Json]) -> Cells:
    """Turn [layer, expert] pairs into (row, expert); a layer with two sites means both."""
    rows: dict[int, list[int]] = {}
    for row, site in enumerate(sites):
        rows.setdefault(site["layer"], []).append(row)
    return tuple((row, int(expert)) for layer, expert in experts for row in rows.get(int(layer), ()))


def chosen(layer: int | None, expert: int | None, sites: Sequence[Json]) -> tuple[int, int] | None:
    """Return (row, expert) of an address that may name no cell of this model."""
    if layer is None or expert is None:
        return None
    found = of_experts([(layer, expert)], sites)
    return found[0] if found and expert < sites[found[0][0]]["n_experts"] else None


def above(values: Matrix | None, floor: float | None) -> Cells:
    """Return the cells (row, expert) whose |value| exceeds `floor`; NaN never does."""
    if values is None or floor is None:
        return ()
    rows, experts = np.nonzero(np.abs(np.nan_to_num(values)) > floor)
    return tuple(zip(rows.tolist(), experts.tolist(), strict=True))


def below(values: Matrix | None, limit: float) -> Cells:
    """Return the cells (row, expert) whose value is at most `limit`; NaN never is."""
    if values is None:
        return ()
    rows, experts = np.nonzero(values <= np.float32(limit))
    return tuple(zip(rows.tolist(), experts.tolist(), strict=True))
