"""A worker's heartbeat, and the takeover of work that a dead worker left behind (the queue's library has none)."""

import logging
import random
import threading
import time
from datetime import datetime
from typing import Any

from dbos import DBOS
from sqlalchemy import select

from backend.domain.jobs import DEAD_AFTER_SECONDS, HEARTBEAT_SECONDS, QUEUE_GPU, QUEUES, WORKFLOWS
from backend.settings import Settings
from backend.store import fleet
from backend.store import tables as t
from backend.store.engine import reading, shared_engine, writing
from worker.memory import DeviceMemory

log = logging.getLogger("routeprint.worker")

_LOOKERS = 4
"""So many workers, on average, look for dead colleagues at every beat, however many there are."""
_UNKNOWN = 0.25
"""So often, one that looks goes through all running work, whoever does it."""


def beat(settings: Settings, row: dict[str, Any], memory: DeviceMemory, done: threading.Event) -> None:
    """Write the heartbeat and look for dead colleagues until `done` is set; a database that is away is waited for.

    Nobody beats while the database is away, or while this machine sleeps, and a clock that is moved makes old what was
    fresh: then all look dead, and none is taken over from before they had the time to beat again.
    """
    engine = shared_engine(settings.tables_url)
    last, quiet_until = time.monotonic(), 0.0
    before: datetime | None = None
    while not done.wait(HEARTBEAT_SECONDS * random.uniform(0.9, 1.1)):  # noqa: S311 - not all workers at once
        try:
            used = memory.used()
            with writing(engine) as session:
                moment = fleet.heartbeat(session, row | {"memory_used_bytes": used})
            passed = time.monotonic() - last
            moved = abs((moment - before).total_seconds() - passed) if before else 0.0
            last, before = time.monotonic(), moment
            if max(passed, moved) > DEAD_AFTER_SECONDS / 2:
                quiet_until = last + DEAD_AFTER_SECONDS
            if last >= quiet_until:
                reap(settings)
        except Exception:
            log.exception("heartbeat failed; trying again in %s s", HEARTBEAT_SECONDS)


def queue_of(before: str | None, kind: str | None) -> str:
    """Return the queue that a workflow goes back into: the one it came from, as its engine may be on no other.

    kind: of its job; None for a shard, which has no job of its own.
    """
    if before in QUEUES:
        return before
    return WORKFLOWS[kind][1] if kind else QUEUE_GPU


def kinds_of(settings: Settings, ids: list[str]) -> dict[str, str]:
    """Return {id: kind} of those ids that are jobs."""
    if not ids:
        return {}
    with reading(shared_engine(settings.tables_url)) as session:
        return dict(session.execute(select(t.Job.id, t.Job.kind).where(t.Job.id.in_(ids))).all())


def reap(settings: Settings) -> list[str]:
    """Put running workflows of dead workers back into their queues; return their ids.

    Now and then, also those of workers that the tables do not know: they died before their first heartbeat landed.
    """
    with reading(shared_engine(settings.tables_url)) as session:
        dead, alive = fleet.dead(session), {worker.executor_id for worker in fleet.alive(session)}
    if random.random() * len(alive) > _LOOKERS:  # noqa: S311 - any few of many will do
        return []
    unknown_too = random.random() < _UNKNOWN  # noqa: S311
    if not dead and not unknown_too:
        return []
    wanted = None if unknown_too else dead
    running = DBOS.list_workflows(status="PENDING", executor_id=wanted, load_input=False, load_output=False)
    orphans = [workflow for workflow in running if workflow.executor_id not in alive]
    kinds = kinds_of(settings, [w.workflow_id for w in orphans])
    for workflow in orphans:
        log.warning("taking over %s from dead worker %s", workflow.workflow_id, workflow.executor_id)
        DBOS.resume_workflow(
            workflow.workflow_id, queue_name=queue_of(workflow.queue_name, kinds.get(workflow.workflow_id))
        )
    return [w.workflow_id for w in orphans]
