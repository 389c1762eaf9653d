"""A worker's heartbeat, and the takeover of work that a dead worker left behind (the queue's library has none)."""

import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from dbos import DBOS
from sqlalchemy import select

from backend.domain.jobs import DEAD_AFTER_SECONDS, HEARTBEAT_SECONDS, QUEUE_GPU, QUEUES, WORKFLOWS
from backend.settings import Settings
from backend.store import tables as t
from backend.store.engine import reading, shared_engine, writing
from backend.store.writes import heartbeat

log = logging.getLogger("routeprint.worker")


def beat(settings: Settings, row: dict[str, Any], done: threading.Event) -> None:
    """Write the heartbeat and look for dead colleagues until `done` is set; a database that is away is waited for."""
    engine = shared_engine(settings.tables_url)
    while not done.wait(HEARTBEAT_SECONDS):
        try:
            with writing(engine) as session:
                heartbeat(session, row)
            reap(settings)
        except Exception:
            log.exception("heartbeat failed; trying again in %s s", HEARTBEAT_SECONDS)


def alive_workers(settings: Settings) -> set[str]:
    """Return the names of workers whose heartbeat is fresh."""
    limit = (datetime.now(UTC) - timedelta(seconds=DEAD_AFTER_SECONDS)).isoformat(timespec="microseconds")
    with reading(shared_engine(settings.tables_url)) as session:
        return set(session.scalars(select(t.Worker.executor_id).where(t.Worker.last_seen >= limit)))


def queue_of(before: str | None, kind: str | None) -> str:
    """Return the queue that a workflow goes back into: the one it came from, as its engine may be on no other.

    kind: of its job; None for a shard, which has no job of its own.
    """
    if before in QUEUES:
        return before
    return WORKFLOWS[kind][1] if kind else QUEUE_GPU


def _kinds_of(settings: Settings, ids: list[str]) -> dict[str, str]:
    if not ids:
        return {}
    with reading(shared_engine(settings.tables_url)) as session:
        return dict(session.execute(select(t.Job.id, t.Job.kind).where(t.Job.id.in_(ids))).all())


def reap(settings: Settings) -> list[str]:
    """Put running workflows of dead workers back into their queues; return their ids."""
    pending = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
    alive = alive_workers(settings) if pending else set()
    orphans = [w for w in pending if w.executor_id not in alive]
    kinds = _kinds_of(settings, [w.workflow_id for w in orphans])
    for workflow in orphans:
        log.warning("taking over %s from dead worker %s", workflow.workflow_id, workflow.executor_id)
        DBOS.resume_workflow(
            workflow.workflow_id, queue_name=queue_of(workflow.queue_name, kinds.get(workflow.workflow_id))
        )
    return [w.workflow_id for w in orphans]
