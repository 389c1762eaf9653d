"""The batches of an analysis: what was planned, what was measured, who trained on it, what was left out."""

from typing import Any

from fastapi import APIRouter

from backend.api.edge import PROBLEMS, Here, PathId, SmallIndex
from backend.api.formats import ALL, FILES, RowsFormat, rows_response
from backend.api.pagination import Paged, encode, listing
from backend.api.schemas.analyses import BatchDetailOut, BatchOut, BatchTrainingOut, LeftOutOut, SampleOut
from backend.api.schemas.common import Listing, ScopeWord
from backend.store import analyses, datasets, runs
from backend.store import tables as t
from backend.store.analyses import BatchRow

router = APIRouter(prefix="/analyses/{analysis_id}", tags=["batches"], responses=PROBLEMS)

_ROW_FIELDS = ("row_id", "row_idx", "label", "messages", "response", "category", "difficulty", "group")
_MEASURED = ("tokens", "truncated", "non_finite", "prompt_digest")
_STEP_FIELDS = ("training_id", "step", "epoch", "loss", "loss_safe", "loss_unsafe", "verified")


def _fields(row: BatchRow) -> dict[str, Any]:
    return {
        "batch_idx": row.planned.batch_idx,
        "batch_id": row.planned.batch_id,
        "status": row.status,
        "n_safe": row.planned.n_safe,
        "n_unsafe": row.planned.n_unsafe,
        "max_abs_risk_diff": row.max_abs_risk_diff,
        "noise_floor": row.noise_floor,
        "n_truncated": row.stored.n_truncated if row.stored else 0,
    }


@router.get("/batches", response_model=Listing[BatchOut], responses=FILES)
def get_all(
    here: Here,
    analysis_id: PathId,
    page: Paged,
    scope: ScopeWord = "prompt",
    format: RowsFormat = "json",  # noqa: A002 - the query parameter's name
) -> Any:
    """List every batch of the plan in order, measured or not."""
    after, limit = (page.after(int), page.limit) if format == "json" else (None, ALL)
    with here.reading() as session:
        analysis = runs.get(session, t.Analysis, analysis_id)
        analyses.check_scope(analysis, scope)
        found = analyses.batches(session, analysis, scope, after, limit)
    if format != "json":
        rows = [BatchOut.model_validate(_fields(row)) for row in found.items]
        return rows_response(rows, BatchOut, format, f"batches-{analysis_id}-{scope}")
    return listing(found, lambda row: BatchOut.model_validate(_fields(row)))


@router.get("/batches/{batch_idx}")
def get_one(here: Here, analysis_id: PathId, batch_idx: SmallIndex, scope: ScopeWord = "prompt") -> BatchDetailOut:
    """Return one batch with its samples: their texts, and how they were given to the model."""
    with here.reading() as session:
        analysis = runs.get(session, t.Analysis, analysis_id)
        analyses.check_scope(analysis, scope)
        row = analyses.batch(session, analysis, scope, batch_idx)
        rows = datasets.rows_at(session, analysis.dataset_id, [s.row_idx for s in row.planned.samples])
        measured = {s.in_batch_idx: s for s in analyses.samples(session, analysis_id, batch_idx)}
        answers = analyses.answers(session, analysis_id, batch_idx)
    samples = [
        _sample(planned.in_batch_idx, rows[planned.row_idx], measured.get(planned.in_batch_idx), answers)
        for planned in row.planned.samples
    ]
    return BatchDetailOut.model_validate(_fields(row) | {"samples": samples})


def _sample(place: int, row: t.PromptRow, measured: t.BatchSample | None, answers: dict[int, str]) -> SampleOut:
    fields = {name: getattr(row, name) for name in _ROW_FIELDS}
    fed = {name: getattr(measured, name, None) for name in _MEASURED}
    fed["own_tokens"] = None if measured is None or measured.own is None else int(measured.own.sum())
    return SampleOut.model_validate(
        fields | fed | {"in_batch_idx": place, "text": datasets.text_of(row), "answer": answers.get(place)}
    )


@router.get("/batches/{batch_idx}/trainings")
def get_trainings(here: Here, analysis_id: PathId, batch_idx: SmallIndex, page: Paged) -> Listing[BatchTrainingOut]:
    """List every training step that used this batch."""
    with here.reading() as session:
        analysis = runs.get(session, t.Analysis, analysis_id)
        analyses.batch(session, analysis, analysis.params["scopes"][0], batch_idx)
        found, names = analyses.trainings_of(session, analysis_id, batch_idx, page.after(str, int), page.limit)
    return listing(
        found,
        lambda step: BatchTrainingOut.model_validate(
            {name: getattr(step, name) for name in _STEP_FIELDS}
            | {"training_name": names[step.training_id], "losses": _losses(step)}
        ),
    )


def _losses(step: t.TrainingStep) -> list[float | None]:
    """Return the samples' losses by their place in the batch."""
    by_place = {sample["in_batch_idx"]: sample["loss"] for sample in step.samples}
    return [by_place.get(place) for place in range(max(by_place, default=-1) + 1)]


@router.get("/left-out")
def get_left_out(here: Here, analysis_id: PathId, page: Paged) -> Listing[LeftOutOut]:
    """List the prompts that stand in no batch, each with its reason."""
    with here.reading() as session:
        analysis = runs.get(session, t.Analysis, analysis_id)
        found, rows = analyses.left_out(session, analysis, page.after(int), page.limit)
    items = [
        LeftOutOut(
            row_idx=out.row_idx,
            row_id=out.row_id,
            label=out.label.value,
            text=datasets.text_of(rows[out.row_idx]),
            reason=out.reason,
        )
        for out in found.items
    ]
    return Listing(items=items, next_cursor=encode(found.next_key))
