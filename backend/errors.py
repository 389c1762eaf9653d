"""What goes wrong, as HTTP: one status per domain error, one body (RFC 9457 problem details) for all of them.

Never in a body: what the client sent (it may be a secret or half a prompt), tracebacks, file paths of this machine.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pydantic_core
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from backend.domain import errors as domain

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

TITLES = {
    400: "The request cannot be read",
    401: "Access token missing or wrong",
    403: "Not allowed from there",
    404: "Not found",
    405: "Method not allowed",
    409: "Not in this state",
    413: "Too large",
    422: "Invalid input",
    429: "Too many at once",
    500: "Internal error",
    503: "Try again shortly",
}

STATUS: Mapping[type[domain.RouteprintError], int] = {
    domain.NotFound: 404,
    domain.Conflict: 409,
    domain.NoTokens: 409,
    domain.ProvenanceBroken: 409,
    domain.NotSupported: 422,
    domain.InvalidInput: 422,
    domain.RouteprintError: 500,
}
"""The nearest class in an error's ancestry decides."""

Detail = dict[str, Any]


def status_of(error: domain.RouteprintError) -> int:
    """Return the HTTP status of a domain error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(
    status: int, detail: str, errors: Iterable[Detail] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """Return a problem response. errors: {"loc": [...], "msg": "..."} for each wrong field."""
    title = TITLES.get(status, "Request failed")
    slug = title.lower().replace(" ", "-")
    body = {
        "type": f"urn:routeprint:problem:{slug}",
        "title": title,
        "status": status,
        "detail": _printable(detail),
        "errors": [{"loc": [_printable(p) for p in e["loc"]], "msg": _printable(e["msg"])} for e in errors],
    }
    return Response(pydantic_core.to_json(body), status, headers, MEDIA_TYPE)


def _printable(value: Any) -> Any:
    """Return text without lone surrogates, which no JSON document may hold; numbers as they are."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _domain_errors(error: domain.RouteprintError) -> list[Detail]:
    if isinstance(error, domain.ImportRefused):
        return [
            {"loc": ["file", p.file, "row", p.row, *([p.column] if p.column else [])], "msg": p.message}
            for p in error.problems
        ]
    if isinstance(error, domain.InvalidInput):
        return [{"loc": list(error.loc), "msg": str(error)}]
    return []


async def on_domain_error(_request: Request, error: Exception) -> Response:
    """Answer an error that the product raised on purpose: its text is fit to show."""
    assert isinstance(error, domain.RouteprintError)
    return problem(status_of(error), str(error), _domain_errors(error))


async def on_validation_error(_request: Request, error: Exception) -> Response:
    """Answer fields that do not fit the schema, each with its place."""
    assert isinstance(error, RequestValidationError)
    errors = [{"loc": list(e["loc"]), "msg": e["msg"].removeprefix("Value error, ")} for e in error.errors()]
    first = ".".join(str(part) for part in errors[0]["loc"][1:]) if errors else ""
    return problem(422, f"{first}: {errors[0]['msg']}" if first else "The request does not fit the schema.", errors)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the web framework itself refuses: unknown addresses, wrong methods, unreadable bodies."""
    assert isinstance(error, HTTPException)
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
    detail = {
        404: "There is nothing at this address; see /docs for what there is.",
        405: "This address exists, but not with this method; see /docs.",
    }.get(error.status_code, str(error.detail))
    return problem(error.status_code, detail, headers=headers)


def _allowed(request: Request) -> str:
    """Return every method of an address; the router itself names only those of the first route that fits.

    An address that is spelled out in the document has its own methods alone, not those of a pattern that fits it too.
    """
    paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    here = request.url.path
    methods = [paths[here]] if here in paths else _fitting(paths, here)
    return ", ".join(sorted({verb.upper() for verbs in methods for verb in verbs})) or "GET"


def _fitting(paths: Mapping[str, dict[str, Any]], here: str) -> list[dict[str, Any]]:
    return [verbs for path, verbs in paths.items() if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", path), here)]


async def on_database_busy(request: Request, error: Exception) -> Response:
    """Answer a database that cannot be reached or stays locked: the client may try again."""
    log.error("database not available for %s %s: %s", request.method, request.url.path, error)
    return problem(503, "The database is busy or cannot be reached; nothing was changed.", headers={"Retry-After": "2"})


async def on_surprise(request: Request, error: Exception) -> Response:
    """Answer a bug: the server that runs this logs the traceback, the answer holds nothing of it."""
    log.error("unexpected error in %s %s: %s", request.method, request.url.path, type(error).__name__)
    request_id = str(getattr(request.state, "request_id", ""))  # this answer is given outside the layer that adds it
    headers = {"X-Request-ID": request_id} if request_id else None
    return problem(500, f"Something went wrong here; the server's log says what, at {request_id}.", headers=headers)


def install(app: FastAPI) -> None:
    """Make every error of this application a problem document."""
    app.add_exception_handler(domain.RouteprintError, on_domain_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(OperationalError, on_database_busy)
    app.add_exception_handler(Exception, on_surprise)
