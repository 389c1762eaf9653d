"""The database engine: SQLite by default (WAL, immediate writes), PostgreSQL by URL.

SQLite traps this file closes (measured): SQLAlchemy's default transactions lose updates of two processes without
an error, so writers begin with BEGIN IMMEDIATE; readers use plain BEGIN. `reading` never writes, `writing` is one
transaction that commits or leaves nothing. A server may go away and come back: `insist` waits for it.
"""

import logging
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from backend.domain.errors import NotSupported

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_SECONDS = 900.0
"""How long work that has begun waits for a database server that went away."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_AWAY = ("08", "40", "53", "57P")  # connection lost, rolled back for another, no room for one more, shut down
_CONNECT_SECONDS = 10
_IMMEDIATE = "routeprint_immediate"


def make_engine(url: str, cache_mb: int | None = None) -> Engine:
    """Create an engine with the pragmas and transaction rules that this product needs. Errors hold no parameters: those
    are prompts, and errors are logged.

    cache_mb: pages that SQLite keeps in memory for each connection; None: its own default, 2 MB.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return _server_engine(parsed)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"check_same_thread": False, "timeout": 30}, hide_parameters=True)

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


def _server_engine(url: URL) -> Engine:
    if url.get_backend_name() != "postgresql":
        raise NotSupported(f"{url.get_backend_name()!r} is no database for this product: SQLite or PostgreSQL.")
    try:
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={
                "connect_timeout": _CONNECT_SECONDS,
                "application_name": "routeprint",
                "client_encoding": "utf8",  # else text comes as bytes from a database that says SQL_ASCII
            },
        )
    except ModuleNotFoundError as error:
        raise NotSupported(
            f"PostgreSQL needs a driver that is not installed here ({error.name}): pip install 'routeprint[postgres]'."
        ) from None


_guards: list[Callable[[Session], None]] = []


def guard(check: Callable[[Session], None]) -> None:
    """Have every transaction that `writing` opens in this process checked before it lands; what is raised undoes it."""
    _guards.append(check)


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
        for check in _guards:
            check(session)


def is_away(error: BaseException) -> bool:
    """Tell whether the database server went away or could not be reached: the same work may go well later.

    So it may where SQLite's file stayed locked, by a process that was frozen in the middle of a transaction say.
    """
    if not isinstance(error, DBAPIError):
        return False
    if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
        return True
    state = getattr(error.orig, "sqlstate", "")  # SQLite's errors have none
    unreached = isinstance(error, OperationalError) and (state is None or state.startswith(_AWAY))
    return error.connection_invalidated or unreached


_FULL = ("database or disk is full", "no space left on device", "disk quota exceeded")
"""What SQLite, the system and libraries say that hide its error number."""


def is_full(error: BaseException) -> bool:
    """Tell whether a disk is full: nothing is wrong with the work, and it goes on when there is space."""
    return any(words in str(error).lower() for words in _FULL)


Opening = Callable[[Engine], AbstractContextManager[Session]]


def insist(
    engine: Engine, work: Callable[[Session], T], opening: Opening = writing, seconds: float = PATIENCE_SECONDS
) -> T:
    """Do `work` in one transaction; where the server goes away, once more when it is back. It may run twice.

    opening: `writing` or `reading`. Raises the last error if the server stays away for so many seconds.
    """
    begun, pause = time.monotonic(), _FIRST_PAUSE
    while True:
        try:
            with opening(engine) as session:
                return work(session)
        except DBAPIError as error:
            if not is_away(error) or time.monotonic() - begun > seconds:
                raise
            said = str(error.orig).partition("\n")[0]
            log.warning("the database is away, trying again in %.1f s: %s", pause, said)
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - a thousand workers must not come back at once
        pause = min(2 * pause, _LONGEST_PAUSE)


def wait_for(engine: Engine, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until the database answers."""
    insist(engine, lambda session: session.execute(text("SELECT 1")), reading, seconds)
