"""Comparisons: two analyses, or an analysis and a published table, side by side; intervals as a run."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy.orm import Session

from backend.api import runs as edge_runs
from backend.api.edge import PROBLEMS, Here, PathId
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
from backend.api.idempotency import IdempotencyKey, Made, once
from backend.api.schemas.common import Clean, Listing, RunnablePatch, VerificationOut
from backend.api.schemas.comparisons import ComparisonCreate, ComparisonDetailOut, ComparisonOut
from backend.domain.errors import InvalidInput
from backend.store import comparisons, jobs, runs
from backend.store import tables as t
from backend.store.verify_runs import verify_comparison

router = APIRouter(prefix="/comparisons", tags=["comparisons"], responses=PROBLEMS)

_FIELDS = ("scope", "pool", "params", "has_intervals", "result")
_FEWEST_BEYOND = 5
SideId = Annotated[str | None, Query(max_length=100, description="Only comparisons with this side."), Clean]


def show_all(session: Session, found: Sequence[t.Comparison]) -> list[ComparisonOut]:
    """Return comparisons as the API shows them, without their matrices."""
    job_ids = jobs.newest_of(session, [one.id for one in found])
    return [ComparisonOut.model_validate(_head(one, job_ids)) for one in found]


def _head(one: t.Comparison, job_ids: dict[str, str]) -> dict[str, Any]:
    own = {name: getattr(one, name) for name in _FIELDS}
    return edge_runs.shown_fields(one, job_ids) | own | {"analysis_a": one.side_a, "analysis_b": one.side_b}


def show(session: Session, id_: str) -> ComparisonOut:
    """Return one as the API shows it."""
    return show_all(session, [runs.get(session, t.Comparison, id_)])[0]


def _matrices(result: dict[str, Any], matrices: Any) -> dict[str, Any]:
    a, b = matrices[:2].astype(np.float64)
    low, high = matrices[2:].astype(np.float64) if len(matrices) > 2 else (None, None)
    return {"risk_diff_a": a, "risk_diff_b": b, "difference": b - a, "low": low, "high": high}


def _detail(result: dict[str, Any], matrices: Any) -> dict[str, Any]:
    found = _matrices(result, matrices)
    return {
        "layers": [site["layer"] for site in result["sites"]],
        "sites": result["sites"],
        "n_experts": matrices.shape[2],
        "max_abs": result["max_abs"],
    } | {name: None if own is None else own.tolist() for name, own in found.items()}


@router.post(
    "",
    status_code=201,
    response_model=ComparisonOut,
    responses={
        200: {"model": ComparisonDetailOut, "description": "dry_run, or the same comparison was made before."},
        202: {"model": ComparisonOut, "description": "With intervals: stored, and the intervals are on their way."},
    },
)
def create(
    here: Here,
    body: ComparisonCreate,
    dry_run: Annotated[bool, Query(description="Compare without intervals, store nothing.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Compare two sides. Everything but intervals is computed at once; the same request again finds the first one."""
    if body.intervals and body.n_resamples * (1 - body.level) < _FEWEST_BEYOND:
        least = int(np.ceil(_FEWEST_BEYOND / (1 - body.level)))
        message = f"An interval of level {body.level:g} needs at least {least} resamples."
        raise InvalidInput(message, ("body", "n_resamples"))
    with here.reading() as session:
        asked = (body.analysis_a, body.analysis_b, body.scope, body.pool)
        compared = comparisons.compare_now(session, *asked)
    if body.intervals and compared.result["pairing"]["intervals"] is None:
        raise InvalidInput(compared.result["pairing"]["reason"], ("body", "intervals"))
    if dry_run:
        return json_response(_dry(compared))
    params = body.model_dump(mode="json", include={"intervals", "n_resamples", "level", "seed"})

    def make(session: Session) -> Made:
        found = comparisons.find(session, compared, intervals=body.intervals, params=params)
        if found is not None:
            return 200, show(session, found.id), None
        stored, job = comparisons.create(session, compared, body.name, intervals=body.intervals, params=params)
        return 202 if job else 201, show(session, stored.id), job

    return once(here, idempotency_key, "POST /comparisons", body.model_dump(mode="json"), make)


def _dry(compared: comparisons.Compared) -> dict[str, Any]:
    return {
        "id": None,
        "analysis_a": compared.side_a,
        "analysis_b": compared.side_b,
        "scope": compared.scope,
        "pool": compared.pool,
        "has_intervals": False,
        "result": compared.result,
    } | _detail(compared.result, compared.matrices)


