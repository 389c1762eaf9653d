"""Takes a picture of every page from the running product: `make screenshots`.

Runs `routeprint demo` in a home of its own (kept in .cache: the demonstration model is built once), measures the
trained model on the same plan and evaluates its expert set, opens the dashboard in a real Chromium and stores what it
shows. Needs the program `chromium` and the dev extra.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
HOME = ROOT / ".cache" / "screenshots"
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZE = {"width": 1280, "height": 860}


def free_ports(n: int) -> list[int]:
    """Return ports that nothing listens on at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass(frozen=True, slots=True)
class Running:
    """The demonstration while it runs: addresses by the names it printed, and a caller of its API."""

    addresses: dict[str, str]
    api: httpx.Client

    def id_in(self, name: str, parameter: str) -> str:
        """Return an id out of one of the printed addresses."""
        return parse_qs(urlsplit(self.addresses[name]).query)[parameter][0]

    def call(self, method: str, path: str, **more: Any) -> Any:
        """Call the API; fail on anything but success."""
        return self.api.request(method, path, **more).raise_for_status().json()

    def finished(self, path: str, body: dict[str, Any]) -> str:
        """Start a run and wait until it has succeeded; return its id."""
        made = self.call("POST", path, json=body)
        for _ in range(900):
            status = self.call("GET", f"{path}/{made['id']}")["status"]
            if status not in ("queued", "running"):
                assert status == "succeeded", f"{path}/{made['id']}: {status}"
                return str(made["id"])
            time.sleep(1)
        raise TimeoutError(path)


@contextmanager
def demonstration() -> Iterator[Running]:
    """Run the demonstration until the block ends; stop it as Ctrl-C does."""
    port, dashboard = free_ports(2)
    environment = os.environ | {
        "ROUTEPRINT_HOME": str(HOME),
        "ROUTEPRINT_PORT": str(port),
        "ROUTEPRINT_DASHBOARD_PORT": str(dashboard),
    }
    program = Path(sys.executable).with_name("routeprint")
    process = subprocess.Popen([program, "demo"], env=environment, stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout is not None
    addresses: dict[str, str] = {}
    try:
        for line in process.stdout:
            sys.stdout.write(line)
            if found := re.match(r"(\w+)\s+(http\S+)", line):
                addresses[found[1]] = found[2]
            if "Ctrl-C" in line:
                break
        printed = subprocess.run([program, "token"], env=environment, capture_output=True, text=True, check=True)  # noqa: S603
        headers = {"Authorization": f"Bearer {printed.stdout.strip()}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers=headers, timeout=60) as api:
            yield Running(addresses, api)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def pages(running: Running) -> dict[str, str]:
    """Make what the demonstration has not made yet; return the path of every page by its picture's name."""
    analysis, training = running.id_in("Heatmap", "id"), running.id_in("Training", "id")
    origin, trained = (running.call("GET", path) for path in (f"/analyses/{analysis}", f"/trainings/{training}"))
    model = trained["result"]["model_id"]
    again = origin["params"] | {"model": model, "plan_of": analysis, "name": "After training"}
    after = running.finished("/analyses", again)
    evaluation = {"model": origin["model"], "dataset_id": origin["dataset_id"], "n_random": 8}
    evaluation |= {"expert_set_id": trained["expert_set_id"], "intervention": "deactivate"}
    evaluated = running.finished("/evaluations", evaluation)
    return {
        "overview": "/",
        "prompt-sets": "/datasets",
        "prompt-set": f"/datasets?id={origin['dataset_id']}",
        "analyses": "/analysis",
        "experts": f"/analysis?id={analysis}&view=experts",
        "statistics": f"/analysis?id={analysis}&view=statistics",
        "expert-sets": f"/analysis?id={analysis}&view=sets",
        "batches": f"/batch?analysis={analysis}",
        "trainings": "/training",
        "compare": f"/compare?a={analysis}&b={after}",
        "evaluation": f"/evaluation?id={evaluated}",
        "studies": "/study",
        "jobs": "/jobs",
    }


def settled(page: Page) -> None:
    """Wait until Streamlit has run the page, fonts are there and nothing moves any more."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(2500)


def picture(page: Page, name: str, address: str, *, wait_for: str | None = None) -> None:
    """Open an address and store what it shows, in as many colours as a page has: an eighth of the bytes."""
    page.goto(address)
    page.wait_for_selector(wait_for or ".rp-head")
    settled(page)
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as taken:
        small = taken.convert("RGB").quantize(192, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    sys.stdout.write(f"docs/images/{name}.png\n")


def main() -> None:
    """Make every picture."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("This needs Chromium: apt-get install chromium")
    with demonstration() as running, sync_playwright() as playwright:
        addresses, paths = running.addresses, pages(running)
        parts = urlsplit(addresses["Dashboard"])
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_OPTIONS)
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.goto(addresses["Dashboard"])  # the link that lets this browser in
        picture(page, "heatmap", addresses["Heatmap"], wait_for=".js-plotly-plot .heatmaplayer")
        picture(page, "training", addresses["Training"], wait_for=".js-plotly-plot")
        picture(page, "batch", addresses["Batch"])
        for name, path in paths.items():
            picture(page, name, f"{parts.scheme}://{parts.netloc}{path}")
        page.set_viewport_size({"width": 420, "height": 900})
        picture(page, "phone", addresses["Heatmap"], wait_for=".js-plotly-plot .heatmaplayer")
        page.set_viewport_size(SIZE)  # type: ignore[arg-type]
        page.emulate_media(color_scheme="dark")
        picture(page, "heatmap-dark", addresses["Heatmap"], wait_for=".js-plotly-plot .heatmaplayer")
        browser.close()


if __name__ == "__main__":
    main()
