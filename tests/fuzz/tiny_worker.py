"""A worker whose stages need no model: `python -m tests.fuzz.tiny_worker LEDGER`. All else is the real thing.

Its stage does UNITS small pieces of work, each written down once, and looks before each whether it is still wanted, as
the real stages do. It ends without a word where it is not.
"""

import asyncio
import platform
import sqlite3
import sys
import threading
from collections.abc import Callable
from typing import Any

from backend.domain.jobs import ACTIVE
from backend.settings import get_settings
from backend.store import fleet, writes
from backend.store import tables as t
from backend.store.engine import shared_engine, writing
from worker import __main__ as service
from worker import jobs
from worker.heart import beat
from worker.memory import DeviceMemory

UNITS = 4
NAME = "w0"


def open_ledger(path: str) -> sqlite3.Connection:
    """Open the file in which the stage writes what it did."""
    ledger = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    ledger.execute("CREATE TABLE IF NOT EXISTS units (run TEXT, unit INTEGER, PRIMARY KEY (run, unit))")
    return ledger


async def stage(*words: str, on_line: Callable[[str], None] | None = None) -> int:
    """Do what is not done yet; return how many units there are, 0 if the run is not wanted any more."""
    kind, id_, _job = words[-3:]  # before them: the fence of a real stage
    engine = shared_engine(get_settings().tables_url)
    for unit in range(UNITS):
        with writing(engine) as session:
            run = session.get_one(t.RUNS[kind], id_)
            if run.status not in ACTIVE:
                return 0
            writes.set_stage(session, t.RUNS[kind], id_, stage="tiny", done=unit, total=UNITS)
        LEDGER.execute("INSERT OR IGNORE INTO units VALUES (?, ?)", (id_, unit))
        await asyncio.sleep(0.04)
    return UNITS


def main() -> None:
    """Run until killed."""
    settings = get_settings()
    jobs.run_child = stage  # type: ignore[assignment]
    probed: dict[str, Any] = {"device": "cpu", "memory_bytes": 1, "engines": ["transformers"], "versions": {}}
    row = service.describe(NAME, probed)
    with service.own_name(settings, NAME):
        with writing(shared_engine(settings.tables_url)) as session:
            fleet.heartbeat(session, row)
        service.start_queue(settings, NAME, row["engines"])
        print(platform.node(), flush=True)  # noqa: T201 - whoever started this waits for it
        beat(settings, row, DeviceMemory(None), threading.Event())


if __name__ == "__main__":
    LEDGER = open_ledger(sys.argv[1])
    main()
