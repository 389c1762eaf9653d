"""Risk figures of an analysis: heatmaps and tables, over all batches or of one, and expert by expert."""

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy.orm import Session

from backend.api.edge import PROBLEMS, Here, PathId, SmallIndex
from backend.api.expert_rows import SORT_WORDS, TESTED, Filtered, Sort, columns_of, expert_row, with_statistics
from backend.api.formats import (
    FILES,
    IfNoneMatch,
    RowsFormat,
    TableFormat,
    etag,
    json_response,
    npy_response,
    table_response,
    unchanged,
)
from backend.api.pagination import Paged, encode
from backend.api.schemas.analyses import ExpertBatchOut, ExpertDetailOut, ExpertRowOut, RiskDiffOut
from backend.api.schemas.common import Clean, PoolWord, ScopeWord
from backend.api.schemas.statistics import ExpertListing
from backend.domain.errors import InvalidInput, NotFound, NoTokens
from backend.domain.vocabulary import Pool
from backend.store import analyses, risks, runs, statistics
from backend.store import tables as t
from backend.store.paging import slice_page

router = APIRouter(prefix="/analyses/{analysis_id}", tags=["risk"], responses=PROBLEMS)

Batch = Annotated[int | None, Query(ge=0, le=2**31 - 1, description="One batch instead of all of them.")]
SiteName = Annotated[
    str | None, Query(max_length=300, description="Which one, where a layer has two expert sites."), Clean
]
Precision = Literal["float64", "float32"]


