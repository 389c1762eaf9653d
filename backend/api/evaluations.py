"""Evaluations: submit, follow, cancel, resume; what the arms say; answers to read, and verdicts to overrule."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy.orm import Session

from backend.api import evaluation_checks as checks
from backend.api import runs as edge_runs
from backend.api.edge import PROBLEMS, Here, PathId, SmallIndex
from backend.api.formats import json_response, table_response
from backend.api.idempotency import IdempotencyKey, Made, json_answer, once
from backend.api.pagination import Paged, listing
from backend.api.schemas.common import MAX_INT, Clean, LabelWord, Listing, RunnablePatch, VerificationOut
from backend.api.schemas.evaluations import (
    ArmOut,
    EvaluationAnswerOut,
    EvaluationCreate,
    EvaluationDetailOut,
    EvaluationOut,
    EvaluationPlanOut,
    InterventionWord,
    JudgeOut,
    OverruleIn,
    OverruleOut,
    VerdictWord,
)
from backend.domain.evaluation.refusal import PHRASE_JUDGE, PHRASES
from backend.store import datasets, evaluation_results, evaluations, jobs, runs
from backend.store import tables as t
from backend.store.paging import Page
from backend.store.verify_runs import verify_evaluation

router = APIRouter(prefix="/evaluations", tags=["evaluations"], responses=PROBLEMS)

_OWN = (
    "dataset_id",
    "capability_dataset_id",
    "expert_set_id",
    "intervention",
    "params",
    "overlap",
    "warnings",
)
_ARMS: dict[int | str, dict[str, Any]] = {
    200: {"model": Listing[ArmOut], "content": {"text/csv": {}, "application/vnd.apache.parquet": {}}}
}
ArmIndex = Annotated[int | None, Query(ge=0, le=MAX_INT, description="Only the answers of this arm.")]


def _shown(session: Session, found: Sequence[t.Evaluation]) -> list[dict[str, Any]]:
    ids = [one.id for one in found]
    heads, job_ids = evaluations.heads(session, ids), jobs.newest_of(session, ids)
    return [_one(session, one, job_ids) | heads[one.id] for one in found]


def _one(session: Session, one: t.Evaluation, job_ids: dict[str, str]) -> dict[str, Any]:
    dataset = session.get_one(t.Dataset, one.dataset_id)
    chosen = session.get(t.ExpertSet, one.expert_set_id) if one.expert_set_id else None
    return (
        edge_runs.shown_fields(one, job_ids)
        | {name: getattr(one, name) for name in _OWN}
        | {
            "model": one.model_id,
            "dataset_name": dataset.name,
            "label_meaning": dataset.label_meaning,
            "expert_set_name": chosen.name if chosen else None,
            "analysis_id": chosen.analysis_id if chosen else None,
            "n_texts": len(one.texts),
        }
    )


def show_all(session: Session, found: Sequence[t.Evaluation]) -> list[EvaluationOut]:
    """Return evaluations as the API shows them in lists."""
    return [EvaluationOut.model_validate(one) for one in _shown(session, found)]


def show(session: Session, id_: str) -> EvaluationOut:
    """Return one evaluation as the API shows it in lists."""
    return show_all(session, [runs.get(session, t.Evaluation, id_)])[0]


def show_detail(session: Session, id_: str) -> EvaluationDetailOut:
    """Return one evaluation with its measures."""
    evaluation = runs.get(session, t.Evaluation, id_)
    found = evaluation_results.results(session, evaluation)
    more = {"measures": found.summary, "judges": evaluations.judges(session, id_)}
    return EvaluationDetailOut.model_validate(_shown(session, [evaluation])[0] | more)


@router.post(
    "",
    status_code=202,
    response_model=EvaluationOut,
    responses={200: {"model": EvaluationPlanOut, "description": "With dry_run: what it would do; nothing is stored."}},
)
def create(
    here: Here,
    body: EvaluationCreate,
    dry_run: Annotated[bool, Query(description="Only say what would be asked of which arms.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Draw prompts and random sets, look for overlap with what chose the experts, and queue the evaluation."""
    if dry_run:
        with here.reading() as session:
            return json_answer(200, _plan(checks.planned(session, body, here.settings)))

    def make(session: Session) -> Made:
        plan = checks.planned(session, body, here.settings)
        evaluation = evaluations.create(session, plan.name, plan.params, plan.prompts, plan.arms, **plan.columns)
        job = jobs.add(session, "evaluation", evaluation.id, body.priority)
        return 202, show(session, evaluation.id), job

    return once(here, idempotency_key, "POST /evaluations", body.model_dump(mode="json"), make)


