"""What runs of all kinds and prompt sets share in the store: found, listed, renamed, deleted softly, brought back."""

import json
from typing import Any, TypeVar

from sqlalchemy import Text, cast, or_, select, update
from sqlalchemy.orm import Session

from backend.domain.errors import Conflict, NotFound
from backend.domain.jobs import ACTIVE
from backend.store import tables as t
from backend.store import tags
from backend.store.paging import Key, Page, page

Kept = TypeVar("Kept", bound=t.Kept)
_NOUNS = {table: noun for noun, table in t.KEPT.items()}


def noun(table: type[t.Kept]) -> str:
    """Return the word for one of these; of runs, their kind of job."""
    return _NOUNS[table]


def get(session: Session, table: type[Kept], id_: str) -> Kept:
    """Return a run, deleted or not. Raises NotFound, also once its removal has begun (purging.py)."""
    run = session.get(table, id_)
    if run is None or run.purged:
        raise NotFound(noun(table), id_)
    return run


def get_live(session: Session, table: type[Kept], id_: str) -> Kept:
    """Return a run that is not deleted. Raises NotFound, Conflict."""
    run = get(session, table, id_)
    if run.deleted_at is not None:
        raise Conflict(f"The {noun(table)} {run.name!r} ({id_}) is deleted: undelete it first.")
    return run


def listing(
    session: Session,
    table: type[Kept],
    *,
    status: str | None,
    q: str | None,
    deleted: bool,
    after: Key | None,
    limit: int,
    tag: str | None = None,
    sort: str = "-created_at",
    **equal: str | None,
) -> Page[Kept]:
    """Return those of one status, with `q` in name, notes, tags or id, with this very tag and these column values.

    sort: a column of the table, with "-" before it from the largest down.
    """
    query = select(table).where(table.deleted_at.is_not(None) if deleted else table.deleted_at.is_(None))
    query = query.where(~table.purged)
    if status:
        query = query.where(table.status == status)
    if q:
        part = cast(table.tags, Text).icontains(json.dumps(q)[1:-1], autoescape=True)  # as JSON holds it
        named = (getattr(table, name).icontains(q, autoescape=True) for name in ("name", "notes", "id"))
        query = query.where(or_(part, *named))
    if tag is not None:
        query = query.where(tags.has(session, table, tag))
    for column, value in equal.items():
        if value is not None:
            query = query.where(getattr(table, column) == value)
    column = getattr(table, sort.removeprefix("-"))
    return page(session, query, (column, table.id), after, limit, newest_first=sort.startswith("-"))


def patch(session: Session, table: type[Kept], id_: str, changes: dict[str, Any]) -> Kept:
    """Change name, tags or notes."""
    run = get_live(session, table, id_)
    for name, value in changes.items():
        setattr(run, name, value)
    session.flush()
    return run


def remove(session: Session, table: type[Kept], id_: str) -> None:
    """Hide a run from listings; `restore` brings it back. Raises Conflict while it is queued or running."""
    run = get(session, table, id_)
    if run.status in ACTIVE:
        raise Conflict(f"The {noun(table)} {run.name!r} is {run.status}: cancel it first.")
    run.deleted_at = run.deleted_at or t.utcnow()
    session.flush()


def restore(session: Session, table: type[Kept], id_: str) -> Kept:
    """Bring a deleted run back. Does nothing to one that is not deleted. Raises NotFound once its removal has begun."""
    session.execute(update(table).where(table.id == id_, ~table.purged).values(deleted_at=None))
    run = get(session, table, id_)
    session.refresh(run)
    return run
