"""How long the dashboard takes in a real browser: the first picture, a click on a cell, the next batch.

    make bench BENCH=dashboard

API and dashboard are processes of their own over a stored analysis of 58 x 256 experts with statistics and a training;
the browser is Chromium, driven by Playwright. Time is the browser's own clock, and ends with the second frame after the
last thing waited for is in the page, so that it is on the screen. Not covered: what a network between them adds.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from benchmarks.report import Found, row
from tests.conftest import FLAGS
from tests.dashboard import backdrop
from tests.dashboard.entering import let_in
from tests.live import TOKEN, Live, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BATCH = 16
LARGE = backdrop.Shape(layers=58, experts=256, top_k=8, first_layer=3)


@dataclass(frozen=True)
class Size:
    """How large the analysis is, and how often each thing is tried after `warm` tries that are not counted."""

    shape: backdrop.Shape = LARGE
    batches: int = 64
    opens: int = 12
    clicks: int = 40
    steps: int = 40
    warm: int = 3


QUICK = Size(backdrop.Shape(6, 32, 4, 1), batches=6, opens=1, clicks=2, steps=3, warm=1)

# Waits inside the page. A time is that of the second animation frame after a condition first held: then it is painted.
WATCH = """
window.routeprintWatch = holds => new Promise(done => {
  const painted = () => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())));
  const look = () => { if (!holds()) return false; seen.disconnect(); painted(); return true; };
  const seen = new MutationObserver(look);
  if (!look()) seen.observe(document, {subtree: true, childList: true, characterData: true, attributes: true,
                                       attributeFilter: ['data-title', 'data-drawn', 'data-points']});
});
for (const kind of ['mousedown', 'keydown'])
  addEventListener(kind, event => { window.routeprintAsked = event.timeStamp; }, true);
"""
DRAWN = "title => [...document.querySelectorAll('.rp-plot')].some(plot => plot.dataset.title?.startsWith(title))"


def fill(home: Path, size: Size) -> dict[str, str]:
    """Store a prompt set, its analysis with statistics, and a training of one epoch; return their ids."""
    home.mkdir(parents=True)
    rows = [
        {"prompt": f"prompt number {i} of a made-up set", "label": ("safe", "unsafe")[i % 2], "response": "So.",
         "category": f"topic {i % 7}", "difficulty": ("easy", "hard")[i % 3 == 0]}
        for i in range(size.batches * BATCH)
    ]  # fmt: skip
    body = "\n".join(json.dumps(one) for one in rows).encode()
    with backdrop.serve(home, size.shape) as api:
        api.scan()
        form = {"name": "made up", "label_meaning": "harmless_harmful"}
        dataset = api.call("POST", "/datasets", files={"file": ("made-up.jsonl", body)}, data=form)["id"]
        analysis = api.analyse(dataset, name="58 x 256", statistics=False)
        api.examine(analysis)
        rule = {"name": "strongest", "method": "top_k", "k": 64}
        expert_set = api.call("POST", f"/analyses/{analysis}/expert-sets", json=rule)["id"]
        training = api.train(analysis, expert_set_id=expert_set, epochs=1)
    return {"analysis": analysis, "training": training}


@contextmanager
def services(home: Path) -> Iterator[str]:
    """Run the API and the dashboard; yield the dashboard's address."""
    with Live(home) as live:
        live.start_backend()
        port, before = free_port(), dict(os.environ)
        os.environ["ROUTEPRINT_API_URL"] = f"http://127.0.0.1:{live.port}"
        os.environ["ROUTEPRINT_DASHBOARD_PORT"] = str(port)
        try:
            live.start("dashboard")
        finally:
            os.environ.clear()
            os.environ.update(before)
        url = f"http://127.0.0.1:{port}"
        live.until(lambda: httpx.get(f"{url}/_stcore/health", trust_env=False).is_success)
        yield url


@contextmanager
def fresh_page(browser: "Browser", url: str) -> Iterator["Page"]:
    """Yield a page of a browser that was never here: no cache, no session; only the cookie that lets it in."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        let_in(context, url, TOKEN)
        context.add_init_script(WATCH)
        yield context.new_page()
    finally:
        context.close()


def _drawn(page: "Page", *titles: str) -> float:
    """Wait until figures with these titles are painted; return the browser's time in milliseconds."""
    holds = f"() => {json.dumps(titles)}.every({DRAWN})"
    return float(page.evaluate(f"routeprintWatch({holds})"))


