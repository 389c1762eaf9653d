"""A migration killed with SIGKILL at any statement: the next start finishes it, and every row is as if nothing was."""

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import event

from backend.store import migrate
from backend.store.engine import make_engine
from tests.backend.store.older_rows import OLDER, insert_older

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a copy of this process")
KILLS = 4
"""So many places, evenly spread over the statements of an upgrade, its last one among them."""


def revisions() -> list[str]:
    folder = Path(migrate.__file__).parent / "migrations"
    return [script.revision for script in ScriptDirectory(str(folder)).walk_revisions()][::-1]


def upgrade_to(path: Path, revision: str, *, die_at: int | None = None) -> int:
    """Upgrade as a start does; return how many statements that took. die_at: the statement before which to die."""
    engine = make_engine(f"sqlite:///{path}")
    seen = 0

    @event.listens_for(engine, "before_cursor_execute")
    def _count(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with engine.connect() as connection:
        command.upgrade(migrate._config(connection), revision)
        connection.commit()
    engine.dispose()
    return seen


def killed(path: Path, die_at: int) -> None:
    child = os.fork()
    if not child:
        try:
            upgrade_to(path, "head", die_at=die_at)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the upgrade was through before it was to be killed"


def content(path: Path) -> dict[str, Any]:
    """Everything that the database holds: its schema and every row."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        schema = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
        tables = [name for kind, name, _ in schema if kind == "table"]
        return {"schema": schema} | {t: connection.execute(f'SELECT * FROM "{t}"').fetchall() for t in tables}


def places(n: int) -> Iterator[int]:
    yield from sorted({max(1, round(n * k / KILLS)) for k in range(1, KILLS + 1)})


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A database at every revision that ever was, with the rows of the first one carried along."""
    folder = tmp_path_factory.mktemp("ladder")
    found: dict[str, Path] = {}
    path = folder / "now.sqlite3"
    for revision in revisions():
        upgrade_to(path, revision)
        if not found:
            insert_older(path)
        found[revision] = folder / f"{revision}.sqlite3"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("VACUUM INTO ?", (str(found[revision]),))
    return found


@pytest.mark.parametrize("revision", revisions()[:-1])
def test_an_upgrade_killed_anywhere_is_finished_by_the_next_start(
    tmp_path: Path, ladder: dict[str, Path], revision: str
) -> None:
    whole = tmp_path / "whole.sqlite3"
    shutil.copy(ladder[revision], whole)
    n = upgrade_to(whole, "head")
    expected = content(whole)
    assert all(expected[table] for table in OLDER), "the rows of the first version are still there"
    for place in places(n):
        broken = tmp_path / f"killed-{place}.sqlite3"
        shutil.copy(ladder[revision], broken)
        killed(broken, place)
        migrate.upgrade(f"sqlite:///{broken}")
        assert content(broken) == expected, f"killed before statement {place} of {n}"
