"""Trainings: submit, follow, cancel, resume, verify, and step by step back to the analysis batch."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy.orm import Session

from backend.api import runs as edge_runs
from backend.api.edge import PROBLEMS, Here, PathId, SmallIndex
from backend.api.formats import ALL, FILES, RowsFormat, rows_response
from backend.api.idempotency import IdempotencyKey, Made, json_answer, once
from backend.api.pagination import Paged, listing
from backend.api.schemas.common import Listing, RunnablePatch, VerificationOut
from backend.api.schemas.estimates import EstimateOut
from backend.api.schemas.trainings import StepDetailOut, StepOut, TrainingCreate, TrainingDryRunOut, TrainingOut
from backend.api.training_checks import checked
from backend.store import analyses, estimates, jobs, runs, trainings
from backend.store import tables as t
from backend.store.verify import verify_training

router = APIRouter(prefix="/trainings", tags=["trainings"], responses=PROBLEMS)

_OWN_FIELDS = ("analysis_id", "expert_set_id", "mode", "routing", "params", "target_digest", "result")
_STEP_FIELDS = tuple(StepOut.model_fields)


def show_all(session: Session, found: Sequence[t.Training]) -> list[TrainingOut]:
    """Return trainings as the API shows them."""
    ids = [training.id for training in found]
    heads = trainings.analysis_heads(session, {training.analysis_id for training in found})
    sets = trainings.expert_set_names(session, {one.expert_set_id for one in found if one.expert_set_id})
    recorded, job_ids = trainings.recorded(session, ids), jobs.newest_of(session, ids)
    return [_show(one, job_ids, heads[one.analysis_id], sets, recorded.get(one.id)) for one in found]


def _show(
    one: t.Training,
    job_ids: dict[str, str],
    analysis: tuple[str, str],
    sets: dict[str, str],
    recorded: trainings.Recorded | None,
) -> TrainingOut:
    steps = recorded or trainings.Recorded()
    return TrainingOut.model_validate(
        edge_runs.shown_fields(one, job_ids)
        | {name: getattr(one, name) for name in _OWN_FIELDS}
        | {
            "analysis_name": analysis[0],
            "model": analysis[1],
            "expert_set_name": sets.get(one.expert_set_id or ""),
            "n_steps": one.total,
            "n_recorded": steps.n,
            "n_verified": steps.n_verified,
            "final_loss": steps.final_loss,
        }
    )


def show(session: Session, id_: str) -> TrainingOut:
    """Return one training as the API shows it."""
    return show_all(session, [runs.get(session, t.Training, id_)])[0]


@router.post(
    "",
    status_code=202,
    response_model=TrainingOut,
    responses={200: {"model": TrainingDryRunOut, "description": "With dry_run: what it takes; nothing was stored."}},
)
def create(
    here: Here,
    body: TrainingCreate,
    dry_run: Annotated[bool, Query(description="Only check and estimate, store nothing.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Queue a training on exactly the batches that the analysis measured."""
    if dry_run:
        return json_answer(200, _dry(here, body))

    def make(session: Session) -> Made:
        analysis, expert_set, params = checked(session, body)
        n_steps = analysis.plan_summary["n_batches"] * body.epochs
        name = body.name or f"{expert_set.name if expert_set else body.mode} on {analysis.name}"[:200]
        training = trainings.create(session, name, analysis, expert_set, params, n_steps)
        job = jobs.add(session, "training", training.id, body.priority)
        return 202, show(session, training.id), job

    return once(here, idempotency_key, "POST /trainings", body.model_dump(mode="json"), make)


def _dry(here: Here, body: TrainingCreate) -> TrainingDryRunOut:
    with here.reading() as session:
        analysis, expert_set, _ = checked(session, body)
        n_steps = analysis.plan_summary["n_batches"] * body.epochs
        found = estimates.of_training(
            session, analysis, expert_set, body.mode, n_steps, adapter=body.adapter is not None
        )
    return TrainingDryRunOut(n_steps=n_steps, estimate=EstimateOut.model_validate(found, from_attributes=True))


@router.get("")
def get_all(here: Here, asked: edge_runs.Sorted, analysis_id: edge_runs.OfId = None) -> Listing[TrainingOut]:
    """List trainings, newest first if not asked otherwise."""
    with here.reading() as session:
        return edge_runs.listing(session, t.Training, asked, show_all, analysis_id=analysis_id)


@router.get("/{training_id}")
def get_one(here: Here, training_id: PathId) -> TrainingOut:
    """Return one training, deleted or not."""
    with here.reading() as session:
        return show(session, training_id)


