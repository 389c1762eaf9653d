"""What a run will take, over REST."""

from backend.api.schemas.common import Answer


class RangeOut(Answer):
    """From low to high."""

    low: float
    high: float


class EstimateOut(Answer):
    """A range of seconds from finished runs here, and of memory from the model's size; null where nothing tells.

    basis: what the seconds stand on. worker_bytes: memory of the largest running worker.
    """

    seconds: RangeOut | None
    memory_bytes: RangeOut | None
    n_past: int
    basis: str
    worker_bytes: int | None
