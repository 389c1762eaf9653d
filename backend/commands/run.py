"""Commands that run services: all three at once (`up`), or one in the foreground."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from backend.commands.entering import dashboard_link
from backend.commands.screen import console, say
from backend.security import read_token
from backend.services import check_ports, local_api_url, services_up, watch
from backend.settings import Settings, get_settings


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C: leave the block quietly, so that what it started is stopped in order."""

    def _interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        console.print()
    finally:
        signal.signal(signal.SIGTERM, before)


def _become(module: str, settings: Settings, *arguments: str) -> None:
    """Replace this process by the service, so that signals and its exit status are its own."""
    environment = dict(os.environ)
    if module == "dashboard":
        environment["ROUTEPRINT_API_URL"] = settings.api_url or local_api_url(settings)
        environment["ROUTEPRINT_TOKEN"] = read_token(settings)
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], environment)  # noqa: S606 - our own module


def up() -> None:
    """Start the backend, one worker and the dashboard, and stay until Ctrl-C.

    Each is a process of its own; its output goes to a log file below ROUTEPRINT_HOME. Ctrl-C (or SIGTERM) stops the
    dashboard, then the worker, then the backend. Work that was running goes on at the next start.

    Example: `routeprint up`
    """
    settings = get_settings()
    with ended_by_signal():
        check_ports(settings)
        with (
            console.status("starting") as status,
            services_up(settings, read_token(settings), status.update) as running,
        ):
            status.stop()
            say_addresses(settings, read_token(settings))
            say("Ctrl-C stops all three.")
            watch(running)


def say_addresses(settings: Settings, token: str) -> None:
    """Print where everything is."""
    say(f"[bold]Dashboard[/]  {dashboard_link(settings, token)}   (lets one browser in, once)")
    say(f"[bold]API[/]        {local_api_url(settings)}/docs   (its token: `routeprint token`)")
    say(f"[bold]Logs[/]       {settings.logs_path}")


def backend() -> None:
    """Run the API alone, in the foreground.

    Listens on ROUTEPRINT_HOST:ROUTEPRINT_PORT (127.0.0.1:8321). Needs no torch. Jobs wait until a worker is up.

    Example: `ROUTEPRINT_PORT=9000 routeprint backend`
    """
    _become("backend", get_settings())


def worker(
    name: Annotated[
        str | None, typer.Option(help="Its identity in the queue; keep it over restarts. Default: host and a number.")
    ] = None,
) -> None:
    """Run one worker, in the foreground: it measures and trains. One per GPU.

    It takes jobs from the queue of this ROUTEPRINT_HOME (or of ROUTEPRINT_JOBS_URL) and needs the worker extra
    (pip install 'routeprint[worker]').

    Example: `ROUTEPRINT_DEVICE=cuda:0 routeprint worker`
    """
    _become("worker", get_settings(), *(["--name", name] if name else []))


def dashboard() -> None:
    """Run the dashboard alone, in the foreground.

    It reaches the API at ROUTEPRINT_API_URL with this installation's token (or with ROUTEPRINT_TOKEN), and asks every
    browser for that token. `routeprint token --link` prints a link that lets one browser in.

    Example: `ROUTEPRINT_API_URL=http://127.0.0.1:8321 routeprint dashboard`
    """
    _become("dashboard", get_settings())