def _plan(plan: checks.Planned) -> dict[str, Any]:
    labels = [p.label for p in plan.prompts]
    return {
        "n_arms": len(plan.arms),
        "n_safe": labels.count("safe"),  # type: ignore[arg-type]  # a label is its word
        "n_unsafe": labels.count("unsafe"),  # type: ignore[arg-type]
        "n_texts": len(plan.columns["texts"]),
        "overlap": plan.columns["overlap"],
        "warnings": plan.columns["warnings"],
        "smallest_p": plan.smallest_p,
    }


@router.get("")
def get_all(
    here: Here,
    asked: edge_runs.Sorted,
    expert_set_id: edge_runs.OfId = None,
    intervention: InterventionWord | None = None,
) -> Listing[EvaluationOut]:
    """List evaluations, newest first if not asked otherwise."""
    with here.reading() as session:
        own = {"expert_set_id": expert_set_id, "intervention": intervention}
        return edge_runs.listing(session, t.Evaluation, asked, show_all, **own)


@router.get("/judges")
def get_judges(here: Here) -> Listing[JudgeOut]:
    """List the judges and whether each can be used here."""
    settings = here.settings
    configured = bool(settings.judge_url and settings.judge_model)
    endpoint = f"{settings.judge_model} at {settings.judge_host}" if configured else "ROUTEPRINT_JUDGE_URL is not set"
    found = [
        JudgeOut(kind="phrases", available=True, what=f"{len(PHRASES)} patterns of refusal, {PHRASE_JUDGE}"),
        JudgeOut(kind="classifier", available=True, what="a text classifier below the models folder"),
        JudgeOut(kind="endpoint", available=configured, what=endpoint),
    ]
    return Listing(items=found, next_cursor=None)


@router.get("/{evaluation_id}")
def get_one(here: Here, evaluation_id: PathId) -> EvaluationDetailOut:
    """Return one evaluation, deleted or not, with what its finished arms say so far."""
    with here.reading() as session:
        return show_detail(session, evaluation_id)


@router.patch("/{evaluation_id}")
def patch(here: Here, evaluation_id: PathId, body: RunnablePatch) -> EvaluationOut:
    """Change name, tags or notes."""
    with here.writing() as session:
        runs.patch(session, t.Evaluation, evaluation_id, edge_runs.changes(body))
        return show(session, evaluation_id)


@router.delete("/{evaluation_id}", status_code=204, response_class=Response)
def delete(here: Here, evaluation_id: PathId) -> None:
    """Hide an evaluation; `undelete` brings it back for some days. Refused while it is queued or running."""
    with here.writing() as session:
        runs.remove(session, t.Evaluation, evaluation_id)


@router.post("/{evaluation_id}/undelete")
def undelete(here: Here, evaluation_id: PathId) -> EvaluationOut:
    """Bring a deleted evaluation back."""
    with here.writing() as session:
        runs.restore(session, t.Evaluation, evaluation_id)
        return show(session, evaluation_id)


@router.post("/{evaluation_id}/cancel")
def cancel(here: Here, evaluation_id: PathId) -> EvaluationOut:
    """Stop an evaluation; the arms that are done stay. 409 once it is finished."""
    edge_runs.cancel(here, t.Evaluation, evaluation_id)
    with here.reading() as session:
        return show(session, evaluation_id)


@router.post("/{evaluation_id}/resume", status_code=202, response_model=EvaluationOut)
def resume(here: Here, evaluation_id: PathId, idempotency_key: IdempotencyKey = None) -> Response:
    """Go on with a failed or cancelled evaluation: the result is that of an undisturbed one."""
    return edge_runs.resume(here, t.Evaluation, evaluation_id, idempotency_key, show)


