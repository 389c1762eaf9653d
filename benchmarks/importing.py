"""How a large prompt set comes in and goes out beside other users of the same database.

The file goes through the product's own API, as a process of its own. Measured while it does: memory of the backend and
of the child that reads the file, what another writer and what readers wait. Not covered: PostgreSQL, several imports at
once.
"""

import csv
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

from backend.settings import Settings
from backend.store.engine import make_engine
from benchmarks.report import Found, row
from tests.backend.seeding import add_model
from tests.live import Live

ROWS, QUICK_ROWS = 1_000_000, 60_000
POLL_SECONDS = 0.005
FORM = {"name": "large", "label_meaning": "harmless_harmful"}


def write_file(path: Path, n_rows: int) -> None:
    """Write a CSV of harmless words: 170 bytes a row, half of it safe, twenty categories, a response each."""
    rng = random.Random(1)
    words = [f"word{n:04d}" for n in range(3000)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "label", "category", "response"])
        for n in range(n_rows):
            said = " ".join(rng.choices(words, k=18))
            writer.writerow([f"Request {n}: {said[:90]}", ("safe", "unsafe")[n % 2], f"topic {n % 20}", said[90:150]])


@dataclass
class Beside:
    """What others saw meanwhile. lock: the longest time in which a writer that tries all the time got no turn."""

    lock: float = 0.0
    answers: dict[str, list[float]] = field(default_factory=dict)
    child_mb: float = 0.0
    backend_mb: float = 0.0

    def p95_ms(self, name: str) -> float:
        """Return the p95 of the answer times of one address."""
        return float(np.percentile(self.answers[name], 95)) * 1000


@contextmanager
def watched(live: Live) -> Iterator[Beside]:
    """Measure others' waiting times and the memory of the backend and its children until the block ends."""
    seen, done = Beside(), threading.Event()
    jobs = [_memory, _writer, _asker("/health"), _asker("/api/v1/datasets")]
    threads = [threading.Thread(target=job, args=(live, seen, done)) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        for thread in threads:
            thread.join()


def _memory(live: Live, seen: Beside, done: threading.Event) -> None:
    backend = psutil.Process(live.processes["backend"].pid)
    while not done.wait(0.02):
        seen.backend_mb = max(seen.backend_mb, backend.memory_info().rss / 2**20)
        for child in backend.children(recursive=True):
            try:
                seen.child_mb = max(seen.child_mb, child.memory_info().rss / 2**20)
            except psutil.NoSuchProcess:
                continue


def _writer(live: Live, seen: Beside, done: threading.Event) -> None:
    (database,) = live.home.glob("routeprint*.sqlite3")
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
        since = time.perf_counter()
        while not done.wait(POLL_SECONDS):
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                seen.lock = max(seen.lock, time.perf_counter() - since)
                continue
            connection.execute("ROLLBACK")
            since = time.perf_counter()


def _asker(path: str) -> Callable[[Live, Beside, threading.Event], None]:
    def ask(live: Live, seen: Beside, done: threading.Event) -> None:
        times = seen.answers.setdefault(path, [])
        with httpx.Client(base_url=f"http://127.0.0.1:{live.port}", headers=live.client.headers, timeout=60) as client:
            while not done.wait(0.05):
                start = time.perf_counter()
                client.get(path).raise_for_status()
                times.append(time.perf_counter() - start)

    return ask


def bring_in(live: Live, path: Path) -> tuple[str, float, float]:
    """Import a file; return its set's id, and the seconds until the answer and until every row was stored."""
    start = time.perf_counter()
    with path.open("rb") as file:
        answer = live.client.post("/datasets", files={"file": (path.name, file)}, data=FORM, timeout=3600)
    answer.raise_for_status()
    answered = time.perf_counter() - start
    finished = live.until(
        lambda: (r := live.get(f"/datasets/{answer.json()['id']}"))["status"] != "running" and r, 3600
    )
    assert finished["status"] == "succeeded", finished["error"]
    return finished["id"], answered, time.perf_counter() - start


def plan(live: Live, dataset_id: str) -> float:
    """Plan the batches of a set, as POST /analyses does; return the seconds."""
    engine = make_engine(Settings(home=live.home).tables_url)
    add_model(engine)
    engine.dispose()
    body = {"dataset_id": dataset_id, "model": "tiny"}
    start = time.perf_counter()
    live.client.post("/analyses", params={"dry_run": True}, json=body, timeout=3600).raise_for_status()
    return time.perf_counter() - start


def take_out(live: Live, dataset_id: str) -> float:
    """Delete a set for good and wait until its last row is gone; return the seconds."""
    start = time.perf_counter()
    live.client.delete(f"/datasets/{dataset_id}", params={"for_good": True}).raise_for_status()
    (database,) = live.home.glob("routeprint*.sqlite3")
    with closing(sqlite3.connect(database)) as connection:
        live.until(lambda: connection.execute("SELECT count(*) = 0 FROM datasets").fetchone()[0], 3600)
    return time.perf_counter() - start


def rows(quick: bool = False) -> list[Found]:
    """Return the rows of large imports."""
    n = QUICK_ROWS if quick else ROWS
    with tempfile.TemporaryDirectory(prefix="routeprint-bench-") as name, Live(Path(name) / "home") as live:
        file = Path(name) / "large.csv"
        write_file(file, n)
        live.start_backend()
        with watched(live) as coming:
            dataset_id, answered, seconds = bring_in(live, file)
        with watched(live) as planning:
            planned = plan(live, dataset_id)
        with watched(live) as going:
            gone = take_out(live, dataset_id)
    at = f"{n:,} rows of a CSV through POST /datasets"
    peak, lock = max(coming.child_mb, coming.backend_mb), max(coming.lock, going.lock)
    waits = "the longest time in which a writer that tries every 5 ms got no turn"
    sizes = f"largest resident size of the backend ({coming.backend_mb:.0f} MB) and of the child that reads the file"
    both = f"while the set came in ({coming.lock:.2f} s) and while it was deleted ({going.lock:.2f} s)"
    times = f"checked and answered after {answered:.0f} s, stored after {seconds:.0f} s, deleted in {gone:.0f} s"
    judge = not quick
    return [
        row("import.peak_memory_mb", peak, "MB", f"{sizes}; {at}", "<= 500", judge=judge),
        row("import.longest_write_lock_s", lock, "s", f"{waits}, {both}; {at}", "<= 0.5", judge=judge),
        row("import.rows_per_second", n / seconds, "rows/s", f"{times}; {at}"),
        row(
            "import.plan_peak_memory_mb",
            max(planning.child_mb, planning.backend_mb),
            "MB",
            f"largest resident size of the backend ({planning.backend_mb:.0f} MB) and of the child that plans the "
            f"set's batches in {planned:.0f} s (GET /health meanwhile: p95 {planning.p95_ms('/health'):.0f} ms); {at}",
            "<= 500",
            judge=judge,
        ),
        row("import.health_p95_ms", coming.p95_ms("/health"), "ms", f"GET /health meanwhile; {at}"),
        row("import.datasets_p95_ms", coming.p95_ms("/api/v1/datasets"), "ms", f"GET /datasets meanwhile; {at}"),
    ]
