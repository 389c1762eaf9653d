"""Deleted runs go from PostgreSQL as they go from SQLite, and a restore at that moment comes too late."""

import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from backend import retention
from backend.api.app import create_app
from backend.domain.errors import NotFound
from backend.settings import Settings
from backend.store import purging, runs
from backend.store import tables as t
from backend.store.engine import reading, writing
from tests.backend.api.calls import Api
from tests.backend.worlds import build, delete_long_ago, rows

TOKEN = "correct-horse-battery-staple"


def made(url: str, engine: Engine, home: Path) -> tuple[Settings, dict[str, str]]:
    settings = Settings(home=home, token=TOKEN, database_url=url, jobs_url=url)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8321", headers=headers) as client:
        return settings, build(Api(client), engine, settings)


def test_what_was_deleted_goes_and_what_a_kept_run_uses_stays(url: str, engine: Engine, tmp_path: Path) -> None:
    settings, world = made(url, engine, tmp_path)
    before = rows(engine)
    doomed = {world["training"], world["comparison"], world["context"], world["base"]}  # the study uses the base
    delete_long_ago(engine, doomed)
    found = list(retention.purge(settings, engine, lambda _: None))
    assert {one.run.id for one in found} == doomed - {world["base"]}
    assert all(one.rows > 0 for one in found)
    assert rows(engine) == {id_: n for id_, n in before.items() if id_ not in doomed - {world["base"]}}
    delete_long_ago(engine, before)
    list(retention.purge(settings, engine, lambda _: None))
    assert rows(engine) == {}


def test_a_restore_does_not_wait_while_somebody_looks_what_would_go(
    url: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, world = made(url, engine, tmp_path)
    delete_long_ago(engine, [world["training"]])
    restored: list[str | None] = []

    def measure(_session: Session, one: purging.Going) -> int:
        with writing(engine) as session:
            session.execute(text("SET LOCAL lock_timeout = '2s'"))
            restored.append(runs.restore(session, t.Training, one.id).deleted_at)
        return 0

    monkeypatch.setattr(purging, "bytes_of", measure)
    assert [one.run.id for one in retention.planned(settings, engine)] == [world["training"]]
    assert restored == [None]


def test_a_restore_during_the_marking_waits_and_finds_nothing(url: str, engine: Engine, tmp_path: Path) -> None:
    _, world = made(url, engine, tmp_path)
    delete_long_ago(engine, [world["training"]])
    refused: list[str] = []

    def restore() -> None:
        try:
            with writing(engine) as session:
                runs.restore(session, t.Training, world["training"])
        except NotFound as error:
            refused.append(str(error))

    with writing(engine) as session:
        [going] = purging.mark(session, t.utcnow())
        other = threading.Thread(target=restore)
        other.start()
        other.join(0.5)
        assert other.is_alive()  # it waits for the mark
    other.join()
    assert (going.id, len(refused)) == (world["training"], 1)
    with reading(engine) as session:
        assert session.get_one(t.Training, going.id).deleted_at is not None
