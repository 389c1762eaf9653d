"""What happens to every request, refused ones too: an id, a place in the metrics, a line in the log.

The id comes from `X-Request-ID` if that looks like one, and goes back in the same header. Addresses count by their
template and without their query: neither metrics nor logs hold what somebody searched for.
"""

import logging
import re
import secrets
import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend import logs

log = logging.getLogger("routeprint.requests")

PREFIX = "/api/v1"
REQUEST_ID = "X-Request-ID"
_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_UNKNOWN = "unmatched"


class HttpMetrics:
    """Requests to this process, by route template."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "routeprint_http_requests", "Answered requests.", ("method", "route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "routeprint_http_request_seconds",
            "Time until an answer begins.",
            ("method", "route"),
            registry=registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
        )


class Seen:
    """The outermost layer, around the gate."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, and note how it went."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id = id_of(Headers(scope=scope).get(REQUEST_ID))
        scope.setdefault("state", {})["request_id"] = request_id
        started, answered = time.monotonic(), False

        async def seen(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
                self._note(scope, message["status"], time.monotonic() - started)
            await send(message)

        with logs.about(request_id=request_id):
            try:
                await self.app(scope, receive, seen)
            except Exception:
                if not answered:
                    self._note(scope, 500, time.monotonic() - started)
                raise

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = template_of(scope)
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
        quiet = method in ("GET", "HEAD") and status < 400
        beside = logs.facts(method=method, route=route, status=status, seconds=round(seconds, 4))
        log.log(logging.DEBUG if quiet else logging.INFO, "answered", extra=beside)


def id_of(given: str | None) -> str:
    """Return the id a client gave its request, if it looks like one; else a new one."""
    return given if given and _SANE.fullmatch(given) else f"req_{secrets.token_hex(8)}"


def template_of(scope: Scope) -> str:
    """Return the address as the router knows it, as in /api/v1/jobs/{job_id}; never what a client made up."""
    route = scope.get("route")
    if route is None:
        return _UNKNOWN
    prefix = PREFIX if scope["path"].startswith(f"{PREFIX}/") else ""  # a route knows its router's prefix alone
    return prefix + str(route.path)
