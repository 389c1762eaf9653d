"""Few guesses for each address, few uploads and event streams at once; who is refused is told when to come back."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from backend import __main__ as backend_main
from backend import limits
from backend.api.app import create_app
from backend.limits import MOST_AT_ONCE, MOST_WRONG, WINDOW_SECONDS, WrongTokens
from backend.security import Gate
from backend.settings import Settings
from tests.backend.api.conftest import TOKEN

SYSTEM = "/api/v1/system"
SHORT = "short-token"


def as_from(client: TestClient, address: str) -> TestClient:
    return TestClient(client.app, base_url="http://127.0.0.1:8321", client=(address, 1))


def get(client: TestClient, token: str) -> Any:
    return client.get(SYSTEM, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def short(settings: Settings) -> Iterator[TestClient]:
    app = create_app(settings.model_copy(update={"token": SHORT}))
    with TestClient(app, base_url="http://127.0.0.1:8321", headers={"Authorization": f"Bearer {SHORT}"}) as client:
        yield client


def test_after_some_wrong_tokens_an_address_waits_and_the_right_one_elsewhere_does_not(short: TestClient):
    guesser, other = as_from(short, "10.0.0.1"), as_from(short, "10.0.0.2")
    assert [get(guesser, f"guess-{n}").status_code for n in range(MOST_WRONG)] == [401] * MOST_WRONG
    answer = get(guesser, SHORT)  # else the limit would only hide which guess was right
    assert (answer.status_code, answer.headers["content-type"]) == (429, "application/problem+json")
    assert 0 < int(answer.headers["retry-after"]) <= WINDOW_SECONDS
    assert answer.json()["title"] == "Too many at once"
    assert get(other, SHORT).status_code == 200
    assert get(other, "wrong").status_code == 401
    assert guesser.get("/health").status_code == 200


def test_a_long_token_is_let_in_from_an_address_that_waits(client: TestClient):
    guesser = as_from(client, "10.0.0.1")
    said = [get(guesser, f"{n:040d}").status_code for n in range(MOST_WRONG + 2)]
    assert said == [401] * MOST_WRONG + [429, 429]
    assert get(guesser, TOKEN).status_code == 200


def test_nobody_says_himself_which_address_he_comes_from(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    served: list[uvicorn.Config] = []
    monkeypatch.setattr(backend_main, "get_settings", lambda: settings)
    monkeypatch.setattr(backend_main.logs, "configure", lambda *_: None)
    monkeypatch.setattr(backend_main.logs, "adopt", lambda *_: None)
    monkeypatch.setattr(uvicorn, "run", lambda app, **words: served.append(uvicorn.Config(app, **words)))
    backend_main.main()
    served[0].load()
    local = TestClient(served[0].loaded_app, base_url="http://127.0.0.1:8321", client=("127.0.0.1", 1))
    for n in range(MOST_WRONG + 1):
        words = {"Authorization": f"Bearer guess-{n}", "X-Forwarded-For": f"10.0.0.{n}"}
        said = local.get(SYSTEM, headers=words).status_code
    assert said == 429


def test_an_ipv4_address_on_a_socket_of_both_kinds_is_an_address_of_its_own():
    wrong = WrongTokens()
    for n in range(MOST_WRONG):
        wrong.add("::ffff:10.0.0.1", f"guess-{n}")
    assert wrong.wait("::ffff:10.0.0.1", "another") > 0
    assert wrong.wait("10.0.0.1", "another") > 0
    assert (wrong.wait("::ffff:10.0.0.2", "another"), wrong.wait("::1", "another")) == (0, 0)


def test_a_program_that_goes_on_with_an_old_token_locks_nobody_out_and_is_told_401_for_ever(short: TestClient):
    local = as_from(short, "127.0.0.1")
    assert {get(local, "old-token").status_code for _ in range(3 * MOST_WRONG)} == {401}
    assert get(local, SHORT).status_code == 200
    said = [get(local, f"guess-{n}").status_code for n in range(MOST_WRONG)]
    assert said == [401] * (MOST_WRONG - 1) + [429]
    assert get(local, "old-token").status_code == 401


def test_requests_without_a_token_are_no_guesses(short: TestClient):
    stranger = as_from(short, "10.0.0.1")
    for header in ("", "Bearer", "Bearer ", "Basic abc") * MOST_WRONG:
        assert stranger.get(SYSTEM, headers={"Authorization": header}).status_code == 401
    assert get(stranger, SHORT).status_code == 200


def test_right_tokens_are_never_counted(short: TestClient):
    assert {get(short, SHORT).status_code for _ in range(2 * MOST_WRONG)} == {200}


@given(st.lists(st.tuples(st.floats(0, 40), st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"]))))
def test_nobody_tries_more_than_so_often_in_a_window_and_nobody_waits_longer_than_one(steps):
    now = 0.0
    wrong = WrongTokens(lambda: now)
    tried: dict[str, list[float]] = {}
    for n, (pause, address) in enumerate(steps):
        now += pause / 10
        network = address.rpartition("::")[0] or address
        seconds = wrong.wait(address, f"guess-{n}")
        assert 0 <= seconds <= WINDOW_SECONDS
        if seconds == 0:
            wrong.add(address, f"guess-{n}")
            tried.setdefault(network, []).append(now)
        assert seconds == 0 or len(tried[network]) >= MOST_WRONG
    for times in tried.values():
        for first, last in zip(times, times[2 * MOST_WRONG :], strict=False):
            assert last - first >= WINDOW_SECONDS  # at most twice the number in any window, at its edges


def test_the_memory_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "MOST_ADDRESSES", 50)
    wrong = WrongTokens()
    for n in range(500):
        wrong.add(f"10.0.{n // 250}.{n % 250}", "wrong")
    assert len(wrong._seen) == 50


@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [
        ("uploads", "POST", "/api/v1/datasets"),
        ("uploads", "POST", "/api/v1/datasets/preview"),
        ("event streams", "GET", "/api/v1/jobs/job_1/events"),
    ],
)
def test_so_many_go_on_at_once_and_the_next_is_told_to_come_back(settings: Settings, kind: str, method: str, path: str):
    async def tried() -> None:
        go_on = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await go_on.wait()
            if scope["path"] == path and scope["query_string"] == b"broken":
                raise ConnectionError
            await send({"type": "http.response.start", "status": 200, "headers": []})

        gate = Gate(app, settings)

        async def ask(where: str = path, query: bytes = b"") -> tuple[int, dict[bytes, bytes]]:
            said: list[Any] = []

            async def send(message: Any) -> None:
                said.append(message)

            headers = [(b"host", b"127.0.0.1"), (b"authorization", b"Bearer " + TOKEN.encode())]
            scope = {"type": "http", "method": method, "path": where, "headers": headers, "query_string": query}
            await gate(scope, None, send)  # type: ignore[arg-type]
            return said[0]["status"], dict(said[0]["headers"])

        running = [asyncio.create_task(ask(query=b"broken" if n % 2 else b"")) for n in range(MOST_AT_ONCE[kind])]
        await asyncio.sleep(0)
        status, headers = await ask()
        assert (status, headers[b"retry-after"]) == (429, b"2")
        elsewhere = asyncio.create_task(ask("/api/v1/system"))  # what is not counted is not refused
        go_on.set()
        ended = await asyncio.gather(*running, return_exceptions=True)
        assert {type(one) for one in ended} == {tuple, ConnectionError}
        assert (await elsewhere)[0] == 200
        assert (await ask())[0] == 200  # those that ended, well or not, gave their places back

    asyncio.run(tried())


def test_the_document_says_429_and_when_to_come_back(client: TestClient):
    for path, verbs in client.get("/openapi.json").json()["paths"].items():
        for operation in verbs.values():
            if path != "/health":
                assert "Retry-After" in operation["responses"]["429"]["headers"], path
                assert "application/problem+json" in operation["responses"]["429"]["content"], path
