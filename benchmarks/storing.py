"""A process that stores batches, and nothing else: what the control plane and readers under load are measured with.

Not a part of the benchmark but what its scale and load parts stand on:

    python -m benchmarks.storing URL SECONDS PLACE OF RATE [own]

Stores every OF-th batch from PLACE on, at most RATE a second (0: as fast as it goes), in the one analysis that is
there, or in an analysis of its own. Waits for a line on standard input, then stores, then prints how many it stored.
"""

import os
import subprocess
import sys
import time

from sqlalchemy import select

from backend.store import tables as t
from backend.store.engine import make_engine, writing
from backend.store.writes import record_batch
from benchmarks.fake import FakeAnalysis, FakeEngine, Shape, make_plan

SHAPE = Shape(16, 64)
_POOL = 4


def prepare(url: str, n_batches: int) -> str:
    """Make the tables, and an analysis to store into; return its id."""
    analysis = FakeAnalysis(url, SHAPE, n_batches, FakeEngine(SHAPE, pool=1))
    analysis.close()
    return analysis.id


def start(url: str, seconds: float, place: int = 0, of: int = 1, rate: float = 0.0, own: int = 0) -> "Process":
    """Start a process and wait until it is ready. own: batches of an analysis of its own; 0: it shares."""
    command = [sys.executable, "-m", "benchmarks.storing", url, *map(str, (seconds, place, of, rate, own))]
    return Process(command)


class Process:
    """A started process: `go` lets it begin, `stored` waits for its end and returns how many batches it stored."""

    def __init__(self, command: list[str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert self._say() == "ready"

    def _say(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def stored(self) -> int:
        n = int(self._say())
        self._process.communicate()
        return n


def main() -> None:
    """Be that process."""
    url, seconds, place, of, rate, own = sys.argv[1], *map(float, sys.argv[2:])
    engine, fake = make_engine(url), FakeEngine(SHAPE, pool=_POOL)
    id_ = prepare(url, int(own)) if own else None
    query = select(t.Analysis).where(t.Analysis.id == id_) if id_ else select(t.Analysis)
    with writing(engine) as session:
        analysis = session.scalars(query).one()
    batches = make_plan(int(own) or analysis.total).batches[int(place) :: int(of)]
    print("ready", flush=True)
    sys.stdin.readline()
    begun, n = time.monotonic(), 0
    for batch in batches:
        measured = fake.measure(batch)
        with writing(engine) as session:
            n += record_batch(session, analysis, batch, measured)
        if rate:
            time.sleep(max(0.0, begun + n / rate - time.monotonic()))
        if time.monotonic() - begun > seconds:
            break
    else:
        raise SystemExit("more batches were stored than there are: give it more")
    print(n, flush=True)


if __name__ == "__main__":
    main()
