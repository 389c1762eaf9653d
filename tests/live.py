"""Real services for tests: API and worker as processes of their own, over a home folder of their own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

TOKEN = "a-token-for-tests"
_SECONDS = 240.0


def free_port() -> int:
    """Return a port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Live:
    """Services over one home folder. Use as a context manager; whatever still runs at its end is killed."""

    def __init__(self, home: Path, **more: str) -> None:
        """more: variables of the services' environment, the address of a database say."""
        self.home, self.port, self.more = home, free_port(), more
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}/api/v1",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=60,
            trust_env=False,
        )

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        for name in list(self.processes):
            self.kill(name)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every service."""
        own = {
            "ROUTEPRINT_HOME": str(self.home),
            "ROUTEPRINT_PORT": str(self.port),
            "ROUTEPRINT_TOKEN": TOKEN,
            "ROUTEPRINT_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
        }
        return {**os.environ, **own, **self.more}

    def start(self, name: str, *args: str, key: str = "") -> None:
        """Start `python -m NAME`, its output going to a log file in the home folder. key: what to call it by here."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / f"{key or name}.log").open("ab") as log:
            self.processes[key or name] = subprocess.Popen(
                [sys.executable, "-m", name, *args], env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def start_workers(self, *names: str) -> None:
        """Start a worker under each of these names, which are also their keys, and wait until all are alive."""
        for name in names:
            self.start("worker", "--name", name, key=name)
        self.until(lambda: set(names) <= self.alive())

    def alive(self) -> set[str]:
        """Return the names of the workers whose heartbeat is fresh."""
        return {worker["executor_id"] for worker in self.get("/system")["workers"] if worker["alive"]}

    def kill(self, name: str) -> None:
        """End a service at once, as a power cut would."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def start_backend(self) -> None:
        """Start the API and wait until it answers."""
        self.start("backend")
        self.until(lambda: httpx.get(f"http://127.0.0.1:{self.port}/health", trust_env=False).status_code == 200)

    def until(self, ready: Callable[[], Any], seconds: float = _SECONDS) -> Any:
        """Wait until `ready` returns something true and return it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended: {(self.home / f'{name}.log').read_text()[-2000:]}"
            try:
                if found := ready():
                    return found
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        logs = "\n".join(f"--- {f.name}\n{f.read_text()[-2000:]}" for f in self.home.glob("*.log"))
        raise AssertionError(f"nothing happened for {seconds} s\n{logs}")

    def busy(self) -> list[Any]:
        """Return the jobs that are queued or running."""
        return [job for status in ("queued", "running") for job in self.get("/jobs", status=status)["items"]]

    def get(self, path: str, **params: Any) -> Any:
        """GET as JSON; any error fails the test."""
        return self.client.get(path, params=params).raise_for_status().json()

    def post(self, path: str, **body: Any) -> Any:
        """POST JSON and return the JSON answer; any error fails the test with the problem it states."""
        answer = self.client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def finished(self, path: str) -> Any:
        """Wait for a resource to finish and return it."""
        return self.until(lambda: (r := self.get(path))["status"] not in ("queued", "running") and r)

    def progress(self, path: str, at_least: int) -> Any:
        """Wait until a resource has done at least this much: steps of a training, not the targets made before them."""
        return self.until(lambda: done(r := self.get(path)) >= at_least and r)


def done(run: dict[str, Any]) -> int:
    """Return how much of a run is done: the recorded steps of a training, else what its progress says."""
    return int(run.get("n_recorded", run["progress"]["done"]))
