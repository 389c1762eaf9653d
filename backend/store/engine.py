"""The database engine: SQLite by default (WAL, immediate writes), PostgreSQL by URL.

SQLite traps this file closes (measured): SQLAlchemy's default transactions lose updates of two processes without
an error, so writers begin with BEGIN IMMEDIATE; readers use plain BEGIN. `reading` never writes, `writing` is one
transaction that commits or leaves nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.orm import Session

_IMMEDIATE = "routeprint_immediate"


def make_engine(url: str, cache_mb: int | None = None) -> Engine:
    """Create an engine with the pragmas and transaction rules that this product needs.

    cache_mb: pages that SQLite keeps in memory for each connection; None: its own default, 2 MB.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True, future=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"check_same_thread": False, "timeout": 30})

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "busy_timeout=30000", "foreign_keys=ON", "synchronous=FULL"):
            cursor.execute(f"PRAGMA {pragma}")
        if cache_mb is not None:
            cursor.execute(f"PRAGMA cache_size={-1024 * cache_mb}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        immediate = connection.get_execution_options().get(_IMMEDIATE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


@lru_cache(maxsize=8)
def shared_engine(url: str) -> Engine:
    """Return one engine per URL and process."""
    return make_engine(url)


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """Open a session for reads only; whatever it changed is rolled back, what it read stays usable afterwards."""
    with Session(engine, expire_on_commit=False) as session:
        yield session
        session.expunge_all()
        session.rollback()


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """Open a session whose changes land together when the block ends, or not at all."""
    bound = engine.execution_options(**{_IMMEDIATE: True})
    with Session(bound, expire_on_commit=False) as session, session.begin():
        yield session
