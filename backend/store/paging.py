"""Pages of a listing: keyset cursors, so that a page stays right while rows are added.

Text is ordered by its code points on every database: PostgreSQL would order it in the language of its server.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, String, collate, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

T = TypeVar("T")
Key = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items, and the key after which the next page starts (None: there is none)."""

    items: list[T]
    next_key: Key | None


def page(
    session: Session,
    query: Select[T],
    columns: tuple[InstrumentedAttribute[Any], ...],
    after: Key | None,
    limit: int,
    *,
    newest_first: bool = False,
) -> Page[T]:
    """Return `limit` rows in the order of `columns`, which together must be unique, after the key `after`."""
    keys = [_by_code_points(session, column) for column in columns]
    if after is not None:
        here = tuple_(*keys)
        query = query.where(here < after if newest_first else here > after)
    order = [key.desc() for key in keys] if newest_first else keys
    rows = list(session.scalars(query.order_by(*order).limit(limit + 1)))
    if len(rows) <= limit:
        return Page(rows, None)
    last = rows[limit - 1]
    return Page(rows[:limit], tuple(getattr(last, column.key) for column in columns))


def _by_code_points(session: Session, column: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    """Return a column as it is ordered by. Times need no care, and their index serves the listing as it is."""
    needed = isinstance(column.type, String) and column.key != "created_at"
    return collate(column, "C") if needed and session.get_bind().dialect.name == "postgresql" else column.expression


def slice_page(rows: Sequence[T], after: Key | None, limit: int) -> Page[T]:
    """Page through a list that is made on the spot; the key is a position."""
    start = int(after[0]) if after else 0
    stop = start + limit
    return Page(list(rows[start:stop]), (stop,) if stop < len(rows) else None)
