import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, make_url

from backend.api import jobs as edge_jobs
from backend.settings import Settings
from backend.store import tables as t
from backend.store import writes
from backend.store.engine import writing
from tests.backend import seeding
from tests.backend.api.calls import Api


def heartbeat(engine: Engine, **changes: object) -> None:
    row = {
        "executor_id": "here-gpu0",
        "host": "here",
        "pid": 7,
        "device": "cpu",
        "memory_bytes": 10**9,
        "engines": ["transformers"],
        "model_loaded": None,
        "versions": {"torch": "2"},
        "started_at": t.utcnow(),
        "last_seen": t.utcnow(),
    }
    with writing(engine) as session:
        session.merge(t.Worker(**row | changes))


@pytest.fixture
def queued(api: Api, engine: Engine) -> dict:
    seeding.add_model(engine)
    return api.analysis(name="study")


def test_jobs_are_listed_newest_first_and_by_status(api: Api, queued: dict):
    scan = api.post("/models/scan", 202)
    assert [job["kind"] for job in api.get("/jobs")["items"]] == ["scan", "analysis"]
    api.post(f"/analyses/{queued['id']}/cancel")
    assert [job["id"] for job in api.get("/jobs", params={"status": "queued"})["items"]] == [scan["id"]]
    assert api.get(f"/jobs/{scan['id']}")["subject_name"] == "models folder"


def test_a_waiting_job_says_what_it_waits_for(api: Api, queued: dict, engine: Engine):
    path = f"/jobs/{queued['job_id']}"
    long_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    heartbeat(engine, executor_id="dead", last_seen=long_ago)
    assert "no worker is running" in api.get(path)["waiting_for"]
    heartbeat(engine, engines=["vllm"])
    assert "'transformers'" in api.get(path)["waiting_for"]
    heartbeat(engine)
    assert api.get(path)["waiting_for"] is None
    alive = {one["executor_id"]: one["alive"] for one in api.get("/system")["workers"]}
    assert alive == {"here-gpu0": True, "dead": False}


def test_a_scan_that_waits_already_is_not_queued_twice(api: Api):
    first = api.post("/models/scan", 202)
    assert api.post("/models/scan", 202) == first
    assert len(api.get("/jobs")["items"]) == 1


def test_models_come_with_their_sizes_and_reasons(api: Api, engine: Engine):
    seeding.add_model(engine, "a/moe")
    seeding.add_model(
        engine, "b", (), supported=False, reason="no experts", engines=[], template_digest=None, architecture="Llama"
    )
    moe, dense = api.get("/models")["items"]
    assert (moe["moe_layers"], moe["n_experts"], moe["top_k"], moe["has_chat_template"]) == (2, 4, 2, True)
    assert (dense["supported"], dense["reason"], dense["moe_layers"]) == (False, "no experts", 0)


def test_the_log_is_read_in_order_and_in_pages(api: Api, queued: dict, engine: Engine):
    for i in range(5):
        with writing(engine) as session:
            writes.log(session, queued["job_id"], f"line {i}")
    path = f"/jobs/{queued['job_id']}/logs"
    first = api.get(path, params={"limit": 3})
    rest = api.get(path, params={"limit": 3, "cursor": first["next_cursor"]})
    assert [line["message"] for line in first["items"] + rest["items"]] == [f"line {i}" for i in range(5)]
    api.get("/jobs/job_0/logs", 404)


def events(api: Api, job_id: str) -> list[tuple[str, dict]]:
    text = api.get(f"/jobs/{job_id}/events").text
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_events_follow_a_job_to_its_end(api: Api, queued: dict, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(edge_jobs, "POLL_SECONDS", 0.02)

    def work() -> None:
        with writing(engine) as session:
            writes.start_job(session, queued["job_id"], "here")
            writes.log(session, queued["job_id"], "started")
        seeding.measure(engine, queued["id"])
        with writing(engine) as session:
            writes.finish_job(session, queued["job_id"], "succeeded")
            writes.log(session, queued["job_id"], "done")

    worker = threading.Timer(0.2, work)
    worker.start()
    seen = events(api, queued["job_id"])
    worker.join()
    states = [data["status"] for kind, data in seen if kind == "status"]
    order = ["queued", "running", "succeeded"]  # the first look may come late, but never goes back
    assert states == sorted(states, key=order.index)
    assert states[-1] == "succeeded"
    assert [data["message"] for kind, data in seen if kind == "log"] == ["started", "done"]


def test_events_of_a_finished_job_end_at_once_and_of_none_do_not_begin(api: Api, queued: dict):
    api.post(f"/analyses/{queued['id']}/cancel")
    assert [data["status"] for _, data in events(api, queued["job_id"])] == ["cancelled"]
    assert api.get("/jobs/job_0/events", 404)["status"] == 404


def test_the_system_page_counts_what_waits(api: Api, queued: dict, settings: Settings):
    found = api.get("/system")
    assert found["queue"] == {"queued": 1, "running": 0}
    assert found["models_dir_scanned"] == 1
    assert found["database"]["url_kind"] == make_url(settings.tables_url).get_backend_name()
    assert found["database"]["size_bytes"] > 0
    assert found["versions"]["python"]
    assert found["home_free_bytes"] > 0
    assert found["deleted_days"] == 7
