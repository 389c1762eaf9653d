"""More of what the doctor looks at: GPU, version of the tables, what takes up room for nothing. Changes nothing."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import make_url

from backend.checked import Check
from backend.gpus import gpus
from backend.repairs import repairs
from backend.settings import Settings
from backend.store import migrate

_SHOWN = 5


def check_gpu(settings: Settings) -> Iterator[Check]:
    """The GPUs of this machine. None is no error: a worker then computes on the CPU, or lives elsewhere."""
    found = gpus()
    if found:
        shown = [f"{g.name}, {g.used} of {g.total} MiB used, driver {g.driver}" for g in found]
        yield Check("GPU", "ok", "; ".join(shown))
        return
    said = "none that nvidia-smi tells of"
    if settings.device.startswith("cuda"):
        yield Check(
            "GPU", "wrong", said, f"ROUTEPRINT_DEVICE={settings.device}: install the driver, or set cpu or auto."
        )
    else:
        yield Check("GPU", "ok", f"{said}: workers here compute on the CPU")


def check_schema(settings: Settings) -> Iterator[Check]:
    """Whether this version of the product knows the tables. Older ones are brought up to date by the next start."""
    url = make_url(settings.tables_url)
    path = Path(url.database or "")
    if url.get_backend_name() != "sqlite" or not path.is_file():
        return
    scripts = ScriptDirectory(str(Path(migrate.__file__).parent / "migrations"))
    known = {script.revision for script in scripts.walk_revisions()}
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return  # an empty or a damaged database: the other check says so
    revision = row[0] if row else "none"
    if row and revision not in known:
        todo = "A newer version wrote it: install that version again, or restore a backup of this one."
        yield Check("version of the tables", "wrong", f"{revision} is not known here", todo)
    else:
        newest = max(known)
        later = "" if revision == newest else f"; the next start brings it to {newest}"
        yield Check("version of the tables", "ok", f"{revision}{later}")


def check_room(settings: Settings) -> Iterator[Check]:
    """What the doctor could put right, with what it frees."""
    found = sorted(repairs(settings), key=lambda repair: -repair.frees)
    if not found:
        yield Check("repairs", "ok", "nothing to put right")
        return
    shown = [f"{r.what} ({r.frees / 1e6:.1f} MB)" for r in found[:_SHOWN]]
    more = [f"{len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    yield Check("repairs", "warning", "; ".join(shown + more), "`routeprint doctor --repair` puts it right.")
