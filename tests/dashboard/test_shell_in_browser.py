"""What stands around the figures, in a real Chromium: ticking rows and comparing them, keys, tables behind charts."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.backdrop import Backdrop
from tests.dashboard.test_in_browser import address, visit  # noqa: F401 - fixtures

pytestmark = pytest.mark.browser

Ids = dict[str, str]
Visit = Callable[..., Page]


def test_ticked_analyses_are_compared_and_stay_ticked(visit: Visit, backdrop: Backdrop, ids: Ids) -> None:  # noqa: F811
    for seed in (21, 22):
        backdrop.analyse(ids["dataset"], seed=seed, name=f"Ticked {seed}")
    page = visit("/analysis")
    for name in ("Compare Ticked 21", "Compare Ticked 22"):
        page.get_by_role("checkbox", name=name).focus()
        page.keyboard.press("Space")
    expect(page.get_by_role("checkbox", name="Compare Second look")).to_be_disabled()
    page.get_by_label("Search").fill("First look")
    page.get_by_label("Search").press("Enter")
    expect(page.get_by_role("checkbox", name="Compare Ticked 21")).to_have_count(0)
    page.get_by_role("checkbox", name="Compare First look").check()
    page.get_by_role("button", name="Compare 3 ticked").click()
    expect(page.get_by_role("heading", name="3 side by side")).to_be_visible(timeout=15_000)
    expect(page.locator(".rp-plot[data-drawn]")).to_have_count(3, timeout=30_000)
    page.get_by_role("link", name=re.compile("Layer")).first.click()
    expect(page).to_have_url(re.compile(r"of=an_\w+\.an_\w+\.an_\w+&layer=\d+&expert=\d+"))
    page.get_by_role("link", name="Analyses").click()
    expect(page.get_by_role("checkbox", name="Compare First look")).to_be_checked()
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("checkbox", name="Compare First look")).not_to_be_checked()
