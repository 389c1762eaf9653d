"""What must hold on every page, in a real Chromium: accessible, quiet, flat in memory, usable by many at once."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import axe_playwright_python
import psutil
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.dashboard.backdrop import TOKEN, Backdrop, fill, serve
from tests.dashboard.entering import let_in
from tests.dashboard.serving import dashboard, free_port

pytestmark = pytest.mark.browser

Ids = dict[str, str]
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
LOCAL = re.compile(r"(https?|wss?)://127\.0\.0\.1:\d+/|(data|blob|about):")
PAGE_CHANGES = int(os.environ.get("ROUTEPRINT_TEST_PAGE_CHANGES", "60"))
"""200 take about four minutes on two cores."""
ROOMS = ("batches", "experts", "statistics", "context", "sets", "trainings", "left", "record")


def every_page(ids: Ids) -> list[str]:
    """Return the addresses of all lists, forms, and of one of everything."""
    analysis, training = ids["analysis"], ids["training"]
    return [
        *("/", "/datasets", "/analysis", "/batch", "/training", "/compare", "/evaluation", "/study", "/jobs"),
        f"/datasets?id={ids['dataset']}",
        f"/analysis?id={analysis}&layer=2&expert=3",
        *(f"/analysis?id={analysis}&view={room}" for room in ROOMS),
        f"/analysis?id={ids['running']}",
        f"/analysis?again={analysis}",
        f"/batch?analysis={analysis}&batch=2",
        f"/training?id={training}&step=5",
        f"/training?id={ids['broken']}",
        f"/training?analysis={analysis}",
        f"/evaluation?id={ids['evaluation']}",
        f"/compare?a={analysis}&b={ids['second']}",
        f"/compare?of={analysis}.{ids['second']}.{ids['third']}",
        f"/compare?trainings={training}.{ids['broken']}",
        f"/jobs?id={ids['job']}",
    ]


@pytest.fixture(scope="module")
def everything(backdrop: Backdrop, ids: Ids) -> Ids:
    """The backdrop with two more finished analyses, and a job."""
    second, third = (backdrop.analyse(ids["dataset"], seed=seed, name=f"Seed {seed}") for seed in (31, 32))
    job = backdrop.call("GET", f"/analyses/{ids['analysis']}")["job_id"]
    return ids | {"second": second, "third": third, "job": job}


@pytest.fixture(scope="module")
def served(backdrop: Backdrop, everything: Ids, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The dashboard over the backdrop: address and process id."""
    with dashboard(backdrop.url, tmp_path_factory.mktemp("quiet")) as running:
        yield running


@pytest.fixture
def context(browser: Browser, served: tuple[str, int], request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A fresh browser context that is let in; fails where anything was asked of another machine."""
    scheme = getattr(request, "param", "light")
    made = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    let_in(made, served[0], TOKEN)
    foreign: list[str] = []
    made.on("request", lambda r: None if LOCAL.match(r.url) else foreign.append(r.url))
    yield made
    made.close()
    assert foreign == []


COMPLETE = """() => {
  const every = (what, holds) => [...document.querySelectorAll(what)].every(holds);
  return document.documentElement.style.getPropertyValue('--rp-on-primary')
    && !document.querySelector('[data-testid=stSkeleton]')
    && every('.rp-play, .rp-table, .rp-samples, .rp-share', one => one.childNodes.length)
    && every('.rp-plot', one => one.dataset.title && one.querySelector('.main-svg'));
}"""
"""The theme's colours are passed on, no part of Streamlit is still missing, and every component's script has run."""

AS_DRAWN = "[data-stale=true] { opacity: 1 !important; transition: none !important; }"
"""Streamlit fades what a script takes longer than half a second to draw anew, as a busy machine's do."""


def settle(page: Page) -> None:
    """Wait until the page has run and is drawn as a whole."""
    expect(page.locator(".rp-head, .rp-card").first).to_be_visible(timeout=30_000)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=30_000)
    page.wait_for_function(COMPLETE)


@pytest.mark.parametrize("context", ["light", "dark"], indirect=True)
def test_axe_finds_nothing_serious_on_any_page(context: BrowserContext, served, everything: Ids) -> None:
    page = context.new_page()
    found = []
    for path in every_page(everything):
        page.goto(served[0] + path)
        settle(page)
        for box in page.locator(".rp-behind:not([hidden]) summary").all()[:2]:
            box.click()
        page.add_style_tag(content=AS_DRAWN)
        page.evaluate(AXE)
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert result["passes"], "axe looked at something"
        found += [
            f"{path}: {violation['id']} at {node['html'][:120]}"
            for violation in result["violations"]
            for node in violation["nodes"]
            if violation["impact"] in ("serious", "critical")
        ]
    assert found == []


