"""Many workers on a real PostgreSQL: `make test-postgres`. Every test here carries the mark `postgres`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from backend.store.engine import make_engine, shared_engine
from backend.store.migrate import upgrade
from tests.postgres import Postgres


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("postgres")


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    """Return the URL of an empty database of our own."""
    url = postgres.database()
    yield url
    shared_engine(url).dispose()
    postgres.drop(url)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """Return an engine on a database with all tables."""
    upgrade(url)
    engine = make_engine(url)
    yield engine
    engine.dispose()
