"""Large prompt sets: read by a child, stored behind the answer, in short transactions; refused as a whole."""

import signal

import pytest
from sqlalchemy import event, func, select

from backend.api import children, datasets, importing
from backend.domain.errors import RouteprintError
from backend.domain.prompts import LabelMeaning
from backend.domain.reading import SourceFile, read_prompt_set
from backend.store import imports
from backend.store import tables as t
from backend.store.engine import reading
from tests.backend import seeding
from tests.backend.api.calls import Api
from tests.live import Live

FORM = {"name": "prompts", "label_meaning": "harmless_harmful"}


def content_of(n: int) -> bytes:
    return seeding.jsonl(seeding.prompt_rows(n))


def upload(content: bytes, name: str = "prompts.jsonl") -> dict:
    return {"file": (name, content)}


def n_stored(api: Api) -> tuple[int, int]:
    with reading(api.client.app.state.edge.engine) as session:
        return tuple(session.scalar(select(func.count()).select_from(table)) for table in (t.Dataset, t.PromptRow))


@pytest.fixture
def by_child(monkeypatch):
    """Have a child read every file, and call eleven rows many."""
    monkeypatch.setattr(datasets, "SMALL_BYTES", 0)
    monkeypatch.setattr(importing, "MANY_ROWS", 10)


@pytest.mark.parametrize("where", ["here", "child"])
def test_many_rows_land_behind_the_answer_and_make_the_same_set(api: Api, monkeypatch, tmp_path, where):
    monkeypatch.setattr(importing, "MANY_ROWS", 10)
    monkeypatch.setattr(datasets, "SMALL_BYTES", 0 if where == "child" else 2**30)
    (tmp_path / "p.jsonl").write_bytes(content_of(1200))
    expected = read_prompt_set(
        [SourceFile(tmp_path / "p.jsonl", "p.jsonl")], LabelMeaning.from_text("harmless_harmful")
    )

    accepted = api.post("/datasets", 202, files=upload(content_of(1200)), data=FORM)
    assert accepted["status"] == "running"
    assert (accepted["n_rows"], accepted["sha256"]) == (2400, expected.sha256)
    assert accepted["progress"]["total"] == 2400
    api.client.app.state.edge.children.join()

    done = api.get(f"/datasets/{accepted['id']}")
    assert (done["status"], done["progress"]["done"]) == ("succeeded", 2400)
    rows = api.get(f"/datasets/{accepted['id']}/rows", params={"limit": 500})["items"]
    assert [row["row_id"] for row in rows] == [row.digest for row in expected.rows[:500]]
    assert [row["row_idx"] for row in rows] == list(range(500))
    assert not list((api.client.app.state.edge.scratch).iterdir())
    again = api.post("/datasets", 200, files=upload(content_of(1200)), data=FORM)
    assert again["id"] == accepted["id"]


def test_a_set_that_is_not_large_is_answered_when_it_is_whole_even_if_a_child_read_it(api: Api, monkeypatch):
    monkeypatch.setattr(datasets, "SMALL_BYTES", 0)
    created = api.post("/datasets", 201, files=upload(content_of(600)), data=FORM)
    assert (created["status"], created["progress"]["done"]) == ("succeeded", 1200)


@pytest.mark.usefixtures("by_child")
def test_a_child_refuses_with_every_row_number_and_nothing_is_stored(api: Api):
    content = (
        content_of(20)
        + b'{"prompt": "", "label": "safe"}\n'
        + b'{"prompt": "How do I bake number 3?", "label": "unsafe"}\n'
    )
    refused = api.post("/datasets", 422, files=upload(content), data=FORM)
    assert [error["loc"] for error in refused["errors"]] == [
        ["file", "prompts.jsonl", "row", 41, "prompt"],
        ["file", "prompts.jsonl", "row", 42],
    ]
    assert n_stored(api) == (0, 0)
    assert not list((api.client.app.state.edge.scratch).iterdir())


@pytest.mark.usefixtures("by_child")
def test_a_child_previews_what_the_request_itself_would(api: Api, monkeypatch):
    by_child = api.post("/datasets/preview", files=upload(content_of(20)))
    monkeypatch.setattr(datasets, "SMALL_BYTES", 2**30)
    assert by_child == api.post("/datasets/preview", files=upload(content_of(20)))


