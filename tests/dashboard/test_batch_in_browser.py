"""The batch view and the maps in a real Chromium: keys, play, hidden texts, zoom, size and theme, the way back."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.backdrop import Backdrop
from tests.dashboard.test_in_browser import PATIENT, address, visit  # noqa: F401 - fixtures

pytestmark = pytest.mark.browser

Ids = dict[str, str]
Visit = Callable[..., Page]


def _painted(page: Page, title: str) -> None:
    expect(page.locator(f".rp-plot[data-title^='{title}']").first).to_be_visible(timeout=PATIENT)


def test_arrow_keys_walk_the_batches_and_back_leads_through_them_again(visit: Visit, ids: Ids) -> None:  # noqa: F811
    page = visit(f"/batch?analysis={ids['analysis']}&batch=2")
    _painted(page, "Batch 2 minus")
    page.keyboard.press("ArrowRight")
    _painted(page, "Batch 3 minus")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    _painted(page, "Batch 5: heatmap")
    expect(page).to_have_url(re.compile("batch=5"))
    page.go_back()
    expect(page.get_by_role("heading", name=re.compile("^Batch [34]$"))).to_be_visible(timeout=PATIENT)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("heading", name=re.compile("^Batch [23]$"))).to_be_visible(timeout=PATIENT)


def test_a_key_that_means_something_in_a_field_or_on_a_map_keeps_its_meaning(
    visit: Visit,  # noqa: F811
    ids: Ids,
) -> None:
    page = visit(f"/batch?analysis={ids['analysis']}&batch=2")
    _painted(page, "Batch 2 minus")
    page.get_by_role("textbox", name="Search in these samples").click()
    page.keyboard.press("ArrowRight")
    page.locator(".rp-plot[data-title^='Batch 2: heatmap']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"batch=2&layer=1&expert=1"))
    expect(page.locator(".rp-plot[data-sel='0,1']")).to_have_count(3, timeout=PATIENT)


def test_play_goes_on_by_itself_until_it_is_paused(visit: Visit, ids: Ids) -> None:  # noqa: F811
    page = visit(f"/batch?analysis={ids['analysis']}&batch=0")
    _painted(page, "Batch 0 minus")
    page.get_by_role("button", name=re.compile("Play")).click()
    _painted(page, "Batch 2: heatmap")
    page.get_by_role("button", name=re.compile("Pause")).click()
    expect(page.get_by_role("button", name=re.compile("Play"))).to_be_visible()
    page.wait_for_timeout(1200)
    stopped = page.url
    page.wait_for_timeout(1800)
    assert page.url == stopped


def test_a_hidden_text_cannot_be_selected_searched_or_read_and_is_shown_alone(
    visit: Visit,  # noqa: F811
    backdrop: Backdrop,
    ids: Ids,
) -> None:
    texts = [s["text"] for s in backdrop.call("GET", f"/analyses/{ids['analysis']}/batches/2")["samples"]]
    page = visit(f"/batch?analysis={ids['analysis']}&batch=2")
    rows = page.locator(".rp-samples li")
    expect(rows).to_have_count(16, timeout=PATIENT)
    assert not any(text in page.content() for text in texts)
    assert page.locator(".rp-blur").first.evaluate("e => getComputedStyle(e).filter").startswith("blur")
    assert not page.evaluate(
        "(getSelection().selectAllChildren(document.querySelector('.rp-blur')), getSelection() + '')"
    )
    expect(page.locator(".rp-blur").first).to_have_attribute("aria-hidden", "true")
    page.get_by_role("button", name="Show the text of sample 9", exact=True).click()
    expect(rows.nth(9).locator(".rp-sample-text")).to_have_text(texts[9], timeout=PATIENT)
    assert not any(text in page.content() for i, text in enumerate(texts) if text != texts[9])
    word = max(texts[9].split(), key=len).strip("?.,")
    page.get_by_role("textbox", name="Search in these samples").fill(word)
    page.keyboard.press("Enter")
    expect(page.locator(".rp-sample-text mark").first).to_have_text(re.compile(re.escape(word), re.I), timeout=PATIENT)
    again = visit(f"/{page.url.split('/', 3)[3]}")
    expect(again.locator(".rp-samples li")).to_have_count(16, timeout=PATIENT)
    assert texts[9] not in again.content(), "a link never shows a text"


def test_from_a_run_to_a_sample_in_four_clicks_each_of_which_reopens(visit: Visit, ids: Ids) -> None:  # noqa: F811
    page = visit("/analysis")
    page.get_by_role("link", name="First look").click()
    _painted(page, "First look: heatmap")
    box = page.locator(".rp-plot[data-drawn] .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 5.5 / 8 * box["width"], box["y"] + 1.5 / 3 * box["height"])
    plot = page.locator(".rp-plot[data-title^='risk_diff of layer 2, expert 5']")
    expect(plot).to_be_visible(timeout=PATIENT)
    plot.locator("path.point").nth(4).click(force=True)
    expect(page.get_by_role("heading", name="Batch 4", exact=True)).to_be_visible(timeout=PATIENT)
    page.get_by_role("link", name="Sample 9", exact=True).click()
    expect(page.get_by_role("heading", name=re.compile("Sample 9 of batch 4"))).to_be_visible(timeout=PATIENT)
    expect(page).to_have_url(re.compile("batch=4&layer=2&expert=5&sample=9"))
    again = visit(f"/{page.url.split('/', 3)[3]}")
    expect(again.get_by_role("heading", name=re.compile("Sample 9 of batch 4"))).to_be_visible(timeout=PATIENT)
    expect(again.locator(".rp-plot[data-sel='1,5']")).to_have_count(3, timeout=PATIENT)


def test_a_map_follows_the_window_and_the_theme_and_a_walk_takes_its_zoom_along(
    visit: Visit,  # noqa: F811
    ids: Ids,
) -> None:
    page = visit(f"/analysis?id={ids['analysis']}&layer=1&expert=0")
    _painted(page, "First look: heatmap")
    plot = page.locator(".rp-plot[data-drawn]").first
    wide = plot.evaluate("e => e._fullLayout.width")
    colour = plot.evaluate("e => e._fullLayout.font.color")
    page.set_viewport_size({"width": 800, "height": 900})
    layout = "document.querySelector('.rp-plot[data-drawn]')._fullLayout"
    page.wait_for_function(f"wide => {layout}.width < wide - 200", arg=wide)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "c => document.querySelector('.rp-plot[data-drawn]')._fullLayout.font.color !== c", arg=colour
    )
    plot.evaluate("e => e.__rp.Plotly.relayout(e, {'xaxis.range': [-0.5, 2.5]})")
    plot.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(f"() => {layout}.xaxis.range[0] < 5 && {layout}.xaxis.range[1] > 5")
    assert plot.evaluate("e => e._fullLayout.xaxis.range[1] - e._fullLayout.xaxis.range[0]") == 3
