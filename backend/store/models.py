"""Models that a worker has scanned, as the API reads them."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.domain.errors import Conflict, NotSupported
from backend.store import tables as t
from backend.store.paging import Key, Page, page


def listing(session: Session, after: Key | None, limit: int) -> Page[t.Model]:
    """Return scanned models by id."""
    return page(session, select(t.Model), (t.Model.id,), after, limit)


def count(session: Session) -> int:
    """Return how many models are known."""
    return session.scalar(select(func.count()).select_from(t.Model)) or 0


def usable(session: Session, model_id: str, engine: str) -> t.Model:
    """Return a model that can be measured with this engine.

    Raises Conflict for a model nobody has scanned or whose training is deleted, NotSupported for one that was scanned
    and cannot be used.
    """
    model = session.get(t.Model, model_id)
    if model is None:
        raise Conflict(
            f"The model {model_id!r} is not scanned yet. Put it into the models folder, scan (POST "
            "/api/v1/models/scan) while a worker is running, and look at GET /api/v1/models for the names."
        )
    training = session.get(t.Training, model_id.removeprefix("training:"))
    if training is not None and training.deleted_at is not None:
        raise Conflict(f"The training {training.name!r} ({training.id}) is deleted: undelete it first.")
    if not model.supported:
        raise NotSupported(f"{model.architecture} is not supported: {model.reason}")
    if engine not in model.engines:
        raise NotSupported(
            f"{model.architecture} cannot be measured with the engine {engine!r} here; it can with: "
            f"{', '.join(model.engines) or 'none'}. "
            f"No worker that has {engine!r} has scanned it and found it able to."
        )
    return model
