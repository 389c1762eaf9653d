"""Commands that look after an installation: token, doctor, backup, restore."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from backend import backup as backups
from backend.checked import Check
from backend.commands.entering import dashboard_link
from backend.commands.screen import console, say, size_in_words
from backend.doctor import examine, workers_of
from backend.domain.errors import Conflict
from backend.repairs import repairs
from backend.security import read_token, rotate_token
from backend.services import answers_as_routeprint, local_api_url
from backend.settings import get_settings

_SIGNS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "wrong": "[red]✗[/]"}


def token(
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new one; the old one stops working.")] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Print a link instead that lets one browser into the dashboard, once.")
    ] = False,
) -> None:
    """Print the access token of this installation (made once, in a file only its owner can read).

    ROUTEPRINT_TOKEN, where set, wins over the file. After --rotate the API takes the new one at
    once; restart the dashboard, whose links and cookies then end too.

    Example: `curl -H "Authorization: Bearer $(routeprint token)" http://127.0.0.1:8321/api/v1/system`
    """
    settings = get_settings()
    if rotate and settings.token:
        raise Conflict("The token comes from ROUTEPRINT_TOKEN: change it there. Nothing was rotated.")
    found = rotate_token(settings) if rotate else read_token(settings)
    typer.echo(dashboard_link(settings, found) if link else found)


def _show(check: Check) -> None:
    todo = f"\n  {'':<24}[dim]{escape(check.todo)}[/]" if check.todo else ""
    say(f"{_SIGNS[check.state]} {check.name:<24}{escape(check.found)}{todo}")


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON list instead.")] = False,
    worker: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Tell only whether a worker on this host is alive."),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Put right what is safe: artifacts of no run, leftovers and unused pages (services stopped), the "
            "token file's mode. Prints each first.",
        ),
    ] = False,
) -> None:
    """Look at this installation: Python, versions, SQLite, disk, token, ports, databases, workers, GPU.

    Says what is wrong and what to do; changes nothing without --repair. Exit status 1 if something is wrong (warnings
    are not).

    Example: `routeprint doctor`
    """
    settings = get_settings()
    if worker is not None:
        raise typer.Exit(not any(one["alive"] and one["host"] == worker for one in workers_of(settings)))
    if repair:
        for one in repairs(settings):
            say(f"{escape(one.what)}: {size_in_words(one.frees)}")
            one.do()
    checks: list[Check] = []
    for check in examine(settings):
        checks.append(check)
        if not json:
            _show(check)
    if json:
        console.print_json(data=[asdict(check) for check in checks])
    if any(check.state == "wrong" for check in checks):
        raise typer.Exit(1)


def backup(
    path: Annotated[Path, typer.Argument(help="The file to write: a tar, gzipped if it ends in .gz or .tgz.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Save both databases and the artifacts in one file, also while the services run.

    Left out: the models folder, the logs and the access token.

    Example: `routeprint backup routeprint-2026-11-22.tar`
    """
    with console.status("backing up"):
        held = backups.backup(get_settings(), path, force=force)
    say(f"{path}: {held.n_files} files, {size_in_words(held.bytes)}. Bring it back with: routeprint restore {path}")


def restore(
    path: Annotated[Path, typer.Argument(help="A file that `routeprint backup` wrote.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the data that is there.")] = False,
) -> None:
    """Put a backup in place. The services must be stopped. Every file is checked before anything is replaced.

    Example: `routeprint restore routeprint-2026-11-22.tar`
    """
    settings = get_settings()
    if answers_as_routeprint(local_api_url(settings)):
        raise Conflict(f"Routeprint is running at {local_api_url(settings)}. Stop it, then restore.")
    with console.status("restoring"):
        held = backups.restore(settings, path, force=force)
    say(f"Restored {held.n_files} files, {size_in_words(held.bytes)}, of {held.created_at} (version {held.version}).")
