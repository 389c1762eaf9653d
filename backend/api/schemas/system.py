"""The installation over REST: database, queue, workers, versions."""

from typing import Literal

from backend.api.schemas.common import Answer


class HealthOut(Answer):
    """The server is up. Says nothing else to strangers."""

    status: Literal["ok"]
    version: str


class DatabaseOut(Answer):
    """The product's own tables. `sqlite_version` is null on PostgreSQL."""

    url_kind: Literal["sqlite", "postgresql"]
    size_bytes: int
    sqlite_version: str | None


class QueueOut(Answer):
    """Jobs that wait and jobs that run."""

    queued: int
    running: int


class WorkerOut(Answer):
    """One worker process by its heartbeat. `alive`: it was seen within the last 15 seconds.

    `memory_used_bytes`: of its GPU, by whatever runs there; on a CPU, of the worker and its engines. Null if unknown.
    """

    executor_id: str
    host: str
    pid: int
    device: str
    memory_bytes: int | None
    memory_used_bytes: int | None
    engines: list[str]
    model_loaded: str | None
    started_at: str
    last_seen: str
    alive: bool
    versions: dict[str, str]


class SystemOut(Answer):
    """The whole installation. `deleted_days`: how long what is deleted can be restored."""

    version: str
    database: DatabaseOut
    queue: QueueOut
    workers: list[WorkerOut]
    versions: dict[str, str]
    models_dir_scanned: int
    home_free_bytes: int
    deleted_days: float
