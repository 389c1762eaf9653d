"""What was taken over writes no more; a full disk is said in words; a clock that moves makes nobody dead."""

import errno
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import OperationalError

from backend.domain.errors import Conflict, TakenOver
from backend.settings import Settings
from backend.store import engine as engines
from backend.store import fleet, writes
from backend.store import tables as t
from backend.store.engine import insist, is_full, make_engine, reading, writing
from backend.store.migrate import upgrade
from worker import fence
from worker.checkpoints import locked
from worker.space import no_space


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(engines, "_guards", [])
    monkeypatch.setattr(fence, "_own", [])
    url = f"sqlite:///{tmp_path / 'tables.sqlite3'}"
    upgrade(url)
    made = make_engine(url)
    yield made
    made.dispose()


def begin(engine: Engine, token: str, mark: str = "0") -> int:
    with writing(engine) as session:
        return fleet.begun(session, "job_1", mark, token)


def lines(engine: Engine) -> list[str]:
    with reading(engine) as session:
        return list(session.scalars(select(t.JobLog.message).order_by(t.JobLog.id)))


def say(engine: Engine, message: str) -> None:
    with writing(engine) as session:
        writes.log(session, "job_1", message)


def test_what_was_taken_over_is_written_to_no_more(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(engine, "first")
    assert fence.put_up([*fence.arguments("job_1", "first"), "training", "tr_1"]) == ["training", "tr_1"]
    assert fence.own() == fence.arguments("job_1", "first")
    say(engine, "mine")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(engines, "_guards", [])
        begin(engine, "second")
        say(engine, "the other's")
    with pytest.raises(TakenOver, match="taken over"):
        say(engine, "stale")
    assert lines(engine) == ["mine", "the other's"]


def test_without_a_fence_a_command_line_stays_as_it_is(engine: Engine) -> None:
    assert fence.put_up(["scan"]) == ["scan"]
    assert fence.own() == []
    say(engine, "free")


def test_work_that_has_ended_is_written_to_no_more_and_only_who_did_it_ends_it(engine: Engine) -> None:
    begin(engine, "first")
    begin(engine, "second")
    with writing(engine) as session:
        fleet.over(session, "job_1", "first")
    with reading(engine) as session:
        fleet.check_holder(session, "job_1", "second")
    with writing(engine) as session:
        fleet.over(session, "job_1", "second")
    with reading(engine) as session, pytest.raises(TakenOver):
        fleet.check_holder(session, "job_1", "second")


def test_beginnings_are_counted_until_more_is_done(engine: Engine) -> None:
    assert [begin(engine, str(n), mark) for n, mark in enumerate(["0", "0", "0", "8", "8"])] == [1, 2, 3, 1, 2]


HOLD = """
import sys, time
from pathlib import Path
from worker.checkpoints import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("fenced", [True, False])
def test_only_who_took_over_ends_what_still_holds_the_folder(tmp_path: Path, engine: Engine, fenced: bool) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE) as frozen:
        assert frozen.stdout is not None
        assert frozen.stdout.readline() == b"held\n"
        if fenced:
            fence.put_up(fence.arguments("job_1", "second"))
            with locked(folder):
                assert frozen.wait(30) == -9
        else:
            with pytest.raises(Conflict, match="another process is training"), locked(folder):
                pass
            assert frozen.poll() is None
            frozen.kill()


def test_who_took_over_ends_no_process_that_only_has_the_number_of_the_one_before(
    tmp_path: Path, engine: Engine
) -> None:
    fence.put_up(fence.arguments("job_1", "second"))
    with locked(tmp_path):
        (tmp_path / ".holder").write_text(json.dumps(["elsewhere", 1, 0.0]))
        with pytest.raises(Conflict), locked(tmp_path):
            pass


def heard(engine: Engine, name: str, seconds_ago: float) -> None:
    row: dict[str, Any] = {"executor_id": name, "host": "h", "pid": 1, "device": "cpu", "memory_bytes": 1}
    with writing(engine) as session:
        fleet.heartbeat(session, row | {"engines": [], "model_loaded": None, "versions": {}})
        moment = datetime.now(UTC) - timedelta(seconds=seconds_ago)
        session.get_one(t.Worker, name).last_seen = moment.isoformat(timespec="microseconds")


def test_a_heartbeat_from_long_ago_or_from_the_future_is_not_fresh(engine: Engine) -> None:
    for name, seconds in {"fresh": 3, "old": 60, "before the clock was set back": -3600}.items():
        heard(engine, name, seconds)
    with reading(engine) as session:
        assert [worker.executor_id for worker in fleet.alive(session)] == ["fresh"]
        assert set(fleet.dead(session)) == {"old", "before the clock was set back"}
        assert {w.executor_id for w, alive in fleet.workers(session) if alive} == {"fresh"}


def test_a_full_disk_is_told_from_other_errors_and_said_with_its_folder(tmp_path: Path) -> None:
    assert is_full(OSError(errno.ENOSPC, "No space left on device"))
    assert is_full(OperationalError("insert", {}, sqlite3.OperationalError("database or disk is full")))
    assert not is_full(OSError(errno.EACCES, "Permission denied"))
    (tmp_path / "artifacts").mkdir()
    said = no_space(Settings(home=tmp_path))
    assert str(tmp_path) in said
    assert "Free some space" in said


def test_a_file_that_stays_locked_is_waited_for(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a process that was frozen in the middle of a transaction."""
    tries: list[int] = []

    def work(session: Any) -> int:
        tries.append(1)
        if len(tries) < 3:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise OperationalError("BEGIN IMMEDIATE", {}, error)
        return len(tries)

    assert insist(engine, work) == 3
