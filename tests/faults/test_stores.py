"""Databases that are locked, full, killed in a migration or copied while they are written; services that restart."""

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command

from backend.store.engine import make_engine
from backend.store.migrate import _config, upgrade
from tests.backend.store.older_rows import OLDER
from tests.faults.services import Calm, begin_training, count, said, services, steer, succeeded
from tests.live import Live, done

DATABASES = ("routeprint.sqlite3", "jobs.sqlite3")
BACKEND_RESTARTS, LOCKED_SECONDS, KILLED_PER_VERSION, TOGETHER = 10, 10, 2, 20


def test_a_backend_that_restarts_ten_times_fails_no_job(fault, calm: Calm, tmp_path: Path) -> None:
    case = fault(
        "backend killed and started ten times during a training",
        "SIGKILL to the API, ten times, each half a second after it is back",
    )
    with services(calm, tmp_path / "home", pause=0.5) as live:
        path = begin_training(live, calm.analysis, calm.experts)
        live.progress(path, 1)
        for _ in range(BACKEND_RESTARTS):
            live.kill("backend")
            case.tries += 1
            with case.recovering():
                live.start_backend()
                assert live.get(path)["status"] in ("running", "succeeded")
            time.sleep(0.5)
        steer(live, pause=0)
        count(case, calm, live, succeeded(live, path))
    assert case.zeros


def test_a_database_that_is_locked_is_waited_for(fault, calm: Calm, tmp_path: Path) -> None:
    case = fault(
        "database locked for 10 s",
        "another process holds the write lock of the tables, then of the queue, in the middle of a training",
    )
    with services(calm, tmp_path / "home", pause=0.5) as live:
        path = begin_training(live, calm.analysis, calm.experts)
        for number, name in enumerate(DATABASES):
            before = done(live.progress(path, 3 + 6 * number))
            with closing(sqlite3.connect(live.home / name, timeout=60, isolation_level=None)) as holder:
                holder.execute("BEGIN IMMEDIATE")
                case.tries += 1
                time.sleep(LOCKED_SECONDS)
                holder.execute("ROLLBACK")
            with case.recovering():
                live.progress(path, before + 1)
        steer(live, pause=0)
        count(case, calm, live, succeeded(live, path))
    assert case.zeros


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a disk of its own, in memory, at a folder. Skips where only an administrator may."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by an administrator only")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill a disk but for so many bytes; return the file to remove again."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while shutil.disk_usage(folder).free > leave:
                file.write(b"\0" * min(2**16, max(4096, shutil.disk_usage(folder).free - leave)))
        except OSError:
            pass
    return filler


def test_a_disk_that_is_full_when_a_checkpoint_is_written_fails_the_job_in_words(fault, calm, tmp_path: Path) -> None:
    case = fault(
        "disk of the artifacts full",
        "a small disk of its own, filled while a training runs; the job fails and names it; space is freed, it resumes",
    )
    with small_disk(tmp_path / "home" / "artifacts", 64), services(calm, tmp_path / "home", pause=0.3) as live:
        path = begin_training(live, calm.analysis, calm.experts)
        live.progress(path, 7)
        filler = fill(live.home / "artifacts")
        case.tries += 1
        full(live, path, live.home / "artifacts")
        resume_and_count(case, calm, live, path, filler)
    assert case.zeros


def test_a_disk_that_is_full_when_a_row_is_written_fails_the_job_in_words(fault, calm, tmp_path: Path) -> None:
    case = fault(
        "disk of the databases full",
        "the whole home on a small disk, filled while a training runs; space is freed after a while: the job has "
        "failed and says why, and resumes",
    )
    with small_disk(tmp_path / "home", 96), services(calm, tmp_path / "home", pause=0.3) as live:
        path = begin_training(live, calm.analysis, calm.experts)
        live.progress(path, 7)
        filler = fill(live.home)
        case.tries += 1
        time.sleep(8)
        filler.unlink()
        full(live, path, live.home)
        resume_and_count(case, calm, live, path, filler)
    assert case.zeros


def full(live: Live, path: str, folder: Path) -> None:
    """Wait for a run to fail for want of space, in words that name the folder and what to do."""
    found = live.finished(path)
    assert found["status"] == "failed", found
    assert str(folder) in found["error"]
    assert "free some space" in found["error"].lower()
    assert "Traceback" not in found["error"]


def resume_and_count(case: Any, calm: Calm, live: Live, path: str, filler: Path) -> None:
    filler.unlink(missing_ok=True)
    steer(live, pause=0)
    with case.recovering():
        live.post(f"{path}/resume")
        training = succeeded(live, path)
    count(case, calm, live, training)