@pytest.mark.usefixtures("by_child")
def test_a_child_that_dies_ends_the_set_as_failed_with_the_reason(api: Api, monkeypatch):
    started = []
    real = children.Child.hear

    def hear(self):
        if not started:
            started.append(self)
            return real(self)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        while True:  # what it said before it died may still be in the pipe
            real(self)

    monkeypatch.setattr(children.Child, "hear", hear)
    monkeypatch.setattr(imports, "FIRST_ROWS", 10)
    accepted = api.post("/datasets", 202, files=upload(content_of(3000)), data=FORM)
    api.client.app.state.edge.children.join()
    failed = api.get(f"/datasets/{accepted['id']}")
    if failed["status"] == "failed":  # it had not stored everything before the signal reached it
        assert "ended with status -9" in failed["error"]
        assert n_stored(api) == (1, 0)


def test_no_transaction_takes_more_rows_than_its_pace_and_the_pace_follows_the_clock():
    pace = imports.Pace()
    pace.took(2 * imports.AIM_SECONDS)
    assert pace.rows == imports.FIRST_ROWS / 2
    for _ in range(20):
        pace.took(10.0)
    assert pace.rows == imports.FEWEST_ROWS
    for _ in range(20):
        pace.took(0.001)
    assert pace.rows == imports.MOST_ROWS
    assert pace.longest == 10.0


def test_a_large_set_is_deleted_for_good_bit_by_bit_and_at_once_no_longer_there(api: Api):
    created = api.post("/datasets", 201, files=upload(content_of(3000)), data=FORM)
    engine, deleted = api.client.app.state.edge.engine, []

    @event.listens_for(engine, "after_cursor_execute")
    def count(_connection, cursor, statement, *_rest):
        if statement.startswith("DELETE FROM prompt_rows"):
            deleted.append(cursor.rowcount)

    api.call("DELETE", f"/datasets/{created['id']}", 204, params={"for_good": True})
    api.get(f"/datasets/{created['id']}", 404)
    assert api.get("/datasets", params={"deleted": True})["items"] == []
    again = api.post("/datasets", 201, files=upload(content_of(3000)), data=FORM)
    assert again["id"] != created["id"]
    api.client.app.state.edge.children.join()
    event.remove(engine, "after_cursor_execute", count)
    assert sum(deleted) == 6000
    assert max(deleted) <= imports.MOST_ROWS
    assert n_stored(api) == (1, 6000)


def test_a_set_that_is_being_imported_can_neither_be_used_nor_deleted(api: Api, engine):
    created = api.post("/datasets", 201, files=upload(content_of(3)), data=FORM)
    with imports.writing(engine) as session:
        session.get(t.Dataset, created["id"]).status = "running"
    api.call("DELETE", f"/datasets/{created['id']}", 409)
    seeding.add_model(engine)
    refused = api.post("/analyses", 409, json={"dataset_id": created["id"], "model": "tiny"})
    assert "still being imported" in refused["detail"]


def test_a_child_lives_no_longer_than_its_request(api: Api):
    edge = api.client.app.state.edge
    with children.ExitStack() as stack:
        child = edge.children.start({"verb": "preview", "files": []}, stack)
        with pytest.raises(RouteprintError, match="ended with status 1"):
            child.hear()
    assert child._process.poll() is not None


@pytest.mark.slow
def test_a_killed_backend_leaves_no_rows_and_says_so_after_its_restart(tmp_path):
    n = 30_001
    with Live(tmp_path / "home") as live:
        live.start_backend()
        answer = live.client.post("/datasets", files=upload(content_of(n)), data=FORM, timeout=300)
        assert answer.status_code == 202, answer.text
        id_ = answer.json()["id"]
        live.progress(f"datasets/{id_}", 1)
        live.kill("backend")
        live.start_backend()
        cut = live.get(f"datasets/{id_}")
        assert cut["status"] == "failed"
        assert "import the files again" in cut["error"]
        live.until(lambda: live.get(f"datasets/{id_}")["progress"]["done"] == 0)
        live.until(lambda: not live.get(f"datasets/{id_}/rows")["items"])
        assert not list((tmp_path / "home" / "scratch").glob("*"))
        answer = live.client.post("/datasets", files=upload(content_of(n)), data=FORM, timeout=300)
        assert answer.status_code == 202
        assert live.finished(f"datasets/{answer.json()['id']}")["progress"]["done"] == 2 * n
