"""Commands that look after an installation: token, doctor, backup, restore."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from sqlalchemy import make_url

from backend import backup as backups
from backend.checked import Check
from backend.commands.entering import dashboard_link
from backend.commands.screen import console, say, size_in_words
from backend.doctor import examine, workers_of
from backend.domain.errors import Conflict
from backend.queue import JobQueue
from backend.repairs import free_pages, repairs
from backend.retention import Freed, planned
from backend.retention import purge as purged
from backend.security import read_token, rotate_token
from backend.services import answers_as_routeprint, local_api_url
from backend.settings import Settings, get_settings
from backend.store.engine import make_engine
from backend.store.migrate import upgrade

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


def purge(
    now: Annotated[bool, typer.Option("--now", help="Also what was deleted just now: do not wait.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
) -> None:
    """Remove deleted runs and prompt sets for good, with their files, and say how much room that gives.

    What is deleted can be restored for ROUTEPRINT_DELETED_DAYS; the backend then removes it by itself. What a run
    that stays refers to is kept, deleted or not. On SQLite the room goes back to the disk if the services are stopped.

    Example: `routeprint purge --now --dry-run`
    """
    settings = get_settings()
    path = make_url(settings.tables_url)
    if path.get_backend_name() == "sqlite" and not Path(path.database or "").exists():
        say("There is nothing to remove: no database has been made yet.")
        return
    upgrade(settings.tables_url)
    engine = make_engine(settings.tables_url)
    days = 0.0 if now else settings.deleted_days
    if dry_run:
        _show_freed(planned(settings, engine, days), "would go")
        return
    queue = JobQueue(settings.queue_url)
    _show_freed(purged(settings, engine, queue.forget, days=days), "removed")
    queue.close()
    engine.dispose()
    _give_back(settings)


def _show_freed(found: Iterable[Freed], done: str) -> None:
    rows = files = n = 0
    for one in found:
        rows, files, n = rows + one.rows, files + one.files, n + 1
        say(f"{one.run.kind} {one.run.id} {escape(one.run.name)}: {size_in_words(one.rows + one.files)}")
    say(f"{n} {done}: {size_in_words(rows)} of rows, {size_in_words(files)} of files.")


def _give_back(settings: Settings) -> None:
    """Give the room that rows left in SQLite files back to the disk, where nobody uses them."""
    running = answers_as_routeprint(local_api_url(settings))
    for one in free_pages(settings, least=0, share=0.0):
        if running:
            todo = "New rows take that room; to give it to the disk, stop the services and run this again."
            say(f"{one.what}: {size_in_words(one.frees)}. {todo}")
            continue
        one.do()
        say(f"{one.what}: {size_in_words(one.frees)} given back to the disk")


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
