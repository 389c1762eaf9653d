"""Jobs in the store: what was asked of the queue, and how it went."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from backend.domain.errors import Conflict, NotFound
from backend.domain.jobs import ACTIVE, FINISHED, PRIORITY
from backend.store import tables as t
from backend.store.paging import Key, Page, page

SCAN_SUBJECT = "models"


def add(session: Session, kind: str, subject_id: str, priority: int = PRIORITY) -> t.Job:
    """Note a job that is to be queued once this transaction has landed. priority: the smaller, the sooner."""
    job = t.Job(id=t.new_id("job"), kind=kind, subject_id=subject_id, status="queued", created_at=t.utcnow())
    job.priority = priority
    session.add(job)
    session.flush()
    return job


def get(session: Session, job_id: str) -> t.Job:
    """Return a job. Raises NotFound."""
    job = session.get(t.Job, job_id)
    if job is None:
        raise NotFound("job", job_id)
    return job


def listing(session: Session, status: str | None, after: Key | None, limit: int) -> Page[t.Job]:
    """Return jobs, newest first."""
    query = select(t.Job).where(t.Job.status == status) if status else select(t.Job)
    return page(session, query, (t.Job.created_at, t.Job.id), after, limit, newest_first=True)


def logs(session: Session, job_id: str, after: Key | None, limit: int) -> Page[t.JobLog]:
    """Return a job's log lines in the order in which they were written."""
    return page(session, select(t.JobLog).where(t.JobLog.job_id == job_id), (t.JobLog.id,), after, limit)


def newest_of(session: Session, subject_ids: Sequence[str]) -> dict[str, str]:
    """Return the newest job's id for each of these resources."""
    query = select(t.Job.subject_id, t.Job.id).where(t.Job.subject_id.in_(subject_ids))
    return dict(session.execute(query.order_by(t.Job.created_at, t.Job.id)).all())


def subjects_of(session: Session, jobs: Sequence[t.Job]) -> dict[str, t.Run]:
    """Return the resources that these jobs work on, by id."""
    found: dict[str, t.Run] = {}
    for kind in {job.kind for job in jobs} & set(t.RUNS):
        table, ids = t.RUNS[kind], {job.subject_id for job in jobs if job.kind == kind}
        found |= {row.id: row for row in session.scalars(select(table).where(table.id.in_(ids)))}
    return found


def engine_of(subject: t.Run | None) -> str | None:
    """Return the engine that a resource needs of its worker; None: any worker will do."""
    return subject.engine if isinstance(subject, (t.Analysis, t.Context)) else None


def active_scan(session: Session) -> t.Job | None:
    """Return a scan that is queued or running already."""
    query = select(t.Job).where(t.Job.kind == "scan", t.Job.status.in_(ACTIVE))
    return session.scalars(query.order_by(t.Job.created_at).limit(1)).first()


def counts(session: Session) -> dict[str, int]:
    """Return the number of jobs per status."""
    return dict(session.execute(select(t.Job.status, func.count()).group_by(t.Job.status)).all())


def counts_by_kind(session: Session) -> dict[tuple[str, str], int]:
    """Return the number of jobs per kind and status."""
    query = select(t.Job.kind, t.Job.status, func.count()).group_by(t.Job.kind, t.Job.status)
    return {(kind, status): n for kind, status, n in session.execute(query)}


def waiting_for(job: t.Job, subject: t.Run | None, alive: Sequence[t.Worker]) -> str | None:
    """Say what a job lacks, in words; None if it only waits for its turn or does not wait at all.

    Running work lacks something too where the workers with its engine have all gone.
    """
    if job.status not in ACTIVE:
        return None
    needed = engine_of(subject)
    if not alive:
        if job.status == "running":  # a worker that is taken for dead may come back or be taken over from
            return None
        return "no worker is running: start one with `routeprint worker`"
    if needed and not any(needed in worker.engines for worker in alive):
        there = sorted({engine for worker in alive for engine in worker.engines})
        return f"no running worker has the engine {needed!r}; those that run have: {', '.join(there) or 'none'}"
    return None


def cancel(session: Session, table: type[t.Run], id_: str) -> list[str]:
    """Set a queued or running resource and its jobs to cancelled; return the jobs' ids for the queue.

    Raises Conflict if it is finished already.
    """
    now = t.utcnow()
    result = session.execute(
        update(table)
        .where(table.id == id_, table.status.in_(ACTIVE))
        .values(status="cancelled", stage="", finished_at=now)
    )
    if not (isinstance(result, CursorResult) and result.rowcount):
        status = session.scalar(select(table.status).where(table.id == id_))
        raise Conflict(f"{id_} is {status} already: there is nothing to cancel.")
    query = select(t.Job.id).where(t.Job.subject_id == id_, t.Job.status.in_(ACTIVE))
    ids = list(session.scalars(query))
    session.execute(update(t.Job).where(t.Job.id.in_(ids)).values(status="cancelled", finished_at=now))
    return ids


def resume(session: Session, kind: str, id_: str) -> t.Job:
    """Queue a failed or cancelled resource again, as a new job on the same resource. Raises Conflict otherwise."""
    table = t.RUNS[kind]
    result = session.execute(
        update(table)
        .where(table.id == id_, table.status.in_(("failed", "cancelled")), table.deleted_at.is_(None))
        .values(status="queued", stage="", error=None, started_at=None, finished_at=None)
    )
    if not (isinstance(result, CursorResult) and result.rowcount):
        status, deleted = session.execute(select(table.status, table.deleted_at).where(table.id == id_)).one()
        why = "deleted: undelete it first" if deleted else f"{status}: only a failed or cancelled run can be resumed"
        raise Conflict(f"{id_} is {why}.")
    before = select(t.Job.priority).where(t.Job.subject_id == id_).order_by(t.Job.created_at.desc()).limit(1)
    return add(session, kind, id_, session.scalar(before) or PRIORITY)


def active(session: Session, older_than_seconds: float) -> list[t.Job]:
    """Return the unfinished jobs that the queue should know for at least this long: the sweep looks whether it does."""
    before = (datetime.now(UTC) - timedelta(seconds=older_than_seconds)).isoformat(timespec="microseconds")
    query = select(t.Job).where(t.Job.status.in_(ACTIVE), t.Job.created_at <= before)
    return list(session.scalars(query.order_by(t.Job.created_at)))


def is_finished(job: t.Job) -> bool:
    """Tell whether nothing more will happen to this job."""
    return job.status in FINISHED


def progress_of(subject: t.Run | None) -> dict[str, Any]:
    """Return {done, total, eta_seconds, stage}; the ETA assumes that the rest goes as the run did so far."""
    if subject is None:
        return {"done": 0, "total": 0, "eta_seconds": None, "stage": ""}
    done, total = subject.done, subject.total
    eta = None
    if subject.status == "running" and subject.started_at and 0 < done <= total:
        elapsed = (datetime.now(UTC) - datetime.fromisoformat(subject.started_at)).total_seconds()
        eta = round(max(elapsed, 0.0) / done * (total - done), 1)
    return {"done": done, "total": total, "eta_seconds": eta, "stage": subject.stage}
