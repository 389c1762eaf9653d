"""Jobs over REST: the queue as a person sees it."""

from backend.api.schemas.common import Answer, Progress, Status


class JobOut(Answer):
    """One piece of queued work. `waiting_for` says in words what a queued job lacks."""

    id: str
    kind: str  # analysis, training, scan, ...
    subject_id: str
    subject_name: str
    status: Status
    priority: int  # the smaller, the sooner
    progress: Progress
    error: str | None
    executor_id: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    waiting_for: str | None


class LogLine(Answer):
    """One line of a job's log."""

    id: int
    at: str
    level: str
    message: str
