import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from backend.api.app import create_app
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store.engine import make_engine, shared_engine
from backend.store.migrate import upgrade
from tests.backend.api.calls import Api
from tests.postgres import Postgres

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose databases are at their newest schema: copying it is faster than making it."""
    home = tmp_path_factory.mktemp("empty") / "home"
    create_app(Settings(home=home, token=TOKEN)).state.edge.queue.close()
    return home


@pytest.fixture(scope="session")
def empty_database(postgres: Postgres) -> str:
    """The name of a PostgreSQL database with the tables and the queue at their newest schema."""
    url = postgres.database()
    upgrade(url)
    shared_engine(url).dispose()
    JobQueue(url).close()
    return url.rsplit("/", 1)[1]


@pytest.fixture
def settings(tmp_path: Path, empty_home: Path, request: pytest.FixtureRequest) -> Iterator[Settings]:
    shutil.copytree(empty_home, tmp_path / "home")
    if not request.config.getoption("--on-postgres"):
        yield Settings(home=tmp_path / "home", token=TOKEN)
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.database(request.getfixturevalue("empty_database"))
    yield Settings(home=tmp_path / "home", token=TOKEN, database_url=url, jobs_url=url)
    shared_engine(url).dispose()
    server.drop(url)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    app = create_app(settings)
    with TestClient(app, base_url="http://127.0.0.1:8321", headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client


@pytest.fixture
def api(client: TestClient) -> Api:
    return Api(client)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings.tables_url)
    yield engine
    engine.dispose()