def test_every_chart_has_the_table_behind_it(context: BrowserContext, served, everything: Ids) -> None:
    page = context.new_page()
    page.goto(f"{served[0]}/analysis?id={everything['analysis']}")
    settle(page)
    page.get_by_text("Table behind this chart").first.focus()
    page.keyboard.press("Enter")
    table = page.locator(".rp-behind table").first
    expect(table.locator("tbody tr")).to_have_count(3)
    expect(table.locator("tbody tr").first.locator("td")).to_have_count(8)
    expect(table.get_by_role("rowheader", name="Layer 1")).to_be_visible()
    page.goto(f"{served[0]}/training?id={everything['training']}")
    settle(page)
    page.get_by_text("Table behind this chart").first.click()
    head = page.locator(".rp-behind table").first.locator("thead th")
    expect(head).to_have_text(["step (one step = one analysis batch)", "safe prompts", "unsafe prompts", "all"])


def test_prompts_are_never_markup(context: BrowserContext, served, backdrop: Backdrop) -> None:
    rows = [f'{{"prompt": "<img src=x onerror=\\"window.hit=1\\"> **bold** :red[x] {n}"}}' for n in range(4)]
    files = [("file", (f"{label}.jsonl", "\n".join(rows).replace("x]", f"{label}]"))) for label in ("safe", "unsafe")]
    meaning = '{"kind": "harmless_harmful", "safe": "a wish", "unsafe": "a threat"}'
    data = {"name": "<b>set</b>", "label": ["safe", "unsafe"], "label_meaning": meaning}
    made = backdrop.call("POST", "/datasets", files=files, data=data)
    page = context.new_page()
    page.goto(f"{served[0]}/datasets?id={made['id']}")
    settle(page)
    expect(page.get_by_role("heading", name="<b>set</b>")).to_be_visible()
    page.get_by_text("Show prompt text").click()
    expect(page.get_by_text("**bold** :red[safe]").first).to_be_visible(timeout=15_000)
    assert page.evaluate("window.hit") is None
    assert page.locator("img[src=x]").count() == 0


def test_memory_stays_flat_over_many_page_changes(context: BrowserContext, served) -> None:
    url, pid = served
    page, process = context.new_page(), psutil.Process(pid)
    page.goto(url)
    names = ("Analyses", "Trainings", "Compare", "Prompt sets", "Jobs", "Overview")

    def walk(n: int) -> int:
        for step in range(n):
            name = names[step % len(names)]
            page.get_by_role("link", name=name, exact=True).first.click()
            expect(page.locator(".rp-head h1")).to_have_text(name, timeout=15_000)
        return int(process.memory_info().rss)

    warm = walk(3 * len(names))
    grown = walk(PAGE_CHANGES) - warm
    assert grown < 24 * 2**20, f"{grown / 2**20:.1f} MiB more after {PAGE_CHANGES} page changes"


def test_twenty_sessions_at_once_stay_usable(context: BrowserContext, served, everything: Ids) -> None:
    pages = [context.new_page() for _ in range(20)]
    for page in pages:
        page.goto(f"{served[0]}/analysis", wait_until="commit")
    for page in pages:
        expect(page.get_by_role("link", name="First look").first).to_be_visible(timeout=60_000)
    for page in (pages[0], pages[-1]):
        page.get_by_role("link", name="First look").first.click()
        expect(page.get_by_role("heading", name="First look")).to_be_visible(timeout=30_000)


def test_an_open_page_survives_a_restart_of_the_api_and_says_what_it_waits_for(
    browser: Browser, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    port = free_port()
    with ExitStack() as api, ExitStack() as rest:
        running = api.enter_context(serve(tmp_path, port=port))
        ids = fill(running)
        url, _ = rest.enter_context(dashboard(running.url, tmp_path_factory.mktemp("restart")))
        made = browser.new_context()
        rest.callback(made.close)
        let_in(made, url, TOKEN)
        following, listing = made.new_page(), made.new_page()
        following.goto(f"{url}/analysis?id={ids['running']}")
        expect(following.get_by_text("9 of 33 batches").first).to_be_visible(timeout=30_000)
        api.close()
        expect(following.get_by_text("The API does not answer").first).to_be_visible(timeout=30_000)
        listing.goto(f"{url}/training")
        expect(listing.get_by_role("heading", name="Waiting for the Routeprint API")).to_be_visible(timeout=30_000)
        with serve(tmp_path, port=port) as again:
            again.call("POST", f"/analyses/{ids['running']}/cancel")
            expect(following.get_by_role("heading", name="This run was cancelled")).to_be_visible(timeout=30_000)
            expect(listing.get_by_role("heading", name="Trainings")).to_be_visible(timeout=30_000)
