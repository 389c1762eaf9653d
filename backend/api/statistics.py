"""Statistics of an analysis: asked for, followed, read expert by expert. Computed by a worker, without a GPU."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy.orm import Session, undefer

from backend.api import runs as edge_runs
from backend.api.edge import PROBLEMS, Here, PathId
from backend.api.expert_rows import SORT_WORDS, Columns, Filtered, Sort, expert_row, with_statistics
from backend.api.formats import FILES, IfNoneMatch, etag, json_response, table_response, unchanged
from backend.api.idempotency import IdempotencyKey, Made, once
from backend.api.pagination import Paged, encode
from backend.api.schemas.analyses import ExpertRowOut
from backend.api.schemas.common import Listing, PoolWord, RunnablePatch, ScopeWord, VerificationOut
from backend.api.schemas.statistics import (
    DriftBatchesOut,
    DriftBatchOut,
    ExpertListing,
    StatisticsCreate,
    StatisticsOut,
    StatisticsTableOut,
)
from backend.domain.errors import InvalidInput, NoTokens
from backend.domain.vocabulary import Pool
from backend.store import analyses, jobs, risks, runs, statistics
from backend.store import tables as t
from backend.store.paging import slice_page
from backend.store.verify import verify_statistics

router = APIRouter(tags=["statistics"], responses=PROBLEMS)

_FIELDS = ("analysis_id", "scope", "pool", "params", "input_digest", "sha256")
_FEWEST_BEYOND = 5


def show_all(session: Session, found: Sequence[t.Statistics]) -> list[StatisticsOut]:
    """Return statistics as the API shows them."""
    job_ids = jobs.newest_of(session, [one.id for one in found])
    return [
        StatisticsOut.model_validate(
            edge_runs.shown_fields(one, job_ids)
            | {name: getattr(one, name) for name in _FIELDS}
            | {"summary": one.summary if one.status == "succeeded" else None}
        )
        for one in found
    ]


def show(session: Session, id_: str) -> StatisticsOut:
    """Return one as the API shows it."""
    return show_all(session, [runs.get(session, t.Statistics, id_)])[0]


@router.post(
    "/analyses/{analysis_id}/statistics",
    status_code=202,
    response_model=StatisticsOut,
    responses={200: {"model": StatisticsOut, "description": "The same request already runs or has succeeded: that."}},
)
def create(here: Here, analysis_id: PathId, body: StatisticsCreate, idempotency_key: IdempotencyKey = None) -> Response:
    """Queue the statistics of one scope and pool. The analysis must have succeeded: they need every batch."""
    if body.n_resamples * (1 - body.level) < _FEWEST_BEYOND:
        least = int(np.ceil(_FEWEST_BEYOND / (1 - body.level)))
        message = f"An interval of level {body.level:g} needs at least {least} resamples."
        raise InvalidInput(message, ("body", "n_resamples"))
    asked = body.model_dump(mode="json", exclude={"name", "scope", "pool"})

    def make(session: Session) -> Made:
        analysis = runs.get_live(session, t.Analysis, analysis_id)
        analyses.check_scope(analysis, body.scope)
        statistics.check_ready(session, analysis)
        stored, job = statistics.request_once(session, analysis, body.scope, body.pool, asked, body.name)
        return 202 if job else 200, show(session, stored.id), job

    route = f"POST /analyses/{analysis_id}/statistics"
    return once(here, idempotency_key, route, body.model_dump(mode="json"), make)


@router.get("/analyses/{analysis_id}/statistics")
def get_all(
    here: Here,
    analysis_id: PathId,
    asked: edge_runs.Filtered,
    scope: ScopeWord | None = None,
    pool: PoolWord | None = None,
) -> Listing[StatisticsOut]:
    """List the statistics of an analysis, newest first."""
    with here.reading() as session:
        runs.get(session, t.Analysis, analysis_id)
        own = {"analysis_id": analysis_id, "scope": scope, "pool": pool}
        return edge_runs.listing(session, t.Statistics, asked, show_all, **own)


@router.get("/statistics/{statistics_id}")
def get_one(here: Here, statistics_id: PathId) -> StatisticsOut:
    """Return one, deleted or not."""
    with here.reading() as session:
        return show(session, statistics_id)


@router.patch("/statistics/{statistics_id}")
def patch(here: Here, statistics_id: PathId, body: RunnablePatch) -> StatisticsOut:
    """Change name, tags or notes."""
    with here.writing() as session:
        runs.patch(session, t.Statistics, statistics_id, edge_runs.changes(body))
        return show(session, statistics_id)


@router.delete("/statistics/{statistics_id}", status_code=204, response_class=Response)
def delete(here: Here, statistics_id: PathId) -> None:
    """Hide statistics; `undelete` brings them back for some days. Refused while they are queued or running."""
    with here.writing() as session:
        runs.remove(session, t.Statistics, statistics_id)


@router.post("/statistics/{statistics_id}/undelete")
def undelete(here: Here, statistics_id: PathId) -> StatisticsOut:
    """Bring deleted statistics back."""
    with here.writing() as session:
        runs.restore(session, t.Statistics, statistics_id)
        return show(session, statistics_id)


@router.post("/statistics/{statistics_id}/cancel")
def cancel(here: Here, statistics_id: PathId) -> StatisticsOut:
    """Stop the computation; `resume` starts it anew, with the same result. 409 once it is finished."""
    edge_runs.cancel(here, t.Statistics, statistics_id)
    with here.reading() as session:
        return show(session, statistics_id)


@router.post("/statistics/{statistics_id}/resume", status_code=202, response_model=StatisticsOut)
def resume(here: Here, statistics_id: PathId, idempotency_key: IdempotencyKey = None) -> Response:
    """Compute failed or cancelled statistics again: the result is that of an undisturbed run."""
    return edge_runs.resume(here, t.Statistics, statistics_id, idempotency_key, show)


@router.post("/statistics/{statistics_id}/verify")
def verify(here: Here, statistics_id: PathId) -> VerificationOut:
    """Check the analysis' chain, that these statistics stand on the stored counts, and that nobody changed them."""
    with here.reading() as session:
        return edge_runs.verification(verify_statistics(session, statistics_id))


