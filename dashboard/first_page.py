"""Streamlit's first page, in which the dashboard also says where its server is.

Streamlit's browser part does not know at /analysis?id=… how deep its server lies, so it first asks below that address,
which answers 404 twice and costs a round trip. Said in the page, nothing is asked in vain. The same page lets the
browser fetch plotly.js, and the parts of Streamlit that our pages use, while Streamlit still starts.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.address import root
from dashboard.plot import library
from dashboard.shelf import parts

MARK = b"</head>"


def head() -> bytes:
    """Return what goes into the page's head, after Streamlit's own: the server's address, and what to fetch early."""
    there = f"<script>window.__streamlit={{BACKEND_BASE_URL:location.origin+'{root()}/'}}</script>"
    early = [library(), *(root() + path for path in parts())]
    return (there + "".join(f'<link rel="modulepreload" href="{path}">' for path in early)).encode()


class FirstPage:
    """Writes `head()` into every page of HTML."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; anything that is not a page passes through as it is."""
        if scope["type"] != "http" or not _wants_page(scope):
            await self.app(scope, receive, send)
            return
        plain = {b"accept-encoding", b"if-none-match", b"if-modified-since", b"range"}  # else there is no page to write
        asked = dict(scope) | {"headers": [(k, v) for k, v in scope["headers"] if k.lower() not in plain]}
        await self.app(asked, receive, _Writer(send).send)


def _wants_page(scope: Scope) -> bool:
    headers = {key.lower(): value for key, value in scope["headers"]}
    return scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b"")


class _Writer:
    """Holds a page back until it is whole, then sends it with our lines in its head."""

    def __init__(self, send: Send) -> None:
        self._send, self._body = send, b""
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        """Take one message of the answer."""
        if message["type"] == "http.response.start" and _is_page(message):
            self._start = message
        elif self._start is None or message["type"] != "http.response.body":
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._finish(self._start)

    async def _finish(self, start: Message) -> None:
        body = self._body.replace(MARK, head() + MARK, 1)
        kept = [(k, v) for k, v in start["headers"] if k.lower() not in (b"content-length", b"etag", b"last-modified")]
        length = (b"content-length", str(len(body)).encode())
        await self._send({**start, "headers": [*kept, length]})
        await self._send({"type": "http.response.body", "body": body})


def _is_page(message: Message) -> bool:
    return any(k.lower() == b"content-type" and v.startswith(b"text/html") for k, v in message["headers"])
