"""Starts and stops the three services as processes of their own (`python -m backend`, `worker`, `dashboard`).

The backend never imports the other two: it starts them by name, waits until each answers, and stops them by PID, the
dashboard first and the API last. Their output goes to one log file each, below the home folder.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from backend.domain.errors import RouteprintError
from backend.settings import Settings

START_SECONDS = 90.0
STOP_SECONDS = 20.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - how to reach ourselves when bound to every address


class ServiceError(RouteprintError):
    """A service cannot start, or ended by itself. Names the service and its log file."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service: its name (also its module's), where it answers, and what sets its port. The worker has no port."""

    name: str
    url: str
    port_variable: str
    health_path: str


@dataclass(frozen=True, slots=True)
class Running:
    """A started service and its log file."""

    service: Service
    process: subprocess.Popen[bytes]
    log: Path


def services_of(settings: Settings) -> tuple[Service, Service, Service]:
    """Return the services in the order they start; they stop in the opposite one."""
    return (
        Service("backend", local_api_url(settings), "ROUTEPRINT_PORT", "/health"),
        Service("worker", "", "", ""),
        Service("dashboard", dashboard_url(settings), "ROUTEPRINT_DASHBOARD_PORT", "/_stcore/health"),
    )


def local_host(settings: Settings) -> str:
    """Return the host under which this machine reaches its own services."""
    return _EVERYWHERE.get(settings.host, settings.host)


def local_api_url(settings: Settings) -> str:
    """Return the address of the API as seen from this machine, where the services are started."""
    return f"http://{local_host(settings)}:{settings.port}"


def dashboard_url(settings: Settings) -> str:
    """Return the address of the dashboard, which listens on this machine alone."""
    return f"http://127.0.0.1:{settings.dashboard_port}"


def port_taken(url: str) -> bool:
    """Tell whether something already listens at this address."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=1.0):
            return True
    except OSError:
        return False


def answers_as_routeprint(url: str) -> bool:
    """Tell whether a Routeprint API answers at this address."""
    try:
        answer = httpx.get(f"{url}/health", timeout=2.0, trust_env=False)
        return bool(answer.status_code == httpx.codes.OK and answer.json().get("status") == "ok")
    except (httpx.HTTPError, ValueError):
        return False


def check_ports(settings: Settings) -> None:
    """Raise ServiceError if a port that the services need is taken, saying by what where that can be told."""
    for service in services_of(settings):
        if not service.url or not port_taken(service.url):
            continue
        ours = service.name == "backend" and answers_as_routeprint(service.url)
        what = "Routeprint already runs there: use it, or stop it first" if ours else "Something else listens there"
        port = urlsplit(service.url).port or 0
        raise ServiceError(
            f"{service.url}, where the {service.name} is to listen, is taken. {what}; or choose another port, as in "
            f"{service.port_variable}={port + 10}."
        )


def environment_of(service: Service, settings: Settings, token: str) -> dict[str, str]:
    """Return the environment of a child: ours, and for the dashboard where the API is and the token that opens it."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if service.name == "dashboard":
        environment |= {"ROUTEPRINT_API_URL": local_api_url(settings), "ROUTEPRINT_TOKEN": token}
    return environment


def start(service: Service, settings: Settings, token: str) -> Running:
    """Start one service in a session of its own, so that Ctrl-C reaches us alone and we stop it in our order."""
    settings.logs_path.mkdir(parents=True, exist_ok=True)
    log = settings.logs_path / f"{service.name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
            [sys.executable, "-m", service.name],
            env=environment_of(service, settings, token),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(service, process, log)


def last_lines(log: Path, n: int = 12) -> str:
    """Return the end of a log file, for an error message."""
    with suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-n:])
    return ""


def check_alive(running: Running) -> None:
    """Raise ServiceError if the process has ended, with the end of its log."""
    code = running.process.poll()
    if code is not None:
        raise ServiceError(
            f"The {running.service.name} ended with status {code}. The end of {running.log}:\n{last_lines(running.log)}"
        )


def wait_until(ready: Callable[[], bool], running: Running, seconds: float = START_SECONDS) -> None:
    """Wait until `ready`, as long as the process lives. Raises ServiceError when it ends or the time is up."""
    deadline = time.monotonic() + seconds
    while not ready():
        check_alive(running)
        if time.monotonic() > deadline:
            raise ServiceError(
                f"The {running.service.name} did not answer within {seconds:.0f} s. The end of {running.log}:\n"
                f"{last_lines(running.log)}"
            )
        time.sleep(0.2)


def healthy(url: str) -> bool:
    """Tell whether a health address answers 200."""
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def worker_alive(api_url: str, token: str, pid: int) -> bool:
    """Tell whether the worker with this PID has a fresh heartbeat."""
    try:
        answer = httpx.get(
            f"{api_url}/api/v1/system", headers={"Authorization": f"Bearer {token}"}, timeout=5.0, trust_env=False
        )
        return any(w["pid"] == pid and w["alive"] for w in answer.raise_for_status().json()["workers"])
    except (httpx.HTTPError, ValueError, KeyError):
        return False


def stop(running: Running, seconds: float = STOP_SECONDS) -> None:
    """Ask the process to end; when the time is up, end it and whatever it had started (engines) by their PIDs."""
    process = running.process
    children: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def wait_ready(running: Running, settings: Settings, token: str) -> None:
    """Wait until a started service answers (the API, the dashboard) or has sent a heartbeat (the worker)."""
    service = running.service
    if not service.url:
        wait_until(lambda: worker_alive(local_api_url(settings), token, running.process.pid), running)
    else:
        wait_until(lambda: healthy(service.url + service.health_path), running)


@contextmanager
def services_up(settings: Settings, token: str, said: Callable[[str], None]) -> Iterator[Sequence[Running]]:
    """Run the three services for the length of the block. `said` is told what is being waited for."""
    check_ports(settings)
    running: list[Running] = []
    try:
        first, *others = services_of(settings)
        said(f"starting the {first.name}")
        running.append(start(first, settings, token))
        wait_ready(running[0], settings, token)  # it makes the tables that the worker reads
        running.extend(start(service, settings, token) for service in others)
        for one in running[1:]:
            said(f"starting the {one.service.name}")
            wait_ready(one, settings, token)
        yield running
    finally:
        for one in reversed(running):
            said(f"stopping the {one.service.name}")
            stop(one, settings.grace_seconds + STOP_SECONDS)


def watch(running: Sequence[Running]) -> None:
    """Stay until a service ends by itself; then raise ServiceError. Leave by KeyboardInterrupt."""
    while True:
        for one in running:
            check_alive(one)
        time.sleep(1.0)
