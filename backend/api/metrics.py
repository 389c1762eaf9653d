"""Metrics in Prometheus' text format: what this process answered, and what the tables say of everything else.

What the tables say outlives restarts and is the same whoever of several workers did it. It is read at most every few
seconds, however often and by however many it is asked for.
"""

import logging
import shutil
import threading
import time
from collections.abc import Iterator

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session

from backend.api.edge import PROBLEMS, Edge
from backend.api.system import VERSION, database_of
from backend.domain.jobs import QUEUES
from backend.store import fleet, jobs, tallies
from backend.store import tables as t

log = logging.getLogger(__name__)
router = APIRouter(prefix="/metrics", tags=["system"], responses=PROBLEMS)

FRESH_SECONDS = 5.0
_TEXT = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format."}}


@router.get("", response_class=Response, responses=_TEXT)  # type: ignore[arg-type]  # FastAPI's own, wider type
def get_metrics(request: Request) -> Response:
    """Return queue depth, jobs, failures, batch and step times, tokens, workers, memory and requests for Prometheus."""
    registry: CollectorRegistry = request.app.state.registry
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"Content-Type": content_type, "Cache-Control": "no-store"})


def registry_of(edge: Edge) -> CollectorRegistry:
    """Return a registry of this application's own; several may live in one process."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(TableMetrics(edge))
    return registry


class TableMetrics(Collector):
    """What the tables and the queue say, a few seconds old at most."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._lock = threading.Lock()
        self._known: list[Metric] = []
        self._until = 0.0

    def describe(self) -> list[Metric]:
        """Nothing is read when the registry is made: the database may not be there yet."""
        return []

    def collect(self) -> list[Metric]:
        """Return every metric. Raises what the database raises: a scrape that knows nothing must fail."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._known = [*_of_tables(self._edge), _depths(self._edge)]
                self._until = time.monotonic() + FRESH_SECONDS
            return self._known


def _of_tables(edge: Edge) -> Iterator[Metric]:
    with edge.reading() as session:
        yield InfoMetricFamily("routeprint", "What is installed.", {"version": VERSION})
        yield from _jobs(session)
        yield from _times(session)
        yield from _workers(session)
        size = database_of(edge, session).size_bytes
    yield GaugeMetricFamily("routeprint_database_bytes", "Size of the tables' database.", value=size)
    free = shutil.disk_usage(edge.settings.home).free
    yield GaugeMetricFamily("routeprint_home_free_bytes", "Room left where the data lies.", value=free)


def _jobs(session: Session) -> Iterator[Metric]:
    found = jobs.counts_by_kind(session)
    now = GaugeMetricFamily("routeprint_jobs", "Jobs by kind and status.", labels=("kind", "status"))
    failed = CounterMetricFamily("routeprint_job_failures", "Jobs that failed.", labels=("kind",))
    for kind in (*t.RUNS, "scan"):
        for status in ("queued", "running", "succeeded", "failed", "cancelled"):
            now.add_metric((kind, status), found.get((kind, status), 0))
        failed.add_metric((kind,), found.get((kind, "failed"), 0))
    yield from (now, failed)


def _times(session: Session) -> Iterator[Metric]:
    names = {
        tallies.BATCH: ("routeprint_batch_seconds", "Measuring one batch.", "routeprint_measured_tokens"),
        tallies.STEP: ("routeprint_training_step_seconds", "One optimizer step.", "routeprint_trained_tokens"),
    }
    for what, found in tallies.sums(session).items():
        name, text, tokens = names[what]
        yield HistogramMetricFamily(name, text, buckets=_buckets(what, found), sum_value=found.seconds)
        yield CounterMetricFamily(tokens, "Tokens of prompts measured, of answers learnt.", value=found.tokens)


def _buckets(what: str, found: tallies.Sum) -> list[tuple[str, float]]:
    """Return (upper bound, pieces up to it), as Prometheus adds buckets up."""
    total, pairs = 0, []
    for bound, n in zip(tallies.BUCKETS[what], found.counts, strict=True):
        total += n
        pairs.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
    return pairs


def _workers(session: Session) -> Iterator[Metric]:
    alive = fleet.alive(session)
    yield GaugeMetricFamily("routeprint_workers_alive", "Workers with a fresh heartbeat.", value=len(alive))
    for name, text, column in (
        ("routeprint_worker_memory_bytes", "Memory of a worker's device.", "memory_bytes"),
        ("routeprint_worker_memory_used_bytes", "Memory in use there.", "memory_used_bytes"),
    ):
        family = GaugeMetricFamily(name, text, labels=("worker", "device"))
        for worker in alive:
            if (value := getattr(worker, column)) is not None:
                family.add_metric((worker.executor_id, worker.device), value)
        yield family


def _depths(edge: Edge) -> Metric:
    """Pieces of work in each queue; none where the queue is out of reach: no reason to hide the rest."""
    family = GaugeMetricFamily("routeprint_queue_depth", "Work in each queue.", labels=("queue", "state"))
    try:
        found = edge.queue.depths()
    except Exception:
        log.exception("the queue could not be asked how long it is")
        return family
    for queue in QUEUES:
        for state in ("waiting", "running"):
            family.add_metric((queue, state), found[queue, state])
    return family
