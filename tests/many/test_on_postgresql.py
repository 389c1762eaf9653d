"""What PostgreSQL does in another way than SQLite, and this project must not show."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, select
from sqlalchemy.exc import OperationalError

from backend.backup import backup
from backend.doctor import check_database
from backend.domain.errors import NotSupported, Unreachable
from backend.settings import Settings
from backend.store import fleet, jobs, runs, writes
from backend.store import tables as t
from backend.store.engine import insist, is_away, make_engine, reading, shared_engine, writing
from backend.store.migrate import reach, upgrade
from tests.backend import seeding
from tests.postgres import Postgres

EVALUATION = {"name": "n", "model_id": "m", "dataset_id": "ds_1", "intervention": "none", "params": {}}
EVALUATION |= {"overlap": {}, "warnings": [], "texts": [], "model_digests": {}}


def dataset(session: Any, id_: str = "ds_1") -> None:
    counts = dict.fromkeys(("n_rows", "n_safe", "n_unsafe", "n_duplicates"), 0)
    session.add(t.Dataset(id=id_, name="n", sha256="0" * 64, label_meaning={}, files=[], **counts))
    session.flush()


def worker(name: str, **more: Any) -> dict[str, Any]:
    row = {"executor_id": name, "host": "h", "pid": 1, "device": "cpu", "engines": [], "model_loaded": None}
    return row | {"versions": {}, "memory_bytes": 80 * 2**30} | more


def test_the_migrations_make_exactly_the_tables_that_the_code_names(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), t.Base.metadata) == []


def test_a_database_that_cannot_hold_all_text_is_refused_by_name(postgres: Postgres) -> None:
    url = postgres.database("template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    with pytest.raises(NotSupported, match=r"SQL_ASCII.*--encoding=UTF8 test_"):
        upgrade(url)
    shared_engine(url).dispose()
    checked = check_database("tables", url)
    assert (checked.state, "SQL_ASCII" in checked.found) == ("wrong", True)
    postgres.drop(url)


def test_ten_services_that_start_at_once_make_the_tables_once(url: str) -> None:
    failed: list[BaseException] = []

    def start() -> None:
        try:
            upgrade(url)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shared_engine(url).dispose()
    assert failed == []


def test_rows_that_are_there_already_are_counted_as_old_however_many_come(engine: Engine) -> None:
    rows = [{"n": n, "arm_idx": 0, "prompt_idx": n, "text": "a", "n_tokens": 1, "ended": True} for n in range(40)]
    with writing(engine) as session:
        dataset(session)
        session.add(t.Evaluation(id="ev_1", **EVALUATION))
        session.flush()
        assert [writes.record_evaluated(session, "ev_1", part) for part in (rows[:1], rows[:9], rows, rows)] == [
            1,
            8,
            31,
            0,
        ]
        assert session.get_one(t.Evaluation, "ev_1", populate_existing=True).done == 40


def test_models_and_memories_beyond_two_to_the_31_fit(engine: Engine) -> None:
    seeding.add_model(engine, n_parameters=671_000_000_000)
    with writing(engine) as session:
        fleet.heartbeat(session, worker("w0"))
        fleet.heartbeat(session, worker("w0", model_loaded="big"))
    with reading(engine) as session:
        assert session.get_one(t.Model, "tiny").n_parameters == 671_000_000_000
        [(found, alive)] = fleet.workers(session)
        assert (found.memory_bytes, found.model_loaded, alive) == (80 * 2**30, "big", True)


def test_a_job_may_say_and_fail_with_any_character(engine: Engine) -> None:
    with writing(engine) as session:
        job = jobs.add(session, "scan", "models")
        writes.log(session, job.id, "a\x00b")
        writes.finish_all(session, job.id, "scan", "models", "failed", "c\x00d")
    with reading(engine) as session:
        assert session.get_one(t.Job, job.id).error == "c\ufffdd"
        assert [line.message for line in jobs.logs(session, job.id, None, 9).items] == ["a\ufffdb", "c\ufffdd"]


NAMES = ["a", "B", "_c", "Z", "ä", "a b", "a-c", "ab", "é", "10", "9", "日本"]


def listed(engine: Engine) -> list[str]:
    names: list[str] = []
    after = None
    with writing(engine) as session:
        dataset(session)
        for n, name in enumerate(NAMES):
            session.add(t.Evaluation(id=f"ev_{n}", **EVALUATION | {"name": name}))
    with reading(engine) as session:
        while True:
            page = runs.listing(
                session, t.Evaluation, status=None, q=None, deleted=False, after=after, limit=5, sort="name"
            )
            names += [run.name for run in page.items]
            if (after := page.next_key) is None:
                return names


def test_lists_are_sorted_as_on_sqlite_whatever_language_the_server_speaks(postgres: Postgres) -> None:
    languages = [c for (c,) in postgres.execute("SELECT collname FROM pg_collation WHERE collprovider = 'i'")]
    assert "en-x-icu" in languages
    postgres.execute(
        "CREATE DATABASE spoken TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C.UTF-8' ENCODING 'UTF8'"
    )
    upgrade(postgres.url("spoken"))
    engine = make_engine(postgres.url("spoken"))
    assert listed(engine) == sorted(NAMES)
    engine.dispose()
    shared_engine(postgres.url("spoken")).dispose()
    postgres.drop(postgres.url("spoken"))


def test_work_waits_for_a_server_that_went_away_in_the_middle(engine: Engine, postgres: Postgres) -> None:
    openings: list[int] = []
    tries: list[int] = []

    @contextmanager
    def opening(engine: Engine) -> Iterator[Any]:
        openings.append(1)
        if len(openings) == 3:
            postgres.start()
        with writing(engine) as session:
            yield session

    def work(session: Any) -> int:
        tries.append(1)
        job = jobs.add(session, "scan", "models")
        if len(tries) == 1:
            postgres.crash()
        writes.log(session, job.id, "landed")
        session.flush()
        return len(tries)

    assert insist(engine, work, opening) == 3
    with reading(engine) as session:
        assert len(list(session.scalars(select(t.Job)))) == len(list(session.scalars(select(t.JobLog)))) == 1


def test_wrong_work_is_not_tried_again(engine: Engine) -> None:
    tries: list[int] = []

    def work(session: Any) -> None:
        tries.append(1)
        session.add(t.JobLog(job_id="j", level="x" * 100, message=""))
        session.flush()

    with pytest.raises(Exception, match="too long"):
        insist(engine, work)
    assert len(tries) == 1


def test_a_server_that_does_not_answer_is_named_without_its_password(postgres: Postgres) -> None:
    wrong = make_engine(postgres.url("no_such_database"))
    with pytest.raises(Unreachable, match=r"'no_such_database' at 127\.0\.0\.1") as caught:
        reach(wrong, seconds=0)
    assert "a-password-for-tests" not in str(caught.value)
    wrong.dispose()


def test_only_a_server_that_is_away_counts_as_away() -> None:
    assert not is_away(OperationalError("select", {}, Exception("no such table")))
    assert not is_away(ValueError())


def test_workers_are_alive_by_the_clock_of_the_database(engine: Engine) -> None:
    with writing(engine) as session:
        fleet.heartbeat(session, worker("fresh"))
        fleet.heartbeat(session, worker("gone"))
        session.get_one(t.Worker, "gone").last_seen = "2026-01-01T00:00:00.000000+00:00"
    with reading(engine) as session:
        assert [w.executor_id for w in fleet.alive(session)] == ["fresh"]
        assert fleet.dead(session) == ["gone"]
        assert abs((fleet.now(session) - fleet.now(session)).total_seconds()) < 5


def test_the_doctor_looks_into_a_server_and_a_backup_names_its_own_tool(url: str, tmp_path: Any) -> None:
    found = check_database("tables", url)
    assert found.state == "ok"
    assert "PostgreSQL" in found.found
    gone = check_database("tables", url.rsplit("/", 1)[0] + "/nowhere")
    assert gone.state == "wrong"
    assert "does not exist" in gone.found
    with pytest.raises(NotSupported, match="pg_dump"):
        backup(Settings(home=tmp_path, database_url=url), tmp_path / "all.tar")
