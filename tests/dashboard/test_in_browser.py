"""The dashboard in a real Chromium: clicks, keys, addresses, themes, and that nothing leaves this machine."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.backdrop import TOKEN, Backdrop
from tests.dashboard.entering import let_in
from tests.dashboard.serving import dashboard

pytestmark = pytest.mark.browser

Ids = dict[str, str]
PATIENT = 20_000
"""Milliseconds: a busy machine is no failure."""


@pytest.fixture(scope="module")
def address(backdrop: Backdrop, ids: Ids, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard as `python -m dashboard` serves it."""
    with dashboard(backdrop.url, tmp_path_factory.mktemp("dashboard")) as (url, _):
        yield url


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Return visit('/analysis?id=…', dark=False, width=1280): a page in a fresh browser context."""
    contexts = []
    foreign: list[str] = []
    broken: list[str] = []
    absent: list[str] = []

    def opened(path: str, *, dark: bool = False, width: int = 1280) -> Page:
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        contexts.append(context)
        let_in(context, address, TOKEN)
        page = context.new_page()
        page.on("request", lambda r: None if _is_local(r.url) else foreign.append(r.url))
        page.on("response", lambda r: absent.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.on("pageerror", lambda e: broken.append(str(e)))
        page.goto(address + path)
        expect(page.locator(".rp-head, .rp-card").first).to_be_visible(timeout=30_000)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert foreign == []
    assert broken == []
    assert absent == []


def _is_local(url: str) -> bool:
    return re.match(r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|(data|blob|about):", url) is not None


def _heatmap(page: Page, number: int = 0) -> object:
    plot = page.locator(".rp-plot[data-drawn]").nth(number)
    expect(plot).to_be_visible(timeout=30_000)
    return plot


def _click_cell(page: Page, row: int, expert: int, rows: int = 3, experts: int = 8) -> None:
    _heatmap(page)
    box = page.locator(".rp-plot[data-drawn] .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + (expert + 0.5) / experts * box["width"], box["y"] + (row + 0.5) / rows * box["height"])


def test_a_click_opens_exactly_the_cell_that_was_clicked(visit: Callable[..., Page], ids: Ids) -> None:
    page = visit(f"/analysis?id={ids['analysis']}")
    _click_cell(page, 1, 5)
    expect(page.get_by_role("heading", name="Layer 2 · Expert 5")).to_be_visible()
    expect(page).to_have_url(re.compile(r"layer=2&expert=5"))
    _click_cell(page, 2, 7)
    expect(page.get_by_role("heading", name="Layer 3 · Expert 7")).to_be_visible()
    expect(page.locator(".rp-plot[data-sel='2,7']")).to_be_visible()


def test_the_cells_can_be_walked_by_keyboard(visit: Callable[..., Page], ids: Ids) -> None:
    page = visit(f"/analysis?id={ids['analysis']}&layer=1&expert=0")
    _heatmap(page)
    page.locator(".rp-plot[data-drawn]").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_role("heading", name="Layer 2 · Expert 2")).to_be_visible()
    assert "Layer 2" in (page.locator(".rp-live").first.text_content() or "")


def test_the_browsers_back_button_restores_the_cell_before(visit: Callable[..., Page], ids: Ids) -> None:
    page = visit(f"/analysis?id={ids['analysis']}")
    _click_cell(page, 0, 3)
    expect(page.get_by_role("heading", name="Layer 1 · Expert 3")).to_be_visible()
    page.get_by_role("link", name="Jobs").click()
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Layer 1 · Expert 3")).to_be_visible(timeout=15_000)


def test_from_a_training_step_to_the_batch_it_was_trained_on(visit: Callable[..., Page], ids: Ids) -> None:
    page = visit(f"/training?id={ids['training']}")
    curve = page.locator(".rp-plot[data-points]").first
    expect(curve).to_be_visible()
    curve.focus()
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile(r"step=1\b"))
    page.get_by_role("button", name=re.compile("Open batch 0")).click()
    expect(page.get_by_role("heading", name="Batch 0")).to_be_visible()
    expect(page).to_have_url(re.compile(rf"/batch\?analysis={ids['analysis']}&batch=0"))
    page.go_back()
    expect(page).to_have_url(re.compile(rf"/training\?id={ids['training']}&step=1$"))
    expect(page.get_by_role("heading", name="Step 1, epoch 1")).to_be_visible()


def test_a_point_of_the_loss_curve_opens_its_step(visit: Callable[..., Page], ids: Ids) -> None:
    page = visit(f"/training?id={ids['training']}")
    expect(page.locator(".rp-plot[data-points]").first).to_be_visible()
    point = page.locator(".rp-plot .scatterlayer .trace").nth(2).locator("path.point").nth(14).bounding_box()
    assert point is not None
    page.mouse.click(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    expect(page.get_by_text("Step 15, epoch 1", exact=True)).to_be_visible()


def test_a_point_against_a_feature_opens_its_batch_and_the_batch_its_steps(
    visit: Callable[..., Page], ids: Ids
) -> None:
    page = visit(f"/training?id={ids['training']}&curve=why")
    plot = page.locator('.rp-plot[data-key^="against:"]')
    expect(plot).to_have_attribute("data-points", re.compile("."))
    plot.focus()
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile(r"curve=why&step=\d+"))
    expect(page.get_by_role("heading", name=re.compile(r"Batch \d+ over the epochs"))).to_be_visible()
    over = page.locator('.rp-plot[data-key^="over-epochs:"]')
    expect(over).to_have_attribute("data-points", re.compile("."))
    over.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_text(re.compile(r"Step \d+, epoch 2"))).to_be_visible()


def test_rows_of_a_list_are_links_and_open_in_the_session(visit: Callable[..., Page], ids: Ids) -> None:
    page = visit("/analysis")
    row = page.get_by_role("link", name="First look")
    expect(row).to_have_attribute("href", f"/analysis?id={ids['analysis']}")
    row.click()
    expect(page.get_by_role("heading", name="First look")).to_be_visible()
    expect(page).to_have_url(re.compile(ids["analysis"]))


def test_prompt_text_is_not_in_the_page_before_it_is_asked_for(
    visit: Callable[..., Page], backdrop: Backdrop, ids: Ids
) -> None:
    text = backdrop.call("GET", f"/analyses/{ids['analysis']}/batches/2")["samples"][9]["text"]
    page = visit(f"/batch?analysis={ids['analysis']}&batch=2")
    expect(page.get_by_text("16 samples, in their order")).to_be_visible()
    assert text not in page.content()
    page.get_by_text("Show prompt text").click()
    expect(page.get_by_text(text, exact=True)).to_be_visible()


def test_the_next_batch_follows_the_button_and_the_keys(visit: Callable[..., Page], ids: Ids) -> None:
    page = visit(f"/batch?analysis={ids['analysis']}&batch=2")
    page.get_by_role("button", name="Next", exact=True).click()
    expect(page.get_by_role("heading", name="Batch 3")).to_be_visible(timeout=PATIENT)
    page.keyboard.press("Shift+ArrowRight")
    expect(page.get_by_role("heading", name="Batch 4")).to_be_visible(timeout=PATIENT)
    expect(page).to_have_url(re.compile("batch=4"))


def test_no_step_of_a_quick_walk_is_lost(visit: Callable[..., Page], ids: Ids) -> None:
    """Clicks and keys at once, before the page can have answered: each counts from the one before."""
    page = visit(f"/batch?analysis={ids['analysis']}&batch=2")
    following = page.get_by_role("button", name="Next", exact=True)
    expect(following).to_be_enabled(timeout=PATIENT)
    following.evaluate("""async button => {
        const key = name => document.body.dispatchEvent(new KeyboardEvent('keydown', {key: name, bubbles: true}));
        button.click(); button.click(); key('ArrowRight'); key('ArrowLeft'); button.click(); key('ArrowRight');
    }""")
    expect(page.get_by_role("heading", name="Batch 6")).to_be_visible(timeout=PATIENT)
    page.get_by_role("link", name="Trainings", exact=True).click()
    page.get_by_role("link", name="Chosen experts only").click()
    curve = page.locator(".rp-plot[data-points]").first
    expect(curve).to_be_visible(timeout=PATIENT)
    curve.evaluate(
        "plot => { for (let i = 0; i < 3; i++) plot.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'})); }"
    )
    expect(page.get_by_role("heading", name="Step 3, epoch 1")).to_be_visible(timeout=PATIENT)
    page.get_by_role("button", name="Next", exact=True).evaluate("button => { button.click(); button.click(); }")
    expect(page.get_by_role("heading", name="Step 5, epoch 1")).to_be_visible(timeout=PATIENT)


@pytest.mark.parametrize("path", ["/", "/datasets", "/analysis", "/batch", "/training", "/compare", "/jobs"])
@pytest.mark.parametrize("dark", [False, True])
def test_no_page_is_wider_than_a_phone(visit: Callable[..., Page], path: str, dark: bool) -> None:
    page = visit(path, dark=dark, width=420)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ground = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert ground == ("rgb(18, 22, 26)" if dark else "rgb(252, 251, 249)")


def test_a_first_visit_to_a_deep_address_has_our_own_navigation(visit: Callable[..., Page], ids: Ids) -> None:
    page = visit(f"/batch?analysis={ids['analysis']}&batch=1")
    expect(page.get_by_role("link", name="Prompt sets")).to_be_visible()
    expect(page).to_have_title(re.compile("Batch 1, First look · Routeprint"))


def test_a_click_on_the_difference_map_shows_the_expert_on_both_sides(
    visit: Callable[..., Page], backdrop: Backdrop, ids: Ids
) -> None:
    other = backdrop.analyse(ids["dataset"], seed=4, name="Other batches")
    page = visit(f"/compare?a={ids['analysis']}&b={other}")
    expect(page.locator(".rp-plot[data-drawn]")).to_have_count(3, timeout=30_000)
    _click_cell(page, 1, 5)
    expect(page.get_by_role("heading", name="Layer 2 · Expert 5")).to_be_visible()
    expect(page).to_have_url(re.compile(rf"/compare\?a={ids['analysis']}&b={other}&layer=2&expert=5$"))
    expect(page.locator(".rp-plot[data-sel='1,5']")).to_have_count(3)
    expect(page.get_by_text("other prompts", exact=True)).to_be_visible()
