"""Takes the README's pictures from the running product: `make screenshots`.

Runs `routeprint demo` in a home of its own (kept in .cache, so that the demonstration model is built once), opens the
dashboard in a real Chromium and stores what it shows. Needs the program `chromium` and the dev extra.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def demonstration() -> Iterator[dict[str, str]]:
    """Run the demonstration; yield the addresses it printed, by their names. Stop it as Ctrl-C does."""
    api, dashboard = free_ports(2)
    environment = os.environ | {
        "ROUTEPRINT_HOME": str(HOME),
        "ROUTEPRINT_PORT": str(api),
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
        yield addresses
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def settled(page: Page) -> None:
    """Wait until Streamlit has run the page, fonts are there and nothing moves any more."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(2500)


def picture(page: Page, name: str, address: str, *, wait_for: str | None = None) -> None:
    """Open an address and store what it shows."""
    page.goto(address)
    page.wait_for_selector(wait_for or "[data-testid=stMainBlockContainer]")
    settled(page)
    page.screenshot(path=IMAGES / f"{name}.png")
    sys.stdout.write(f"docs/images/{name}.png\n")


def main() -> None:
    """Make every picture."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("This needs Chromium: apt-get install chromium")
    with demonstration() as addresses, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_OPTIONS)
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.goto(addresses["Dashboard"])  # the link that lets this browser in
        picture(page, "heatmap", addresses["Heatmap"], wait_for=".js-plotly-plot .heatmaplayer")
        picture(page, "training", addresses["Training"], wait_for=".js-plotly-plot")
        picture(page, "batch", addresses["Batch"])
        browser.close()


if __name__ == "__main__":
    main()
