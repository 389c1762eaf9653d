"""`python -m worker [--name NAME]`: one worker process with one GPU slot (or the CPU); takes jobs until it is ended.

This process stays small (no torch): each stage runs in a child of its own. Its name is its identity in the queue: a
worker that comes back under the same name goes on with what it was doing.
"""

import argparse
import asyncio
import logging
import os
import platform
import signal
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dbos import DBOS
from filelock import FileLock, Timeout
from sqlalchemy import make_url

from backend import logs
from backend.domain.errors import NotSupported, Unreachable
from backend.domain.jobs import APP_NAME, APP_VERSION, QUEUE_CONTROL, QUEUE_CPU, QUEUE_OF_ENGINE, QUEUE_STUDIES
from backend.settings import Settings, get_settings
from backend.store import fleet
from backend.store.engine import insist, make_engine, reading, shared_engine
from backend.store.migrate import reach, upgrade
from worker import jobs, studies
from worker.child import run_child
from worker.heart import beat
from worker.leaving import Leaving, hand_back
from worker.memory import DeviceMemory

log = logging.getLogger("routeprint.worker")
_POLL_SECONDS = 0.25
_POLLS_PER_SECOND = 250
"""What all workers together ask of one queue: a large fleet looks less often."""
_CONTROL_SLOTS = 16
_CPU_SLOTS = 2
_STUDY_SLOTS = 8
_CONNECTIONS = 5
"""To the queue, per worker: a server has some hundred for all of them."""


@contextmanager
def own_name(settings: Settings, wanted: str | None) -> Iterator[str]:
    """Claim a name nobody on this machine works under: the wanted one, or the first free `<host>-<n>`."""
    folder = settings.home / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1000):
        name = wanted or f"{platform.node()}-{number}"
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if wanted:
                raise SystemExit(
                    f"A worker named {name!r} runs already. End it first, or choose another --name."
                ) from None
            continue
        try:
            yield name
        finally:
            lock.release()
        return


def start_queue(settings: Settings, name: str, engines: Sequence[str]) -> None:
    """Connect to the queue under this name; work that a dead process of the same name left is taken up again.

    engines: those this worker can use; work for others stays in its queue.
    """
    url = make_url(settings.queue_url)
    pause = poll_seconds(settings)
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(url.database) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    else:
        queue = make_engine(settings.queue_url)
        reach(queue)
        queue.dispose()
    DBOS(
        config={
            "name": APP_NAME,
            "system_database_url": settings.queue_url,
            "application_version": APP_VERSION,
            "executor_id": name,
            "log_level": "WARNING",
            "sys_db_pool_size": _CONNECTIONS,
            "notification_listener_polling_interval_sec": _POLL_SECONDS,
        }
    )
    DBOS.listen_queues([QUEUE_CONTROL, QUEUE_STUDIES, QUEUE_CPU, *(QUEUE_OF_ENGINE[engine] for engine in engines)])
    DBOS.launch()
    logs.adopt("dbos")
    DBOS.register_queue(QUEUE_CONTROL, worker_concurrency=_CONTROL_SLOTS, polling_interval_sec=pause)
    DBOS.register_queue(QUEUE_CPU, worker_concurrency=_CPU_SLOTS, polling_interval_sec=pause)
    DBOS.register_queue(QUEUE_STUDIES, worker_concurrency=_STUDY_SLOTS, polling_interval_sec=pause)
    for queue_name in QUEUE_OF_ENGINE.values():
        DBOS.register_queue(queue_name, worker_concurrency=1, polling_interval_sec=pause)


def poll_seconds(settings: Settings) -> float:
    """Return how often to look for work, given how many workers there are. The newest worker's word holds for all."""
    with reading(shared_engine(settings.tables_url)) as session:
        return max(_POLL_SECONDS, len(fleet.alive(session)) / _POLLS_PER_SECOND)


def describe(name: str, probed: dict[str, Any]) -> dict[str, Any]:
    """Return this worker's heartbeat row."""
    return {
        "executor_id": name,
        "host": platform.node(),
        "pid": os.getpid(),
        "device": probed["device"],
        "memory_bytes": probed["memory_bytes"],
        "engines": probed["engines"],
        "model_loaded": None,
        "versions": probed["versions"],
    }


def main() -> None:
    """Run until SIGTERM or SIGINT; what is in hand is finished, and the rest handed back."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--name", help="identity in the queue; keep it the same over restarts (default: <host>-<n>)")
    wanted = parser.parse_args().name
    settings = get_settings()
    logs.configure(settings.log_format, settings.log_level)
    leaving = Leaving(settings.grace_seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leaving.on_signal)
    try:
        upgrade(settings.tables_url)
    except (NotSupported, Unreachable) as error:
        raise SystemExit(f"routeprint: {error}") from None
    with own_name(settings, wanted) as name:
        probed = asyncio.run(run_child("scan"))
        row = describe(name, probed)
        insist(shared_engine(settings.tables_url), partial(fleet.heartbeat, row=row))
        start_queue(settings, name, row["engines"])
        log.info("worker %s takes jobs on %s (workflows: %s, %s)", name, row["device"], jobs.__name__, studies.__name__)
        try:
            beat(settings, row, DeviceMemory(probed["gpu"]), leaving.done)
        finally:
            DBOS.destroy(workflow_completion_timeout_sec=0)
        hand_back(settings, name)


if __name__ == "__main__":
    main()
