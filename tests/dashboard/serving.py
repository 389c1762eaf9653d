"""The dashboard as `python -m dashboard` serves it, for as long as a block runs."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.dashboard.backdrop import TOKEN


def free_port() -> int:
    """Return a port that nothing listens on at this moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def dashboard(api_url: str, folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the dashboard's address and its process id. Its log goes into `folder`."""
    port = free_port()
    own = {"ROUTEPRINT_API_URL": api_url, "ROUTEPRINT_TOKEN": TOKEN, "ROUTEPRINT_DASHBOARD_PORT": str(port)}
    log = folder / "log.txt"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "dashboard"], env=os.environ | own, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            if process.poll() is not None:
                pytest.fail(log.read_text())
            try:
                if httpx.get(f"{url}/_stcore/health", trust_env=False).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.25)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(timeout=20)
