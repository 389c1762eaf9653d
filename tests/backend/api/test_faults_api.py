"""What the API answers when something around it fails."""

import io
import logging
import sqlite3
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from backend import security
from backend.api.app import create_app
from backend.settings import Settings
from backend.store import datasets
from backend.store.engine import writing
from tests.backend import seeding
from tests.backend.api.calls import Api
from tests.backend.api.conftest import TOKEN


@pytest.fixture
def quiet_client(client: TestClient) -> TestClient:
    """A client that sees the answer to a crash, as one behind a socket would."""
    return TestClient(
        client.app,
        base_url="http://127.0.0.1:8321",
        headers={"Authorization": f"Bearer {TOKEN}"},
        raise_server_exceptions=False,
    )


def test_a_bug_answers_without_telling_what_is_inside(quiet_client: TestClient, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("secret prompt text in /some/path")

    monkeypatch.setattr(datasets, "get", broken)
    answer = quiet_client.get("/api/v1/datasets/ds_1")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


def test_a_locked_database_answers_try_again(client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch):
    engine = client.app.state.edge.engine
    if engine.dialect.name != "sqlite":
        pytest.skip("only SQLite has one lock for all")
    holder = sqlite3.connect(settings.home / "routeprint.sqlite3", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    answer = client.post("/api/v1/models/scan")
    holder.rollback()
    holder.close()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert client.post("/api/v1/models/scan").status_code == 202


def test_a_queue_out_of_reach_does_not_lose_the_job(api: Api, monkeypatch: pytest.MonkeyPatch, caplog):
    queue = api.client.app.state.edge.queue

    def unreachable(*_: object) -> None:
        raise ConnectionError("queue down")

    with monkeypatch.context() as patch, caplog.at_level(logging.CRITICAL):
        patch.setattr(queue, "submit", unreachable)
        job = api.post("/models/scan", 202)
    assert queue.states([job["id"]]) == {}
    with TestClient(create_app(api.client.app.state.edge.settings)):  # the next start sweeps
        pass
    assert queue.states([job["id"]]) == {job["id"]: "ENQUEUED"}


def test_a_half_imported_set_says_so_after_a_restart_and_keeps_no_row(api: Api, settings: Settings):
    created = api.dataset(3)
    with writing(api.client.app.state.edge.engine) as session:
        datasets.set_status(session, created["id"], "running")
    assert api.get(f"/datasets/{created['id']}")["status"] == "running"
    refused = api.post("/analyses", 409, json={"dataset_id": created["id"], "model": "tiny"})
    assert "still being imported" in refused["detail"]
    (settings.home / "scratch" / "left over").mkdir(parents=True)
    with TestClient(create_app(settings)):
        pass
    cut = api.get(f"/datasets/{created['id']}")
    assert (cut["status"], cut["progress"]["done"]) == ("failed", 0)
    assert "import the files again" in cut["error"]
    assert api.get(f"/datasets/{created['id']}/rows")["items"] == []
    assert not (settings.home / "scratch").exists()
    api.call("DELETE", f"/datasets/{created['id']}", 204)


def test_an_upload_above_the_limit_stops_while_it_streams(client: TestClient, settings, monkeypatch):
    monkeypatch.setattr(security, "MAX_UPLOAD_BYTES", 2**20)
    content = seeding.jsonl(seeding.prompt_rows(10_000))
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    body = io.BytesIO(head + content + b"\r\n--x--\r\n")

    def parts() -> Iterator[bytes]:
        while chunk := body.read(2**16):
            yield chunk

    assert len(content) > 2**20
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/api/v1/datasets/preview", content=parts(), headers=form)
    assert answer.status_code == 413
    assert not (settings.home / "scratch").exists()


@pytest.mark.parametrize(
    "body",
    [b"", b"--x\r\n", b"no form at all", b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\na\r\n--x--\r\n'],
)
def test_a_broken_upload_is_a_problem_document(client: TestClient, body: bytes):
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/api/v1/datasets/preview", content=body, headers=form)
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
