"""The statistics in a real Chromium: marks and their legend, the pointer, filters, rules, keys, addresses."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.backdrop import Backdrop
from tests.dashboard.test_in_browser import address, visit  # noqa: F401 - fixtures

pytestmark = pytest.mark.browser

Ids = dict[str, str]
Visit = Callable[..., Page]


def _cell(page: Page, row: int, expert: int) -> tuple[float, float]:
    """Where the middle of a cell of the first heatmap is, in pixels of the window."""
    expect(page.locator(".rp-plot[data-drawn]").first).to_be_visible(timeout=30_000)
    box = page.locator(".rp-plot[data-drawn] .nsewdrag").first.bounding_box()
    assert box is not None
    return box["x"] + (expert + 0.5) / 8 * box["width"], box["y"] + (row + 0.5) / 3 * box["height"]


def test_marks_and_their_legend_are_switched_together(visit: Visit, backdrop: Backdrop, ids: Ids) -> None:  # noqa: F811
    summary = backdrop.call("GET", f"/statistics/{ids['statistics']}")["summary"]
    page = visit(f"/analysis?id={ids['analysis']}")
    said = f"family-wise p ≤ 0.05: {summary['n_significant']} of 24 experts"
    expect(page.get_by_text(said)).to_be_visible(timeout=30_000)
    expect(page.locator(f".rp-plot[data-marks='{summary['n_significant']}']").first).to_be_visible()
    drawn = page.locator(".rp-plot[data-drawn]").first.locator(".shapelayer path")
    assert drawn.count() == 2, "one path for all dots and one for their halos, however many experts"
    page.get_by_role("radio", name="none").click()
    expect(page.get_by_text(said)).to_have_count(0)
    expect(page.locator(".rp-plot[data-marks='0']").first).to_be_visible()
    expect(page).to_have_url(re.compile("marks=none"))


def test_the_pointer_over_a_cell_tells_interval_p_q_and_frequency(
    visit: Visit,  # noqa: F811
    backdrop: Backdrop,
    ids: Ids,
) -> None:
    found = backdrop.call("GET", f"/analyses/{ids['analysis']}/experts/2/5")
    page = visit(f"/analysis?id={ids['analysis']}")
    page.mouse.move(*_cell(page, 1, 5))
    hover = page.locator(".hoverlayer .hovertext").first
    expect(hover).to_contain_text("Layer 2 · Expert 5")
    for name in ("risk_diff", "ci_low", "ci_high"):
        expect(hover).to_contain_text(f"{found[name]:+.4f}".replace("-", "−"))
    said = "< 0.001" if found["p_max_t"] < 0.001 else f"= {found['p_max_t']:.3f}"
    expect(hover).to_contain_text(f"p (max-T) {said} · q")
    expect(hover).to_contain_text(f"chosen in {100 * found['frequency']:.0f} % of resamples")


def test_a_filtered_row_selects_its_cell_and_a_fresh_browser_shows_the_same(
    visit: Visit,  # noqa: F811
    backdrop: Backdrop,
    ids: Ids,
) -> None:
    page = visit(f"/analysis?id={ids['analysis']}&view=experts")
    expect(page.get_by_role("table", name="Experts").locator("tbody tr")).to_have_count(24, timeout=30_000)
    page.get_by_role("radio", name="more on safe").click()
    page.get_by_text("Significant only").click()
    params = {"direction": "safe", "max_p_max_t": 0.05, "sort": "abs"}
    rows = backdrop.call("GET", f"/statistics/{ids['statistics']}/experts", params=params)["items"]
    expect(page.get_by_role("table", name="Experts").locator("tbody tr")).to_have_count(len(rows))
    page.get_by_role("link", name=f"Layer {rows[1]['layer']} · Expert {rows[1]['expert']}").click()
    cell = f".rp-plot[data-sel='{rows[1]['layer'] - 1},{rows[1]['expert']}']"
    expect(page.locator(cell)).to_be_visible()
    heading = f"Layer {rows[1]['layer']} · Expert {rows[1]['expert']}"
    expect(page.get_by_role("heading", name=heading)).to_be_visible()
    page.get_by_role("button", name="q", exact=True).click()
    expect(page).to_have_url(re.compile("sort=q"))
    path = page.url.split("/", 3)[3]
    again = visit(f"/{path}")
    expect(again.locator(cell)).to_be_visible(timeout=30_000)
    expect(again.get_by_role("table", name="Experts").locator("tbody tr")).to_have_count(len(rows))
    expect(again.get_by_role("columnheader", name="q ↑")).to_have_attribute("aria-sort", "ascending")
    expect(again.locator("tr[aria-current='true']")).to_contain_text(heading)


def test_a_cell_that_is_clicked_is_selected_in_the_list_below(visit: Visit, ids: Ids) -> None:  # noqa: F811
    page = visit(f"/analysis?id={ids['analysis']}&view=experts")
    page.mouse.click(*_cell(page, 2, 7))
    expect(page.locator("tr[aria-current='true']")).to_contain_text("Layer 3 · Expert 7")


def test_a_slider_moved_by_keys_shows_what_the_dry_run_keeps(
    visit: Visit,  # noqa: F811
    backdrop: Backdrop,
    ids: Ids,
) -> None:
    page = visit(f"/analysis?id={ids['analysis']}&view=sets&rule=cumulative&share=40")
    slider = page.get_by_role("slider").first
    expect(slider).to_be_visible(timeout=30_000)
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile("share=45"))
    rule = {"method": "cumulative", "share": 0.45}
    path = f"/analyses/{ids['analysis']}/expert-sets"
    found = backdrop.call("POST", path, json=rule, params={"dry_run": True})
    expect(page.locator(f".rp-plot[data-frames='{found['n_experts']}']")).to_be_visible()
    expect(page.get_by_role("button", name=f"Save {found['n_experts']} expert")).to_be_visible()


def test_experts_are_picked_by_hand_on_the_map(visit: Visit, ids: Ids) -> None:  # noqa: F811
    page = visit(f"/analysis?id={ids['analysis']}&view=sets&rule=manual&hand=1.2")
    expect(page.locator(".rp-plot[data-frames='1']")).to_be_visible(timeout=30_000)
    plot = page.locator(".rp-plot[data-drawn]").nth(1)
    plot.scroll_into_view_if_needed()
    plot.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(page.locator(".rp-plot[data-frames='2']")).to_be_visible()
    expect(page).to_have_url(re.compile(r"hand=1\.2(\+|%20)2\.1"))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("view", ["experts", "statistics", "sets"])
def test_no_room_of_the_statistics_is_wider_than_a_phone(
    visit: Visit,  # noqa: F811
    ids: Ids,
    view: str,
    dark: bool,
) -> None:
    page = visit(f"/analysis?id={ids['analysis']}&view={view}&layer=2&expert=5", dark=dark, width=420)
    expect(page.locator(".rp-plot[data-drawn]").first).to_be_visible(timeout=30_000)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
