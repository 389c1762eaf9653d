"""One file that holds everything the product knows: both databases and the artifacts, with a manifest of SHA-256.

Works while the services run: SQLite copies itself with VACUUM INTO, and artifacts are written once and never changed.
The queue is copied before the tables: a job whose end the queue has not seen runs again and changes nothing, while
the other order could lose work. Not inside: the models folder (large, and yours already), logs, the access token.
Not covered: PostgreSQL, which has its own tools (pg_dump).
"""

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import inspect, make_url, update

from backend.domain.errors import Conflict, InvalidInput, NotSupported
from backend.settings import Settings
from backend.store import tables as t
from backend.store.engine import make_engine, writing

MANIFEST = "manifest.json"
FORMAT = 1
_TABLES, _QUEUE, _ARTIFACTS = "routeprint.sqlite3", "jobs.sqlite3", "artifacts"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a backup holds. `bytes` counts the files as they are, before the tar."""

    n_files: int
    bytes: int
    created_at: str
    version: str


def sqlite_path(url: str) -> Path:
    """Return the file behind a SQLite URL. Raises NotSupported for another database."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise NotSupported(
            f"Backups cover SQLite files; this installation uses {parsed.get_backend_name()}. Use its own tools "
            "(pg_dump, pg_restore) for the tables and the queue, and copy the artifacts folder."
        )
    return Path(parsed.database)


def _databases(settings: Settings) -> tuple[tuple[str, Path], ...]:
    """Return (name inside the backup, file) in the order in which they are copied."""
    return ((_QUEUE, sqlite_path(settings.queue_url)), (_TABLES, sqlite_path(settings.tables_url)))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _vacuum_into(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))


def _sources(settings: Settings, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name inside the backup, file), the databases as fresh copies."""
    for name, source in _databases(settings):
        if source.exists():
            _vacuum_into(source, scratch / name)
            yield name, scratch / name
    for path in sorted(settings.artifacts_path.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield f"{_ARTIFACTS}/{path.relative_to(settings.artifacts_path).as_posix()}", path


def backup(settings: Settings, target: Path, *, force: bool = False) -> Contents:
    """Write a backup to `target` (a tar; gzipped if its name ends in gz). The file appears only when it is whole.

    Raises Conflict if the file exists (unless `force`) or if there is nothing to back up.
    """
    if target.exists() and not force:
        raise Conflict(f"{target} exists already. Choose another name, or say --force.")
    if not sqlite_path(settings.tables_url).exists():
        raise Conflict(f"There is nothing to back up below {settings.home}: no database has been made yet.")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    manifest = {"format": FORMAT, "version": version("routeprint"), "created_at": t.utcnow(), "files": {}}
    files: dict[str, dict[str, str | int]] = {}
    try:
        with (
            tempfile.TemporaryDirectory(dir=target.parent) as scratch,
            tarfile.open(part, "w:gz" if target.suffix in {".gz", ".tgz"} else "w") as tar,
        ):
            for name, path in _sources(settings, Path(scratch)):
                files[name] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
                tar.add(path, arcname=name, recursive=False)
            text = json.dumps(manifest | {"files": files}, indent=1).encode()
            info = tarfile.TarInfo(MANIFEST)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
        part.chmod(0o600)  # prompts lie in it
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return _contents(manifest | {"files": files})


def _contents(manifest: dict[str, object]) -> Contents:
    files = manifest["files"]
    assert isinstance(files, dict)
    return Contents(
        len(files), sum(f["bytes"] for f in files.values()), str(manifest["created_at"]), str(manifest["version"])
    )


def _unpack(source: Path, scratch: Path) -> dict[str, object]:
    """Unpack a backup and check every file against the manifest. Raises InvalidInput if it is not whole."""
    try:
        with tarfile.open(source) as tar:
            tar.extractall(scratch, filter="data")
        manifest: dict[str, object] = json.loads((scratch / MANIFEST).read_text())
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise InvalidInput(f"{source} is not a whole backup of Routeprint: {error}") from None
    if manifest.get("format") != FORMAT or not isinstance(manifest.get("files"), dict):
        raise InvalidInput(f"{source} has format {manifest.get('format')!r}; this version reads {FORMAT}.")
    files = manifest["files"]
    assert isinstance(files, dict)
    for name, expected in files.items():
        path = scratch / name
        if not path.resolve().is_relative_to(scratch.resolve()) or not path.is_file():
            raise InvalidInput(f"{source} lacks {name}, which its manifest names.")
        if _sha256(path) != expected["sha256"]:
            raise InvalidInput(f"{name} in {source} is damaged: its SHA-256 is not the manifest's.")
    return manifest


def _present(settings: Settings) -> list[Path]:
    artifacts = [settings.artifacts_path] if any(settings.artifacts_path.glob("*")) else []
    return [path for _, path in _databases(settings) if path.exists()] + artifacts


def restore(settings: Settings, source: Path, *, force: bool = False) -> Contents:
    """Put a backup in place; with `force`, over what is there. Everything is checked before anything is replaced.

    What was deleted can be brought back for its whole time again. The services must be stopped. Raises Conflict if data
    would be overwritten, InvalidInput if the backup is damaged.
    """
    if not source.is_file():
        raise InvalidInput(f"There is no file {source}.")
    present = _present(settings)
    if present and not force:
        raise Conflict(
            f"There is data already: {', '.join(map(str, present))}. Back it up, then say --force to replace it."
        )
    settings.home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.home, prefix="restore-") as name:
        scratch = Path(name)
        manifest = _unpack(source, scratch)
        _delete_anew(scratch / _TABLES)
        for inside, target in _databases(settings):
            _replace_database(scratch / inside, target)
        if settings.artifacts_path.exists():
            shutil.rmtree(settings.artifacts_path)
        if (scratch / _ARTIFACTS).exists():
            (scratch / _ARTIFACTS).rename(settings.artifacts_path)
    return _contents(manifest)


def _delete_anew(tables: Path) -> None:
    """Date all deletions now: what was deleted before the backup may be what it is restored for."""
    if not tables.exists():
        return
    engine = make_engine(f"sqlite:///{tables}")
    with writing(engine) as session:
        for table in t.KEPT.values():
            if inspect(session.connection()).has_table(table.__tablename__):
                deleted = update(table).where(table.deleted_at.is_not(None))
                session.execute(deleted.values(deleted_at=t.utcnow()))
    engine.dispose()


def _replace_database(copy: Path, target: Path) -> None:
    """Replace a database; its journal goes first, since it belongs to the file that is replaced."""
    for suffix in ("-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    if copy.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(copy, target)
        os.chmod(target, 0o600)  # noqa: PTH101 - shutil.move may have crossed file systems
    else:
        target.unlink(missing_ok=True)
