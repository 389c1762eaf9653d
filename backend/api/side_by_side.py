"""Several analyses and published tables side by side. Two of them in depth, with intervals: comparisons.py."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response

from backend.api.edge import PROBLEMS, Here
from backend.api.formats import FILES, TableFormat, json_response, npy_response, table_response
from backend.api.schemas.common import Clean, PoolWord, ScopeWord
from backend.api.schemas.comparisons import SideBySideOut
from backend.domain.side_by_side import MOST_SIDES
from backend.store import side_by_side

router = APIRouter(prefix="/side-by-side", tags=["comparisons"], responses=PROBLEMS)

Sides = Annotated[
    list[Annotated[str, Query(max_length=100), Clean]],
    Query(min_length=2, max_length=MOST_SIDES, description="An analysis (an_...) or a published table (rt_...)."),
]


@router.get("", response_model=SideBySideOut, responses=FILES)
def get(
    here: Here,
    side: Sides,
    scope: ScopeWord | None = None,
    pool: PoolWord | None = None,
    format: TableFormat = "json",  # noqa: A002 - the query parameter's name
) -> Response:
    """Compare 2 to 8 sides: their risk_diff on one scale, each two of them, and the experts that differ most.

    csv, parquet: one line per expert, risk_diff_1 and so on in the order of the sides, and their spread. npy: risk_diff
    [side, site, expert].
    """
    with here.reading() as session:
        read = side_by_side.read(session, side, scope, pool)
    if format == "npy":
        return npy_response(read.risk_diff, "side-by-side")
    if format in ("csv", "parquet"):
        return table_response(_columns(read), format, "side-by-side")
    sites = read.result["sites"]
    shape = {"layers": [site["layer"] for site in sites], "n_experts": read.risk_diff.shape[2]}
    own = {"scope": read.scope, "pool": read.pool, "risk_diff": read.risk_diff.astype(np.float64).tolist()}
    return json_response(own | shape | read.result)


def _columns(read: side_by_side.Read) -> dict[str, Any]:
    sites = read.result["sites"]
    exists = np.arange(read.risk_diff.shape[2]) < np.array([site["n_experts"] for site in sites])[:, None]
    place, expert = np.nonzero(exists)
    values = read.risk_diff.astype(np.float64)
    columns: dict[str, Any] = {"layer": np.array([site["layer"] for site in sites], dtype=np.int64)[place]}
    columns |= {"expert": expert} | {f"risk_diff_{n}": own[exists] for n, own in enumerate(values, 1)}
    return columns | {"spread": (values.max(axis=0) - values.min(axis=0))[exists]}
