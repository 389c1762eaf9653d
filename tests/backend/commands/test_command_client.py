"""The REST client of the command line, against a small real HTTP server."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from backend.commands.client import ApiError, Client, JobFailed, subject_path


class _Api(BaseHTTPRequestHandler):
    """Answers what the tests ask for; `states` are the successive answers for one resource."""

    states: list[dict[str, Any]] = []  # noqa: RUF012 - set by each test

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/api/v1/models":
            return self._answer(200, self._page(parse_qs(parts.query).get("cursor", ["0"])[0]))
        if parts.path == "/api/v1/analyses/an_1":
            return self._answer(200, self.states.pop(0))
        if parts.path == "/api/v1/export":
            return self._break_off()
        if self.headers["Authorization"] != "Bearer sesame":
            return self._answer(401, {"title": "Unauthorized", "detail": "Send the token."})
        errors = [{"loc": ["file", "a.csv", "row", 3], "msg": "the prompt is empty"}]
        return self._answer(422, {"title": "Unprocessable", "detail": "1 problem", "errors": errors})

    def _page(self, cursor: str) -> dict[str, Any]:
        start = int(cursor)
        return {"items": [{"id": start}, {"id": start + 1}], "next_cursor": str(start + 2) if start < 4 else None}

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _break_off(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Api) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_list_is_walked_through_all_its_pages(url: str) -> None:
    with Client(url, "sesame") as api:
        assert [item["id"] for item in api.items("models")] == [0, 1, 2, 3, 4, 5]


def test_a_refusal_is_told_in_the_words_of_the_api_with_every_place(url: str) -> None:
    with Client(url, "sesame") as api, pytest.raises(ApiError) as refused:
        api.get("datasets")
    assert str(refused.value) == "1 problem\n  file a.csv row 3: the prompt is empty"
    assert refused.value.status == 422


def test_a_wrong_token_is_told_as_such(url: str) -> None:
    with Client(url, "wrong") as api, pytest.raises(ApiError, match="Send the token"):
        api.get("datasets")


def test_waiting_tells_every_state_and_returns_the_last(url: str) -> None:
    _Api.states = [{"status": "queued"}, {"status": "running", "progress": {"done": 1}}, {"status": "succeeded"}]
    seen: list[str] = []
    with Client(url, "sesame") as api:
        last = api.wait("analyses/an_1", lambda state: seen.append(state["status"]))
    assert (seen, last) == (["queued", "running", "succeeded"], {"status": "succeeded"})


def test_waiting_for_work_that_fails_raises_with_its_reason(url: str) -> None:
    _Api.states = [{"status": "failed", "error": "batch 5, sample 3: other token ids"}]
    with Client(url, "sesame") as api, pytest.raises(JobFailed, match="an_1 failed: batch 5, sample 3"):
        api.wait("analyses/an_1", lambda _: None)


def test_a_download_that_breaks_off_leaves_no_file(url: str, tmp_path: Path) -> None:
    with Client(url, "sesame") as api, pytest.raises(ApiError, match="broke off"):
        api.download("export", tmp_path / "bundle.pkl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("id_", "path"),
    [("an_1f0c9a2b7d3e", "analyses/an_1f0c9a2b7d3e"), ("tr_9", "trainings/tr_9"), ("st_4", "statistics/st_4")],
)
def test_an_id_tells_its_noun(id_: str, path: str) -> None:
    assert subject_path(id_) == path
