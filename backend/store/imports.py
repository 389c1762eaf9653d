"""Prompt sets of any size on their way in and out: in short transactions, so that nobody waits long for the database.

A set is begun (its head, `running`), filled, and finished; what was cut off in between ends as `failed` without rows.
Not covered: what a set is made of (domain/reading.py), and in which process this runs (backend/importing.py).
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Engine, delete, func, select, update

from backend.domain.prompts import PromptRow as DomainRow
from backend.domain.reading import CheckedSet
from backend.store import datasets
from backend.store import tables as t
from backend.store.engine import reading, writing

AIM_SECONDS = 0.03
"""What one transaction should take: many times less than anybody should ever wait for another writer."""
REST_SECONDS = 0.01
"""At least between two transactions: who waits for a turn tries again only now and then."""
FIRST_ROWS, FEWEST_ROWS, MOST_ROWS = 300, 50, 1000
CUT_OFF = "The import was cut off when the backend stopped, and its rows are removed: import the files again."


class Pace:
    """How many rows the next transaction takes, from how long the last one took. longest: of all, in seconds."""

    def __init__(self) -> None:
        self.rows, self.longest = FIRST_ROWS, 0.0

    def took(self, seconds: float) -> None:
        """Take note of one transaction."""
        self.longest = max(self.longest, seconds)
        wanted = int(self.rows * min(1.5, AIM_SECONDS / max(seconds, 1e-6)))
        self.rows = min(max(wanted, FEWEST_ROWS), MOST_ROWS)

    def rest(self, seconds: float) -> None:
        """Take note of one transaction, and leave the database to others for half as long."""
        self.took(seconds)
        time.sleep(max(REST_SECONDS, seconds / 2))


def store(engine: Engine, name: str, checked: CheckedSet, files: list[dict[str, Any]]) -> tuple[t.Dataset, bool]:
    """Begin a set, and return it with whether it is new. A small one is stored whole, in the same transaction."""
    settled = checked.settled
    small = datasets.identified_values(checked.rows()) if settled.n_rows <= datasets.FEW_ROWS else None
    with writing(engine) as session:
        found = datasets.find(session, settled.sha256, name)
        if found is not None:
            return found, False
        dataset = datasets.begin(session, name, checked, files)
        if small is not None:
            datasets.add_rows(session, dataset.id, small)
            dataset.status, dataset.stored = "succeeded", len(small)
        return dataset, True


def fill(
    engine: Engine,
    dataset_id: str,
    rows: Iterable[tuple[str, DomainRow]],
    pace: Pace | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Store the rows of a set that was begun, then set it to succeeded. rows: (digest, row) in the set's order."""
    pace, done, source = pace or Pace(), 0, iter(rows)
    while values := datasets.identified_values(islice(source, pace.rows), done):
        if stopped():
            return
        begun = time.perf_counter()
        done += len(values)
        with writing(engine) as session:
            datasets.add_rows(session, dataset_id, values)
            session.execute(update(t.Dataset).where(t.Dataset.id == dataset_id).values(stored=done))
        pace.rest(time.perf_counter() - begun)
    with writing(engine) as session:
        session.execute(update(t.Dataset).where(t.Dataset.id == dataset_id).values(status="succeeded"))


def fail(engine: Engine, dataset_id: str, reason: str) -> None:
    """End an unfinished set as failed; its rows are removed with `purge`."""
    with writing(engine) as session:
        unfinished = (t.Dataset.id == dataset_id) & t.Dataset.status.in_(("queued", "running"))
        session.execute(update(t.Dataset).where(unfinished).values(status="failed", error=reason))


def fail_unfinished(engine: Engine) -> list[str]:
    """End every set whose import was cut off by the end of its process; return their names."""
    with reading(engine) as session:
        query = select(t.Dataset.id, t.Dataset.name).where(t.Dataset.status.in_(("queued", "running")))
        unfinished = session.execute(query).all()
    for id_, _ in unfinished:
        fail(engine, id_, CUT_OFF)
    return [name for _, name in unfinished]


def purge(
    engine: Engine, dataset_id: str, pace: Pace | None = None, stopped: Callable[[], bool] = lambda: False
) -> None:
    """Remove the rows of a failed set, or of one deleted for good and then its head, bit by bit; may be cut off."""
    pace, last = pace or Pace(), _last_row(engine, dataset_id)
    while last is not None and not stopped():
        begun = time.perf_counter()
        kept = max(0, last + 1 - pace.rows)
        with writing(engine) as session:
            old = (t.PromptRow.dataset_id == dataset_id) & (t.PromptRow.row_idx >= kept)
            session.execute(delete(t.PromptRow).where(old))
            session.execute(update(t.Dataset).where(t.Dataset.id == dataset_id).values(stored=kept))
        pace.rest(time.perf_counter() - begun)
        last = _last_row(engine, dataset_id)
    if last is None:
        with writing(engine) as session:
            session.execute(delete(t.Dataset).where(t.Dataset.id == dataset_id, t.Dataset.purged))


def _last_row(engine: Engine, dataset_id: str) -> int | None:
    with reading(engine) as session:
        return session.scalar(select(func.max(t.PromptRow.row_idx)).where(t.PromptRow.dataset_id == dataset_id))


def to_purge(engine: Engine) -> Iterator[str]:
    """Yield the sets that are deleted for good, or failed with rows left."""
    with reading(engine) as session:
        query = select(t.Dataset.id, t.Dataset.purged).where(t.Dataset.purged | (t.Dataset.status == "failed"))
        found = session.execute(query).all()
    for id_, purged in found:
        if purged or _last_row(engine, id_) is not None:
            yield id_
