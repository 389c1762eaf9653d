"""The application: every route behind one gate, every error a problem document, the tables and the queue ready."""

import asyncio
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool

from backend import errors
from backend.api import (
    analyses,
    batches,
    comparisons,
    contexts,
    control_trainings,
    datasets,
    docs,
    evaluations,
    expert_imports,
    experts,
    exports,
    jobs,
    load,
    metrics,
    models,
    reports,
    risk,
    risk_tables,
    routings,
    side_by_side,
    statistics,
    studies,
    system,
    tags,
    trained_batches,
    trainings,
)
from backend.api.edge import Edge
from backend.api.importing import purge_later
from backend.api.seen import PREFIX, HttpMetrics, Seen
from backend.queue import SWEEP_AFTER_SECONDS, JobQueue, sweep
from backend.retention import PURGE_EVERY_SECONDS, purge
from backend.security import Gate, check_bind
from backend.settings import Settings
from backend.store import imports
from backend.store.engine import shared_engine
from backend.store.migrate import upgrade

log = logging.getLogger(__name__)

DESCRIPTION = """Measure which experts of a Mixture-of-Experts model fire on unsafe prompts, train only those, and trace
every training step to the batch it came from.

Send `Authorization: Bearer <token>` with every request but this page; `routeprint token` prints the token."""

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_NOUNS = (
    system,
    metrics,
    datasets,
    models,
    analyses,
    batches,
    risk,
    reports,
    statistics,
    load,
    contexts,
    exports,
    experts,
    expert_imports,
    risk_tables,
    routings,
    comparisons,
    side_by_side,
    trainings,
    trained_batches,
    evaluations,
    control_trainings,
    studies,
    tags,
    jobs,
)


def create_app(settings: Settings) -> FastAPI:
    """Build the API on these settings: brings the database to its newest schema, makes the token on first use.

    Raises InvalidInput if the settings would let other machines in without a token.
    """
    check_bind(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    upgrade(settings.tables_url)
    edge = Edge(settings, shared_engine(settings.tables_url), JobQueue(settings.queue_url))
    app = FastAPI(
        title="Routeprint",
        version=system.VERSION,
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        form_limits={"max_files": 100, "max_fields": 300, "max_part_size": 2**20},
    )
    app.state.edge = edge
    app.state.registry = metrics.registry_of(edge)
    errors.install(app)
    app.include_router(system.health_router)
    app.include_router(docs.router)
    api = APIRouter(prefix=PREFIX)
    for noun in _NOUNS:
        api.include_router(noun.router)
    app.include_router(api)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(Seen, metrics=HttpMetrics(app.state.registry))
    _complete_document(app)
    return app


def _complete_document(app: FastAPI) -> None:
    """Say in the OpenAPI document what routes do not say themselves: the gate's token, and errors' media type."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = generate()
        schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}]
        schema["paths"]["/health"]["get"]["security"] = []
        for answer in _answers(schema):
            content = answer.get("content", {})
            if content.get("application/json", {}).get("schema") == _PROBLEM:
                content[errors.MEDIA_TYPE] = content.pop("application/json")
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _answers(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for verbs in schema["paths"].values():
        for operation in verbs.values():
            yield from operation["responses"].values()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    edge: Edge = app.state.edge
    await run_in_threadpool(_tidy, edge)
    sweepers = [asyncio.create_task(forever(edge)) for forever in (_sweep_forever, _purge_forever)]
    try:
        yield
    finally:
        for sweeper in sweepers:
            sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await sweeper
        await run_in_threadpool(edge.children.stop)
        edge.queue.close()


def _tidy(edge: Edge) -> None:
    """Undo what an earlier process left half done, and queue what it did not get to queue."""
    shutil.rmtree(edge.scratch, ignore_errors=True)
    for name in imports.fail_unfinished(edge.engine):
        log.warning("the import of %r was cut off, and its rows are removed: import it again", name)
    purge_later(edge, list(imports.to_purge(edge.engine)))
    sweep(edge.engine, edge.queue, older_than_seconds=0)


async def _sweep_forever(edge: Edge) -> None:
    while True:
        await asyncio.sleep(3 * SWEEP_AFTER_SECONDS)
        try:
            await run_in_threadpool(sweep, edge.engine, edge.queue)
        except Exception:
            log.exception("the sweep failed; it will be tried again")


async def _purge_forever(edge: Edge) -> None:
    """Remove for good what was deleted long ago, in a thread that ends at the next chance when this process does."""

    def work() -> None:
        for one in purge(edge.settings, edge.engine, edge.queue.forget, stopped=lambda: edge.children.is_stopping):
            log.info("removed for good: %s %s, %d bytes", one.run.kind, one.run.id, one.rows + one.files)

    thread: threading.Thread | None = None
    while True:
        if thread is None or not thread.is_alive():
            thread = edge.children.later(work)
        await asyncio.sleep(PURGE_EVERY_SECONDS)