def test_a_migration_killed_in_the_middle_loses_no_row(fault, tmp_path: Path) -> None:
    case = fault(
        "migration killed midway, from every released schema",
        "a database of each schema with rows in it; the upgrade is killed after any of its statements, begun again",
    )
    versions = [f"{n:04d}" for n in range(1, len(list(_versions())))]
    chance = random.Random(3)
    for version in versions:
        calm_file = older(tmp_path / f"{version}.sqlite3", version)
        statements = int(upgraded(calm_file, 0).stdout)
        wanted = contents(calm_file)
        for number in range(KILLED_PER_VERSION):
            killed = older(tmp_path / f"{version}-{number}.sqlite3", version)
            assert upgraded(killed, chance.randint(1, statements)).returncode == -signal.SIGKILL
            case.tries += 1
            with case.recovering():
                upgrade(f"sqlite:///{killed}")
            found = contents(killed)
            for table in wanted.keys() | found.keys():
                there, here = wanted.get(table, []), found.get(table, [])
                case.lost += len([row for row in there if row not in here])
                case.doubled += max(0, len(here) - len(there))
    assert case.zeros


UPGRADE = """
import os, signal, sys
from sqlalchemy import Engine, event
from backend.store.migrate import upgrade
n, last = 0, int(sys.argv[2])
@event.listens_for(Engine, "after_cursor_execute")
def count(*_):
    global n
    n += 1
    if n == last:
        os.kill(os.getpid(), signal.SIGKILL)
upgrade(sys.argv[1])
print(n)
"""


def upgraded(path: Path, kill_after: int) -> subprocess.CompletedProcess[str]:
    """Upgrade in a process of its own, killed after so many statements (0: it says how many there are)."""
    command = [sys.executable, "-c", UPGRADE, f"sqlite:///{path}", str(kill_after)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _versions() -> Iterator[Path]:
    yield from (Path(__file__).parents[2] / "backend" / "store" / "migrations" / "versions").glob("0*.py")


def older(path: Path, version: str) -> Path:
    """Make a database of an older schema, with rows that the first one stored."""
    engine = make_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        command.upgrade(_config(connection), "0001")
        connection.commit()
    with closing(sqlite3.connect(path)) as connection, connection:
        for table, values in OLDER.items():
            rows = [
                values | {"id": f"x_{n}"} if "id" in values and n else values
                for n in range(50 if "id" in values else 1)
            ]
            marks = ", ".join("?" * len(values))
            columns = ", ".join(values)
            connection.executemany(
                f"INSERT INTO {table} ({columns}) VALUES ({marks})", [tuple(r.values()) for r in rows]
            )
    with engine.connect() as connection:
        command.upgrade(_config(connection), version)
        connection.commit()
    engine.dispose()
    return path


def contents(path: Path) -> dict[str, list[Any]]:
    """Return every row of every table, and the schema itself."""
    with closing(sqlite3.connect(path)) as connection:
        schema = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        tables = [name for name, sql in schema if (sql or "").startswith("CREATE TABLE")]
        return {"schema": schema} | {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables}


def test_a_backup_taken_while_a_training_runs_goes_on_elsewhere(fault, calm: Calm, tmp_path: Path) -> None:
    case = fault(
        "backup and restore while a training runs",
        "`routeprint backup` three times in the middle; each is restored into a new home, where the training goes on",
    )
    taken = []
    with services(calm, tmp_path / "one" / "home", pause=0.3) as live:
        path = begin_training(live, calm.analysis, calm.experts)
        for number in range(3):
            live.progress(path, 3 + 9 * number)
            taken.append(tmp_path / f"{number}.tar")
            routeprint(live, "backup", str(taken[-1]))
            case.tries += 1
        steer(live, pause=0)
        count(case, calm, live, succeeded(live, path))
    for number in (0, 2):
        home = tmp_path / f"other-{number}" / "home"
        shutil.copytree(calm.home / "models", home / "models")
        with Live(home) as live, case.recovering():
            routeprint(live, "restore", str(taken[number]))
            live.start_backend()
            live.start("worker", "--name", "w9")
            count(case, calm, live, succeeded(live, path))
    assert case.zeros


COMMAND = "from backend.cli import main; main()"


def routeprint(live: Live, *words: str) -> None:
    """Run the command over this home; whatever it says on failing fails the test."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *words], env=live.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout, "it says what it did"


def test_a_double_submit_begins_one_run(fault, calm: Calm, tmp_path: Path) -> None:
    case = fault(
        "double submit",
        "the same POST twenty times at once with one Idempotency-Key, and once more after the backend was killed",
    )
    with services(calm, tmp_path / "home", pause=0) as live:
        body = {"analysis_id": calm.analysis, "expert_set_id": calm.experts, "learning_rate": 1e-2, "epochs": 4}
        body |= {"checkpoint_every": 5, "max_answer_length": 16}
        answers: list[Any] = []

        def submit() -> None:
            answers.append(live.client.post("/trainings", json=body, headers={"Idempotency-Key": "once"}))

        threads = [threading.Thread(target=submit) for _ in range(TOGETHER)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        live.kill("backend")
        with case.recovering():
            live.start_backend()
            submit()
        case.tries = len(answers)
        begun = {answer.json()["id"] for answer in answers if answer.is_success}
        assert {answer.status_code for answer in answers} <= {202, 409}, "a second one waits, or is told to"
        case.doubled += len(begun) - 1 + len(live.get("/trainings")["items"]) - 1
        count(case, calm, live, succeeded(live, f"/trainings/{begun.pop()}"))
        assert sum("started on" in line for line in said(live, live.get("/trainings")["items"][0]["job_id"])) == 1
    assert case.zeros
