"""A report opened in a real Chromium that has no network: light, dark, narrow and printed."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from backend.domain.vocabulary import Site
from tests.backend import seeding
from tests.backend.api.calls import Api

pytestmark = pytest.mark.browser

QUICK = {"n_permutations": 199, "n_resamples": 199, "n_stability": 20, "n_splits": 4, "alpha": 0.5}


@pytest.fixture
def file(api: Api, engine, tmp_path: Path) -> Path:
    seeding.add_model(engine, sites=tuple(Site(layer, f"l.{layer}", 64, 8) for layer in range(12)))
    analysis = api.analysis(api.dataset(20)["id"], name="<script>document.title = 'run'</script>")
    seeding.measure(engine, analysis["id"])
    created = api.post(f"/analyses/{analysis['id']}/statistics", 202, json=QUICK)
    seeding.examine(engine, created["id"])
    path = tmp_path / "report.html"
    path.write_bytes(api.get(f"/analyses/{analysis['id']}/report", params={"examples": True}).content)
    return path


@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 420)])
def test_a_report_opens_without_a_network_or_a_complaint(browser: Browser, file: Path, scheme: str, width: int) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True)
    page, heard, asked = context.new_page(), [], []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert heard == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert page.title() == "<script>document.title = 'run'</script>"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = page.locator("#heatmap image").evaluate_all("all => all.filter(one => one.checkVisibility()).length")
    assert shown == 1
    paper, ink = (
        page.evaluate(f"getComputedStyle(document.body).{name}").removeprefix("rgb(").split(",")[0]
        for name in ("backgroundColor", "color")
    )
    assert (int(paper) > int(ink)) == (scheme == "light")
    context.close()


def test_a_report_prints_on_white_paper_with_its_figures(browser: Browser, file: Path, tmp_path: Path) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(file.as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#heatmap image.in-light").is_visible()
    assert page.locator("#heatmap image.in-dark").is_hidden()
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    context.close()
