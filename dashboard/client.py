"""The only HTTP code of the dashboard: REST calls, and what went wrong with them.

Not covered: caching (see data.py) and how an error is shown (see ui.py).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import httpx

PREFIX = "/api/v1"
Json = dict[str, Any]


class ApiError(Exception):
    """Root of what a call can raise: ApiDown, TokenNeeded, ApiRefused."""


class ApiDown(ApiError):
    """Nobody answers at the API's address (or not in time)."""

    def __init__(self, base_url: str, reason: str) -> None:
        super().__init__(f"no answer from {base_url}: {reason}")
        self.base_url, self.reason = base_url, reason


class TokenNeeded(ApiError):
    """The API wants an access token; `sent` says whether a (wrong) one was sent."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("the API refused the access token" if sent else "the API asks for an access token")
        self.sent = sent


class ApiRefused(ApiError):
    """Problem details (RFC 9457) of an answer that is not a success."""

    def __init__(self, status: int, title: str, detail: str, errors: Sequence[Json] = ()) -> None:
        super().__init__(detail or title)
        self.status, self.title, self.detail, self.errors = status, title, detail or title, tuple(errors)

    def for_field(self, name: str) -> str | None:
        """Return the message about one field of the request, if there is one."""
        return next((str(e.get("msg", "")) for e in self.errors if name in map(str, e.get("loc", ()))), None)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on its way to the API. content: bytes, or a file to read them from; key: tells one file from another."""

    filename: str
    content: bytes | IO[bytes]
    key: str = ""


_pools: dict[str, httpx.Client] = {}


def _pool(base_url: str) -> httpx.Client:
    """Return one connection pool per address for the whole process. Proxies of the environment are not used."""
    if base_url not in _pools:
        made = httpx.Client(base_url=base_url, timeout=httpx.Timeout(30.0, connect=3.0), trust_env=False)
        if _pools.setdefault(base_url, made) is not made:  # another session's thread was faster
            made.close()
    return _pools[base_url]


def close_pools() -> None:
    """Close every connection of this process; a later call opens new ones."""
    while _pools:
        _pools.popitem()[1].close()


def address() -> str:
    """Return where the API is, from ROUTEPRINT_API_URL."""
    return (os.environ.get("ROUTEPRINT_API_URL") or "http://127.0.0.1:8321").rstrip("/")


@dataclass(frozen=True, slots=True)
class Api:
    """One caller: an address and a token. Hashable, so that it can key a cache."""

    base_url: str
    token: str

    @classmethod
    def from_environment(cls, token: str | None = None) -> "Api":
        """Return the API of ROUTEPRINT_API_URL, with `token` or else ROUTEPRINT_TOKEN."""
        return cls(address(), token or os.environ.get("ROUTEPRINT_TOKEN", ""))

    def get(self, path: str, **params: object) -> Any:
        """GET JSON. Parameters that are None are left out."""
        return self._call("GET", path, params=params).json()

    def items(self, path: str, *, most: int = 5000, **params: object) -> Iterator[Json]:
        """Yield the items of a list, page after page, at most `most`."""
        cursor, given = None, 0
        while given < most:
            page = self.get(path, **params, limit=min(500, most - given), cursor=cursor)
            yield from page["items"]
            given += len(page["items"])
            cursor = page.get("next_cursor")
            if not cursor or not page["items"]:
                return

    def download(self, path: str, **params: object) -> bytes:
        """GET a file."""
        return self._call("GET", path, params=params, timeout=600).content

    def post(self, path: str, body: object = None, *, key: str | None = None, **params: object) -> Any:
        """POST JSON; `key` is the Idempotency-Key, which makes a repeated click harmless."""
        headers = {"Idempotency-Key": key} if key else {}
        answer = self._call("POST", path, json=body, params=params, headers=headers, timeout=120)
        return answer.json() if answer.content else {}

    def send_files(
        self,
        path: str,
        field: str,
        files: Sequence[Upload],
        data: Mapping[str, str | list[str]] | None = None,
        **params: object,
    ) -> Any:
        """POST files as multipart, with form fields beside them."""
        parts = [(field, (f.filename, f.content)) for f in files]
        return self._call("POST", path, files=parts, data=dict(data or {}), params=params, timeout=600).json()

    def patch(self, path: str, body: object) -> Any:
        """PATCH JSON."""
        return self._call("PATCH", path, json=body).json()

    def delete(self, path: str, **params: object) -> None:
        """DELETE a resource."""
        self._call("DELETE", path, params=params)

    def is_up(self) -> bool:
        """Return whether /health answers; needs no token."""
        try:
            return _pool(self.base_url).get("/health", timeout=2.0).is_success
        except httpx.HTTPError:
            return False

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> httpx.Response:
        asked = {k: as_sent(v) for k, v in (params or {}).items() if v is not None}
        sent = dict(headers or {}) | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        try:
            answer = _pool(self.base_url).request(method, PREFIX + path, params=asked, headers=sent, **more)
        except httpx.HTTPError as error:
            raise ApiDown(self.base_url, str(error) or type(error).__name__) from error
        if answer.is_success:
            return answer
        if answer.status_code == 401:
            raise TokenNeeded(sent=bool(self.token))
        raise _refused(answer)


def as_sent(value: object) -> str | list[str]:
    """Return a parameter as the API reads it; a list is sent once for each of its values."""
    if isinstance(value, (list, tuple)):
        return [str(one) for one in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refused(answer: httpx.Response) -> ApiRefused:
    """Read problem details; an answer that has none (a proxy's page) is told by its status."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {}
    title = str(body.get("title") or answer.reason_phrase or "Refused")
    return ApiRefused(answer.status_code, title, str(body.get("detail") or ""), body.get("errors") or ())
