"""Analyses: submit, follow, cancel, resume, verify. Their figures are in risk.py, their batches in batches.py."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy.orm import Session

from backend.api import runs as edge_runs
from backend.api.edge import PROBLEMS, Here, PathId
from backend.api.idempotency import IdempotencyKey, Made, json_answer, once
from backend.api.planning import planned
from backend.api.schemas.analyses import AnalysisCreate, AnalysisOut, DryRunOut, PlanOut
from backend.api.schemas.common import Clean, Listing, RunnablePatch, VerificationOut
from backend.api.schemas.estimates import EstimateOut
from backend.domain.errors import InvalidInput
from backend.domain.plan import PlanSettings, Strategy
from backend.domain.vocabulary import Scope
from backend.store import analyses, datasets, estimates, jobs, models, runs, statistics
from backend.store import tables as t
from backend.store.plans import Frozen
from backend.store.verify import verify_analysis

router = APIRouter(prefix="/analyses", tags=["analyses"], responses=PROBLEMS)

_PLAN_FIELDS = ("batch_size", "safe_ratio", "seed", "strategy", "keep_short", "stratify_by")


def show_all(session: Session, found: Sequence[t.Analysis]) -> list[AnalysisOut]:
    """Return analyses as the API shows them."""
    ids = [analysis.id for analysis in found]
    names = analyses.dataset_names(session, {analysis.dataset_id for analysis in found})
    counts, job_ids = analyses.batch_counts(session, ids), jobs.newest_of(session, ids)
    heads = statistics.heads(session, ids)
    return [
        AnalysisOut.model_validate(
            edge_runs.shown_fields(one, job_ids)
            | {
                "dataset_id": one.dataset_id,
                "dataset_name": names[one.dataset_id],
                "model": one.model_id,
                "engine": one.engine,
                "params": one.params,
                "plan": {"digest": one.plan_digest} | one.plan_summary,
                "sites": one.sites,
                "n_measured": counts[one.id].get("measured", 0),
                "n_non_finite": counts[one.id].get("non_finite", 0),
                "template": "chat template" if one.model_digests["template"] else "plain encoding",
                "statistics": heads[one.id],
            }
        )
        for one in found
    ]


def show(session: Session, id_: str) -> AnalysisOut:
    """Return one analysis as the API shows it."""
    return show_all(session, [runs.get(session, t.Analysis, id_)])[0]


@router.post(
    "",
    status_code=202,
    response_model=AnalysisOut,
    responses={200: {"model": DryRunOut, "description": "With dry_run: the plan; nothing was stored."}},
)
def create(
    here: Here,
    body: AnalysisCreate,
    dry_run: Annotated[bool, Query(description="Only plan, store nothing.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Plan the batches and queue the measurement. The plan is frozen here and never changes again."""
    with here.reading() as session:
        dataset, model = _checked(session, body)
        plan = _plan_of_other(session, body, dataset) if body.plan_of else None
    plan = plan or planned(here, dataset, _settings(body))
    if dry_run:
        return json_answer(200, _dry(here, body, model, plan))
    params = _params(body, plan)

    def make(session: Session) -> Made:
        dataset = datasets.get_ready(session, body.dataset_id)
        name = body.name or f"{dataset.name} on {model.id}"[:200]
        analysis = analyses.create(session, name, dataset, model, params, plan)
        job = jobs.add(session, "analysis", analysis.id, body.priority)
        return 202, show(session, analysis.id), job

    return once(here, idempotency_key, "POST /analyses", body.model_dump(mode="json"), make)


def _dry(here: Here, body: AnalysisCreate, model: t.Model, plan: Frozen) -> DryRunOut:
    n_samples, what = plan.summary["n_samples"], (body.dataset_id, body.engine, body.dtype, body.max_new_tokens)
    with here.reading() as session:
        estimate = estimates.of_analysis(session, model, *what, n_samples)
    shown = EstimateOut.model_validate(estimate, from_attributes=True)
    return DryRunOut(plan=PlanOut.model_validate({"digest": plan.digest} | plan.summary), estimate=shown)


