"""docker-compose.yml run for real: by Docker's compose, or by podman-compose where there is no Docker engine.

Settings of the run, all optional, from the environment: COMPOSE (the command, with its options), BASE_IMAGE and
POSTGRES_IMAGE (where the hub is out of reach; tests/compose/postgres.Dockerfile makes one from Debian's packages),
COMPOSE_TRANSCRIPT (a file to which is added what was typed and answered; tokens and passwords are left out).
"""

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.live import free_port

ROOT = Path(__file__).parents[2]
_SECRET = re.compile(r"\brp_[A-Za-z0-9_-]{20,}|[0-9a-f]{48}")


def compose_command() -> list[str] | None:
    """Return the command that runs compose files here, or None."""
    if named := os.environ.get("COMPOSE"):
        return shlex.split(named)
    if shutil.which("docker") and _quiet("docker", "compose", "version") and _quiet("docker", "info"):
        return ["docker", "compose"]
    return ["podman-compose"] if shutil.which("podman-compose") else None


def _quiet(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Stack:
    """One composed Routeprint with ports, volumes and names of its own. Everything of it is removed at the end."""

    def __init__(self, project: str, **environment: str) -> None:
        command = compose_command()
        assert command, "There is no docker compose and no podman-compose here."
        self.engine = "docker" if command[0] == "docker" else "podman"
        self.command = [*command, "--project-name", project]
        self.ports = {"api": free_port(), "dashboard": free_port()}
        self.environment = {
            **os.environ,
            "ROUTEPRINT_PORT": str(self.ports["api"]),
            "ROUTEPRINT_DASHBOARD_PORT": str(self.ports["dashboard"]),
            **environment,
        }
        self.typed: list[str] = []
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.ports['api']}/api/v1", timeout=60, trust_env=False)

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.run("down", "--volumes", seconds=120, check=False)
        self.write_down()

    def write_down(self) -> None:
        """Add what was typed and answered to the transcript, if one is wanted."""
        if wanted := os.environ.get("COMPOSE_TRANSCRIPT"):
            with Path(wanted).open("a") as transcript:
                transcript.write("".join(f"    {line}\n" for line in self.typed) + "\n")

    def run(self, *words: str, seconds: float = 600, check: bool = True, shown: bool = True) -> str:
        """Run one compose command and return what it printed."""
        began = time.monotonic()
        done = subprocess.run(
            [*self.command, *words],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"compose {shlex.join(words)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
        if shown:
            self.say(f"$ docker compose {shlex.join(words)}", f"({time.monotonic() - began:.0f} s)")
        return done.stdout.strip()

    def exec(self, service: str, *words: str, **options: Any) -> str:
        """Run a command inside a running service."""
        return self.run("exec", "-T", service, *words, **options)

    def say(self, *lines: str) -> None:
        """Add to the transcript, without any token."""
        self.typed += [_SECRET.sub("<secret>", line) for line in lines]

    def sign_in(self) -> None:
        """Use the token that the stack made for itself, as a user would ask for it."""
        token = self.exec("backend", "routeprint", "token").split()[-1]
        self.client.headers["Authorization"] = f"Bearer {token}"

    def containers(self, service: str) -> list[str]:
        """Return the names of a service's containers, running or not."""
        project = self.command[-1]
        keys = ("com.docker.compose.project", "com.docker.compose.service")
        filters = [f"--filter=label={k}={v}" for k, v in zip(keys, (project, service), strict=True)]
        listed = [self.engine, "ps", "--all", *filters, "--format", "{{.Names}}"]
        return subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()

    def power_cut(self, container: str) -> None:
        """Kill a container at once and start it again."""
        self.say(f"$ {self.engine} kill --signal KILL {container}; {self.engine} start {container}")
        subprocess.run([self.engine, "kill", "--signal", "KILL", container], capture_output=True, check=True)
        subprocess.run([self.engine, "start", container], capture_output=True, check=True)

    def until(self, ready: Callable[[], Any], seconds: float = 600) -> Any:
        """Wait until `ready` returns something true and return it; an API that is away is waited for."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if found := ready():
                    return found
            except (httpx.TransportError, httpx.HTTPStatusError):
                pass
            time.sleep(0.25)
        raise AssertionError(self.run("logs", check=False)[-6000:])

    def get(self, path: str, **params: Any) -> Any:
        """GET as JSON."""
        return self.client.get(path, params=params).raise_for_status().json()

    def post(self, path: str, body: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """POST JSON; any error fails the test with the problem it states."""
        answer = self.client.post(path, **({"json": body} if body is not None else {}), **options)
        assert answer.is_success, answer.text
        self.say(f"POST /api/v1{path} -> {answer.status_code}")
        return answer.json()

    def finished(self, path: str) -> Any:
        """Wait for a resource to succeed and return it."""
        found = self.until(lambda: (r := self.get(path))["status"] not in ("queued", "running") and r)
        assert found["status"] == "succeeded", found["error"]
        self.say(f"GET /api/v1{path} -> {found['status']}, {found['progress']['done']} of {found['progress']['total']}")
        return found

    def reached(self, path: str, share: float) -> Any:
        """Wait until a run has done at least this share of its work; fail if it ended before."""

        def there() -> Any:
            run = self.get(path)
            assert run["status"] in ("queued", "running"), f"it ended before: {run['status']}, {run['error']}"
            return (
                run["stage"]
                and run["progress"]["total"]
                and run["progress"]["done"] >= share * run["progress"]["total"]
            )

        return self.until(there)
