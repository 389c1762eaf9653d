"""Deleted runs, removed for good after their window (`ROUTEPRINT_DELETED_DAYS`): rows, then files, then heads.

Which of them go, and why that order is safe, is said in store/purging.py: who is killed in between leaves heads that
the next purge takes up, and no file that no head names. What a process writes into a run's folder later than that is an
orphan for `routeprint doctor --repair`. Not covered: what lies in common or elsewhere (MLflow's store, folders of other
trackers), and giving SQLite's pages back to the disk (repairs.py).
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine

from backend.domain.retention import reached
from backend.repairs import remove_unless_held, size_of
from backend.settings import Settings
from backend.store import purging
from backend.store.engine import reading, writing
from backend.store.purging import Going

log = logging.getLogger(__name__)

PURGE_EVERY_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Freed:
    """A run that is removed. rows, files: bytes that it held, those of its rows without the database's own."""

    run: Going
    rows: int
    files: int


def planned(settings: Settings, engine: Engine, days: float | None = None) -> list[Freed]:
    """Return what `purge` would remove."""
    with reading(engine) as session:
        found = purging.going(session, _until(settings, days))
    with reading(engine) as session:  # holds none of their rows, for which a restore would wait
        return [Freed(one, purging.bytes_of(session, one), _size(_folder(settings, one))) for one in found]


def purge(
    settings: Settings,
    engine: Engine,
    forget: Callable[[list[str]], None],
    *,
    days: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Freed]:
    """Remove what was deleted more than this many days ago (None: the setting), and yield it one by one.

    forget: tells the queue to forget jobs. stopped: asked often; the next purge takes up what it leaves half done, and
    runs in whose folder a process still trains or that cannot be removed, with what they stand on.
    """
    with reading(engine) as session:
        if not purging.going(session, _until(settings, days)):
            return
    waiting: set[str] = set()
    for one in _marked(settings, engine, days):
        if one.id in waiting:
            continue
        folder = _folder(settings, one)
        with reading(engine) as session:
            freed = Freed(one, purging.bytes_of(session, one), _size(folder))
        if not purging.remove_rows(engine, one, stopped):
            return
        if not _remove(folder):
            with reading(engine) as session:
                waiting |= reached(purging.references(session), {one.id})
            continue
        forget(purging.job_ids(engine, one))
        with writing(engine) as session:
            purging.remove_head(session, one)
        yield freed


def _marked(settings: Settings, engine: Engine, days: float | None) -> list[Going]:
    with writing(engine) as session:
        return purging.mark(session, _until(settings, days))


def _until(settings: Settings, days: float | None) -> str:
    window = timedelta(days=settings.deleted_days if days is None else days)
    return (datetime.now(UTC) - window).isoformat(timespec="microseconds")


def _folder(settings: Settings, one: Going) -> Path:
    """Return where a run's files lie: checkpoints, the model, logs of trackers. Only trainings have any."""
    return settings.artifacts_path / "trainings" / one.id


def _remove(folder: Path) -> bool:
    """Remove a run's folder, if it has one; return whether it is gone."""
    try:
        return not folder.is_dir() or remove_unless_held(folder)
    except OSError as error:
        log.warning("%s cannot be removed; it will be tried again: %s", folder, error)
        return False


def _size(folder: Path) -> int:
    return size_of(folder) if folder.is_dir() and not folder.is_symlink() else 0