def _checked(session: Session, body: AnalysisCreate) -> tuple[t.Dataset, t.Model]:
    dataset = datasets.get_ready(session, body.dataset_id)
    model = models.usable(session, body.model, body.engine)
    if body.engine_options is not None and body.engine != "vllm":
        raise InvalidInput(
            "engine_options are settings of the engine 'vllm'. Leave them away, or choose that engine.",
            ("body", "engine_options"),
        )
    from_rows = Scope.RESPONSE in body.scopes and not body.max_new_tokens
    if from_rows and datasets.n_without_response(session, dataset.id) == dataset.n_rows:
        raise InvalidInput(
            "The scope `response` needs responses: this prompt set has none, so set max_new_tokens to have the model "
            "answer.",
            ("body", "max_new_tokens"),
        )
    return dataset, model


def _settings(body: AnalysisCreate) -> PlanSettings:
    return PlanSettings(
        batch_size=body.batch_size,
        safe_ratio=body.safe_ratio,
        seed=body.seed,
        strategy=Strategy(body.strategy),
        keep_short=body.keep_short,
        stratify_by=body.stratify_by,
    )


def _plan_of_other(session: Session, body: AnalysisCreate, dataset: t.Dataset) -> Frozen:
    other = runs.get_live(session, t.Analysis, str(body.plan_of))
    if session.get_one(t.Dataset, other.dataset_id).sha256 != dataset.sha256:
        raise InvalidInput(
            f"plan_of names {other.id}, which measured another prompt set ({other.dataset_id}): the same plan needs "
            "the same prompts.",
            ("body", "plan_of"),
        )
    return Frozen.stored(session, other)


def _params(body: AnalysisCreate, plan: Frozen) -> dict[str, Any]:
    """Return the request with every default filled in; with plan_of, the plan's own settings count."""
    settings = plan.settings
    scopes = [str(scope) for scope in Scope if scope in body.scopes]
    asked = body.model_dump(mode="json", exclude={"name", "priority"})
    return asked | {k: settings[k] for k in _PLAN_FIELDS} | {"scopes": scopes}


@router.get("")
def get_all(
    here: Here,
    asked: edge_runs.Sorted,
    model: Annotated[str | None, Query(max_length=300, description="Only analyses of this model."), Clean] = None,
) -> Listing[AnalysisOut]:
    """List analyses, newest first if not asked otherwise."""
    with here.reading() as session:
        return edge_runs.listing(session, t.Analysis, asked, show_all, model_id=model)


@router.get("/{analysis_id}")
def get_one(here: Here, analysis_id: PathId) -> AnalysisOut:
    """Return one analysis, deleted or not."""
    with here.reading() as session:
        return show(session, analysis_id)


@router.patch("/{analysis_id}")
def patch(here: Here, analysis_id: PathId, body: RunnablePatch) -> AnalysisOut:
    """Change name, tags or notes."""
    with here.writing() as session:
        runs.patch(session, t.Analysis, analysis_id, edge_runs.changes(body))
        return show(session, analysis_id)


@router.delete("/{analysis_id}", status_code=204, response_class=Response)
def delete(here: Here, analysis_id: PathId) -> None:
    """Hide an analysis; `undelete` brings it back for some days. Refused while it is queued or running."""
    with here.writing() as session:
        runs.remove(session, t.Analysis, analysis_id)


@router.post("/{analysis_id}/undelete")
def undelete(here: Here, analysis_id: PathId) -> AnalysisOut:
    """Bring a deleted analysis back."""
    with here.writing() as session:
        runs.restore(session, t.Analysis, analysis_id)
        return show(session, analysis_id)


@router.post("/{analysis_id}/cancel")
def cancel(here: Here, analysis_id: PathId) -> AnalysisOut:
    """Stop an analysis. What is measured stays, and `resume` goes on from there. 409 once it is finished."""
    edge_runs.cancel(here, t.Analysis, analysis_id)
    with here.reading() as session:
        return show(session, analysis_id)


@router.post("/{analysis_id}/resume", status_code=202, response_model=AnalysisOut)
def resume(here: Here, analysis_id: PathId, idempotency_key: IdempotencyKey = None) -> Response:
    """Go on with a failed or cancelled analysis: batches that are measured stay as they are."""
    return edge_runs.resume(here, t.Analysis, analysis_id, idempotency_key, show)


@router.post("/{analysis_id}/verify")
def verify(here: Here, analysis_id: PathId) -> VerificationOut:
    """Recompute the whole chain from the stored rows and report the first link that breaks."""
    with here.reading() as session:
        return edge_runs.verification(verify_analysis(session, analysis_id))
