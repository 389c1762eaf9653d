"""The dashboard's own server lends its token to nobody: hosts, origins, cookies, links that open once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from httpx import Response
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from backend.commands.entering import dashboard_link
from backend.limits import MOST_WRONG
from backend.settings import Settings
from dashboard import keys, login
from dashboard.__main__ import allowed_hosts, check_bind
from dashboard.gate import LOCAL_NAMES, Gate
from tests.dashboard.serving import dashboard

TOKEN = "a-token-that-nobody-guesses"
URL = "http://127.0.0.1:8322"
HTML = {"Accept": "text/html,*/*"}


async def _page(_request: object) -> PlainTextResponse:
    return PlainTextResponse("what only those who know the token may see")


async def _stream(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("secrets")


def behind_gate(token: str = TOKEN) -> TestClient:
    """Everything that Streamlit serves, as one page and one stream, behind the gate."""
    methods = ["GET", "POST", "PUT", "DELETE"]
    routes = [WebSocketRoute("/_stcore/stream", _stream), Route("/{rest:path}", _page, methods=methods)]
    gate = Middleware(Gate, token=token, hosts=LOCAL_NAMES, cookie="routeprint_8322")
    return TestClient(Starlette(routes=routes, middleware=[gate]), base_url=URL, follow_redirects=False)


@pytest.fixture
def stranger() -> Iterator[TestClient]:
    with behind_gate() as client:
        yield client


@pytest.fixture
def friend() -> Iterator[TestClient]:
    with behind_gate() as client:
        client.cookies.set("routeprint_8322", keys.cookie(TOKEN))
        yield client


def link() -> str:
    return dashboard_link(Settings(home=Path("unused"), token=TOKEN), TOKEN).removeprefix(URL)


@pytest.mark.parametrize(
    "path", ["/", "/batch?analysis=an_1", "/app/static/plotly.js", "/_stcore/host-config", "/media/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_nothing_is_served_to_a_stranger(stranger: TestClient, method: str, path: str) -> None:
    answer = stranger.request(method, path, headers=HTML)
    assert answer.status_code == 401
    assert "may see" not in answer.text


def test_only_the_health_address_answers_everybody(stranger: TestClient) -> None:
    assert stranger.get("/_stcore/health").status_code == 200


def test_the_stream_is_closed_to_a_stranger_and_to_pages_of_others(stranger: TestClient, friend: TestClient) -> None:
    stream_url = f"{URL.replace('http', 'ws')}/_stcore/stream"
    evil = "http://evil.example"
    for client, headers in [(stranger, {}), (friend, {"Origin": evil}), (friend, {"Host": "evil.example"})]:
        with pytest.raises(WebSocketDisconnect):
            client.websocket_connect(stream_url, headers=headers).__enter__()
    with friend.websocket_connect(stream_url, headers={"Origin": URL}) as stream:
        assert stream.receive_text() == "secrets"


def test_the_token_opens_the_address_that_was_asked_for(stranger: TestClient) -> None:
    page = stranger.get("/batch?analysis=an_1&batch=5", headers=HTML)
    assert 'value="/batch?analysis=an_1&amp;batch=5"' in page.text
    form = {"token": f" {TOKEN} ", "next": "/batch?analysis=an_1&batch=5"}
    answer = stranger.post("/open", data=form, headers={"Origin": URL})
    assert (answer.status_code, answer.headers["location"]) == (303, "/batch?analysis=an_1&batch=5")
    cookie = answer.headers["set-cookie"]
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=lax"} <= {part.strip() for part in cookie.split(";")}
    assert stranger.get("/").status_code == 200


@pytest.mark.parametrize(
    "given", ["", "wrong", TOKEN + "x", "é", TOKEN[:-1], "\ud800".encode("utf-8", "replace").decode()]
)
def test_a_wrong_token_opens_nothing(stranger: TestClient, given: str) -> None:
    answer = stranger.post("/open", data={"token": given, "next": "/"}, headers={"Origin": URL})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "where",
    ["//evil.example", "https://evil.example", "/\\evil.example", "", "javascript:alert(1)", "/a\r\nSet-Cookie: x=1"],
)
def test_nobody_is_sent_elsewhere_from_the_entry(stranger: TestClient, where: str) -> None:
    answer = stranger.post("/open", data={"token": TOKEN, "next": where}, headers={"Origin": URL})
    assert answer.headers["location"] == "/"
    assert urlsplit(answer.headers["location"]).netloc == ""


def test_the_page_shows_a_strangers_address_as_text(stranger: TestClient) -> None:
    page = stranger.get('/x?"><script>alert(1)</script>', headers=HTML)
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_printed_link_opens_once_and_leaves_the_address(stranger: TestClient) -> None:
    address = link()
    assert TOKEN not in address
    answer = stranger.get(address, headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert answer.headers["referrer-policy"] == "same-origin"
    assert stranger.get("/").status_code == 200
    assert stranger.get(address).status_code == 303, "who is in already is not bothered"
    stranger.cookies.clear()
    again = stranger.get(address, headers=HTML)
    assert again.status_code == 401
    assert "used before" in again.text
    assert "set-cookie" not in again.headers


def test_a_link_of_another_token_or_time_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    links = keys.Links(TOKEN)
    good = link().partition("key=")[2]
    assert not keys.Links("another").use(good)
    assert not links.use(good[:-1] + ("0" if good[-1] != "0" else "1"))
    assert not links.use("")
    assert not links.use("-".join(["x"] * 3))
    now = keys.time.time()
    monkeypatch.setattr(keys.time, "time", lambda: now + keys.LINK_SECONDS + 5)
    assert not links.use(good), "too old"
    later = keys.Links(TOKEN)
    monkeypatch.setattr(keys.time, "time", lambda: now)
    assert not later.use(good), "made before the process began: a restart does not bring used links back"


def test_a_cookie_ends_with_its_token_and_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    value = keys.cookie(TOKEN)
    until, _, signature = value.partition(".")
    assert keys.cookie_holds(TOKEN, value)
    for wrong in ("", ".", value + "0", f"{int(until) + 1}.{signature}", f"é.{signature}", f"{until}.é"):
        assert not keys.cookie_holds(TOKEN, wrong)
    assert not keys.cookie_holds("another", value)
    now = keys.time.time()
    monkeypatch.setattr(keys.time, "time", lambda: now + keys.COOKIE_SECONDS + 1)
    assert not keys.cookie_holds(TOKEN, value)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::", "127.0.0.1@evil.example"])
def test_another_host_name_is_refused_even_with_the_cookie(friend: TestClient, host: str) -> None:
    answer = friend.get("/", headers={"Host": host})
    assert answer.status_code == 403
    assert "ROUTEPRINT_DASHBOARD_URL" in answer.text


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8322"])
def test_pages_of_other_origins_may_not_call_the_dashboard(friend: TestClient, origin: str) -> None:
    answer = friend.put("/_stcore/upload_file/s/f", headers={"Origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


OPENED_BY = ("form", "link", "cookie")


def try_door(door: str, client: TestClient, value: str) -> Response:
    """Bring a value to one of the three doors that only the token opens: itself, the key of a link, a cookie."""
    if door == "form":
        return client.post("/open", data={"token": value, "next": "/"}, headers={"Origin": URL})
    if door == "link":
        return client.get("/open", params={"key": value}, headers=HTML)
    return client.get("/", headers=HTML | {"Cookie": f"routeprint_8322={value}"})


def key_for(door: str, token: str) -> str:
    made = {"form": token, "link": dashboard_link(Settings(home=Path("unused"), token=token), token)}
    return keys.cookie(token) if door == "cookie" else made[door].rpartition("=")[2]


DOORS = pytest.mark.parametrize("door", OPENED_BY)


@DOORS
def test_an_address_that_guesses_waits_before_every_door_and_others_do_not(door: str) -> None:
    short = "short-token"
    with behind_gate(short) as client:
        guesser, other = (TestClient(client.app, URL, client=(at, 1), follow_redirects=False) for at in "ab")
        assert {try_door(door, guesser, f"guess-{n}").status_code for n in range(MOST_WRONG)} == {401}
        for one in OPENED_BY:
            answer = try_door(one, guesser, key_for(one, short))
            assert answer.status_code == 429, "else it would only be hidden which guess was right"
            assert 0 < int(answer.headers["retry-after"]) <= 60
            assert "Try again in" in answer.text
            assert "set-cookie" not in answer.headers
        headers = {"Origin": URL, "Cookie": f"routeprint_8322={keys.cookie(short)}"}
        with pytest.raises(WebSocketDisconnect):
            guesser.websocket_connect("/_stcore/stream", headers=headers).__enter__()
        assert guesser.get("/", headers=HTML).status_code == 401, "the page itself is shown"
        assert guesser.get("/_stcore/health").status_code == 200
        assert try_door(door, other, key_for(door, short)).status_code in {200, 303}


@DOORS
def test_a_token_that_nobody_guesses_opens_while_its_address_waits(stranger: TestClient, door: str) -> None:
    said = [try_door(door, stranger, f"guess-{n}").status_code for n in range(MOST_WRONG + 1)]
    assert said == [401] * MOST_WRONG + [429]
    assert try_door(door, stranger, key_for(door, TOKEN)).status_code in {200, 303}


def test_an_open_page_with_the_cookie_of_an_old_token_is_one_guess(stranger: TestClient) -> None:
    old = keys.cookie("the token before")
    assert {try_door("cookie", stranger, old).status_code for _ in range(3 * MOST_WRONG)} == {401}
    assert try_door("form", stranger, "a first guess").status_code == 401


def test_nobody_says_himself_which_address_he_guesses_from(tmp_path: Path) -> None:
    with dashboard("http://127.0.0.1:1", tmp_path) as (url, _), httpx.Client(base_url=url, trust_env=False) as client:
        said = [
            client.post("/open", data={"token": f"guess-{n}"}, headers={"X-Forwarded-For": f"10.0.0.{n}"}).status_code
            for n in range(MOST_WRONG + 1)
        ]
    assert said == [401] * MOST_WRONG + [429]


def test_behind_tls_of_a_proxy_the_cookie_stays_there(stranger: TestClient) -> None:
    headers = {"Origin": URL, "X-Forwarded-Proto": "https"}
    answer = stranger.post("/open", data={"token": TOKEN, "next": "/"}, headers=headers)
    assert "Secure" in answer.headers["set-cookie"]


def test_a_form_larger_than_any_token_is_not_read(stranger: TestClient) -> None:
    assert stranger.post("/open", content=b"token=" + b"x" * 2**20, headers={"Origin": URL}).status_code == 401


def test_every_answer_forbids_frames_and_referrers(friend: TestClient) -> None:
    headers = friend.get("/").headers
    assert (headers["x-frame-options"], headers["referrer-policy"]) == ("DENY", "same-origin")


def test_a_dashboard_without_a_token_leaves_the_question_to_its_sessions() -> None:
    """It holds nothing to lend: the API asks each of them."""
    with behind_gate(token="") as client:
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 403


def test_the_name_it_was_given_is_allowed_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTEPRINT_DASHBOARD_HOST", "0.0.0.0")
    monkeypatch.setenv("ROUTEPRINT_DASHBOARD_URL", "https://moe.lab.example/dash")
    assert allowed_hosts() == LOCAL_NAMES | {"moe.lab.example"}


def test_another_address_without_a_token_is_refused_with_how_to_do_it_right() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROUTEPRINT_")}
    environment |= {"ROUTEPRINT_DASHBOARD_HOST": "0.0.0.0", "ROUTEPRINT_DASHBOARD_PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "dashboard"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "ROUTEPRINT_TOKEN" in done.stderr


def test_with_a_token_another_address_may_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTEPRINT_DASHBOARD_HOST", "0.0.0.0")
    monkeypatch.setenv("ROUTEPRINT_TOKEN", TOKEN)
    check_bind()


@pytest.mark.parametrize(
    ("user", "named", "may"),
    [
        ({"email": "Ada@lab.example", "email_verified": True}, {"ada@lab.example"}, True),
        ({"email": "ada@lab.example"}, {"@lab.example"}, True),
        ({"email": "ada@lab.example", "email_verified": False}, {"ada@lab.example"}, False),
        ({"email": "ada@lab.example", "email_verified": "false"}, {"@lab.example"}, False),
        ({"email": "ada@lab.example.evil.example"}, {"@lab.example"}, False),
        ({"email": "ada@lab.example"}, set(), False),
        ({}, {"ada@lab.example"}, False),
        ({"email": ""}, {"@"}, False),
        ({"email": "anybody@else.example"}, {"*"}, True),
    ],
)
def test_a_login_alone_lets_nobody_in_whom_the_operator_did_not_name(user: dict, named: set, may: bool) -> None:
    assert login.is_named(user, frozenset(named)) is may
