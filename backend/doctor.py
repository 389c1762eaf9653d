"""Looks at an installation and says what is wrong and what to do. Changes nothing; needs no running service."""

import os
import platform
import shutil
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from backend.checked import Check
from backend.doctor_more import check_gpu, check_room, check_schema
from backend.domain.errors import NotSupported
from backend.services import answers_as_routeprint, local_api_url, port_taken, services_of
from backend.settings import Settings
from backend.store.engine import make_engine
from backend.store.migrate import check_encoding

LOW_DISK_BYTES = 2_000_000_000
_PARTS = {
    "backend": ("fastapi", "dbos", "sqlalchemy", "pyarrow"),
    "worker": ("torch", "transformers", "accelerate", "datasets"),
    "dashboard": ("streamlit", "plotly"),
}
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs", "lustre", "beegfs")


def has_wal_reset_bug(sqlite: tuple[int, int, int]) -> bool:
    """Tell whether this SQLite may, rarely, damage a WAL database that several processes use.

    3.7.0 to 3.51.2; fixed in 3.51.3 and, for those who stayed, in 3.50.7 and 3.44.6.
    """
    if sqlite >= (3, 51, 3) or sqlite < (3, 7, 0):
        return False
    fixed = {(3, 50): 7, (3, 44): 6}.get(sqlite[:2])
    return fixed is None or sqlite[2] < fixed


def check_python(_: Settings) -> Iterator[Check]:
    """Python itself."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    good = sys.version_info >= (3, 11)
    yield Check("Python", "ok" if good else "wrong", found, "" if good else "Install Python 3.11 or newer.")


def check_versions(_: Settings) -> Iterator[Check]:
    """The packages each service stands on. A missing part is no error: it may live on another machine."""
    for part, packages in _PARTS.items():
        found, missing = [], []
        for package in packages:
            try:
                found.append(f"{package} {version(package)}")
            except PackageNotFoundError:
                missing.append(package)
        todo = f"Only if the {part} is to run here: pip install 'routeprint[{part}]'." if missing else ""
        yield Check(
            f"{part} packages", "warning" if missing else "ok", ", ".join(found + [f"no {m}" for m in missing]), todo
        )


def check_sqlite(_: Settings) -> Iterator[Check]:
    """The SQLite library that Python carries."""
    number = sqlite3.sqlite_version_info
    if has_wal_reset_bug((number[0], number[1], number[2])):
        todo = "It has a rare WAL-reset bug (fixed in 3.51.3, 3.50.7, 3.44.6): keep backups (`routeprint backup`)."
        yield Check("SQLite", "warning", sqlite3.sqlite_version, todo)
    else:
        yield Check("SQLite", "ok", sqlite3.sqlite_version)


def _nearest(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def file_system_of(path: Path) -> str:
    """Return the type of the file system a path lies on, as the system names it; empty when unknown."""
    inside = [p for p in psutil.disk_partitions(all=True) if path.resolve().is_relative_to(p.mountpoint)]
    return max(inside, key=lambda p: len(p.mountpoint)).fstype if inside else ""


def check_home(settings: Settings) -> Iterator[Check]:
    """The folder that everything is written to: writable, roomy, on a local disk."""
    place = _nearest(settings.home)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
        yield Check("home", "ok", f"{settings.home} can be written")
    except OSError as error:
        yield Check("home", "wrong", f"{settings.home}: {error.strerror}", "Choose another: ROUTEPRINT_HOME=/a/folder.")
    free = shutil.disk_usage(place).free
    low = free < LOW_DISK_BYTES
    yield Check("disk", "warning" if low else "ok", f"{free / 1e9:.1f} GB free", "Free some space." if low else "")
    kind = file_system_of(place)
    on_files = "sqlite" in {make_url(url).get_backend_name() for url in (settings.tables_url, settings.queue_url)}
    if on_files and kind.startswith(_NETWORK_FILE_SYSTEMS):
        todo = "SQLite loses data on network file systems: set ROUTEPRINT_HOME to a local disk, or use PostgreSQL."
        yield Check("file system", "wrong", kind, todo)


def check_token(settings: Settings) -> Iterator[Check]:
    """The access token, never shown here."""
    if settings.token:
        yield Check("token", "ok", "from ROUTEPRINT_TOKEN")
    elif not settings.token_path.exists():
        yield Check("token", "ok", "none yet: made at the first start")
    else:
        mode = stat.S_IMODE(settings.token_path.stat().st_mode)
        others = bool(mode & 0o077) and os.name == "posix"
        todo = (
            f"Others can read it: chmod 600 {settings.token_path}, then `routeprint token --rotate`." if others else ""
        )
        yield Check("token", "wrong" if others else "ok", f"{settings.token_path} ({mode:o})", todo)


def check_ports(settings: Settings) -> Iterator[Check]:
    """The two addresses that services listen on: free, or ours."""
    up = answers_as_routeprint(local_api_url(settings))
    for service in services_of(settings):
        if not service.url:
            continue
        taken = port_taken(service.url)
        found = f"{service.url} is {'in use' if taken else 'free'}{' by a running Routeprint' if taken and up else ''}"
        foreign = taken and not up
        yield Check(
            f"address of {service.name}",
            "warning" if foreign else "ok",
            found,
            f"Set {service.port_variable}." if foreign else "",
        )


def check_database(name: str, url: str) -> Check:
    """Ask SQLite whether every page of a database is sound, a server whether it answers."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return _check_server(name, url)
    path = Path(parsed.database or "")
    if not path.exists():
        return Check(name, "ok", "none yet: made at the first start")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            said = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)")]
    except sqlite3.DatabaseError as error:
        said = [str(error)]
    if said == ["ok"]:
        return Check(name, "ok", f"{path} is sound, {path.stat().st_size / 1e6:.1f} MB")
    return Check(name, "wrong", f"{path}: {'; '.join(said)}", "Stop the services, then `routeprint restore`.")


