"""Folders that are either whole or not there: checkpoints and trained models.

A folder is filled under a temporary name; its manifest.json, with the SHA-256 of every other file, is written last;
everything is flushed to disk; one rename makes it visible. Whatever a crash leaves behind is either not visible or does
not match its manifest, and is passed over. Not covered: what stands in the files (trainers.py).
"""

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from backend.domain.canonical import canonical_json, sha256_hex
from backend.domain.errors import Conflict
from worker import fence
from worker.models import sha256_file

MANIFEST = "manifest.json"
FORMAT = 3
"""Of checkpoints: 3 holds optimizer, schedule and random state as safetensors and JSON; up to 2 they were pickled."""
_STAGING = ".staging-"
_CHECKPOINT = "checkpoint-"
_LOCK, _HOLDER = ".lock", ".holder"
_END_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder holds. sha256: of manifest.json itself. facts: whatever the writer stated beside the files."""

    sha256: str
    facts: dict[str, Any]
    files: dict[str, dict[str, Any]]


@contextmanager
def locked(out_dir: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a run's folder for this process; the system lets go of it if the process dies.

    A process that this one took over from (fence.py) and that still holds it, frozen as it is, is ended.
    Raises Conflict if another one holds it for longer than `patience` seconds.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out_dir / _LOCK)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        if not fence.own() or not _end_holder(out_dir / _HOLDER):
            raise Conflict(f"another process is training in {out_dir.name}: wait for it to end.") from None
        lock.acquire(timeout=_END_SECONDS)
    try:
        (out_dir / _HOLDER).write_text(json.dumps(_identity(psutil.Process())))
        yield
    finally:
        lock.release()


def _identity(process: psutil.Process) -> list[Any]:
    """Return what names a process among all of all machines and times."""
    return [platform.node(), process.pid, process.create_time()]


def _end_holder(path: Path) -> bool:
    """End the process that wrote this file, if it is one of this machine and not this one; False if it is not."""
    try:
        host, pid, created = json.loads(path.read_text())
        process = psutil.Process(pid)
        if pid == os.getpid() or _identity(process) != [host, pid, created]:
            return False
        process.kill()
    except (OSError, ValueError, TypeError, psutil.Error):
        return False
    return True


def staging_dir(out_dir: Path, name: str) -> Path:
    """Return where `name` is filled before it is published."""
    return out_dir / f"{_STAGING}{name}"


def staging(out_dir: Path, name: str) -> Path:
    """Return an empty temporary folder in which `name` can be filled."""
    folder = staging_dir(out_dir, name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def publish(folder: Path, target: Path, facts: dict[str, Any]) -> str:
    """Write the manifest, flush everything to disk and rename the folder to `target`; return the manifest's SHA-256.

    A broken folder that stands at the target is replaced.
    """
    files = {
        file.relative_to(folder).as_posix(): {"sha256": sha256_file(file), "bytes": file.stat().st_size}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    value = {"version": FORMAT, **facts, "files": files}
    data = canonical_json(value | {"self": sha256_hex(canonical_json(value))})
    for name in files:
        _flush(folder / name)
    (folder / MANIFEST).write_bytes(data)
    _flush(folder / MANIFEST)
    _flush(folder)
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)
    _flush(target.parent)
    return sha256_hex(data)


def read_manifest(folder: Path) -> Manifest:
    """Check a folder against its manifest. Raises ValueError saying what is wrong with it."""
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError:
        raise ValueError("it has no manifest: writing it was cut short") from None
    try:
        value = json.loads(data)
        own = value.pop("self") if value["version"] > 1 else None
        if own is not None and own != sha256_hex(canonical_json(value)):
            raise ValueError("it does not match its own SHA-256")
        files = dict(value.pop("files"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its manifest cannot be read: {error}") from None
    for name, stated in files.items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{name} is missing")
        if file.stat().st_size != stated["bytes"] or sha256_file(file) != stated["sha256"]:
            raise ValueError(f"{name} is damaged")
    return Manifest(sha256_hex(data), value, files)


def checkpoint_dir(out_dir: Path, step: int) -> Path:
    """Return where the checkpoint after a step lies."""
    return out_dir / f"{_CHECKPOINT}{step}"


def newest_checkpoint(out_dir: Path, run: str, log: Callable[[str], None]) -> Path | None:
    """Return the newest whole checkpoint, None if there is none; broken and outdated ones are passed over and said.

    run: digest of the run. Raises Conflict if a whole checkpoint belongs to another run.
    """
    for folder in reversed(_checkpoints(out_dir)):
        try:
            manifest = read_manifest(folder)
        except ValueError as error:
            log(f"{folder.name} cannot be used ({error}); going back to the one before it")
            continue
        if manifest.facts.get("run") != run:
            raise Conflict(
                f"{out_dir.name} holds {folder.name} of another run: give this run its own folder. If it is this run's "
                "own, its stored prompts, targets or settings were changed since: `routeprint verify` names what."
            )
        if manifest.facts["version"] != FORMAT:
            earlier = "an earlier version, with pickled state that is no longer read"
            by = earlier if manifest.facts["version"] < FORMAT else "a later version, whose state is not known here"
            log(f"{folder.name} was written by {by}; its steps are trained again")
            continue
        return folder
    return None


def tidy(out_dir: Path, keep: int) -> None:
    """Remove half-written folders and all but the newest `keep` checkpoints."""
    for folder in [*out_dir.glob(f"{_STAGING}*"), *_checkpoints(out_dir)[: -keep or None]]:
        shutil.rmtree(folder, ignore_errors=True)


def _checkpoints(out_dir: Path) -> list[Path]:
    found = {
        int(name): p for p in out_dir.glob(f"{_CHECKPOINT}*") if (name := p.name.removeprefix(_CHECKPOINT)).isdigit()
    }
    return [found[step] for step in sorted(found)]


def _flush(path: Path) -> None:
    """Make the system write a file, or a folder's list of names, to disk."""
    if os.name == "nt" and path.is_dir():  # a folder cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
