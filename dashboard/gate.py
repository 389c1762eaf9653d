"""Who may see the dashboard: known hosts, its own pages, and a cookie that only the access token can make.

The dashboard holds the API's token and would otherwise lend it to whoever reaches its port: other users of this
machine, or a page of theirs in your browser. Not covered: transport encryption (put a reverse proxy in front).
"""

from collections.abc import Callable
from html import escape
from string import Template
from urllib.parse import parse_qs, quote, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.limits import UNGUESSABLE, TooMany, WrongTokens
from dashboard import address, keys, login
from dashboard.assets import read

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_FORM_BYTES = 16 * 1024
# With "no-referrer" a browser sends `Origin: null` with our own form.
_HEADERS = {"Referrer-Policy": "same-origin", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff"}
_PAGE_MAY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


class Gate:
    """The outermost layer of the dashboard's server. Streamlit sees only what passes.

    token: what opens it; "" where the dashboard holds none, and every session is asked for its own. hosts: names under
    which it may be addressed. Where Streamlit's own login is configured, strangers may come as far as its page.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: frozenset[str], cookie: str) -> None:
        self.app = app
        self._token, self._hosts, self._cookie = token, hosts, cookie
        self._links = keys.Links(token)
        self._wrong = WrongTokens()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        asked = HTTPConnection(scope)
        answer: Response | None
        try:
            answer = self._refusal(asked)
            if scope["type"] == "websocket":
                if answer or not self._may_enter(asked):
                    return await send({"type": "websocket.close", "code": 1008})
                return await self.app(scope, receive, send)
            answer = answer or await self._answer(Request(scope, receive))
        except TooMany as error:
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            said = f"Too many wrong tokens came from your address. Try again in {error.seconds} seconds."
            answer = self._entry(_own(""), said)
            answer.status_code, answer.headers["Retry-After"] = 429, str(error.seconds)
        return await (answer or self.app)(scope, receive, _with_headers(send))

    def _refusal(self, asked: HTTPConnection) -> Response | None:
        """Refuse a name that this server does not have (DNS rebinding) and pages of others (cross-site requests)."""
        host = asked.headers.get("host", "")
        if _hostname(host) not in self._hosts:
            said = (
                "The dashboard does not answer under that host name; set ROUTEPRINT_DASHBOARD_URL to the one you use."
            )
            return PlainTextResponse(said, 403)
        origin = asked.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return PlainTextResponse("Pages of another origin may not call the dashboard.", 403)
        return None

    def _may_enter(self, asked: HTTPConnection) -> bool:
        return not self._token or login.is_configured() or self._knows(asked)

    def _knows(self, asked: HTTPConnection) -> bool:
        cookie = asked.cookies.get(self._cookie, "")
        return bool(cookie) and self._fits(asked, cookie, lambda: keys.cookie_holds(self._token, cookie))

    def _fits(self, asked: HTTPConnection, given: str, fits: Callable[[], bool]) -> bool:
        """Tell whether what a browser brings is right, and count it if it is not. Raises TooMany after many of them."""
        address, is_long = asked.client.host if asked.client else "", len(self._token) >= UNGUESSABLE
        return self._wrong.is_let_in(address, given, fits, is_unguessable=is_long)

    async def _answer(self, request: Request) -> Response | None:
        path = request.url.path.removeprefix(address.root())
        if path == "/_stcore/health":
            return None
        if path == "/open" and self._token:
            return await self._open(request)
        if self._may_enter(request):
            return None
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            query = f"?{request.url.query}" if request.url.query else ""
            return self._entry(request.url.path + query)
        return PlainTextResponse("Open the dashboard in a browser and enter the access token.", 401)

    async def _open(self, request: Request) -> Response:
        """Let a browser in that brings a link's key or the token; send it on, so that neither stays in the address."""
        if request.method == "POST":
            form = parse_qs((await _body(request)).decode("utf-8", "replace"))
            next_ = _own(form.get("next", [""])[0])
            token = form.get("token", [""])[0].strip()
            if token and self._fits(request, token, lambda: keys.is_token(self._token, token)):
                return self._welcome(request, next_)
            return self._entry(next_, "That is not the token.")
        next_ = _own(request.query_params.get("next", ""))
        key = request.query_params.get("key", "")
        if key and self._fits(request, key, lambda: self._links.use(key)):
            return self._welcome(request, next_)
        if self._knows(request):
            return RedirectResponse(next_, 303)
        return self._entry(next_, "That link was used before, or is too old." if key else "")

    def _welcome(self, request: Request, next_: str) -> Response:
        answer = RedirectResponse(next_, 303, {"Cache-Control": "no-store"})
        answer.set_cookie(
            self._cookie,
            keys.cookie(self._token),
            max_age=keys.COOKIE_SECONDS,
            path=f"{address.root()}/",
            secure="https" in (request.url.scheme, request.headers.get("x-forwarded-proto")),
            httponly=True,
            samesite="lax",
        )
        return answer

    def _entry(self, next_: str, wrong: str = "") -> Response:
        said = f'<p class="wrong" role="alert">{escape(wrong)}</p>' if wrong else ""
        page = Template(read("entry.html")).substitute(said=said, action=address.href("open"), next=escape(next_))
        return HTMLResponse(page, 401, {"Cache-Control": "no-store", "Content-Security-Policy": _PAGE_MAY})


def _own(wanted: str) -> str:
    """Return an address of this dashboard: whatever leads elsewhere becomes its front page."""
    ours = wanted.startswith(f"{address.root()}/") and not wanted.startswith("//") and "\\" not in wanted
    return quote(wanted, safe="/?&=%:+,-._~") if ours and wanted.isprintable() else f"{address.root()}/"


def _hostname(value: str) -> str:
    try:
        return (urlsplit(f"//{value}").hostname or "").lower()
    except ValueError:
        return ""


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            return b""
    return body


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
