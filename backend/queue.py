"""The queue's front: submit, cancel, and a sweep that puts back what got lost between the two databases.

The tables say what was asked for; the queue says what runs. A job is written to the tables first and queued when that
has landed, so a crash in between leaves a queued job that the queue does not know: the sweep submits it again, under
the same id, which the queue takes once only. Not covered: the work itself (worker/jobs.py).
"""

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dbos import DBOS, DBOSClient
from sqlalchemy import Engine, make_url

from backend.domain.jobs import APP_VERSION, PRIORITY, WORKFLOWS, queue_for
from backend.store import jobs, writes
from backend.store.engine import reading, writing

log = logging.getLogger(__name__)

SWEEP_AFTER_SECONDS = 5.0
GONE = {
    "ERROR": "The job stopped without saying why; its log may tell.",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "The job was given up after its worker died several times.",
}
"""States of the queue in which nobody will ever finish a job, and what to say then."""


class JobQueue:
    """A client of the queue at this URL; makes the queue's own tables if they are not there."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(parsed.database)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.close()
        DBOS.migrate(url)
        self._client = DBOSClient(system_database_url=url)

    def submit(
        self, job_id: str, kind: str, subject_id: str, engine: str | None = None, priority: int = PRIORITY
    ) -> None:
        """Queue a job where workers have its engine (None: any will do). Doing it twice queues it once."""
        self._client.enqueue(
            {
                "workflow_name": WORKFLOWS[kind][0],
                "queue_name": queue_for(kind, engine),
                "workflow_id": job_id,
                "app_version": APP_VERSION,
                "priority": priority,
            },
            job_id,
            subject_id,
        )

    def cancel(self, job_id: str) -> None:
        """Stop a job and whatever it handed out. Unknown and finished jobs stay as they are."""
        self._client.cancel_workflow(job_id, cancel_children=True)

    def forget(self, job_ids: list[str]) -> None:
        """Remove all that the queue holds of these jobs and of what they handed out. Unknown ones are no error."""
        self._client.delete_workflows(job_ids, delete_children=True)

    def states(self, job_ids: Iterable[str]) -> dict[str, str]:
        """Return the queue's own word for the state of each job it knows."""
        ids = list(job_ids)
        if not ids:
            return {}
        found = self._client.list_workflows(workflow_ids=ids, load_input=False, load_output=False)
        return {workflow.workflow_id: str(workflow.status) for workflow in found}

    def depths(self) -> Counter[tuple[str, str]]:
        """Return {(queue, waiting | running): pieces of work}; an analysis' shards are pieces of their own."""
        words = {"ENQUEUED": "waiting", "DELAYED": "waiting", "PENDING": "running"}
        found = self._client.list_workflows(status=list(words), queues_only=True, load_input=False, load_output=False)
        return Counter((str(one.queue_name), words[str(one.status)]) for one in found)

    def close(self) -> None:
        """Give the connections back."""
        self._client.destroy()


def sweep(engine: Engine, queue: JobQueue, older_than_seconds: float = SWEEP_AFTER_SECONDS) -> list[str]:
    """Queue the jobs that the queue has never heard of, and fail those it gave up; return the ids of the former."""
    with reading(engine) as session:
        found = jobs.active(session, older_than_seconds)
        subjects = jobs.subjects_of(session, found)
        active = [(j.id, j.kind, j.subject_id, jobs.engine_of(subjects.get(j.subject_id)), j.priority) for j in found]
    states = queue.states(job[0] for job in active)
    lost = [job for job in active if job[0] not in states]
    for job in lost:
        queue.submit(*job)
        log.info("job %s was not in the queue; it is now", job[0])
    given_up = [(job, GONE[states[job[0]]]) for job in active if states.get(job[0]) in GONE]
    for (id_, kind, subject_id, *_), reason in given_up:
        with writing(engine) as session:
            writes.finish_all(session, id_, kind, subject_id, "failed", reason)
    return [job[0] for job in lost]