@router.get("/statistics/{statistics_id}/experts", response_model=ExpertListing, responses=FILES)
def get_experts(
    here: Here,
    statistics_id: PathId,
    page: Paged,
    wanted: Filtered,
    sort: Annotated[Sort, Query(description=SORT_WORDS)] = "p",
    format: Literal["json", "csv", "parquet"] = "json",  # noqa: A002 - the query parameter's name
) -> Response:
    """List every expert with its figures and its tests. `csv` and `parquet` hold all rows, in the same order."""
    with here.reading() as session:
        stored = _with_figures(session, statistics_id)
        columns = _columns(session, stored)
    order = wanted.ordered(columns, sort)
    if format != "json":
        rows = {name: values[order] for name, values in columns.items()}
        return table_response(rows, format, f"experts-{stored.id}")
    found = slice_page(order.tolist(), page.after(int), page.limit)
    items = [ExpertRowOut.model_validate(expert_row(columns, row)) for row in found.items]
    shown = ExpertListing(items=items, next_cursor=encode(found.next_key), statistics_id=stored.id)
    return json_response(shown.model_dump())


def _with_figures(session: Session, id_: str) -> t.Statistics:
    runs.get(session, t.Statistics, id_)
    options = [undefer(t.Statistics.figures)]
    return session.get_one(t.Statistics, id_, options=options, populate_existing=True)


def _columns(session: Session, stored: t.Statistics) -> Columns:
    figures = statistics.figures_of(stored)
    analysis = session.get_one(t.Analysis, stored.analysis_id)
    view = risks.over_all(session, analysis, stored.scope, Pool(stored.pool))
    if view.table is None:
        raise NoTokens(f"There is no table to return: {view.reason}.")
    return with_statistics(view, figures)


@router.get(
    "/statistics/{statistics_id}/table",
    response_model=StatisticsTableOut,
    responses={304: {"description": "Unchanged since the answer with this ETag."}},
)
def get_table(here: Here, statistics_id: PathId, if_none_match: IfNoneMatch = None) -> Response:
    """Return the figures as matrices [site][expert], for a heatmap."""
    with here.reading() as session:
        stored = _with_figures(session, statistics_id)
        figures = statistics.figures_of(stored)
        sites = session.get_one(t.Analysis, stored.analysis_id).sites
    tag = etag(stored.id, stored.sha256)
    if (same := unchanged(tag, if_none_match)) is not None:
        return same
    head = {
        "statistics_id": stored.id,
        "analysis_id": stored.analysis_id,
        "scope": stored.scope,
        "pool": stored.pool,
        "layers": [site["layer"] for site in sites],
        "sites": sites,
        "n_experts": max(site["n_experts"] for site in sites),
    }
    return json_response(head | {name: table.tolist() for name, table in figures.items()}, tag)


@router.get("/statistics/{statistics_id}/drift", response_model=DriftBatchesOut, responses=FILES)
def get_drift(
    here: Here,
    statistics_id: PathId,
    format: Literal["json", "csv", "parquet"] = "json",  # noqa: A002 - the query parameter's name
) -> Response:
    """Return how far risk_diff of every batch lies from the mean of all batches."""
    with here.reading() as session:
        stored = _with_figures(session, statistics_id)
        statistics.figures_of(stored)
    distance = stored.summary["drift"].get("distance", [])
    if format != "json":
        values = np.array([np.nan if one is None else one for one in distance], dtype=float)
        columns = {"batch_idx": np.arange(len(distance)), "distance": values}
        return table_response(columns, format, f"drift-{stored.id}")
    items = [DriftBatchOut(batch_idx=idx, distance=one) for idx, one in enumerate(distance)]
    return json_response(DriftBatchesOut(statistics_id=stored.id, items=items).model_dump())
