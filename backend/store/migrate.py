"""Brings a database to the newest schema, under a lock that two starting processes cannot both hold.

Make a new revision after a change of the tables (schema/): `python -m backend.store.migrate "what changed"`.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alembic import command
from alembic.config import Config
from filelock import FileLock
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from backend.domain.errors import NotSupported, Unreachable
from backend.store.engine import make_engine, shared_engine, wait_for

START_SECONDS = 60.0
"""How long a service that starts waits for a database server that starts too."""
_ADVISORY_LOCK = 0x526F757465  # "Route"


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def upgrade(url: str) -> None:
    """Create or upgrade the tables at this URL. Safe to call from every process at its start.

    Raises Unreachable, and NotSupported for a database that cannot hold all text.
    """
    engine = shared_engine(url)
    reach(engine)
    check_encoding(engine)
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    lock: Any = FileLock(f"{file}.migrate.lock") if file and file != ":memory:" else nullcontext()
    with lock, engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            connection.commit()
        command.upgrade(_config(connection), "head")
        connection.commit()
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
            connection.commit()


def reach(engine: Engine, seconds: float = START_SECONDS) -> None:
    """Wait until the database answers. Raises Unreachable with what it says, and what to look at."""
    try:
        wait_for(engine, seconds)
    except DBAPIError as error:
        url = engine.url
        raise Unreachable(
            f"The database {url.database!r} at {url.host or 'its socket'}:{url.port or 5432} does not answer: "
            f"{str(error.orig).strip()}. Is the server up, does the database exist, and are user and password in "
            "ROUTEPRINT_DATABASE_URL and ROUTEPRINT_JOBS_URL right?"
        ) from None


def check_encoding(engine: Engine) -> None:
    """Raise NotSupported for a PostgreSQL database that is not in UTF-8: prompts come in every script."""
    if engine.dialect.name != "postgresql":
        return
    with engine.connect() as connection:
        found = connection.scalar(text("SHOW server_encoding"))
    if found != "UTF8":
        name = engine.url.database
        raise NotSupported(
            f"The database {name!r} holds text in {found}, and prompts come in every script. Make one in UTF-8: "
            f"createdb --template=template0 --encoding=UTF8 {name}."
        )


def revise(message: str) -> None:
    """Write a new revision: what schema/ says against what the migrations so far make of an empty database."""
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/schema.sqlite3"
        upgrade(url)
        number = 1 + len(list((Path(__file__).parent / "migrations" / "versions").glob("*.py")))
        with make_engine(url).connect() as connection:
            command.revision(_config(connection), message, autogenerate=True, rev_id=f"{number:04d}")


if __name__ == "__main__":
    revise(sys.argv[1])
