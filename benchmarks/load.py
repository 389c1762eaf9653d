"""Readers under load: 50 dashboards that poll once a second while a worker stores 20 batches a second, for 10 minutes.

The API is the product's own process, once on SQLite and once on PostgreSQL; each dashboard makes the calls that the
pages make: what a run does (`parts/runs.py`), the queue for those on the jobs page (`views/jobs.py`), and now and then
the whole analysis page. Not covered: what Streamlit and the browser do with the answers.
"""

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

from backend.settings import Settings
from benchmarks import storing
from benchmarks.report import Found, row
from tests.live import TOKEN, Live
from tests.postgres import running_postgres, why_not


@dataclass(frozen=True)
class Size:
    """warm: seconds before the memory is taken down for the first time. redraw: seconds between two whole pages."""

    dashboards: int = 50
    seconds: float = 600.0
    rate: float = 20.0
    warm: float = 60.0
    redraw: int = 30
    on_jobs: int = 5  # every so manieth dashboard stands on the jobs page


QUICK = Size(dashboards=10, seconds=12.0, warm=3.0, redraw=4)


@dataclass
class Seen:
    """What the dashboards met: seconds of every answer, and every one that was no answer."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Held:
    """What a process holds: resident bytes and open file descriptors."""

    rss: int
    fds: int

    @classmethod
    def by(cls, pid: int) -> "Held":
        process = psutil.Process(pid)
        return cls(process.memory_info().rss, process.num_fds())


@dataclass(frozen=True)
class Outcome:
    """One run. first, last: what the API held after the warming up and at the end."""

    seen: Seen
    stored: int
    first: Held
    last: Held


def calls(id_: str, number: int, turn: int, size: Size) -> list[str]:
    """Return what one dashboard asks for in one second."""
    if number % size.on_jobs == 0:
        return ["/system", "/jobs?limit=100"]
    status = f"/analyses/{id_}"
    if (turn + number) % size.redraw:
        return [status]
    return [status, f"{status}/risk-diff?scope=prompt&pool=mean", f"{status}/batches?limit=50"]


async def dashboard(base: str, id_: str, number: int, size: Size, seen: Seen, until: float) -> None:
    """Poll once a second until the time is up."""
    async with httpx.AsyncClient(
        base_url=base, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30, trust_env=False
    ) as client:
        await asyncio.sleep(number / size.dashboards)
        turn = 0
        while (begun := time.monotonic()) < until:
            for path in calls(id_, number, turn, size):
                await _ask(client, path, seen)
            turn += 1
            await asyncio.sleep(max(0.0, begun + 1.0 - time.monotonic()))


async def _ask(client: httpx.AsyncClient, path: str, seen: Seen) -> None:
    start = time.perf_counter()
    try:
        answer = await client.get(path)
        if not answer.is_success:
            seen.errors.append(f"{path}: {answer.status_code}")
    except httpx.HTTPError as error:
        seen.errors.append(f"{path}: {type(error).__name__}")
    seen.seconds.append(time.perf_counter() - start)


async def poll(live: Live, id_: str, size: Size) -> tuple[Seen, Held, Held]:
    """Run all dashboards; return what they saw, and what the API held early and late."""
    seen, pid = Seen(), live.processes["backend"].pid
    until = time.monotonic() + size.seconds
    base = str(live.client.base_url)
    all_of_them = [dashboard(base, id_, n, size, seen, until) for n in range(size.dashboards)]
    running = asyncio.gather(*all_of_them)
    await asyncio.sleep(size.warm)
    first = Held.by(pid)
    await asyncio.sleep(max(0.0, until - time.monotonic() - 1.0))
    last = Held.by(pid)
    await running
    return seen, first, last


def loaded(home: Path, size: Size, **environment: str) -> Outcome:
    """Run services, one process that stores batches, and all dashboards."""
    with Live(home, **environment) as live:
        url = environment.get("ROUTEPRINT_DATABASE_URL") or Settings(home=home).tables_url
        home.mkdir(parents=True)
        id_ = storing.prepare(url, int(size.rate * size.seconds * 1.2))
        live.start_backend()
        worker = storing.start(url, size.seconds, rate=size.rate)
        worker.go()
        seen, first, last = asyncio.run(poll(live, id_, size))
        return Outcome(seen, worker.stored(), first, last)


def rows(quick: bool = False) -> list[Found]:
    """Return the rows of both databases; of SQLite alone, with a word, where there is no PostgreSQL."""
    size = QUICK if quick else Size()
    with tempfile.TemporaryDirectory(prefix="routeprint-bench-") as name:
        found = _rows("SQLite", "", loaded(Path(name) / "sqlite", size), size, quick)
        if (reason := why_not()) is not None:
            print(f"  load: PostgreSQL left out, {reason}")
            return found
        with running_postgres() as server:
            outcome = loaded(Path(name) / "postgresql", size, ROUTEPRINT_DATABASE_URL=server.database())
        return found + _rows("PostgreSQL", "_postgresql", outcome, size, quick)


def _rows(database: str, end: str, outcome: Outcome, size: Size, quick: bool) -> list[Found]:
    ms = np.array(outcome.seen.seconds) * 1000
    p50, p95, p99 = np.percentile(ms, (50, 95, 99))
    grown = (outcome.last.rss - outcome.first.rss) / 2**20
    fds = outcome.last.fds - outcome.first.fds
    how = (
        f"{size.dashboards} dashboards, each once a second, {len(ms):,} reads in {size.seconds:.0f} s on {database}, "
        f"while a process stores {outcome.stored / size.seconds:.1f} batches a second ({outcome.stored:,})"
    )
    spread = f"p50 {p50:.1f}, p99 {p99:.1f}, slowest {ms.max():.0f} ms"
    wrong = f"; the first: {outcome.seen.errors[0]}" if outcome.seen.errors else ""
    held = f"{outcome.last.rss / 2**20:.0f} MiB at the end"
    memory = f"resident memory of the API, from {size.warm:.0f} s on to the end ({held}); {how}"
    return [
        row(f"load.read_p95_ms{end}", float(p95), "ms", f"{how}; {spread}", "<= 200", judge=not quick),
        row(f"load.errors{end}", len(outcome.seen.errors), "reads", f"{how}{wrong}", "<= 0"),
        row(f"load.memory_growth{end}", grown, "MiB", memory, "<= 20", judge=not quick),
        row(f"load.fd_growth{end}", fds, "fds", f"{outcome.last.fds} at the end; {how}", "<= 10", judge=not quick),
    ]