def _check_server(name: str, url: str) -> Check:
    """Ask a server for its version and for how many connections it has room."""
    shown = make_url(url)
    where = f"{shown.database} at {shown.host or 'its socket'}:{shown.port or 5432}"
    try:
        with ExitStack() as stack:
            engine = make_engine(url)
            stack.callback(engine.dispose)
            check_encoding(engine)
            with closing(engine.connect()) as connection:
                number = connection.scalar(text("SHOW server_version"))
                room = int(connection.scalar(text("SHOW max_connections")) or 0)
                taken = connection.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE client_port IS NOT NULL"))
    except NotSupported as error:
        return Check(name, "wrong", str(error))
    except DBAPIError as error:
        said = " ".join(str(error.orig).split())
        return Check(name, "wrong", f"{where}: {said}", "Start the server, or correct ROUTEPRINT_DATABASE_URL.")
    found = f"{where}, PostgreSQL {number}, {taken} of {room} connections taken"
    full = bool(taken and taken > 0.8 * room)
    return Check(name, "warning" if full else "ok", found, "Raise max_connections of the server." if full else "")


def check_databases(settings: Settings) -> Iterator[Check]:
    """Both databases."""
    yield check_database("tables", settings.tables_url)
    yield check_database("queue", settings.queue_url)


def workers_of(settings: Settings) -> list[dict[str, Any]]:
    """Return the workers that the API knows. Raises httpx.HTTPError where it does not answer or refuses the token."""
    url = settings.base_url if settings.api_url else local_api_url(settings)
    token = settings.token or (settings.token_path.read_text().strip() if settings.token_path.exists() else "")
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False) as api:
        workers: list[dict[str, Any]] = api.get("/api/v1/system", timeout=10.0).raise_for_status().json()["workers"]
    return workers


def check_workers(settings: Settings) -> Iterator[Check]:
    """The workers' heartbeats, through the API if it is up."""
    url = settings.base_url if settings.api_url else local_api_url(settings)
    if not answers_as_routeprint(url):
        yield Check("services", "ok", f"not running ({url})", "Start them with `routeprint up`.")
        return
    try:
        workers = workers_of(settings)
    except (httpx.HTTPError, ValueError, KeyError) as error:
        yield Check("workers", "wrong", f"{url} does not tell: {error}", "Is this its token? See `routeprint token`.")
        return
    alive = [f"{w['executor_id']} ({w['device']})" for w in workers if w["alive"]]
    todo = "" if alive else "Jobs wait until one is up: `routeprint worker`."
    yield Check("workers", "ok" if alive else "warning", ", ".join(alive) or "none is alive", todo)


CHECKS: tuple[Callable[[Settings], Iterator[Check]], ...] = (
    check_python,
    check_versions,
    check_sqlite,
    check_home,
    check_token,
    check_ports,
    check_databases,
    check_schema,
    check_workers,
    check_gpu,
    check_room,
)


def examine(settings: Settings) -> Iterator[Check]:
    """Run every check, in the order of CHECKS."""
    for check in CHECKS:
        yield from check(settings)