@router.get("/{evaluation_id}/arms", response_model=Listing[ArmOut], responses=_ARMS)
def get_arms(
    here: Here,
    evaluation_id: PathId,
    format: Annotated[Literal["json", "csv", "parquet"], Query()] = "json",  # noqa: A002 - the query parameter's name
) -> Response:
    """Return every arm with its experts and measures; as a table only the finished ones."""
    with here.reading() as session:
        evaluation = runs.get(session, t.Evaluation, evaluation_id)
        found = evaluation_results.results(session, evaluation)
        if format != "json":
            return table_response(evaluation_results.table(found), format, f"arms-{evaluation_id}")
        places = {arm.arm_idx: place for place, arm in enumerate(found.arms)}
        rows = [
            evaluation_results.arm_row(arm, places.get(arm.arm_idx), found.measured)
            for arm in evaluations.arms(session, evaluation_id)
        ]
    return json_response({"items": rows, "next_cursor": None})


@router.get("/{evaluation_id}/answers")
def get_answers(
    here: Here,
    evaluation_id: PathId,
    page: Paged,
    arm: ArmIndex = None,
    verdict: Annotated[VerdictWord | None, Query(description="The verdict that counts.")] = None,
    label: LabelWord | None = None,
    q: Annotated[str | None, Query(max_length=200, description="Text in the answer."), Clean] = None,
) -> Listing[EvaluationAnswerOut]:
    """List judged answers with their prompts, arm by arm."""
    with here.reading() as session:
        evaluation = runs.get(session, t.Evaluation, evaluation_id)
        found = evaluations.answers(
            session,
            evaluation_id,
            arm=arm,
            verdict=verdict,
            label=label,
            q=q,
            after=page.after(int),
            limit=page.limit,
        )
        shown = Page(_answers(session, evaluation, found.items), found.next_key)
    return listing(shown, EvaluationAnswerOut.model_validate)


def _answers(session: Session, evaluation: t.Evaluation, found: Sequence[t.EvaluationAnswer]) -> list[dict[str, Any]]:
    asked = {p.prompt_idx: p for p in evaluations.prompts(session, evaluation.id)}
    families = {arm.arm_idx: arm.family for arm in evaluations.arms(session, evaluation.id)}
    rows = datasets.rows_at(session, evaluation.dataset_id, sorted({asked[x.prompt_idx].row_idx for x in found}))
    fields = ("n", "prompt_idx", "text", "n_tokens", "ended", "verdict", "why", "judge", "overruled")
    return [
        {name: getattr(x, name) for name in fields}
        | {name: getattr(asked[x.prompt_idx], name) for name in ("row_idx", "label", "group", "seen")}
        | {
            "arm": x.arm_idx,
            "family": families[x.arm_idx],
            "prompt": datasets.text_of(rows[asked[x.prompt_idx].row_idx]),
            "counts": x.overruled or x.verdict,
        }
        for x in found
    ]


@router.post("/{evaluation_id}/answers/{n}/overrule")
def overrule(here: Here, evaluation_id: PathId, n: SmallIndex, body: OverruleIn) -> EvaluationAnswerOut:
    """Let your verdict count instead of the judge's. The rates follow at once; the record keeps who, what and why."""
    with here.writing() as session:
        evaluation = runs.get_live(session, t.Evaluation, evaluation_id)
        checks.check_finished(evaluation)
        found = evaluations.answer(session, evaluation_id, n)
        evaluations.overrule(session, found, body.verdict, body.reason, body.by)
        return EvaluationAnswerOut.model_validate(_answers(session, evaluation, [found])[0])


@router.get("/{evaluation_id}/overrules")
def get_overrules(here: Here, evaluation_id: PathId, page: Paged) -> Listing[OverruleOut]:
    """List who changed which verdict, from what to what, why and when."""
    with here.reading() as session:
        runs.get(session, t.Evaluation, evaluation_id)
        found = evaluations.overrules(session, evaluation_id, page.after(int), page.limit)
        return listing(found, lambda one: OverruleOut.model_validate(one, from_attributes=True))


@router.post("/{evaluation_id}/verify")
def verify(here: Here, evaluation_id: PathId) -> VerificationOut:
    """Check the prompts, models, arms and verdicts of an evaluation, and what chose its experts."""
    with here.reading() as session:
        return edge_runs.verification(verify_evaluation(session, evaluation_id))