@router.get("")
def get_all(
    here: Here,
    asked: edge_runs.Sorted,
    analysis_a: SideId = None,
    analysis_b: SideId = None,
) -> Listing[ComparisonOut]:
    """List comparisons, newest first if not asked otherwise, without their matrices."""
    with here.reading() as session:
        return edge_runs.listing(session, t.Comparison, asked, show_all, side_a=analysis_a, side_b=analysis_b)


@router.get("/{comparison_id}", response_model=ComparisonDetailOut | ComparisonOut)
def get_one(
    here: Here,
    comparison_id: PathId,
    matrices: Annotated[bool, Query(description="false: leave them out, for following the status.")] = True,
) -> Response:
    """Return one with its matrices, deleted or not."""
    with here.reading() as session:
        if not matrices:
            return json_response(show(session, comparison_id).model_dump())
        stored = comparisons.with_matrices(session, comparison_id)
        head, own = show(session, comparison_id), stored.matrices
    return json_response(head.model_dump() | _detail(head.result, own))


@router.get("/{comparison_id}/table", response_model=ComparisonDetailOut, responses=FILES)
def get_table(
    here: Here,
    comparison_id: PathId,
    format: TableFormat = "json",  # noqa: A002 - the query parameter's name
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return one line per expert: layer, expert, risk_diff_a, risk_diff_b, difference, and low and high if there.

    `npy` holds the difference alone, NaN where it is null.
    """
    with here.reading() as session:
        stored = comparisons.with_matrices(session, comparison_id)
        head, matrices = show(session, comparison_id), stored.matrices
    shown = head.model_dump_json() if format == "json" else ""  # its name and notes may change
    tag = etag(comparison_id, format, len(matrices), stored.status, shown)
    if (same := unchanged(tag, if_none_match)) is not None:
        return same
    if format == "json":
        return json_response(head.model_dump() | _detail(head.result, matrices), tag)
    found, name = _matrices(head.result, matrices), f"comparison-{comparison_id}"
    if format == "npy":
        return npy_response(found["difference"], name, tag)
    return table_response(_columns(head.result["sites"], found), format, name, tag)


def _columns(sites: list[dict[str, Any]], found: dict[str, Any]) -> dict[str, Any]:
    n_experts = found["difference"].shape[1]
    exists = np.arange(n_experts) < np.array([site["n_experts"] for site in sites])[:, None]
    place, expert = np.nonzero(exists)
    columns = {"layer": np.array([site["layer"] for site in sites], dtype=np.int64)[place], "expert": expert}
    return columns | {name: own[exists] for name, own in found.items() if own is not None}


@router.patch("/{comparison_id}")
def patch(here: Here, comparison_id: PathId, body: RunnablePatch) -> ComparisonOut:
    """Change name, tags or notes."""
    with here.writing() as session:
        runs.patch(session, t.Comparison, comparison_id, edge_runs.changes(body))
        return show(session, comparison_id)


@router.delete("/{comparison_id}", status_code=204, response_class=Response)
def delete(here: Here, comparison_id: PathId) -> None:
    """Hide a comparison; `undelete` brings it back for some days. Refused while it is queued or running."""
    with here.writing() as session:
        runs.remove(session, t.Comparison, comparison_id)


@router.post("/{comparison_id}/undelete")
def undelete(here: Here, comparison_id: PathId) -> ComparisonOut:
    """Bring a deleted comparison back."""
    with here.writing() as session:
        runs.restore(session, t.Comparison, comparison_id)
        return show(session, comparison_id)


@router.post("/{comparison_id}/cancel")
def cancel(here: Here, comparison_id: PathId) -> ComparisonOut:
    """Stop computing intervals; everything else stays. 409 once it is finished."""
    edge_runs.cancel(here, t.Comparison, comparison_id)
    with here.reading() as session:
        return show(session, comparison_id)


@router.post("/{comparison_id}/resume", status_code=202, response_model=ComparisonOut)
def resume(here: Here, comparison_id: PathId, idempotency_key: IdempotencyKey = None) -> Response:
    """Compute the intervals of a failed or cancelled comparison again."""
    return edge_runs.resume(here, t.Comparison, comparison_id, idempotency_key, show)


@router.post("/{comparison_id}/verify")
def verify(here: Here, comparison_id: PathId) -> VerificationOut:
    """Check both sides of a comparison, and that its figures follow from them."""
    with here.reading() as session:
        return edge_runs.verification(verify_comparison(session, comparison_id))
