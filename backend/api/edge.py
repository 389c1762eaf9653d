"""What every route stands on: the settings, the tables and the queue of this process. The edge owns the transaction."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi import Path as InPath
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from backend.api.children import Children
from backend.api.schemas.common import Clean, Problem
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import jobs
from backend.store import tables as t
from backend.store.engine import reading, writing

log = logging.getLogger(__name__)

PathId = Annotated[str, InPath(max_length=100), Clean]
SmallIndex = Annotated[int, InPath(ge=0, le=2**31 - 1)]

PROBLEMS: dict[int | str, dict[str, object]] = {
    code: {"model": Problem, "description": text}
    for code, text in {
        400: "The request cannot be read.",
        401: "The access token is missing or wrong.",
        403: "The Host or Origin header is not one that this server answers.",
        404: "There is no such thing.",
        409: "The thing is not in a state in which this is possible.",
        413: "The request is too large.",
        422: "A field does not fit; `errors` says which.",
        429: "Too many wrong tokens from this address, or too many uploads or event streams at once.",
        503: "The database is busy; nothing was changed.",
    }.items()
}
"""Documented on every route under /api/v1."""
PROBLEMS[429]["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


@dataclass(frozen=True, slots=True)
class Edge:
    """The state of one API process."""

    settings: Settings
    engine: Engine
    queue: JobQueue
    children: Children = field(default_factory=Children)

    @property
    def scratch(self) -> Path:
        """Folder of files that live as long as one request or import; emptied when the API starts."""
        return self.settings.home / "scratch"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session for reads."""
        with reading(self.engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Open a transaction that lands as a whole or not at all."""
        with writing(self.engine) as session:
            yield session

    def submit(self, job: t.Job) -> None:
        """Hand a job whose row has landed to the queue. If the queue is out of reach, the sweep does it later."""
        try:
            with self.reading() as session:
                engine = jobs.engine_of(jobs.subjects_of(session, [job]).get(job.subject_id))
            self.queue.submit(job.id, job.kind, job.subject_id, engine, job.priority)
        except Exception:
            log.exception("job %s could not be queued now; the sweep will try again", job.id)

    def cancel(self, job_ids: list[str]) -> None:
        """Tell the queue to stop these jobs. The tables say so already, and workers look there too."""
        for job_id in job_ids:
            try:
                self.queue.cancel(job_id)
            except Exception:
                log.exception("the queue could not be told to cancel job %s", job_id)


def edge_of(request: Request) -> Edge:
    """Return the state of this process."""
    edge: Edge = request.app.state.edge
    return edge


Here = Annotated[Edge, Depends(edge_of)]
