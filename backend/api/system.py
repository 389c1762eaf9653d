"""The installation: health for strangers, everything else for whoever holds the token."""

import platform
import shutil
import sqlite3
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastapi import APIRouter
from sqlalchemy import text
from sqlalchemy.orm import Session

from backend.api.edge import PROBLEMS, Edge, Here
from backend.api.schemas.system import DatabaseOut, HealthOut, QueueOut, SystemOut, WorkerOut
from backend.store import fleet, jobs, models
from backend.store import tables as t

health_router = APIRouter(tags=["system"])
router = APIRouter(prefix="/system", tags=["system"], responses=PROBLEMS)

VERSION = version("routeprint")
_SHOWN = ("dbos", "fastapi", "numpy", "pyarrow", "pydantic", "sqlalchemy", "starlette", "uvicorn")


@health_router.get("/health")
async def health() -> HealthOut:
    """Say that the server is up. Needs no token."""
    return HealthOut(status="ok", version=VERSION)


@router.get("")
def system(here: Here) -> SystemOut:
    """Return database, queue, workers and versions."""
    with here.reading() as session:
        counts = jobs.counts(session)
        return SystemOut(
            version=VERSION,
            database=database_of(here, session),
            queue=QueueOut(queued=counts.get("queued", 0), running=counts.get("running", 0)),
            workers=[_show(*one) for one in fleet.workers(session)],
            versions={"python": platform.python_version()} | dict(_versions(_SHOWN)),
            models_dir_scanned=models.count(session),
            home_free_bytes=_free(here.settings.home),
            deleted_days=here.settings.deleted_days,
        )


def _show(worker: t.Worker, alive: bool) -> WorkerOut:
    fields = [name for name in WorkerOut.model_fields if name != "alive"]
    return WorkerOut.model_validate({name: getattr(worker, name) for name in fields} | {"alive": alive})


def database_of(edge: Edge, session: Session) -> DatabaseOut:
    """Return what kind of database the tables live in, and how large it is."""
    if edge.engine.dialect.name == "postgresql":
        size = session.scalar(text("SELECT pg_database_size(current_database())"))
        return DatabaseOut(url_kind="postgresql", size_bytes=size or 0, sqlite_version=None)
    size = session.scalar(text("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"))
    return DatabaseOut(url_kind="sqlite", size_bytes=size or 0, sqlite_version=sqlite3.sqlite_version)


def _versions(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _free(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free
