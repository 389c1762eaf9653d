"""Only the job that a run waits for may start or end it: an earlier one that was cancelled may still be at work."""

import pytest
from sqlalchemy import Engine

from backend.store import jobs, runs, writes
from backend.store import tables as t
from backend.store.engine import reading, writing
from tests.backend import seeding
from tests.backend.api.calls import Api
from tests.backend.api.conftest import api, client, empty_home, engine, settings  # noqa: F401 - fixtures


@pytest.fixture
def run(api: Api, engine: Engine) -> tuple[Engine, str, str, str]:  # noqa: F811
    """A run whose first job was cancelled while it worked, and which was resumed: (engine, run, first, second job)."""
    seeding.add_model(engine)
    made = api.analysis(api.dataset(4)["id"])
    with writing(engine) as session:
        writes.start_job(session, made["job_id"], "w0")
        assert writes.start(session, t.Analysis, made["id"])
    with writing(engine) as session:
        assert jobs.cancel(session, t.Analysis, made["id"]) == [made["job_id"]]
    with writing(engine) as session:
        second = jobs.resume(session, "analysis", made["id"]).id
    return engine, made["id"], made["job_id"], second


def status(engine: Engine, id_: str) -> str:  # noqa: F811
    with reading(engine) as session:
        return runs.get(session, t.Analysis, id_).status


@pytest.mark.parametrize("said", ["succeeded", "failed"])
def test_a_job_that_was_cancelled_does_not_end_the_run_that_was_resumed(
    run: tuple[Engine, str, str, str], said: str
) -> None:
    store, id_, first, second = run
    with writing(store) as session:
        assert not writes.finish_all(session, first, "analysis", id_, said)
    assert status(store, id_) == "queued"
    with reading(store) as session:
        assert jobs.get(session, first).status == "cancelled"
        assert [line.message for line in jobs.logs(session, first, None, 10).items] == []
    with writing(store) as session:
        assert writes.finish_all(session, second, "analysis", id_, "succeeded")
    assert status(store, id_) == "succeeded"


def test_a_job_that_was_cancelled_does_not_start_the_run_that_was_resumed(run: tuple[Engine, str, str, str]) -> None:
    store, _, first, second = run
    with writing(store) as session:
        assert not writes.start_job(session, first, "w0")
        assert writes.start_job(session, second, "w0")
        assert writes.start_job(session, second, "w1"), "taken over from a dead worker"
