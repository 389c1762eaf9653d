"""Coming in, in a real Chromium: by the token, by a printed link, and what stays in the address."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from backend.commands.entering import dashboard_link
from backend.settings import Settings
from tests.dashboard.backdrop import TOKEN
from tests.dashboard.test_in_browser import address  # noqa: F401 - a fixture

pytestmark = pytest.mark.browser

Ids = dict[str, str]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


def test_a_stranger_is_asked_for_the_token_and_then_sees_what_he_asked_for(
    page: Page,
    address: str,  # noqa: F811
    ids: Ids,
) -> None:
    page.goto(f"{address}/analysis?id={ids['analysis']}")
    expect(page.get_by_role("heading", name="Access token needed")).to_be_visible()
    assert page.locator("script").count() == 0, "nothing of Streamlit has been served"
    page.get_by_label("Access token").fill("wrong")
    page.get_by_role("button", name="Open the dashboard").click()
    expect(page.get_by_text("That is not the token.")).to_be_visible()
    page.get_by_label("Access token").fill(TOKEN)
    page.get_by_role("button", name="Open the dashboard").click()
    expect(page).to_have_url(re.compile(rf"/analysis\?id={ids['analysis']}$"))
    expect(page.locator(".rp-head").first).to_be_visible(timeout=30_000)
    page.reload()
    expect(page.locator(".rp-head").first).to_be_visible(timeout=30_000)


def test_a_printed_link_opens_the_overview_and_is_gone_from_the_address(
    page: Page,
    address: str,  # noqa: F811
) -> None:
    opened = dashboard_link(Settings(home=Path("unused"), dashboard_url=address), TOKEN)
    page.goto(opened)
    expect(page.locator(".rp-head").first).to_be_visible(timeout=30_000)
    assert page.url == f"{address}/"
    page.context.clear_cookies()
    page.goto(opened)
    expect(page.get_by_text("That link was used before")).to_be_visible()
