"""Experts in context: a second pass over an analysis, what its experts share, and which tokens drive them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from backend.api import runs as edge_runs
from backend.api.context_tables import coactivation_body, expert_body, expert_row, pair_columns, token_columns
from backend.api.edge import PROBLEMS, Here, PathId, SmallIndex
from backend.api.formats import FILES, TableFormat, json_response, npy_response, table_response
from backend.api.idempotency import IdempotencyKey, Made, once
from backend.api.pagination import Paged, listing
from backend.api.risk import SiteName, find_place
from backend.api.schemas.common import Listing, PoolWord, RunnablePatch, VerificationOut
from backend.api.schemas.context import (
    CoactivationOut,
    ContextCreate,
    ContextExpertOut,
    ContextOut,
    ExpertTokensOut,
    LoadLabel,
    PairOrder,
)
from backend.domain.context import coactivation
from backend.domain.errors import Conflict, NoTokens
from backend.domain.vocabulary import LABELS, Label, Pool
from backend.store import analyses, contexts, jobs, risks, runs
from backend.store import tables as t
from backend.store.paging import slice_page
from backend.store.verify_runs import verify_context

router = APIRouter(tags=["experts in context"], responses=PROBLEMS)

Top = Annotated[int | None, Query(ge=1, le=200, description="How many tokens of each side; default: the run's own.")]


def show_all(session: Session, found: Sequence[t.Context]) -> list[ContextOut]:
    """Return context runs as the API shows them."""
    job_ids = jobs.newest_of(session, [one.id for one in found])
    return [
        ContextOut.model_validate(
            edge_runs.shown_fields(one, job_ids)
            | {name: getattr(one, name) for name in ("analysis_id", "engine", "scope", "params")}
            | {name: one.result.get(name) for name in ("recounted", "dtype")}
            | {"n_experts": len(one.params["experts"])}
        )
        for one in found
    ]


def show(session: Session, id_: str) -> ContextOut:
    """Return one context run as the API shows it."""
    return show_all(session, [runs.get(session, t.Context, id_)])[0]


@router.post("/analyses/{analysis_id}/context", status_code=202, response_model=ContextOut)
def create(here: Here, analysis_id: PathId, body: ContextCreate, idempotency_key: IdempotencyKey = None) -> Response:
    """Queue a context run: the stored token ids go through the analysis' engine once more, and its routing is read
    token by token. The counts must be those that the analysis stored.
    """

    def make(session: Session) -> Made:
        analysis = runs.get_live(session, t.Analysis, analysis_id)
        analyses.check_scope(analysis, body.scope)
        if analysis.status != "succeeded":
            raise Conflict(f"The analysis is {analysis.status}: its experts are read in context once it has succeeded.")
        params = {"experts": _experts(session, analysis, body), "top_tokens": body.top_tokens}
        name = body.name or f"{analysis.name} in context"[:200]
        context = contexts.create(session, name, analysis, body.scope, params)
        job = jobs.add(session, "context", context.id)
        return 202, show(session, context.id), job

    route = f"POST /analyses/{analysis_id}/context"
    return once(here, idempotency_key, route, body.model_dump(mode="json"), make)


def _experts(session: Session, analysis: t.Analysis, body: ContextCreate) -> list[list[int]]:
    if body.experts is None:
        view = risks.over_all(session, analysis, body.scope, Pool.MEAN)
        if view.table is None:
            raise NoTokens(f"There is no risk_diff to choose experts by ({view.reason}): name the experts.")
        return [list(expert) for expert in contexts.default_experts(view)]
    contexts.places_of(body.experts, risks.sites_of(analysis))
    return [list(expert) for expert in dict.fromkeys(body.experts)]


@router.get("/analyses/{analysis_id}/context")
def get_all(here: Here, analysis_id: PathId, asked: edge_runs.Filtered) -> Listing[ContextOut]:
    """List the context runs of an analysis, newest first."""
    with here.reading() as session:
        runs.get(session, t.Analysis, analysis_id)
        return edge_runs.listing(session, t.Context, asked, show_all, analysis_id=analysis_id)


@router.get("/context/{context_id}")
def get_one(here: Here, context_id: PathId) -> ContextOut:
    """Return one context run, deleted or not."""
    with here.reading() as session:
        return show(session, context_id)


@router.patch("/context/{context_id}")
def patch(here: Here, context_id: PathId, body: RunnablePatch) -> ContextOut:
    """Change name, tags or notes."""
    with here.writing() as session:
        runs.patch(session, t.Context, context_id, edge_runs.changes(body))
        return show(session, context_id)


@router.delete("/context/{context_id}", status_code=204, response_class=Response)
def delete(here: Here, context_id: PathId) -> None:
    """Hide a context run; `undelete` brings it back for some days. Refused while it is queued or running."""
    with here.writing() as session:
        runs.remove(session, t.Context, context_id)


@router.post("/context/{context_id}/undelete")
def undelete(here: Here, context_id: PathId) -> ContextOut:
    """Bring a deleted context run back."""
    with here.writing() as session:
        runs.restore(session, t.Context, context_id)
        return show(session, context_id)


@router.post("/context/{context_id}/cancel")
def cancel(here: Here, context_id: PathId) -> ContextOut:
    """Stop a context run; `resume` goes on after the last counted window. 409 once it is finished."""
    edge_runs.cancel(here, t.Context, context_id)
    with here.reading() as session:
        return show(session, context_id)


@router.post("/context/{context_id}/resume", status_code=202, response_model=ContextOut)
def resume(here: Here, context_id: PathId, idempotency_key: IdempotencyKey = None) -> Response:
    """Go on with a failed or cancelled context run: the result is that of an undisturbed one."""
    return edge_runs.resume(here, t.Context, context_id, idempotency_key, show)


@router.get("/context/{context_id}/coactivation", response_model=CoactivationOut, responses=FILES)
def get_coactivation(
    here: Here,
    context_id: PathId,
    layer: Annotated[int, Query(ge=0, le=2**31 - 1)],
    label: Annotated[LoadLabel, Query(description="Over both labels together, or one of them.")] = "all",
    site: SiteName = None,
    order: Annotated[PairOrder, Query(description="excess: observed - expected; lift: where 5 were expected.")] = (
        "excess"
    ),
    top: Annotated[int, Query(ge=1, le=500, description="How many pairs to name.")] = 20,
    matrix: Annotated[bool, Query(description="With json: the whole matrix, too.")] = True,
    format: TableFormat = "json",  # noqa: A002 - the query parameter's name
) -> Response:
    """Return how often two experts of a layer were chosen for the same token: all k(k-1)/2 pairs of each token.

    `csv` and `parquet` hold one line per pair; `npy` holds the symmetric matrix of counts.
    """
    with here.reading() as session:
        context = runs.get(session, t.Context, context_id)
        sites = risks.sites_of(session.get_one(t.Analysis, context.analysis_id))
        place = find_place(sites, layer, 0, site)
        upper = _of_label(contexts.pairs_of(session, context_id, place), label)
    found = coactivation(upper, sites[place].top_k)
    name = f"coactivation-{context_id}-layer-{layer}-{label}"
    if format == "npy":
        return npy_response(found.observed, name)
    if format != "json":
        return table_response(pair_columns(found, layer), format, name)
    return json_response(coactivation_body(context, sites[place], found, label, order, top, matrix=matrix))


def _of_label(pairs: NDArray[np.int64], label: str) -> NDArray[np.int64]:
    own = slice(None) if label == "all" else [LABELS.index(Label(label))]
    upper: NDArray[np.int64] = pairs[own].sum(axis=0)
    return upper


@router.get("/context/{context_id}/experts")
def get_experts(here: Here, context_id: PathId, page: Paged, pool: PoolWord = "mean") -> Listing[ContextExpertOut]:
    """List the experts of a context run, in the order they were asked for, each with the token that drives it most."""
    with here.reading() as session:
        context = runs.get(session, t.Context, context_id)
        sites = risks.sites_of(session.get_one(t.Analysis, context.analysis_id))
        found = slice_page(contexts.expert_tokens(session, context), page.after(int), page.limit)
    return listing(found, lambda own: ContextExpertOut.model_validate(expert_row(own, sites[own.site], Pool(pool))))


@router.get("/context/{context_id}/experts/{layer}/{expert}", response_model=ExpertTokensOut, responses=FILES)
def get_expert(
    here: Here,
    context_id: PathId,
    layer: SmallIndex,
    expert: SmallIndex,
    pool: PoolWord = "mean",
    site: SiteName = None,
    top: Top = None,
    format: Literal["json", "csv", "parquet"] = "json",  # noqa: A002 - the query parameter's name
) -> Response:
    """Return the tokens that drive an expert. Contributions of all tokens add up to its risk_diff exactly.

    `csv` and `parquet` hold every distinct token.
    """
    with here.reading() as session:
        context = runs.get(session, t.Context, context_id)
        analysis = session.get_one(t.Analysis, context.analysis_id)
        sites = risks.sites_of(analysis)
        place = find_place(sites, layer, expert, site)
        own = contexts.expert_token(session, context, place, expert)
        stored = contexts.stored_risk_diff(session, analysis, context.scope, Pool(pool))
    if format != "json":
        name = f"tokens-{context_id}-layer-{layer}-expert-{expert}-{pool}"
        return table_response(token_columns(own, sites[place], Pool(pool)), format, name)
    here_too: Any = None if stored is None else float(stored[place, expert])
    return json_response(
        expert_body(context, own, sites[place], Pool(pool), top or context.params["top_tokens"], here_too)
    )


@router.post("/context/{context_id}/verify")
def verify(here: Here, context_id: PathId) -> VerificationOut:
    """Check the analysis of a context run, and its sums over single tokens against the analysis' counts."""
    with here.reading() as session:
        return edge_runs.verification(verify_context(session, context_id))
