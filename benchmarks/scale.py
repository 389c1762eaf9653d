"""The scale part: one analysis on 1, 2 and 4 workers, and how much the control plane takes before it is full.

    make bench BENCH=scale

The engine sleeps instead of computing (benchmarks/sleeping.py), so that the cores of this machine are no limit;
everything else is the product: PostgreSQL, queue, worker processes, a child process per shard, one transaction a batch.
Not covered: GPUs, a network between the machines, loading a real model.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from backend.store.engine import make_engine, shared_engine
from backend.store.migrate import upgrade
from benchmarks import sleeping, storing
from benchmarks.report import Found, row
from tests.backend import seeding
from tests.live import Live
from tests.postgres import Postgres, running_postgres, why_not

INCLUDES = ("load",)
_MOST = 6000
"""Batches of an analysis that is stored into as fast as it goes: more than fit into the time."""


@dataclass(frozen=True)
class Size:
    """batches: of the analysis that is shared; sleep: seconds a batch takes; fleet: numbers of workers.

    writers: numbers of processes that store batches as fast as they can, each for so many seconds.
    """

    batches: int = 1024
    sleep: float = 0.5
    fleet: tuple[int, ...] = (1, 2, 4)
    writers: tuple[int, ...] = (1, 2, 4, 8)
    seconds: float = 10.0


QUICK = Size(batches=48, sleep=0.05, fleet=(1, 2), writers=(1, 2), seconds=2.0)


def analyse(live: Live, n_batches: int, name: str) -> tuple[float, float]:
    """Measure so many batches; return batches per second from the request to the end, and between first and last."""
    rows = seeding.jsonl(seeding.prompt_rows(8 * n_batches))
    form = {"name": name, "label_meaning": "harmless_harmful"}
    imported = live.client.post("/datasets", files={"file": ("p.jsonl", rows)}, data=form).raise_for_status().json()
    dataset = live.until(lambda: (d := live.get(f"/datasets/{imported['id']}"))["status"] == "succeeded" and d)
    start = time.monotonic()
    id_ = live.post("/analyses", dataset_id=dataset["id"], model=sleeping.MODEL, statistics=False)["id"]
    begun, done_then = live.until(lambda: (d := _done(live, id_)) and (time.monotonic(), d))
    ended = live.until(lambda: _done(live, id_) == n_batches and time.monotonic(), seconds=3600)
    assert live.finished(f"/analyses/{id_}")["status"] == "succeeded"
    return n_batches / (time.monotonic() - start), (n_batches - done_then) / (ended - begun)


def _done(live: Live, id_: str) -> int:
    time.sleep(0.2)
    return int(live.get(f"/analyses/{id_}")["progress"]["done"])


def fleets(folder: Path, server: Postgres, size: Size) -> dict[int, tuple[float, float]]:
    """Return {workers: batches per second, from request to end and in between}, each on a database of its own."""
    found = {}
    for n in size.fleet:
        url = server.database()
        with Live(folder / str(n), ROUTEPRINT_DATABASE_URL=url, **sleeping.environment(size.sleep)) as live:
            live.start_backend()
            live.start_workers(*(f"w{i}" for i in range(n)))
            live.until(lambda live=live: not live.busy())
            engine = make_engine(url)
            sleeping.add_model(engine)
            engine.dispose()
            found[n] = analyse(live, size.batches, f"{n} workers")
        server.drop(url)
    return found


@contextmanager
def busy_cores() -> Iterator[list[float]]:
    """Collect the share of this machine's cores that is busy, each second."""
    seen: list[float] = []
    done = threading.Event()

    def watch() -> None:
        psutil.cpu_percent()
        while not done.wait(1.0):
            seen.append(psutil.cpu_percent())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


@dataclass(frozen=True)
class Plane:
    """What processes stored.

    rate: batches per second; busy: % of the cores; server_ms: processor time of the server per batch; waits: what its
    sessions waited for most.
    """

    rate: float
    busy: float
    server_ms: float
    waits: str