def first_paints(browser: "Browser", url: str, ids: dict[str, str], size: Size) -> list[float]:
    """Seconds from the start of the navigation until the heatmap is painted, each in a fresh browser."""
    found = []
    for _ in range(size.warm + size.opens):
        with fresh_page(browser, url) as page:
            page.goto(f"{url}/analysis?id={ids['analysis']}", wait_until="commit")
            found.append(_drawn(page, "58 x 256: heatmap") / 1000)
    return found[size.warm :]


def clicks(browser: "Browser", url: str, ids: dict[str, str], size: Size) -> list[float]:
    """Milliseconds from pressing the mouse on a cell until that expert's panel and its plot are painted."""
    rng = np.random.default_rng(0)
    shape, found = size.shape, []
    with fresh_page(browser, url) as page:
        page.goto(f"{url}/analysis?id={ids['analysis']}&marks=none")
        _drawn(page, "58 x 256: heatmap")
        page.wait_for_timeout(1500)
        area = page.locator(".rp-plot[data-drawn] .nsewdrag").first
        for _ in range(size.warm + size.clicks):
            box = area.bounding_box()
            assert box
            top, bottom = max(0, -box["y"]) / box["height"], min(1, (880 - box["y"]) / box["height"])
            row_ = int(rng.integers(shape.layers * top + 1, shape.layers * bottom - 1))
            expert = int(rng.integers(shape.experts))
            x = box["x"] + (expert + 0.5) / shape.experts * box["width"]
            page.mouse.move(x, box["y"] + (row_ + 0.5) / shape.layers * box["height"])
            page.wait_for_timeout(150)
            page.mouse.click(x, box["y"] + (row_ + 0.5) / shape.layers * box["height"])
            done = _drawn(page, f"risk_diff of layer {row_ + shape.first_layer}, expert {expert} per batch")
            found.append(done - float(page.evaluate("routeprintAsked")))
            page.wait_for_timeout(400)
    return found[size.warm :]


def next_batches(browser: "Browser", url: str, ids: dict[str, str], size: Size) -> list[float]:
    """Milliseconds from pressing the right arrow until the next batch's map and difference are painted."""
    found = []
    with fresh_page(browser, url) as page:
        page.goto(f"{url}/batch?analysis={ids['analysis']}&batch=0")
        _drawn(page, "Batch 0: heatmap", "Batch 0 minus")
        page.wait_for_timeout(1500)
        for step in range(size.warm + size.steps):
            number = step + 1
            if number >= size.batches:
                break
            page.keyboard.press("ArrowRight")
            done = _drawn(page, f"Batch {number}: heatmap", f"Batch {number} minus")
            found.append(done - float(page.evaluate("routeprintAsked")))
            page.get_by_role("heading", name=f"Batch {number}", exact=True).wait_for()
            page.wait_for_timeout(500)
    return found[size.warm :]


def _said(values: Sequence[float], digits: int) -> str:
    return (
        f"median of {len(values)} tries; p95 {np.percentile(values, 95):.{digits}f}, largest {max(values):.{digits}f}"
    )


def rows(quick: bool = False) -> list[Found]:
    """Return the rows of the dashboard; none where there is no Chromium."""
    from playwright.sync_api import sync_playwright

    chromium, size = shutil.which("chromium") or shutil.which("chromium-browser"), QUICK if quick else Size()
    if chromium is None:
        print("dashboard: left out, there is no chromium on this machine (apt-get install chromium)")
        return []
    measured: dict[Callable[..., Any], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="routeprint-bench-") as name:
        ids = fill(Path(name) / "home", size)
        with services(Path(name) / "home") as url, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            for measure in (first_paints, clicks, next_batches):
                measured[measure] = measure(browser, url, ids, size)
            browser.close()
    of = f"{size.shape.layers} x {size.shape.experts} experts, {size.batches} batches"
    paint, click, step = measured[first_paints], measured[clicks], measured[next_batches]
    paint_how = (
        f"/analysis of {of} with statistics, in a fresh browser (empty cache) against warm services: from the start of "
        f"the navigation until the heatmap is painted; {_said(paint, 2)}"
    )
    click_how = (
        "click on a cell of the same page, another expert each time, until the expert's panel with its plot over all "
        f"batches is painted; {_said(click, 0)}"
    )
    step_how = (
        "right arrow on /batch of the same analysis, each time to a batch that nobody opened before, until its heatmap "
        f"and its difference to all batches are painted; {_said(step, 0)}"
    )
    judge = not quick
    return [
        row("dashboard.first_paint_s", float(np.median(paint)), "s", paint_how, "<= 2", judge=judge),
        row("dashboard.click_to_detail_ms", float(np.median(click)), "ms", click_how, "<= 300", judge=judge),
        row("dashboard.next_batch_ms", float(np.median(step)), "ms", step_how, "<= 500", judge=judge),
    ]
