"""Queued work and who does it: jobs, their logs and how long they took, workers, first answers to requests."""

from typing import Any

from sqlalchemy import BigInteger, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.domain.jobs import PRIORITY
from backend.store.schema.base import Base, utcnow


class Job(Base):
    """One piece of queued work. id is the workflow id in the queue; the resource it serves is `subject_id`."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_kind_status", "kind", "status"),)

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))  # a key of RUNS, or scan
    subject_id: Mapped[str] = mapped_column(String(40), index=True)
    status: Mapped[str] = mapped_column(String(16), default="queued", index=True)
    priority: Mapped[int] = mapped_column(default=PRIORITY, server_default=str(PRIORITY))  # smaller goes first
    error: Mapped[str | None] = mapped_column(Text)
    executor_id: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[str] = mapped_column(String(40), default=utcnow)
    started_at: Mapped[str | None] = mapped_column(String(40))
    finished_at: Mapped[str | None] = mapped_column(String(40))


class Attempt(Base):
    """How often a piece of queued work was begun at the same place: what ends its worker each time ends it for good."""

    __tablename__ = "attempts"

    work: Mapped[str] = mapped_column(String(100), primary_key=True)  # a shard or a run of one stage, by its name
    mark: Mapped[str] = mapped_column(String(80))  # what was done when it was begun last
    n: Mapped[int]
    token: Mapped[str] = mapped_column(String(40), server_default="")  # of the beginning that may write


class Tally(Base):
    """How long pieces of work took, counted as they land: what metrics sum, whoever did it and whatever is deleted."""

    __tablename__ = "tallies"

    subject_id: Mapped[str] = mapped_column(String(40), primary_key=True)  # the run that the pieces belong to
    what: Mapped[str] = mapped_column(String(20), primary_key=True)  # a key of tallies.BUCKETS
    bucket: Mapped[int] = mapped_column(primary_key=True)  # position among the bounds of tallies.BUCKETS
    n: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    tokens: Mapped[int] = mapped_column(BigInteger)


class JobLog(Base):
    """A line of a job's log."""

    __tablename__ = "job_logs"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(String(80), index=True)
    at: Mapped[str] = mapped_column(String(40), default=utcnow)
    level: Mapped[str] = mapped_column(String(10))
    message: Mapped[str] = mapped_column(Text)


class Worker(Base):
    """The heartbeat of one worker process."""

    __tablename__ = "workers"

    executor_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    host: Mapped[str] = mapped_column(String(200))
    pid: Mapped[int]
    device: Mapped[str] = mapped_column(String(200))
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    memory_used_bytes: Mapped[int | None] = mapped_column(BigInteger)  # of the GPU; on a CPU, by the worker itself
    engines: Mapped[list[Any]]
    model_loaded: Mapped[str | None] = mapped_column(String(300))
    versions: Mapped[dict[str, Any]]
    started_at: Mapped[str] = mapped_column(String(40), default=utcnow)
    last_seen: Mapped[str] = mapped_column(String(40), default=utcnow)


class IdempotencyKey(Base):
    """The first answer to a POST that carried an Idempotency-Key."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    route: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    status_code: Mapped[int]
    response: Mapped[dict[str, Any]]
    created_at: Mapped[str] = mapped_column(String(40), default=utcnow)