def saturated(server: Postgres, n: int, size: Size, *, shared: bool) -> "Plane":
    """Let n processes store batches as fast as they can."""
    url = server.database()
    upgrade(url)
    if shared:
        storing.prepare(url, _MOST)
    writers = [
        storing.start(url, size.seconds, *((k, n) if shared else (0, 1)), own=0 if shared else _MOST) for k in range(n)
    ]
    waits: dict[str, int] = {}
    with busy_cores() as busy:
        used = server.cpu_seconds()
        for writer in writers:
            writer.go()
        deadline = time.monotonic() + size.seconds
        while time.monotonic() < deadline:
            for kind, number in server.execute(_WAITS, url.rsplit("/", 1)[1]):
                waits[str(kind)] = waits.get(str(kind), 0) + int(str(number))
            time.sleep(0.1)
        used = server.cpu_seconds() - used
        counts = [writer.stored() for writer in writers]
    shared_engine(url).dispose()
    server.drop(url)
    total = sum(waits.values()) or 1
    said = ", ".join(f"{kind} {100 * number / total:.0f} %" for kind, number in _most(waits))
    return Plane(sum(counts) / size.seconds, median(busy) if busy else 0.0, 1000 * used / max(1, sum(counts)), said)


_WAITS = """SELECT coalesce(wait_event_type || ':' || wait_event, 'running'), count(*) FROM pg_stat_activity
WHERE application_name = 'routeprint' AND datname = current_database() AND state <> 'idle' GROUP BY 1"""


def _most(waits: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(waits.items(), key=lambda item: -item[1])[:3]


def rows(quick: bool = False) -> list[Found]:
    """Return the rows of many workers; none, with a word, where there is no PostgreSQL."""
    if (reason := why_not()) is not None:
        print(f"  scale: left out, {reason}")
        return []
    size = QUICK if quick else Size()
    with tempfile.TemporaryDirectory(prefix="routeprint-bench-") as name, running_postgres() as server:
        rates = fleets(Path(name), server, size)
        shared = {n: saturated(server, n, size, shared=True) for n in size.writers}
        apart = {n: saturated(server, n, size, shared=False) for n in size.writers}
    return [*_fleet_rows(rates, size, quick), *_plane_rows(shared, apart, size)]


def _fleet_rows(rates: dict[int, tuple[float, float]], size: Size, quick: bool) -> list[Found]:
    one = rates[1]
    listed = ", ".join(f"{n}: {whole:.2f} ({inner:.2f})" for n, (whole, inner) in rates.items())
    how = (
        f"batches per second over PostgreSQL, {size.batches:,} batches, {storing.SHAPE} experts, an engine that sleeps "
        f"{size.sleep} s a batch, from the request to the end, the start of a process for each shard included; by "
        f"workers, in brackets between first and last batch: {listed}"
    )
    found = []
    for n, (whole, _) in rates.items():
        if n > 1:
            name, goal = f"scale.efficiency_{n}_workers", ">= 0.9" if n == 4 else None
            said = f"share of {n} times the one worker's {how}"
            found.append(row(name, whole / (n * one[0]), "of linear", said, goal, judge=not quick))
    return found


def _plane_rows(shared: dict[int, Plane], apart: dict[int, Plane], size: Size) -> list[Found]:
    found = []
    for name, rates, what in (
        ("scale.control_plane_batches_per_s", apart, "each in an analysis of its own"),
        ("scale.control_plane_one_analysis_batches_per_s", shared, "all in one analysis"),
    ):
        best = max(rates, key=lambda n: rates[n].rate)
        plane = rates[best]
        listed = ", ".join(f"{n}: {own.rate:.0f}" for n, own in rates.items())
        how = (
            f"record_batch as fast as it goes, {storing.SHAPE} experts, fsync on, {size.seconds:.0f} s, {what}, server "
            f"and processes on the same {os.cpu_count()} cores; by processes {listed}; at {best} the cores are "
            f"{plane.busy:.0f} % busy and PostgreSQL's sessions wait for: {plane.waits} (ClientRead: for their process)"
        )
        found.append(row(name, plane.rate, "batches/s", how))
    costs = [plane.server_ms for plane in (*shared.values(), *apart.values())]
    how = f"processor time of PostgreSQL alone in the runs of the two rows above, median; between {min(costs):.2g} and "
    found.append(row("scale.server_ms_per_batch", median(costs), "ms", f"{how}{max(costs):.2g}"))
    return found
