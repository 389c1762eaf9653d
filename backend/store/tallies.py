"""How long batches and training steps took, counted in the transaction that stores them, and summed for metrics.

One row a run, kind of work and bucket: workers on different runs never wait for each other, a restart loses nothing,
and a sum reads some rows a run, not one a batch.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from backend.store import tables as t

BATCH, STEP = "batch", "step"
_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, float("inf"))
BUCKETS: dict[str, tuple[float, ...]] = {BATCH: _BOUNDS, STEP: _BOUNDS}
"""Kind of work -> upper bounds of its buckets in seconds. Stored rows hold positions: bounds never change."""


@dataclass(frozen=True, slots=True)
class Sum:
    """What all runs took for one kind of work. counts: [bucket] pieces, each in the one bucket it falls into."""

    counts: tuple[int, ...]
    seconds: float
    tokens: int


def add(session: Session, subject_id: str, what: str, seconds: float, tokens: int) -> None:
    """Count one piece of work that is new. Not idempotent: call it where the piece itself was stored just now."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    new: Any = dialect.insert(t.Tally).values(
        subject_id=subject_id,
        what=what,
        bucket=bisect_left(BUCKETS[what], seconds),
        n=1,
        seconds=seconds,
        tokens=tokens,
    )
    sums = {name: getattr(t.Tally, name) + new.excluded[name] for name in ("n", "seconds", "tokens")}
    session.execute(new.on_conflict_do_update(index_elements=["subject_id", "what", "bucket"], set_=sums))


def sums(session: Session) -> dict[str, Sum]:
    """Return what was counted so far, for every kind of work."""
    x = t.Tally
    query = select(x.what, x.bucket, func.sum(x.n), func.sum(x.seconds), func.sum(x.tokens)).group_by(x.what, x.bucket)
    counts: Counter[tuple[str, int]] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    tokens: Counter[str] = Counter()
    for what, bucket, n, took, fed in session.execute(query):
        counts[what, bucket] = int(n)
        seconds[what] += took
        tokens[what] += int(fed)
    return {
        what: Sum(tuple(counts[what, place] for place in range(len(bounds))), seconds[what], tokens[what])
        for what, bounds in BUCKETS.items()
    }
