"""One sample of a batch: how many of its tokens every expert received."""

from typing import Any

import numpy as np
from fastapi import APIRouter
from fastapi.responses import Response

from backend.api.edge import PROBLEMS, Here, PathId, SmallIndex
from backend.api.formats import (
    FILES,
    IfNoneMatch,
    TableFormat,
    etag,
    json_response,
    npy_response,
    table_response,
    unchanged,
)
from backend.api.schemas.analyses import SampleRoutingOut
from backend.api.schemas.common import ScopeWord
from backend.domain.errors import NoTokens
from backend.store import analyses, risks, routings, runs
from backend.store import tables as t

router = APIRouter(prefix="/analyses/{analysis_id}", tags=["batches"], responses=PROBLEMS)


@router.get("/batches/{batch_idx}/samples/{in_batch_idx}/routing", response_model=SampleRoutingOut, responses=FILES)
def get_routing(
    here: Here,
    analysis_id: PathId,
    batch_idx: SmallIndex,
    in_batch_idx: SmallIndex,
    scope: ScopeWord = "prompt",
    format: TableFormat = "json",  # noqa: A002 - the query parameter's name
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return how many of one sample's tokens reached every expert, [site][expert], and their share.

    `csv` and `parquet` hold one line per expert; `npy` holds the counts alone.
    """
    with here.reading() as session:
        analysis = runs.get(session, t.Analysis, analysis_id)
        analyses.check_scope(analysis, scope)
        found = routings.of_sample(session, analysis, scope, batch_idx, in_batch_idx)
    tag = etag("routing", analysis_id, scope, batch_idx, in_batch_idx, format, found.reason, analysis.plan_digest)
    if (same := unchanged(tag, if_none_match)) is not None:
        return same
    name = f"routing-{analysis.id}-{scope}-batch-{batch_idx}-sample-{in_batch_idx}"
    if format == "json":
        place = {"analysis_id": analysis.id, "batch_idx": batch_idx, "in_batch_idx": in_batch_idx, "scope": scope}
        return json_response(place | _body(found), tag)
    if found.counts is None:
        raise NoTokens(f"There is no table to return: {found.reason}.")
    if format == "npy":
        return npy_response(found.counts, name, tag)
    return table_response(_columns(found), format, name, tag)


def _body(found: routings.SampleRouting) -> dict[str, Any]:
    there = risks.exists(found.sites)
    counts = rates = None
    if found.counts is not None:
        counts = [row[: site.n_experts] for site, row in zip(found.sites, found.counts.tolist(), strict=True)]
        counts = [row + [None] * (there.shape[1] - len(row)) for row in counts]
        rates = np.where(there, found.rates, np.nan).tolist()
    return {
        "row_id": found.planned.row_id,
        "label": found.planned.label,
        "layers": [site.layer for site in found.sites],
        "sites": [site.to_dict() for site in found.sites],
        "n_experts": there.shape[1],
        "tokens": found.tokens,
        "counts": counts,
        "rates": rates,
        "reason": found.reason,
    }


def _columns(found: routings.SampleRouting) -> dict[str, Any]:
    assert found.counts is not None
    there = risks.exists(found.sites)
    sizes = there.sum(axis=1)
    counts = found.counts[there]
    return {
        "layer": np.repeat([site.layer for site in found.sites], sizes),
        "expert": np.nonzero(there)[1],
        "site": np.repeat([site.site for site in found.sites], sizes),
        "count": counts,
        "tokens": np.full(len(counts), found.tokens),
        "rate": found.rates[there],
    }
