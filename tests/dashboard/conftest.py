"""A filled backdrop, and pages of the dashboard run by Streamlit's AppTest against it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.client import close_pools
from tests.dashboard.backdrop import TOKEN, Backdrop, fill, serve

APP = Path(__file__).parents[2] / "dashboard" / "app.py"
VIEWS = {"/": "overview", "/datasets": "datasets", "/analysis": "analysis", "/batch": "batch"}
VIEWS |= {"/training": "training", "/compare": "compare", "/jobs": "jobs"}
VIEWS |= {"/evaluation": "evaluations", "/study": "study"}

Open = Callable[..., AppTest]


@pytest.fixture(scope="session")
def backdrop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backdrop]:
    """The API with one of everything in it."""
    with serve(tmp_path_factory.mktemp("backdrop")) as running:
        yield running


@pytest.fixture(scope="session")
def ids(backdrop: Backdrop) -> dict[str, str]:
    """Ids of what the backdrop holds; tests must not change these things."""
    return fill(backdrop)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Backdrop]:
    """An API with nothing in it."""
    with serve(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ROUTEPRINT_API_URL", "http://127.0.0.1:9")  # nothing listens there: a test names its API
    monkeypatch.setenv("ROUTEPRINT_TOKEN", TOKEN)
    st.cache_data.clear()
    yield
    close_pools()


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return open_page(api_url, '/batch', analysis=..., batch=5): the page as a fresh session sees it."""

    def opened(api_url: str, path: str, **query: object) -> AppTest:
        monkeypatch.setenv("ROUTEPRINT_API_URL", api_url)
        at = AppTest.from_file(str(APP), default_timeout=30)
        at.run()
        if path != "/":
            at.switch_page(f"views/{VIEWS[path]}.py")
        for name, value in query.items():
            at.query_params[name] = str(value)
        at.run()
        assert not at.exception, at.exception
        return at

    return opened
