"""Who may talk to the API: one token, known hosts, known origins, bounded bodies, few guesses. Deny by default.

The token guards against other users of the machine; the Host list against DNS rebinding; the Origin list against
other people's web pages. Not covered: transport encryption (put a reverse proxy in front), several users.
"""

import hmac
import ipaddress
import os
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.domain.errors import InvalidInput
from backend.errors import problem
from backend.limits import UNGUESSABLE, AtOnce, TooMany, WrongTokens
from backend.settings import Settings

OPEN_PATHS = frozenset({"/health", "/docs", "/openapi.json"})
"""The only addresses that answer without a token."""

UPLOAD_PATHS = frozenset({"/api/v1/datasets", "/api/v1/datasets/preview"})
MAX_UPLOAD_BYTES = 512 * 2**20
MAX_BODY_BYTES = 4 * 2**20
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


def read_token(settings: Settings) -> str:
    """Return the access token: the configured one, else the one in the token file, made on first use (mode 0600)."""
    if settings.token:
        return settings.token
    try:
        return settings.token_path.read_text().strip() or rotate_token(settings)
    except FileNotFoundError:
        return rotate_token(settings, only_if_missing=True)


def rotate_token(settings: Settings, *, only_if_missing: bool = False) -> str:
    """Write a new token, readable by its owner only, and return it. Two processes that start at once agree on one.

    Raises InvalidInput if the token comes from ROUTEPRINT_TOKEN, which only the environment can change.
    """
    if settings.token:
        raise InvalidInput("The token comes from ROUTEPRINT_TOKEN: change it there.")
    path = settings.token_path
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    token = secrets.token_urlsafe(32)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token + "\n")
    if not only_if_missing:
        fresh.replace(path)
        return token
    try:
        os.link(fresh, path)
    except FileExistsError:
        token = path.read_text().strip()
    finally:
        fresh.unlink()
    return token


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a server bound to this host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(settings: Settings) -> None:
    """Refuse to serve other machines before somebody has chosen a token. Raises InvalidInput that says how."""
    if is_loopback(settings.host) or settings.token or settings.token_path.exists():
        return
    raise InvalidInput(
        f"ROUTEPRINT_HOST={settings.host} would let other machines in, and there is no access token yet. Run "
        "`routeprint token` to make one, or set ROUTEPRINT_TOKEN; or leave ROUTEPRINT_HOST at 127.0.0.1 and reach it "
        "through an SSH tunnel."
    )


class _Token:
    """The current token; a rotated file counts from the next request on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._value = read_token(settings).encode()
        self._stamp = self._mtime()

    def _mtime(self) -> int:
        if self._settings.token:
            return 0
        try:
            return self._settings.token_path.stat().st_mtime_ns
        except OSError:
            return -1

    def fits(self, given: str) -> bool:
        """Compare in constant time."""
        stamp = self._mtime()
        if stamp not in (self._stamp, -1):
            self._value, self._stamp = read_token(self._settings).encode(), stamp
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._value)


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """Return the names under which this server may be addressed, without port."""
    named = {settings.host, urlsplit(settings.base_url).hostname or ""}
    return _LOCAL | {host.strip("[]").lower() for host in named if host not in ("", "0.0.0.0", "::")}  # noqa: S104 - compared, not bound


def allowed_origins(settings: Settings) -> frozenset[str]:
    """Return the web origins whose pages may call this server: its own and the dashboard's."""
    own = urlsplit(settings.base_url)
    origins = {f"{own.scheme}://{own.netloc}".lower()}
    for host in allowed_hosts(settings):
        shown = f"[{host}]" if ":" in host else host
        origins |= {f"http://{shown}:{port}" for port in (settings.port, settings.dashboard_port)}
    return frozenset(origins)


class Gate:
    """The outermost layer: host, origin, token and size, before any route is looked at."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._token = _Token(settings)
        self._hosts = allowed_hosts(settings)
        self._origins = allowed_origins(settings)
        self._wrong, self._at_once = WrongTokens(), AtOnce()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here. Web sockets are not served."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        headers = Headers(scope=scope)
        limit = MAX_UPLOAD_BYTES if scope["path"] in UPLOAD_PATHS else MAX_BODY_BYTES
        address = (scope.get("client") or ("",))[0]
        try:
            refusal = self._refusal(scope["path"], headers, limit, address)
            if refusal is None:
                with self._at_once.one(scope["method"], scope["path"]):
                    return await self.app(scope, _bounded(receive, limit), send)
        except TooMany as error:
            again = {"Retry-After": str(error.seconds)}
            return await problem(429, str(error), headers=again)(scope, receive, send)
        status, detail = refusal
        extra = {"WWW-Authenticate": "Bearer"} if status == 401 else None
        return await problem(status, detail, headers=extra)(scope, receive, send)

    def _refusal(self, path: str, headers: Headers, limit: int, address: str) -> tuple[int, str] | None:
        if _hostname(headers.get("host", "")) not in self._hosts:
            return 403, "This server does not answer under that host name; set ROUTEPRINT_API_URL to the one you use."
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in self._origins:
            return 403, "Pages of that origin may not call this server."
        if path not in OPEN_PATHS and not self._is_let_in(headers.get("authorization", ""), address):
            return 401, "Send the header `Authorization: Bearer <token>`; `routeprint token` prints the token."
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return 400, "The Content-Length header is not a number."
        if int(length[:20]) > limit:
            return 413, _too_large(limit)
        return None

    def _is_let_in(self, authorization: str, address: str) -> bool:
        """Tell whether the token is right, and count a wrong one. Raises TooMany while its address has to wait."""
        scheme, _, given = authorization.partition(" ")
        given = given.strip()
        if not given or scheme.lower() != "bearer":
            return False  # nothing was guessed
        is_long = len(given) >= UNGUESSABLE
        return self._wrong.is_let_in(address, given, lambda: self._token.fits(given), is_unguessable=is_long)


def _hostname(value: str) -> str:
    try:
        return (urlsplit(f"//{value}").hostname or "").lower()
    except ValueError:
        return ""


def _too_large(limit: int) -> str:
    return f"The request is larger than {limit // 2**20} MiB, the most this address takes. Split the file."


def _bounded(receive: Receive, limit: int) -> Receive:
    """Count the bytes of a body that did not say its length; stop reading above the limit."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413, _too_large(limit))
        return message

    return bounded
