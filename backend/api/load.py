"""How evenly the experts are used: load per expert, entropy per layer, experts that nothing reaches."""

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response

from backend.api.edge import PROBLEMS, Here, PathId
from backend.api.formats import FILES, IfNoneMatch, etag, json_response, table_response, unchanged
from backend.api.schemas.common import ScopeWord
from backend.api.schemas.context import LoadLabel, LoadOut
from backend.domain.errors import NoTokens
from backend.store import analyses, risks, runs
from backend.store import tables as t

router = APIRouter(prefix="/analyses/{analysis_id}", tags=["experts in context"], responses=PROBLEMS)


@router.get("/load", response_model=LoadOut, responses=FILES)
def get_load(
    here: Here,
    analysis_id: PathId,
    scope: ScopeWord = "prompt",
    label: Annotated[LoadLabel, Query(description="Over both labels together, or one of them.")] = "all",
    format: Literal["json", "csv", "parquet"] = "json",  # noqa: A002 - the query parameter's name
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return how the counted tokens spread over the experts, over every measured batch."""
    with here.reading() as session:
        analysis = runs.get(session, t.Analysis, analysis_id)
        analyses.check_scope(analysis, scope)
        view = risks.load_over_all(session, analysis, scope, label)
    tag = etag(analysis_id, scope, label, format, view.n_batches, view.reason, analysis.plan_digest)
    if (same := unchanged(tag, if_none_match)) is not None:
        return same
    if format == "json":
        return json_response(_body(analysis, view, scope, label), tag)
    if view.load is None:
        raise NoTokens(f"There is no table to return: {view.reason}.")
    return table_response(_columns(view), format, f"load-{analysis.id}-{scope}-{label}", tag)


def _body(analysis: t.Analysis, view: risks.LoadView, scope: str, label: str) -> dict[str, Any]:
    load = view.load
    shown = {
        name: None if load is None else getattr(load, name).tolist()
        for name in ("rate", "relative", "entropy", "effective_experts")
    }
    return {
        "analysis_id": analysis.id,
        "scope": scope,
        "label": label,
        "layers": [site.layer for site in view.sites],
        "sites": analysis.sites,
        "n_experts": max(site.n_experts for site in view.sites),
        "n_batches": view.n_batches,
        "tokens": view.tokens,
        **shown,
        "dead": [] if load is None else load.dead,
        "reason": view.reason,
    }


def _columns(view: risks.LoadView) -> dict[str, Any]:
    """Return one entry per expert; a layer's figures stand beside each of its experts."""
    assert view.load is not None
    exists = risks.exists(view.sites)
    place, expert = np.nonzero(exists)
    return {
        "layer": np.array([site.layer for site in view.sites])[place],
        "site": np.array([site.site for site in view.sites])[place],
        "expert": expert,
        "count": view.counts[exists],
        "tokens": np.full(len(place), view.tokens),
        "rate": view.load.rate[exists],
        "relative_load": view.load.relative[exists],
        "layer_entropy": view.load.entropy[place],
        "layer_effective_experts": view.load.effective_experts[place],
    }
