"""What every table stands on: ids, times, and the columns that all long-running work has."""

import secrets
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import JSON, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backend.store.arrays import Array


def new_id(prefix: str) -> str:
    """Return a server-made id: a readable prefix and 48 random bits, as in `an_1f0c9a2b7d3e`."""
    return f"{prefix}_{secrets.token_hex(6)}"


def utcnow() -> str:
    """Return the present moment as ISO 8601 in UTC with microseconds (sorts as text)."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Base(DeclarativeBase):
    """Root of the tables. Times are ISO 8601 text in UTC; JSON is plain JSON on every database."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, NDArray[Any]: Array, NDArray[np.int64]: Array}  # noqa: RUF012 - SQLAlchemy's own declaration style


class Kept(Base):
    """Columns of what people list, search, rename, tag and delete.

    status: queued running succeeded failed cancelled.
    """

    __abstract__ = True

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    tags: Mapped[list[Any]] = mapped_column(JSON, default=list)
    notes: Mapped[str] = mapped_column(Text, default="")
    status: Mapped[str] = mapped_column(String(16), default="queued", index=True)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(String(40), default=utcnow, index=True)
    deleted_at: Mapped[str | None] = mapped_column(String(40))  # hidden since; it can be brought back
    purged: Mapped[bool] = mapped_column(default=False)  # deleted for good: it is being taken away, nobody finds it


class Run(Kept):
    """Columns that every long-running resource has."""

    __abstract__ = True

    stage: Mapped[str] = mapped_column(String(40), default="")  # what runs now, in words: "generating answers"
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    environment: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # versions, device, threads
    started_at: Mapped[str | None] = mapped_column(String(40))
    finished_at: Mapped[str | None] = mapped_column(String(40))
