"""What the doctor finds to put right, and that it touches nothing that may be somebody's."""

import os
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from backend import gpus
from backend.backup import sqlite_path
from backend.doctor_more import check_gpu, check_room, check_schema
from backend.repairs import QUIET_SECONDS, repairs
from backend.settings import Settings
from backend.store import tables as t
from backend.store.engine import shared_engine, writing
from backend.store.migrate import upgrade


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(home=tmp_path / "home", port=1)
    upgrade(made.tables_url)
    in_use(made, 10 * QUIET_SECONDS)
    in_use(made, 0)
    return made


def in_use(settings: Settings, age: float) -> None:
    """Record that a prompt set was imported so many seconds ago."""
    at = (datetime.now(UTC) - timedelta(seconds=age)).isoformat(timespec="microseconds")
    counts = dict.fromkeys(("n_rows", "n_safe", "n_unsafe", "n_duplicates"), 0)
    with writing(shared_engine(settings.tables_url)) as session:
        row = t.Dataset(id=t.new_id("ds"), name="n", sha256="0" * 64, label_meaning={}, files=[], **counts)
        row.created_at = at
        session.add(row)


def artifact(settings: Settings, name: str, *, age: float = 2 * QUIET_SECONDS) -> Path:
    folder = settings.artifacts_path / "trainings" / name
    (folder / "model").mkdir(parents=True)
    file = folder / "model" / "weights.safetensors"
    file.write_bytes(b"x" * 1000)
    for path in (file, file.parent, folder):
        os.utime(path, (time.time() - age,) * 2)
    return folder


def repair(settings: Settings) -> list[str]:
    found = list(repairs(settings))
    for one in found:
        one.do()
    return [one.what for one in found]


def test_artifacts_of_no_run_are_listed_with_their_size_and_removed_only_by_a_repair(settings: Settings) -> None:
    gone = artifact(settings, "tr_gone")
    [check] = check_room(settings)
    assert (check.state, "tr_gone" in check.found, "--repair" in check.todo) == ("warning", True, True)
    assert [one.frees for one in repairs(settings)] == [1000]
    assert gone.exists()
    assert len(repair(settings)) == 1
    assert not gone.exists()
    assert [one.state for one in check_room(settings)] == ["ok"]


def test_what_may_be_somebodys_stays(settings: Settings) -> None:
    known, fresh, held = (artifact(settings, name) for name in ("tr_known", "tr_fresh", "tr_held"))
    (fresh / "new").write_text("just now")
    other = settings.artifacts_path / "mlflow"
    other.mkdir()
    row = {"path": "p", "architecture": "a", "supported": True, "engines": [], "sites": [], "refuses": {}}
    with writing(shared_engine(settings.tables_url)) as session:  # the model of a training counts as its training
        session.add(t.Model(id="training:tr_known", config_digest="0" * 64, scanned_by="w", **row))
    with FileLock(held / ".lock"):
        os.utime(held, (time.time() - 2 * QUIET_SECONDS,) * 2)
        repair(settings)
    assert all(folder.exists() for folder in (known, fresh, held, other))


def test_nothing_is_an_orphan_where_the_tables_cannot_be_read(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, port=1)
    folder = artifact(settings, "tr_1")
    assert repair(settings) == []
    sqlite_path(settings.tables_url).write_bytes(b"no database" * 1000)
    assert repair(settings) == []
    assert folder.exists()


@pytest.mark.parametrize("ages", [(), (0,), (30, 20), (9, 0)], ids=["empty", "new", "left", "begun later"])
def test_nothing_is_an_orphan_where_the_tables_were_not_in_use_before_and_after_it(
    tmp_path: Path, ages: tuple[int, ...]
) -> None:
    settings = Settings(home=tmp_path / "home", port=1)
    upgrade(settings.tables_url)
    for age in ages:
        in_use(settings, age * QUIET_SECONDS)
    folder = artifact(settings, "tr_1", age=10 * QUIET_SECONDS)
    assert repair(settings) == []
    assert folder.exists()


def test_unused_pages_are_given_back_to_the_disk(settings: Settings) -> None:
    path = sqlite_path(settings.tables_url)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE much (x)")
        connection.executemany("INSERT INTO much VALUES (?)", [(b"x" * 1_000_000,)] * 24)
        connection.execute("DROP TABLE much")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.stat().st_size
    assert repair(settings) == ["unused pages of the tables"]
    assert path.stat().st_size < before - 20_000_000
    assert [check.state for check in check_schema(settings)] == ["ok"]


def test_a_token_that_others_can_read_is_closed(settings: Settings) -> None:
    settings.token_path.write_text("sesame")
    settings.token_path.chmod(0o644)
    assert len(repair(settings)) == 1
    assert settings.token_path.stat().st_mode & 0o777 == 0o600


def test_tables_of_a_newer_version_are_wrong_and_older_ones_are_not(settings: Settings) -> None:
    with closing(sqlite3.connect(sqlite_path(settings.tables_url))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0003'")
    [older] = check_schema(settings)
    assert (older.state, "next start" in older.found) == ("ok", True)
    with closing(sqlite3.connect(sqlite_path(settings.tables_url))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert [check.state for check in check_schema(settings)] == ["wrong"]


def test_gpus_are_those_that_nvidias_tool_names(settings: Settings, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [check.state for check in check_gpu(settings)] == ["ok"]
    assert [check.state for check in check_gpu(settings.model_copy(update={"device": "cuda"}))] == ["wrong"]
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 80 GB, 81559, 512, 570.1'\n")
    tool.chmod(0o700)
    assert gpus.gpus() == [gpus.Gpu("NVIDIA H100, 80 GB", 81559, 512, "570.1")]
    [check] = check_gpu(settings)
    assert check.found == "NVIDIA H100, 80 GB, 512 of 81559 MiB used, driver 570.1"
