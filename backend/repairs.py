"""What the doctor can put right: each repair says first what it would do, and how much room that gives.

Only what is certain: nothing of a run that the tables know, nothing that changed within the last day, and nothing where
the tables cannot be read or hold no run from before and from after it: another database may know it, one that a
variable names which is not set here. Not covered: damaged databases (`routeprint restore`).
"""

import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import func, inspect, make_url, select
from sqlalchemy.orm import Session

from backend.services import answers_as_routeprint, local_api_url
from backend.settings import Settings
from backend.store import tables as t
from backend.store.engine import make_engine

QUIET_SECONDS = 86_400.0
"""What changed more recently may belong to a run that is just beginning, or to a restore."""
_FREE_SHARE, _FREE_BYTES = 0.2, 16_000_000


@dataclass(frozen=True, slots=True)
class Repair:
    """One thing to put right. frees: bytes on disk. do: does it."""

    what: str
    frees: int
    do: Callable[[], object]


def repairs(settings: Settings) -> Iterator[Repair]:
    """Yield what can be put right here."""
    yield from _open_token(settings)
    yield from orphans(settings)
    if not answers_as_routeprint(local_api_url(settings)):  # these are in use while it runs
        yield from _leftovers(settings)
        yield from free_pages(settings)


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder; links count as nothing."""
    return sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())


def orphans(settings: Settings) -> Iterator[Repair]:
    """Yield the folders of artifacts that belong to no training which the tables know, deleted ones included."""
    folders = settings.artifacts_path / "trainings"
    found = sorted(p for p in folders.glob("tr_*") if p.is_dir() and not p.is_symlink())
    known = _known(settings) if found else None
    if known is None:
        return
    for folder in found:
        changed = _changed(folder)
        quiet = time.time() - changed > QUIET_SECONDS
        if folder.name not in known.trainings and quiet and known.first < changed < known.last:
            what = f"artifacts of {folder.name}, which the tables do not know"
            yield Repair(what, size_of(folder), lambda folder=folder: remove_unless_held(folder))  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class _Known:
    """What the tables know. trainings: their ids. first, last: when their oldest and newest run or prompt set began."""

    trainings: set[str]
    first: float
    last: float


def _known(settings: Settings) -> _Known | None:
    """Return what the tables know; None where they are not there, cannot be read or hold nothing."""
    url = make_url(settings.tables_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return None
    engine = make_engine(settings.tables_url)
    try:
        if not inspect(engine).has_table("trainings"):
            return None
        with Session(engine) as session:
            models = session.scalars(select(t.Model.id).where(t.Model.id.startswith("training:")))
            trainings = {*session.scalars(select(t.Training.id)), *(id_.removeprefix("training:") for id_ in models)}
            ends = [select(func.min(kept.created_at), func.max(kept.created_at)) for kept in t.KEPT.values()]
            times = [session.execute(query).one() for query in ends]
        began = [datetime.fromisoformat(at).timestamp() for pair in times for at in pair if at is not None]
        return _Known(trainings, min(began), max(began)) if began else None
    except Exception:
        return None
    finally:
        engine.dispose()


def _changed(folder: Path) -> float:
    """Return when anything in a folder changed last."""
    return max(f.lstat().st_mtime for f in (folder, *folder.rglob("*")))


def remove_unless_held(folder: Path) -> bool:
    """Remove a run's folder, unless a process trains in it; return whether it is gone."""
    lock = FileLock(folder / ".lock")
    try:
        with lock.acquire(timeout=0):
            shutil.rmtree(folder)
    except Timeout:
        return False
    return True


def _leftovers(settings: Settings) -> Iterator[Repair]:
    """Yield files of requests that a killed API left behind; its next start removes them, too."""
    scratch = settings.home / "scratch"
    if scratch.is_dir() and any(scratch.iterdir()):
        yield Repair("files of cut-off requests", size_of(scratch), lambda: shutil.rmtree(scratch))


def free_pages(settings: Settings, least: int = _FREE_BYTES, share: float = _FREE_SHARE) -> Iterator[Repair]:
    """Yield databases with more room that deleted rows left than `least` bytes and `share` of all.

    The services must be stopped, and twice as much disk be free as the database is large.
    """
    for name, url in (("tables", settings.tables_url), ("queue", settings.queue_url)):
        path = Path(make_url(url).database or "")
        if make_url(url).get_backend_name() != "sqlite" or not path.is_file():
            continue
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
                words = ("freelist_count", "page_count", "page_size")
                free, pages, size = (connection.execute(f"PRAGMA {word}").fetchone()[0] for word in words)
        except sqlite3.DatabaseError:  # damaged: the check of the databases says so
            continue
        if free * size > least and free > share * pages and _room_for(path, pages * size):
            yield Repair(f"unused pages of the {name}", free * size, lambda path=path: _vacuum(path))  # type: ignore[misc]


def _room_for(path: Path, n_bytes: int) -> bool:
    return shutil.disk_usage(path.parent).free > 2 * n_bytes


def _vacuum(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _open_token(settings: Settings) -> Iterator[Repair]:
    path = settings.token_path
    if os.name == "posix" and path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Repair("the token file, which others can read (rotate the token, too)", 0, lambda: path.chmod(0o600))
