"""Requests of strangers, sent to every route of the API and to the dashboard's own server: none is let in."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from backend import limits
from backend.api.app import create_app
from backend.security import OPEN_PATHS
from tests.backend import seeding
from tests.backend.api.conftest import TOKEN
from tests.backend.api.test_gate import addresses
from tests.dashboard.test_dashboard_gate import HTML, OPENED_BY, URL, behind_gate, key_for, try_door

NUMBERS = {"{batch_idx}": "0", "{layer}": "0", "{expert}": "0", "{step}": "1", "{n}": "0"}
WRONG = [
    "Bearer",
    "Bearer wrong",
    f"Basic {TOKEN}",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}",
    f"Bearer {TOKEN} {TOKEN}",
]
HOSTS = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1@evil.example", "", "[::"]
ORIGINS = ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost.evil.example"]
UPWARDS = [
    "../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "/etc/passwd",
    "..\\..\\etc\\passwd",
    "....//....//etc/passwd",
    "%252e%252e%252fetc%252fpasswd",
    "file:///etc/passwd",
]


def routes(client: TestClient) -> list[tuple[str, str]]:
    """Every method and address that asks for a token, numbers and ids filled in."""
    found = []
    for method, path in addresses(client):
        address = path
        for name, value in NUMBERS.items():
            address = address.replace(name, value)
        if path not in OPEN_PATHS:
            found.append((method, re.sub(r"\{(\w+)\}", r"\1", address)))
    assert len(found) > 40
    return found


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every guess is looked at here, instead of refused for coming too soon after the others."""
    monkeypatch.setattr(limits, "MOST_WRONG", 10**9)


def test_no_route_answers_without_the_token(attack, client: TestClient) -> None:
    case = attack("no token, on every route", "each route and method of the API without an Authorization header")
    for method, address in routes(client):
        case.attempt(client.request(method, address, headers={"Authorization": ""}).status_code != 401)
    assert case.zeros


def test_no_route_answers_to_a_wrong_token(attack, client: TestClient) -> None:
    case = attack("wrong token, on every route", f"{len(WRONG)} near misses: another scheme, one letter more or less")
    for method, address in routes(client):
        for given in WRONG:
            case.attempt(client.request(method, address, headers={"Authorization": given}).status_code != 401)
    assert case.zeros


@pytest.mark.parametrize(
    ("header", "values", "name"),
    [("Host", HOSTS, "foreign Host, on every route"), ("Origin", ORIGINS, "foreign Origin, on every route")],
    ids=["host", "origin"],
)
def test_no_route_answers_to_a_foreign_page(attack, client: TestClient, header: str, values: Any, name: str) -> None:
    case = attack(name, f"each route with the right token and {len(values)} values of {header} that are not ours")
    for method, address in routes(client):
        for value in values:
            answer = client.request(method, address, headers={header: value})
            case.attempt(answer.status_code != 403 or "access-control-allow-origin" in answer.headers)
    assert case.zeros


def test_no_job_is_begun_without_the_token(attack, api, client: TestClient, engine) -> None:
    case = attack(
        "job submitted without the token",
        "every route that starts work, with a body that is right, then counted",
    )
    seeding.add_model(engine)
    dataset = api.dataset(4)["id"]
    analysis = api.analysis(dataset)
    seeding.measure(engine, analysis["id"])
    before = api.get("/jobs")["items"]
    bodies = {
        "/analyses": {"dataset_id": dataset, "model": "tiny", "batch_size": 4},
        "/trainings": {"analysis_id": analysis["id"], "mode": "full"},
        "/evaluations": {"model": "tiny", "dataset_id": dataset, "intervention": "none"},
        f"/analyses/{analysis['id']}/statistics": {},
        f"/analyses/{analysis['id']}/context": {},
        "/models/scan": {},
    }
    for path, body in bodies.items():
        for given in ("", *WRONG):
            headers = {"Authorization": given, "Idempotency-Key": f"{path}{given}"[:60]}
            answer = client.post(f"/api/v1{path}", json=body, headers=headers)
            case.attempt(answer.status_code != 401)
    case.let_in += len(api.get("/jobs")["items"]) - len(before)
    assert case.zeros
    assert client.post("/api/v1/analyses", json=bodies["/analyses"]).status_code == 202, "these bodies are right"