@router.patch("/{training_id}")
def patch(here: Here, training_id: PathId, body: RunnablePatch) -> TrainingOut:
    """Change name, tags or notes."""
    with here.writing() as session:
        runs.patch(session, t.Training, training_id, edge_runs.changes(body))
        return show(session, training_id)


@router.delete("/{training_id}", status_code=204, response_class=Response)
def delete(here: Here, training_id: PathId) -> None:
    """Hide a training; `undelete` brings it back for some days. Refused while it is queued or running."""
    with here.writing() as session:
        runs.remove(session, t.Training, training_id)


@router.post("/{training_id}/undelete")
def undelete(here: Here, training_id: PathId) -> TrainingOut:
    """Bring a deleted training back."""
    with here.writing() as session:
        runs.restore(session, t.Training, training_id)
        return show(session, training_id)


@router.post("/{training_id}/cancel")
def cancel(here: Here, training_id: PathId) -> TrainingOut:
    """Stop a training; `resume` goes on from its last checkpoint. 409 once it is finished."""
    edge_runs.cancel(here, t.Training, training_id)
    with here.reading() as session:
        return show(session, training_id)


@router.post("/{training_id}/resume", status_code=202, response_model=TrainingOut)
def resume(here: Here, training_id: PathId, idempotency_key: IdempotencyKey = None) -> Response:
    """Go on with a failed or cancelled training: the result is that of an undisturbed run."""
    return edge_runs.resume(here, t.Training, training_id, idempotency_key, show)


@router.post("/{training_id}/verify")
def verify(here: Here, training_id: PathId) -> VerificationOut:
    """Recompute the whole chain, the analysis' part first, and report the first link that breaks."""
    with here.reading() as session:
        return edge_runs.verification(verify_training(session, training_id))


@router.get("/{training_id}/steps", response_model=Listing[StepOut], responses=FILES)
def get_steps(
    here: Here,
    training_id: PathId,
    page: Paged,
    fields: Annotated[Literal["summary"], Query(description="What to return of each step.")] = "summary",
    format: RowsFormat = "json",  # noqa: A002 - the query parameter's name
) -> Any:
    """List the recorded steps in order."""
    after, limit = (page.after(int), page.limit) if format == "json" else (None, ALL)
    with here.reading() as session:
        runs.get(session, t.Training, training_id)
        found = trainings.steps(session, training_id, after, limit)
        if format != "json":
            return rows_response([_step(step) for step in found.items], StepOut, format, f"steps-{training_id}")
        return listing(found, _step)


def _step(step: t.TrainingStep) -> StepOut:
    return StepOut.model_validate(step, from_attributes=True)


@router.get("/{training_id}/steps/{step}")
def get_step(here: Here, training_id: PathId, step: SmallIndex) -> StepDetailOut:
    """Return one step with its samples, their losses and answers, and the analysis batch it was trained on."""
    with here.reading() as session:
        training = runs.get(session, t.Training, training_id)
        analysis = runs.get(session, t.Analysis, training.analysis_id)
        found = trainings.step(session, training_id, step)
        previous_step, next_step = trainings.neighbours(session, training_id, step)
        return StepDetailOut.model_validate(
            {name: getattr(found, name) for name in _STEP_FIELDS}
            | {
                "analysis_id": analysis.id,
                "samples": _samples(session, analysis, found),
                "batch": _batch(session, analysis, found.batch_idx),
                "previous_step": previous_step,
                "next_step": next_step,
            }
        )


def _samples(session: Session, analysis: t.Analysis, step: t.TrainingStep) -> list[dict[str, Any]]:
    """Every sample keeps the batch it was measured in, also where training did not preserve the batches."""
    places = [(sample["batch_idx"], sample["in_batch_idx"]) for sample in step.samples]
    targets = trainings.examples(session, step.training_id, places)
    texts = trainings.texts(session, analysis.dataset_id, [sample["row_id"] for sample in step.samples])
    shown = []
    for place, sample in zip(places, step.samples, strict=True):
        example = targets.get(place)
        shown.append(
            sample
            | {
                "text": texts.get(sample["row_id"]),
                "answer": example.answer if example else None,
                "target": example.target if example else None,
            }
        )
    return shown


def _batch(session: Session, analysis: t.Analysis, batch_idx: int | None) -> dict[str, Any] | None:
    if batch_idx is None:
        return None
    row = analyses.batch(session, analysis, analysis.params["scopes"][0], batch_idx)
    return {
        "max_abs_risk_diff": row.max_abs_risk_diff,
        "noise_floor": row.noise_floor,
        "n_safe": row.planned.n_safe,
        "n_unsafe": row.planned.n_unsafe,
    }
