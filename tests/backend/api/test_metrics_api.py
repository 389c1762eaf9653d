import json
import logging
from io import StringIO

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, select

from backend import logs
from backend.store import fleet, jobs, tallies
from backend.store import tables as t
from backend.store.engine import reading, writing
from tests.backend import seeding
from tests.backend.api.calls import Api


def scraped(api: Api) -> dict[tuple[str, ...], float]:
    """Every sample of a scrape: {(name, label values...): value}."""
    text = api.get("/metrics").text
    families = text_string_to_metric_families(text)
    return {(s.name, *map(str, s.labels.values())): s.value for family in families for s in family.samples}


def test_jobs_failures_and_queues_are_those_of_the_tables(api: Api, engine):
    seeding.add_model(engine)
    dataset = api.dataset()["id"]
    waiting, failed = [api.analysis(dataset) for _ in range(2)]
    with writing(engine) as session:
        job = session.scalars(select(t.Job).where(t.Job.subject_id == failed["id"])).one()
        jobs.get(session, job.id).status = "failed"
    found = scraped(api)
    assert found["routeprint_jobs", "analysis", "queued"] == 1
    assert found["routeprint_jobs", "analysis", "failed"] == 1
    assert found["routeprint_job_failures_total", "analysis"] == 1
    assert found["routeprint_jobs", "training", "queued"] == 0
    assert found["routeprint_queue_depth", "control", "waiting"] == 2
    assert found["routeprint_queue_depth", "gpu", "waiting"] == 0
    assert waiting["status"] == "queued"


def test_times_are_summed_over_all_runs_and_outlive_them(api: Api, engine):
    for subject, seconds in (("an_1", 0.02), ("an_2", 0.3), ("an_2", 0.3), ("an_2", 1e6)):
        with writing(engine) as session:
            tallies.add(session, subject, tallies.BATCH, seconds, 100)
    with writing(engine) as session:
        tallies.add(session, "tr_1", tallies.STEP, 2.0, 7)
    found = scraped(api)
    assert found["routeprint_batch_seconds_bucket", "0.01"] == 0
    assert found["routeprint_batch_seconds_bucket", "0.025"] == 1
    assert found["routeprint_batch_seconds_bucket", "0.5"] == 3
    assert found["routeprint_batch_seconds_bucket", "300.0"] == 3
    assert found["routeprint_batch_seconds_bucket", "+Inf"] == found[("routeprint_batch_seconds_count",)] == 4
    assert found[("routeprint_batch_seconds_sum",)] == 0.02 + 0.3 + 0.3 + 1e6
    assert found[("routeprint_measured_tokens_total",)] == 400
    assert found[("routeprint_trained_tokens_total",)] == 7
    assert found[("routeprint_training_step_seconds_sum",)] == 2.0


def test_workers_are_counted_while_they_beat_with_the_memory_they_report(api: Api, engine):
    row = {"executor_id": "w0", "host": "h", "pid": 1, "device": "cuda (X)", "memory_bytes": 80, "engines": []}
    with writing(engine) as session:
        fleet.heartbeat(session, row | {"model_loaded": None, "versions": {}, "memory_used_bytes": 20})
        fleet.heartbeat(session, row | {"executor_id": "gone", "model_loaded": None, "versions": {}})
        session.get_one(t.Worker, "gone").last_seen = "2026-01-01T00:00:00.000000+00:00"
    found = scraped(api)
    assert found[("routeprint_workers_alive",)] == 1
    assert found["routeprint_worker_memory_bytes", "cuda (X)", "w0"] == 80
    assert found["routeprint_worker_memory_used_bytes", "cuda (X)", "w0"] == 20
    assert not [key for key in found if "gone" in key]


def test_requests_count_by_template_and_never_by_what_a_client_made_up(api: Api):
    api.get("/jobs/job_no_such", 404)
    api.client.get("/api/v1/made-up/secret-word?q=secret-word")
    api.client.get("/api/v1/system", headers={"Authorization": ""})
    api.client.request("SECRET-WORD", "/api/v1/system")
    found, text = scraped(api), api.get("/metrics").text
    assert found["routeprint_http_requests_total", "GET", "/api/v1/jobs/{job_id}", "404"] == 1
    assert found["routeprint_http_requests_total", "GET", "unmatched", "404"] == 1
    assert found["routeprint_http_requests_total", "GET", "unmatched", "401"] == 1
    assert found["routeprint_http_request_seconds_count", "GET", "/api/v1/jobs/{job_id}"] == 1
    assert "secret" not in text.lower()


def test_many_scrapes_read_the_tables_once(api: Api, engine, client):
    read: list[str] = []
    edge = client.app.state.edge
    event.listen(edge.engine, "before_cursor_execute", lambda *given: read.append(given[2]))
    for _ in range(20):
        api.get("/metrics")
    assert sum("tallies" in statement for statement in read) == 1
    with reading(engine) as session:
        plan = str(session.connection().exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT kind, status, count(*) FROM jobs GROUP BY kind, status"
        ).all()) if engine.dialect.name == "sqlite" else "COVERING INDEX"  # fmt: skip
    assert "COVERING INDEX" in plan


def test_a_request_keeps_its_id_if_that_is_sane_and_gets_one_else(api: Api):
    def given(value: str | bytes) -> str:
        return api.client.get("/health", headers={"X-Request-ID": value}).headers["x-request-id"]

    assert given("abc-1.2_3") == "abc-1.2_3"
    made = [given(odd) for odd in ("", "a b", "x" * 65, '"}', "é".encode())]
    assert all(one.startswith("req_") for one in made)
    assert len(set(made)) == len(made)
    refused = api.client.get("/api/v1/system", headers={"Authorization": "", "X-Request-ID": "mine"})
    assert (refused.status_code, refused.headers["x-request-id"]) == (401, "mine")


def test_lines_are_json_with_ids_and_hold_neither_token_nor_query(api: Api):
    stream, before = StringIO(), logging.getLogger().handlers[:]
    try:
        logs.configure("auto", "DEBUG", stream)
        api.client.get("/api/v1/analyses?q=secret-word", headers={"X-Request-ID": "mine"})
    finally:
        logging.getLogger().handlers[:] = before
        logging.getLogger().setLevel(logging.WARNING)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    [mine] = [line for line in lines if line["logger"] == "routeprint.requests"]
    assert (mine["request_id"], mine["route"], mine["status"]) == ("mine", "/api/v1/analyses", 200)
    assert "secret-word" not in stream.getvalue()
    assert "correct-horse" not in stream.getvalue()


def test_lines_for_people_cannot_steer_their_terminal():
    record = logging.makeLogRecord({"msg": "hello \x1b[2Jthere", "levelname": "INFO", "name": "x"})
    with logs.about(job_id="job_1"):
        shown = logs.Text().format(record)
    assert "\x1b" not in shown
    assert shown.endswith("hello \ufffd[2Jthere job_id=job_1")
