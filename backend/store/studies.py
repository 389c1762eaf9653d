"""Studies in the store: submitted with the runs that they consist of, taken wave by wave, stopped and taken up again.

Every function takes a session whose transaction the caller owns. Doing any of them twice changes nothing: a run is
noted before it is made, and made once. Not covered: what is asked (backend/api/study_checks.py), what came out
(study_results.py), the runs that need a trained model (study_runs.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.domain.errors import Conflict
from backend.domain.jobs import ACTIVE, queue_for
from backend.domain.study.outcomes import ARMS, KIND_OF_ROLE, WAVES, Arm, Role
from backend.domain.study.size import Part, eta_seconds
from backend.store import jobs, runs, writes
from backend.store import tables as t
from backend.store.study_runs import make


@dataclass(frozen=True, slots=True)
class Due:
    """A run that a wave waits for, and where its job belongs."""

    n: int
    job_id: str
    kind: str
    run_id: str
    queue: str


def create(
    session: Session,
    name: str,
    analysis: t.Analysis,
    chosen: t.ExpertSet,
    params: dict[str, Any],
    made: dict[tuple[Role, Arm | None, int | None], str],
) -> t.Study:
    """Store a queued study and note all its runs. made: ids of those that exist already."""
    study = t.Study(
        id=t.new_id("stu"),
        name=name,
        tags=[],
        notes="",
        status="queued",
        stage="",
        done=0,
        environment={},
        created_at=t.utcnow(),
        analysis_id=analysis.id,
        expert_set_id=chosen.id,
        params=params,
        result={},
    )
    noted = [
        (wave, role, arm, seed)
        for wave, roles in enumerate(WAVES)
        for role in roles
        for seed in (params["seeds"] if role is not Role.CAUSAL else [None])
        for arm in (ARMS if role is not Role.CAUSAL else [None])
    ]
    study.total = len(noted)
    session.add(study)
    session.flush()
    for n, (wave, role, arm, seed) in enumerate(noted):
        session.add(
            t.StudyRun(
                study_id=study.id,
                n=n,
                wave=wave,
                role=str(role),
                arm=None if arm is None else str(arm),
                seed=seed,
                kind=KIND_OF_ROLE[role],
                run_id=made.get((role, arm, seed)),
            )
        )
    session.flush()
    return study


def children(session: Session, study_id: str, wave: int | None = None) -> list[t.StudyRun]:
    """Return the runs that a study consists of, in their order."""
    r = t.StudyRun
    query = select(r).where(r.study_id == study_id)
    if wave is not None:
        query = query.where(r.wave == wave)
    return list(session.scalars(query.order_by(r.n)))


def run_of(session: Session, child: t.StudyRun) -> t.Run | None:
    """Return the run itself; None while it is not made."""
    return session.get(t.RUNS[child.kind], child.run_id) if child.run_id else None


# --- wave by wave


def begin_wave(session: Session, study: t.Study, wave: int, since: str) -> list[Due]:
    """Make the runs of a wave that are not there, queue what is not queued, and return what is to be waited for.

    since: when the study was started or resumed last: what failed or was cancelled before that is resumed, what did
    after it is left for `settle` to report. Raises what making a run raises, and Conflict for a run that was cancelled
    before any job of it was queued.
    """
    found = []
    own = {(c.role, c.arm, c.seed): c for c in children(session, study.id)}
    for child in children(session, study.id, wave):
        run = run_of(session, child)
        if run is None:
            run = make(session, study, child, own)
            child.run_id = run.id
            session.flush()
        if run.status == "succeeded":
            continue
        job = _newest_job(session, run.id)
        if run.status in ACTIVE:
            job = job if job is not None and job.status in ACTIVE else jobs.add(session, child.kind, run.id)
        elif (run.finished_at or "") < since:
            runs.restore(session, t.RUNS[child.kind], run.id)
            job = jobs.resume(session, child.kind, run.id)
        if job is None:  # it was cancelled while it waited for this study to begin
            raise _unfinished(child, run)
        queue = queue_for(child.kind, jobs.engine_of(run))
        found.append(Due(child.n, job.id, child.kind, run.id, queue))
    count(session, study.id)
    return found


def settle(session: Session, study: t.Study, n: int, job_id: str) -> str:
    """Look at a run whose job ended: return "" if it succeeded, or the job that goes on with it.

    Raises Conflict, naming the run, if it did not succeed: its study cannot either.
    """
    child = session.get_one(t.StudyRun, (study.id, n))
    run = run_of(session, child)
    assert run is not None
    session.refresh(run)
    if run.status in ACTIVE:
        job = _newest_job(session, run.id)
        if job is not None and job.id != job_id and job.status in ACTIVE:
            return job.id
        why = "Its job stopped without saying why; its log may tell."
        writes.finish_all(session, job_id, child.kind, run.id, "failed", why)
        session.refresh(run)
    count(session, study.id)
    if run.status == "succeeded":
        return ""
    raise _unfinished(child, run)


def _unfinished(child: t.StudyRun, run: t.Run) -> Conflict:
    return Conflict(
        f"The {child.kind} {run.name!r} ({run.id}) {'was' if run.status == 'cancelled' else 'has'} {run.status}"
        f"{': ' + run.error.rstrip('. ') if run.error else ''}. Resume this study to go on: what is done stays."
    )


def count(session: Session, study_id: str) -> int:
    """Count the runs that succeeded into the study's progress."""
    own = [run_of(session, child) for child in children(session, study_id)]
    done = sum(run is not None and run.status == "succeeded" for run in own)
    writes.set_stage(session, t.Study, study_id, done=done)
    return done


def stop(session: Session, study_id: str) -> list[str]:
    """Cancel the runs of a study that are queued or running; return their jobs for the queue."""
    found: list[str] = []
    for child in children(session, study_id):
        run = run_of(session, child)
        if run is not None and run.status in ACTIVE:
            found += jobs.cancel(session, t.RUNS[child.kind], run.id)
    return found


def _newest_job(session: Session, run_id: str) -> t.Job | None:
    query = select(t.Job).where(t.Job.subject_id == run_id).order_by(t.Job.created_at.desc(), t.Job.id.desc())
    return session.scalars(query.limit(1)).first()


# --- how far it is


def progress(session: Session, study: t.Study, found: Sequence[tuple[t.StudyRun, t.Run | None]]) -> dict[str, Any]:
    """Return {done, total, eta_seconds, stage}: runs, and an ETA that looks into the runs. found: all of its runs."""
    shown = jobs.progress_of(study)
    if study.status != "running" or not study.started_at:
        return shown
    parts = [_part(child, run, study.started_at) for child, run in found]
    elapsed = (datetime.now(UTC) - datetime.fromisoformat(study.started_at)).total_seconds()
    done = sum(run is not None and run.status == "succeeded" for _, run in found)
    return shown | {"done": done, "eta_seconds": eta_seconds(parts, study.params["estimate"]["work"], elapsed)}


def _part(child: t.StudyRun, run: t.Run | None, since: str) -> Part:
    if run is None:
        return Part(child.role, 0.0, 0.0)
    if run.status == "succeeded":
        return Part(child.role, 1.0, 1.0 if (run.finished_at or "") < since else 0.0)
    return Part(child.role, min(run.done / run.total, 1.0) if run.total else 0.0, 0.0)
