"""How a worker ends: what it has in hand is finished and stored, the rest goes back into the queue at once.

    SIGTERM -> stages are asked to pause -> each ends after its batch -> their workflows go back -> the worker is gone

A stage that is not through within the grace is ended; its last batch is done again by whoever goes on. A second signal
ends it at once. Where the database does not answer, nothing can be handed back: then the worker is gone all the same,
and its colleagues find that out, as they do of one that was killed (heart.py).
"""

import logging
import os
import threading
import time

from dbos import DBOSClient
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from backend import logs
from backend.domain.jobs import ACTIVE, RUN_STAGE, WORKFLOWS
from backend.settings import Settings
from backend.store import fleet, writes
from backend.store import tables as t
from backend.store.engine import shared_engine, writing
from worker import child
from worker.heart import kinds_of, queue_of

log = logging.getLogger("routeprint.worker")

HANDING_SECONDS = 10.0
"""How long handing back may take. With the grace it is less than what docker-compose.yml allows before it kills."""


class Leaving:
    """Turns signals into the end of the worker. done: set when nothing is in hand any more, or the grace is over."""

    def __init__(self, grace_seconds: float) -> None:
        self.done = threading.Event()
        self._grace = grace_seconds
        self._asked = False

    def on_signal(self, *_: object) -> None:
        """Ask the stages to pause; when asked again, wait no longer."""
        if self._asked:
            self.done.set()
            return
        self._asked = True
        threading.Thread(target=self._pause, daemon=True, name="leaving").start()

    def _pause(self) -> None:
        deadline = time.monotonic() + self._grace
        log.info("ending: %d stages finish what they have in hand", child.pause_all())
        while child.n_running() and time.monotonic() < deadline and not self.done.is_set():
            time.sleep(0.05)
        self.done.set()
        time.sleep(HANDING_SECONDS)
        log.error("gone without handing back, the database does not answer: other workers take over in a while")
        os._exit(os.EX_TEMPFAIL)  # as if killed: whatever waits for the database here would wait for it for ever


def hand_back(settings: Settings, name: str) -> list[str]:
    """Put the workflows of this worker, whose queue is closed already, back into their queues; return their ids."""
    client = DBOSClient(system_database_url=settings.queue_url)
    try:
        mine = client.list_workflows(status="PENDING", executor_id=name, load_input=False, load_output=False)
        kinds = kinds_of(settings, [w.workflow_id for w in mine])
        for workflow in mine:
            kind = kinds.get(workflow.workflow_id)
            with writing(shared_engine(settings.tables_url)) as session:
                _note(session, workflow.workflow_id, kind, name)
            client.resume_workflow(workflow.workflow_id, queue_name=queue_of(workflow.queue_name, kind))
            log.info("handed back", extra=logs.facts(job_id=workflow.workflow_id))
    finally:
        client.destroy()
    with writing(shared_engine(settings.tables_url)) as session:
        session.execute(delete(t.Worker).where(t.Worker.executor_id == name))
    return [workflow.workflow_id for workflow in mine]


def _note(session: Session, id_: str, kind: str | None, name: str) -> None:
    """Say that a run waits again, where this worker alone had it. kind: None for a shard.

    An analysis goes on being `running`: other workers may be at its shards, and they stop when it is not.
    """
    fleet.over(session, id_)  # a worker that ends in good order did not die of the work
    if kind is None or WORKFLOWS[kind][0] != RUN_STAGE:
        return
    subject = session.scalar(select(t.Job.subject_id).where(t.Job.id == id_, t.Job.status.in_(ACTIVE)))
    if subject is None:
        return
    session.execute(update(t.Job).where(t.Job.id == id_).values(status="queued", executor_id=None))
    writes.set_stage(session, t.RUNS[kind], subject, status="queued", stage="")
    writes.log(session, id_, f"interrupted: {name} was ended; goes on where it was when a worker is free")
