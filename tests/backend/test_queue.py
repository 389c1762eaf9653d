import time

import pytest
from dbos import DBOSClient
from sqlalchemy import Engine

from backend.domain.jobs import APP_VERSION, PRIORITY
from backend.queue import GONE, JobQueue, sweep
from backend.store import jobs
from backend.store import tables as t
from backend.store.engine import make_engine, reading, writing
from backend.store.migrate import upgrade


@pytest.fixture
def queue(tmp_path):
    queue = JobQueue(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    yield queue
    queue.close()


@pytest.fixture
def engine(tmp_path):
    url = f"sqlite:///{tmp_path / 'tables.sqlite3'}"
    upgrade(url)
    engine = make_engine(url)
    yield engine
    engine.dispose()


def add(engine: Engine, kind: str = "scan") -> str:
    with writing(engine) as session:
        return jobs.add(session, kind, "subject").id


def status(engine: Engine, job_id: str) -> t.Job:
    with reading(engine) as session:
        return jobs.get(session, job_id)


def test_a_job_carries_what_the_worker_needs_to_take_it(queue: JobQueue, tmp_path):
    queue.submit("job_1", "analysis", "an_1")
    queue.submit("job_2", "training", "tr_1")
    client = DBOSClient(system_database_url=f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    found = {one.workflow_id: one for one in client.list_workflows()}
    client.destroy()
    first, second = found["job_1"], found["job_2"]
    assert (first.name, first.queue_name, first.input["args"]) == ("run_analysis", "control", ("job_1", "an_1"))
    assert (second.name, second.queue_name) == ("run_stage", "gpu")
    assert {(one.app_version, one.priority) for one in found.values()} == {(APP_VERSION, PRIORITY)}


def test_a_job_submitted_twice_is_queued_once(queue: JobQueue):
    queue.submit("job_1", "scan", "models")
    queue.submit("job_1", "scan", "models")
    assert queue.states(["job_1", "job_2"]) == {"job_1": "ENQUEUED"}


def test_cancelling_what_the_queue_does_not_know_changes_nothing(queue: JobQueue):
    queue.cancel("job_1")
    assert queue.states(["job_1"]) == {}


def test_the_sweep_queues_what_a_crash_kept_from_the_queue(queue: JobQueue, engine: Engine):
    lost, known = add(engine), add(engine)
    queue.submit(known, "scan", "subject")
    assert sweep(engine, queue, older_than_seconds=0) == [lost]
    assert queue.states([lost, known]) == {lost: "ENQUEUED", known: "ENQUEUED"}
    assert sweep(engine, queue, older_than_seconds=0) == []


def test_the_sweep_leaves_a_job_alone_that_is_being_submitted_just_now(queue: JobQueue, engine: Engine):
    job_id = add(engine)
    assert sweep(engine, queue, older_than_seconds=30) == []
    assert queue.states([job_id]) == {}


def test_the_sweep_leaves_finished_jobs_alone(queue: JobQueue, engine: Engine):
    job_id = add(engine)
    with writing(engine) as session:
        jobs.get(session, job_id).status = "cancelled"
    assert sweep(engine, queue, older_than_seconds=0) == []


@pytest.mark.parametrize("state", sorted(GONE))
def test_a_job_that_the_queue_gave_up_fails_with_a_reason(queue: JobQueue, engine: Engine, tmp_path, state: str):
    job_id = add(engine)
    queue.submit(job_id, "scan", "subject")
    store = make_engine(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    with store.begin() as connection:
        connection.exec_driver_sql("UPDATE workflow_status SET status = ?", (state,))
    store.dispose()
    sweep(engine, queue, older_than_seconds=0)
    job = status(engine, job_id)
    assert (job.status, job.error) == ("failed", GONE[state])
    with reading(engine) as session:
        assert jobs.logs(session, job_id, None, 10).items[-1].message == GONE[state]


def test_submitting_without_a_worker_takes_milliseconds(queue: JobQueue):
    queue.submit("job_0", "scan", "models")
    start = time.perf_counter()
    for i in range(1, 11):
        queue.submit(f"job_{i}", "scan", "models")
    assert (time.perf_counter() - start) / 10 < 0.2


def test_a_job_waits_in_the_queue_with_its_priority_also_when_the_sweep_submits_it(queue: JobQueue, engine: Engine):
    with writing(engine) as session:
        urgent = jobs.add(session, "scan", "subject", 5).id
    usual = add(engine)
    assert set(sweep(engine, queue, older_than_seconds=0)) == {urgent, usual}
    found = queue._client.list_workflows(workflow_ids=[urgent, usual])
    assert {w.workflow_id: w.priority for w in found} == {urgent: 5, usual: PRIORITY}
