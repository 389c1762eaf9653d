"""Jobs: the queue as a person sees it, live if wanted."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from backend.api.edge import PROBLEMS, Edge, Here, PathId
from backend.api.pagination import Paged, listing
from backend.api.schemas.common import Listing, Progress, Status
from backend.api.schemas.jobs import JobOut, LogLine
from backend.store import fleet, jobs
from backend.store import tables as t
from backend.store.paging import Page

router = APIRouter(prefix="/jobs", tags=["jobs"], responses=PROBLEMS)

POLL_SECONDS = 0.5
PING_SECONDS = 15.0


def show_all(session: Session, found: Sequence[t.Job]) -> list[JobOut]:
    """Return jobs as the API shows them, with what they work on."""
    subjects = jobs.subjects_of(session, found)
    alive = fleet.alive(session)
    return [_show(job, subjects.get(job.subject_id), alive) for job in found]


def _show(job: t.Job, subject: t.Run | None, alive: Sequence[t.Worker]) -> JobOut:
    fields = ("id", "kind", "subject_id", "status", "priority", "error", "executor_id")
    times = ("created_at", "started_at", "finished_at")
    return JobOut.model_validate(
        {name: getattr(job, name) for name in fields + times}
        | {
            "subject_name": subject.name if subject else "models folder",
            "progress": Progress(**jobs.progress_of(subject)),
            "waiting_for": jobs.waiting_for(job, subject, alive),
        }
    )


def show_log(line: t.JobLog) -> LogLine:
    """Return one log line as the API shows it."""
    return LogLine.model_validate(line, from_attributes=True)


@router.get("")
def get_all(here: Here, page: Paged, status: Status | None = None) -> Listing[JobOut]:
    """List jobs, newest first."""
    with here.reading() as session:
        found = jobs.listing(session, status, page.after(str, str), page.limit)
        shown = Page(show_all(session, found.items), found.next_key)
    return listing(shown, lambda job: job)


@router.get("/{job_id}")
def get_one(here: Here, job_id: PathId) -> JobOut:
    """Return one job."""
    with here.reading() as session:
        return show_all(session, [jobs.get(session, job_id)])[0]


@router.get("/{job_id}/logs")
def get_logs(here: Here, job_id: PathId, page: Paged) -> Listing[LogLine]:
    """List what a job said, oldest first."""
    with here.reading() as session:
        jobs.get(session, job_id)
        return listing(jobs.logs(session, job_id, page.after(int), page.limit), show_log)


_EVENT = {
    "type": "object",
    "properties": {"event": {"enum": ["status", "log"]}, "id": {"type": "string"}, "data": {"type": "string"}},
    "required": ["event", "data"],
}
"""One event of the stream: a server-sent event's fields are text."""


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {"text/event-stream": {"schema": _EVENT}},
            "description": "`event: status` with the job as JSON whenever it changes, `event: log` for every new log "
            "line; the stream ends when the job is finished.",
        }
    },
)
async def get_events(here: Here, job_id: PathId, request: Request) -> StreamingResponse:
    """Follow a job live (server-sent events). Reconnecting starts with the present status and all log lines."""
    await run_in_threadpool(_look, here, job_id, 0)
    stream = _events(here, job_id, request)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _look(edge: Edge, job_id: str, after_log: int) -> tuple[JobOut, list[LogLine]]:
    with edge.reading() as session:
        job = show_all(session, [jobs.get(session, job_id)])[0]
        return job, [show_log(line) for line in jobs.logs(session, job_id, (after_log,), 500).items]


async def _events(edge: Edge, job_id: str, request: Request) -> AsyncIterator[str]:
    """Look at the tables in short reads; no transaction stays open between two looks."""
    seen_log, seen_job, quiet = 0, "", 0.0
    while not await request.is_disconnected():
        job, lines = await run_in_threadpool(_look, edge, job_id, seen_log)
        for line in lines:
            seen_log, quiet = line.id, 0.0
            yield f"event: log\nid: {line.id}\ndata: {line.model_dump_json()}\n\n"
        if (shown := job.model_dump_json()) != seen_job:
            seen_job, quiet = shown, 0.0
            yield f"event: status\ndata: {shown}\n\n"
        if job.status in ("succeeded", "failed", "cancelled") and not lines:
            return
        if quiet >= PING_SECONDS:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(0 if lines else POLL_SECONDS)
        quiet += POLL_SECONDS
