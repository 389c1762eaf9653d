"""What tests of several rooms share: no deadlines, a real Chromium, a real PostgreSQL."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.postgres import Postgres, postgres_or_skip

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# No setting of whoever runs the tests may lead them to his database or his token; what is for the tests itself stays.
for _name in list(os.environ):
    if _name.startswith("ROUTEPRINT_") and not _name.startswith("ROUTEPRINT_TEST_"):
        del os.environ[_name]

with suppress(ModuleNotFoundError):  # the environment of the vLLM tests has no Hypothesis
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
    settings.load_profile("untimed")

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--on-postgres", action="store_true", help="the API's and the store's tests, on PostgreSQL")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Return a running PostgreSQL server of our own."""
    yield from postgres_or_skip()


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Return a running Chromium. `make test-browser` says what is missing where there is none."""
    from playwright.sync_api import sync_playwright  # the environment of the vLLM tests has no Playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()