@router.get("/risk-diff", response_model=RiskDiffOut, responses=FILES)
def risk_diff(
    here: Here,
    analysis_id: PathId,
    scope: ScopeWord = "prompt",
    pool: PoolWord = "mean",
    batch_idx: Batch = None,
    cells: Annotated[bool, Query(description="With batch_idx: the noise floor of every cell too.")] = True,
    format: TableFormat = "json",  # noqa: A002 - the query parameter's name
    dtype: Annotated[Precision, Query(description="With npy: float32 is half as many bytes.")] = "float64",
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return risk_diff [site][expert], over every measured batch or of one.

    One batch comes with its noise floor, which takes longer at first; `cells=false` leaves it out (the list of batches
    has the batch's own). `csv` and `parquet` hold one line per expert; `npy` holds risk_diff alone, in `dtype`,
    with NaN where it is null.
    """
    with here.reading() as session:
        analysis = runs.get(session, t.Analysis, analysis_id)
        analyses.check_scope(analysis, scope)
        view = _view(session, analysis, scope, pool, batch_idx, with_floor=cells and format == "json")
    asked = (analysis_id, scope, pool, batch_idx, cells, format, dtype)
    tag = etag(*asked, view.n_batches, view.reason, analysis.plan_digest)
    if (same := unchanged(tag, if_none_match)) is not None:
        return same
    name = f"risk_diff-{analysis.id}-{scope}-{pool}" + ("" if batch_idx is None else f"-batch-{batch_idx}")
    if format == "json":
        return json_response(_body(analysis, view, scope, pool, batch_idx), tag)
    if view.table is None:
        raise NoTokens(f"There is no table to return: {view.reason}.")
    if format == "npy":
        return npy_response(view.masked(view.table.risk_diff).astype(dtype), name, tag)
    return table_response(columns_of(view), format, name, tag)


def _view(
    session: Session, analysis: t.Analysis, scope: str, pool: str, batch_idx: int | None, *, with_floor: bool
) -> risks.RiskView:
    if batch_idx is None:
        return risks.over_all(session, analysis, scope, Pool(pool))
    return risks.of_batch(session, analysis, scope, Pool(pool), batch_idx, with_floor=with_floor)


def _body(analysis: t.Analysis, view: risks.RiskView, scope: str, pool: str, batch_idx: int | None) -> dict[str, Any]:
    table = view.table
    shown = {
        name: None if table is None else view.masked(getattr(table, name)).tolist()
        for name in ("risk_diff", "rate_safe", "rate_unsafe")
    }
    counted = {
        name: 0 if table is None else getattr(table, name)
        for name in ("tokens_safe", "tokens_unsafe", "n_safe", "n_unsafe")
    }
    return {
        "analysis_id": analysis.id,
        "scope": scope,
        "pool": pool,
        "batch_idx": batch_idx,
        "layers": [site.layer for site in view.sites],
        "sites": analysis.sites,
        "n_experts": view.n_experts,
        "n_batches": view.n_batches,
        "n_batches_total": analysis.plan_summary["n_batches"],
        **shown,
        **counted,
        "max_abs": None if table is None else float(np.abs(table.risk_diff).max()),
        "noise_floor": view.floor and view.floor[0],
        "noise_floor_cells": view.floor and view.masked(view.floor[1]).tolist(),
        "non_finite": view.non_finite,
        "reason": view.reason,
    }


@router.get("/experts", response_model=ExpertListing, responses=FILES)
def get_experts(
    here: Here,
    analysis_id: PathId,
    page: Paged,
    wanted: Filtered,
    scope: ScopeWord = "prompt",
    pool: PoolWord = "mean",
    sort: Annotated[Sort, Query(description=SORT_WORDS)] = "abs",
    format: RowsFormat = "json",  # noqa: A002 - the query parameter's name
) -> Any:
    """List every expert's figures over all batches. Empty while nothing is measured.

    The test columns are those of the newest finished statistics of this scope and pool, null without. `csv` and
    `parquet` hold all rows, in the same order.
    """
    with here.reading() as session:
        analysis = runs.get(session, t.Analysis, analysis_id)
        analyses.check_scope(analysis, scope)
        view = risks.over_all(session, analysis, scope, Pool(pool))
        stored = statistics.newest(session, analysis_id, scope, pool)
    if view.table is None:
        if format != "json":
            raise NoTokens(f"There is no table to return: {view.reason}.")
        return ExpertListing(items=[], next_cursor=None, statistics_id=None)
    columns = with_statistics(view, statistics.figures_of(stored) if stored else None)
    order = wanted.ordered(columns, sort)
    if format != "json":
        rows = {name: values[order] for name, values in columns.items()}
        return table_response(rows, format, f"experts-{analysis.id}-{scope}-{pool}")
    found = slice_page(order.tolist(), page.after(int), page.limit)
    items = [ExpertRowOut.model_validate(expert_row(columns, row)) for row in found.items]
    return ExpertListing(items=items, next_cursor=encode(found.next_key), statistics_id=stored.id if stored else None)


@router.get("/experts/{layer}/{expert}")
def get_expert(
    here: Here,
    analysis_id: PathId,
    layer: SmallIndex,
    expert: SmallIndex,
    scope: ScopeWord = "prompt",
    pool: PoolWord = "mean",
    site: SiteName = None,
) -> ExpertDetailOut:
    """Return one expert's figures, over all batches and batch by batch."""
    with here.reading() as session:
        analysis = runs.get(session, t.Analysis, analysis_id)
        analyses.check_scope(analysis, scope)
        place = find_place(risks.sites_of(analysis), layer, expert, site)
        view = risks.over_all(session, analysis, scope, Pool(pool))
        history = risks.expert_over_batches(session, analysis, scope, Pool(pool), place, expert)
        stored = statistics.newest(session, analysis_id, scope, pool)
    batches = [ExpertBatchOut(batch_idx=idx, risk_diff=diff, noise_floor=floor) for idx, diff, floor in history]
    more = {"batches": batches, "statistics_id": stored.id if stored else None}
    return ExpertDetailOut.model_validate(_cell(view, place, expert) | _tested(stored, place, expert) | more)


def _tested(stored: t.Statistics | None, place: int, expert: int) -> dict[str, float | None]:
    if stored is None:
        return dict.fromkeys(TESTED)
    figures = statistics.figures_of(stored)
    return {name: figures[name][place, expert].item() for name in TESTED}


def find_place(sites: tuple[Any, ...], layer: int, expert: int, name: str | None) -> int:
    """Return which of the sites a layer is (the first, unless one is named). Raises NotFound, InvalidInput."""
    for place, site in enumerate(sites):
        if site.layer == layer and name in (None, site.site):
            if expert < site.n_experts:
                return place
            raise NotFound(f"expert in layer {layer} (it has {site.n_experts}) with the number", expert)
    if name is not None:
        raise InvalidInput(f"Layer {layer} has no expert site {name!r}.", ("query", "site"))
    layers = ", ".join(str(site.layer) for site in sites)
    raise NotFound(f"MoE layer (there are: {layers}) with the number", layer)


def _cell(view: risks.RiskView, place: int, expert: int) -> dict[str, Any]:
    table = view.table
    head = {"layer": view.sites[place].layer, "expert": expert, "site": view.sites[place].site}
    if table is None:
        return (
            head
            | dict.fromkeys(("count_safe", "count_unsafe", "tokens_safe", "tokens_unsafe"), 0)
            | dict.fromkeys(("rate_safe", "rate_unsafe", "risk_diff"))
        )
    cells = ("count_safe", "count_unsafe", "rate_safe", "rate_unsafe", "risk_diff")
    return head | {
        "tokens_safe": table.tokens_safe,
        "tokens_unsafe": table.tokens_unsafe,
        **{name: getattr(table, name)[place, expert].item() for name in cells},
    }