def test_no_name_leads_out_of_its_folder(attack, api, client: TestClient, engine, settings) -> None:
    case = attack(
        "path traversal in ids, names, artifacts",
        f"{len(UPWARDS)} paths in every id of every address, in names of files, models and sets",
    )
    secret = settings.home.parent / "secret"
    secret.write_text("root:canary")
    seeding.add_model(engine)
    for method, address in addresses(client):
        if "{" not in address:
            continue
        for upwards in UPWARDS:
            filled = re.sub(r"\{\w+\}", upwards.replace("\\", "\\\\"), address)
            answer = client.request(method, filled)
            case.attempt(answer.is_success or "root:" in answer.text)
    before = sorted(p for p in settings.home.parent.rglob("*") if p.is_file())
    rows = seeding.jsonl(seeding.prompt_rows(4))
    for upwards in UPWARDS:
        files = {"file": (upwards + ".jsonl", rows)}
        client.post("/api/v1/datasets", files=files, data={"name": upwards, "label_meaning": "harmless_harmful"})
        answer = client.post("/api/v1/analyses", json={"dataset_id": upwards, "model": upwards})
        case.attempt(answer.is_success)
    new = [p for p in settings.home.parent.rglob("*") if p.is_file() and p not in before]
    case.let_in += len([p for p in new if not p.is_relative_to(settings.home)])
    assert case.zeros


@pytest.fixture
def stranger() -> Iterator[TestClient]:
    with behind_gate() as client:
        yield client


def test_the_dashboard_shows_nothing_without_the_token(attack, stranger: TestClient) -> None:
    case = attack(
        "dashboard without the token",
        "its pages, files, uploads and stream, by every method; wrong tokens at its entry; foreign pages",
    )
    for path in (
        "/",
        "/batch?analysis=an_1",
        "/app/static/plotly.js",
        "/_stcore/host-config",
        "/media/x",
        "//",
        "/../",
    ):
        for method in ("GET", "POST", "PUT", "DELETE"):
            answer = stranger.request(method, path, headers=HTML)
            case.attempt(answer.status_code != 401 or "may see" in answer.text)
    for given in ("", "wrong", TOKEN, "é", "0" * 5000):
        answer = stranger.post("/open", data={"token": given, "next": "/"}, headers={"Origin": URL})
        case.attempt(answer.status_code != 401 or "set-cookie" in answer.headers)
    for origin in ({}, {"Origin": URL}, {"Origin": "http://evil.example"}):
        try:
            with stranger.websocket_connect(f"{URL.replace('http', 'ws')}/_stcore/stream", headers=origin) as stream:
                case.attempt(bool(stream.receive_text()))
        except WebSocketDisconnect:
            case.attempt(False)
    assert case.zeros


def test_a_short_token_is_not_found_by_trying(attack, settings, monkeypatch: pytest.MonkeyPatch) -> None:
    case = attack(
        "a short token guessed",
        "200 tries within a minute at each of four doors (the API; token, cookie and link of the dashboard), the right "
        "one in their middle: 20 are looked at, and nothing tells which one was right",
    )
    monkeypatch.setattr(limits, "MOST_WRONG", 20)
    short, n_tries = "short-token", 200

    def at_the_api(client: TestClient, given: str) -> Any:
        return client.get("/api/v1/system", headers={"Authorization": f"Bearer {given}"})

    with TestClient(create_app(settings.model_copy(update={"token": short})), URL) as api:
        doors = [(at_the_api, api, short)]
        doors += [(partial(try_door, door), behind_gate(short), key_for(door, short)) for door in OPENED_BY]
        for knock, client, right in doors:
            assert knock(client, right).status_code in {200, 303}, "it opens"
            client.cookies.clear()
            said = [knock(client, right if n == n_tries // 2 else f"guess-{n}").status_code for n in range(n_tries)]
            for n, status in enumerate(said):
                case.attempt(status != (401 if n < 20 else 429))
    assert case.zeros


def test_what_a_stranger_is_told_holds_nothing(attack, client: TestClient, tmp_path: Path) -> None:
    case = attack(
        "errors that say too much",
        "answers to broken requests, searched for the token, paths of this machine and tracebacks",
    )
    for method, address in routes(client):
        for content in (b"{", b"\xff", json.dumps({"dataset_id": TOKEN}).encode(), b"[" * 2000):
            answer = client.request(method, address, content=content, headers={"Content-Type": "application/json"})
            said = answer.text if answer.status_code >= 400 else ""
            case.attempt(TOKEN in said or str(tmp_path) in said or "Traceback" in said or answer.status_code >= 500)
    assert case.zeros
