"""What all kinds of runs share in the store: found, listed, renamed, deleted softly and brought back."""

import json
from typing import Any, TypeVar

from sqlalchemy import Text, cast, or_, select
from sqlalchemy.orm import Session

from backend.domain.errors import Conflict, NotFound
from backend.domain.jobs import ACTIVE
from backend.store import tables as t
from backend.store.paging import Key, Page, page

Run = TypeVar("Run", bound=t.Run)


def noun(table: type[t.Run]) -> str:
    """Return the word for one of these: its kind of job."""
    return next(kind for kind, own in t.RUNS.items() if own is table)


def get(session: Session, table: type[Run], id_: str) -> Run:
    """Return a run, deleted or not. Raises NotFound."""
    run = session.get(table, id_)
    if run is None:
        raise NotFound(noun(table), id_)
    return run


def get_live(session: Session, table: type[Run], id_: str) -> Run:
    """Return a run that is not deleted. Raises NotFound, Conflict."""
    run = get(session, table, id_)
    if run.deleted_at is not None:
        raise Conflict(f"The {noun(table)} {run.name!r} ({id_}) is deleted: undelete it first.")
    return run


def listing(
    session: Session,
    table: type[Run],
    *,
    status: str | None,
    q: str | None,
    deleted: bool,
    after: Key | None,
    limit: int,
    sort: str = "-created_at",
    **equal: str | None,
) -> Page[Run]:
    """Return runs: of one status, with `q` in name, notes, tags or id, with these column values.

    sort: a column of the table, with "-" before it from the largest down.
    """
    query = select(table).where(table.deleted_at.is_not(None) if deleted else table.deleted_at.is_(None))
    if status:
        query = query.where(table.status == status)
    if q:
        tagged = cast(table.tags, Text).icontains(json.dumps(q)[1:-1], autoescape=True)  # as JSON holds it
        named = (getattr(table, name).icontains(q, autoescape=True) for name in ("name", "notes", "id"))
        query = query.where(or_(tagged, *named))
    for column, value in equal.items():
        if value is not None:
            query = query.where(getattr(table, column) == value)
    column = getattr(table, sort.removeprefix("-"))
    return page(session, query, (column, table.id), after, limit, newest_first=sort.startswith("-"))


def patch(session: Session, table: type[Run], id_: str, changes: dict[str, Any]) -> Run:
    """Change name, tags or notes."""
    run = get_live(session, table, id_)
    for name, value in changes.items():
        setattr(run, name, value)
    session.flush()
    return run


def remove(session: Session, table: type[Run], id_: str) -> None:
    """Hide a run from listings; `restore` brings it back. Raises Conflict while it is queued or running."""
    run = get(session, table, id_)
    if run.status in ACTIVE:
        raise Conflict(f"The {noun(table)} {run.name!r} is {run.status}: cancel it first.")
    run.deleted_at = run.deleted_at or t.utcnow()
    session.flush()


def restore(session: Session, table: type[Run], id_: str) -> Run:
    """Bring a deleted run back. Does nothing to one that is not deleted."""
    run = get(session, table, id_)
    run.deleted_at = None
    session.flush()
    return run
