"""Studies: submit, follow, cancel, resume; what was found, as JSON, as a table and as a report."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy.orm import Session

from backend.api import runs as edge_runs
from backend.api import study_checks as checks
from backend.api.edge import PROBLEMS, Here, PathId
from backend.api.formats import IfNoneMatch
from backend.api.idempotency import IdempotencyKey, Made, json_answer, once
from backend.api.reports import REPORT, Format, report_response
from backend.api.schemas.common import Listing, Progress, RunnablePatch
from backend.api.schemas.studies import StudyCreate, StudyDetailOut, StudyOut, StudyPlanOut
from backend.domain.report.study import study_report
from backend.store import jobs, runs, studies
from backend.store import study_report as reported
from backend.store import tables as t

router = APIRouter(prefix="/studies", tags=["studies"], responses=PROBLEMS)

Found = list[tuple[t.StudyRun, t.Run | None]]


def show_all(session: Session, found: Sequence[t.Study]) -> list[StudyOut]:
    """Return studies as the API shows them in lists."""
    job_ids = jobs.newest_of(session, [one.id for one in found])
    return [StudyOut.model_validate(_head(session, one, _runs(session, one), job_ids)) for one in found]


def _runs(session: Session, study: t.Study) -> Found:
    return [(child, studies.run_of(session, child)) for child in studies.children(session, study.id)]


def _head(session: Session, one: t.Study, found: Found, job_ids: dict[str, str]) -> dict[str, Any]:
    analysis = session.get_one(t.Analysis, one.analysis_id)
    chosen = session.get_one(t.ExpertSet, one.expert_set_id)
    dataset_id = one.params["evaluation"]["dataset_id"]
    return edge_runs.shown_fields(one, job_ids) | {
        "progress": Progress(**studies.progress(session, one, found)),
        "analysis_id": analysis.id,
        "analysis_name": analysis.name,
        "model": analysis.model_id,
        "expert_set_id": chosen.id,
        "expert_set_name": chosen.name,
        "n_experts": chosen.n_experts,
        "dataset_id": dataset_id,
        "dataset_name": session.get_one(t.Dataset, dataset_id).name,
        "params": one.params,
        "sha256": one.sha256,
        "verdict": one.result["verdicts"][0] if one.result else None,
    }


def show(session: Session, id_: str) -> StudyOut:
    """Return one study as the API shows it in lists."""
    return show_all(session, [runs.get(session, t.Study, id_)])[0]


def show_detail(session: Session, id_: str) -> StudyDetailOut:
    """Return one study with its runs and its result."""
    one = runs.get(session, t.Study, id_)
    found = _runs(session, one)
    more = {"runs": [_run(child, run) for child, run in found], "result": one.result}
    return StudyDetailOut.model_validate(_head(session, one, found, jobs.newest_of(session, [id_])) | more)


def _run(child: t.StudyRun, run: t.Run | None) -> dict[str, Any]:
    own = {name: getattr(child, name) for name in ("n", "wave", "role", "arm", "seed", "kind")}
    return own | {
        "id": child.run_id,
        "name": run.name if run else None,
        "status": run.status if run else None,
        "progress": Progress(**jobs.progress_of(run)) if run else None,
        "error": run.error if run else None,
    }


@router.post(
    "",
    status_code=202,
    response_model=StudyOut,
    responses={200: {"model": StudyPlanOut, "description": "With dry_run: how large it would be; nothing is stored."}},
)
def create(
    here: Here,
    body: StudyCreate,
    dry_run: Annotated[bool, Query(description="Only say how many runs, steps and answers it would be.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Queue a study: every training, the measurement of every trained model, and the causal check, as ordinary runs."""
    if dry_run:
        with here.writing() as session:
            tried = _plan(checks.planned(session, body, here.settings))
            session.rollback()  # a rule's expert set was stored on the way
        return json_answer(200, tried)

    def make(session: Session) -> Made:
        study = checks.store(session, checks.planned(session, body, here.settings))
        job = jobs.add(session, "study", study.id)
        return 202, show(session, study.id), job

    return once(here, idempotency_key, "POST /studies", body.model_dump(mode="json"), make)


def _plan(plan: checks.Planned) -> StudyPlanOut:
    labels = [str(prompt.label) for prompt in plan.causal.prompts]
    return StudyPlanOut.model_validate(
        {
            "estimate": plan.params["estimate"],
            "n_experts": plan.chosen.n_experts,
            "n_safe": labels.count("safe"),
            "n_unsafe": labels.count("unsafe"),
            "n_arms": len(plan.causal.arms),
            "overlap": plan.causal.columns["overlap"],
            "warnings": plan.causal.columns["warnings"],
            "smallest_p": plan.causal.smallest_p,
        }
    )


@router.get("")
def get_all(
    here: Here,
    asked: edge_runs.Sorted,
    analysis_id: edge_runs.OfId = None,
    expert_set_id: edge_runs.OfId = None,
) -> Listing[StudyOut]:
    """List studies, newest first if not asked otherwise."""
    with here.reading() as session:
        own = {"analysis_id": analysis_id, "expert_set_id": expert_set_id}
        return edge_runs.listing(session, t.Study, asked, show_all, **own)


@router.get("/{study_id}")
def get_one(here: Here, study_id: PathId) -> StudyDetailOut:
    """Return one study, deleted or not, with its runs and what was found."""
    with here.reading() as session:
        return show_detail(session, study_id)


@router.get("/{study_id}/report", response_class=Response, responses=REPORT)
def get_report(
    here: Here,
    study_id: PathId,
    format: Format = "html",  # noqa: A002 - the query parameter's name
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return the report of a finished study: what was done, what came out, what it does not show. It has no prompt."""
    with here.reading() as session:
        facts = reported.gather(session, runs.get(session, t.Study, study_id))
    return report_response(study_report(facts, format), format, study_id, if_none_match)


@router.patch("/{study_id}")
def patch(here: Here, study_id: PathId, body: RunnablePatch) -> StudyOut:
    """Change name, tags or notes."""
    with here.writing() as session:
        runs.patch(session, t.Study, study_id, edge_runs.changes(body))
        return show(session, study_id)


@router.delete("/{study_id}", status_code=204, response_class=Response)
def delete(here: Here, study_id: PathId) -> None:
    """Hide a study; `undelete` brings it back for some days. Its runs stay. Refused while it is queued or running."""
    with here.writing() as session:
        runs.remove(session, t.Study, study_id)


@router.post("/{study_id}/undelete")
def undelete(here: Here, study_id: PathId) -> StudyOut:
    """Bring a deleted study back."""
    with here.writing() as session:
        runs.restore(session, t.Study, study_id)
        return show(session, study_id)


@router.post("/{study_id}/cancel")
def cancel(here: Here, study_id: PathId) -> StudyOut:
    """Stop a study and its runs. What is done stays, and `resume` goes on from there. 409 once it is finished."""
    with here.writing() as session:
        runs.get(session, t.Study, study_id)
        ids = jobs.cancel(session, t.Study, study_id) + studies.stop(session, study_id)
    here.cancel(ids)
    with here.reading() as session:
        return show(session, study_id)


@router.post("/{study_id}/resume", status_code=202, response_model=StudyOut)
def resume(here: Here, study_id: PathId, idempotency_key: IdempotencyKey = None) -> Response:
    """Go on with a failed or cancelled study: runs that are done stay, those that were stopped are resumed."""
    return edge_runs.resume(here, t.Study, study_id, idempotency_key, show)
