"""The whole login by OpenID Connect in a real Chromium, against a provider of our own."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.backdrop import TOKEN, Backdrop, serve
from tests.dashboard.provider import CLIENT, Provider, provider
from tests.live import free_port

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def known() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture(scope="module")
def behind(known: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard as an operator with a provider runs it; its address."""
    folder, port = tmp_path_factory.mktemp("login"), free_port()
    url = f"http://127.0.0.1:{port}"
    metadata = f"{known.url}/.well-known/openid-configuration"
    lines = {
        "redirect_uri": f"{url}/oauth2callback",
        "cookie_secret": "k" * 40,
        "server_metadata_url": metadata,
        **CLIENT,
    }
    (folder / ".streamlit").mkdir()
    secrets = "\n".join(["[auth]", *(f'{name} = "{value}"' for name, value in lines.items())])
    (folder / ".streamlit" / "secrets.toml").write_text(secrets)
    with serve(folder / "home") as api:
        yield from _served(api, folder, port, url)


def _served(api: Backdrop, folder: Path, port: int, url: str) -> Iterator[str]:
    environment = os.environ | {
        "HOME": str(folder),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "ROUTEPRINT_API_URL": api.url,
        "ROUTEPRINT_TOKEN": TOKEN,
        "ROUTEPRINT_DASHBOARD_PORT": str(port),
        "ROUTEPRINT_DASHBOARD_USERS": "ada@lab.example",
    }
    with (folder / "log.txt").open("wb") as log:
        command = [sys.executable, "-m", "dashboard"]
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        for _ in range(200):
            assert process.poll() is None, (folder / "log.txt").read_text()
            try:
                if httpx.get(f"{url}/_stcore/health", trust_env=False).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.25)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def log_in(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.get_by_text("open to those whom its operator named")).to_be_visible(timeout=30_000)
    assert page.get_by_text("Start here").count() == 0
    page.get_by_role("button", name="Log in").click()


def test_a_named_user_logs_in_and_sees_the_pages(page: Page, behind: str, known: Provider) -> None:
    known.claims |= {"email": "ada@lab.example"}
    log_in(page, behind)
    expect(page.get_by_text("Start here").first).to_be_visible(timeout=30_000)


def test_another_user_of_the_same_provider_is_turned_away(page: Page, behind: str, known: Provider) -> None:
    known.claims |= {"email": "eve@lab.example"}
    log_in(page, behind)
    expect(page.get_by_text("eve@lab.example, which is not among the users")).to_be_visible(timeout=30_000)
    assert page.get_by_text("Start here").count() == 0


def test_the_token_opens_the_dashboard_beside_the_login(page: Page, behind: str) -> None:
    page.goto(behind)
    page.get_by_role("link", name="enter the access token").click(timeout=30_000)
    page.get_by_label("Access token").fill(TOKEN)
    page.get_by_role("button", name="Open the dashboard").click()
    expect(page.get_by_text("Start here").first).to_be_visible(timeout=30_000)
    assert re.fullmatch(rf"{behind}/", page.url)
