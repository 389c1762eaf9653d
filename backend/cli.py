"""The `routeprint` command: names every verb; what each does lives in backend/commands and its neighbours."""

import sys

import httpx
import typer
from rich.markup import escape

from backend.commands import data, demo, exchange, keep, run, study
from backend.commands.screen import errors
from backend.domain.errors import RouteprintError

app = typer.Typer(
    name="routeprint",
    help=(
        "Measure which experts of a Mixture-of-Experts model fire on unsafe prompts, train only those, and trace every "
        "training step to the batch it came from."
    ),
    epilog="Everything is written below ROUTEPRINT_HOME. Tab completion: `routeprint --install-completion`",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_RUN, _WORK, _KEEP = "Run it", "Work with it", "Keep it well"

app.command("demo", rich_help_panel=_RUN)(demo.demo)
app.command("up", rich_help_panel=_RUN)(run.up)
app.command("backend", rich_help_panel=_RUN)(run.backend)
app.command("worker", rich_help_panel=_RUN)(run.worker)
app.command("dashboard", rich_help_panel=_RUN)(run.dashboard)
app.command("study", rich_help_panel=_WORK)(study.study)
app.command("import", rich_help_panel=_WORK)(data.import_)
app.command("import-experts", rich_help_panel=_WORK)(exchange.import_experts)
app.command("import-table", rich_help_panel=_WORK)(exchange.import_table)
app.command("convert-table", rich_help_panel=_WORK)(exchange.convert_table)
app.command("export", rich_help_panel=_WORK)(data.export)
app.command("verify", rich_help_panel=_WORK)(data.verify)
app.command("cancel", rich_help_panel=_WORK)(data.cancel)
app.command("token", rich_help_panel=_KEEP)(keep.token)
app.command("doctor", rich_help_panel=_KEEP)(keep.doctor)
app.command("purge", rich_help_panel=_KEEP)(keep.purge)
app.command("backup", rich_help_panel=_KEEP)(keep.backup)
app.command("restore", rich_help_panel=_KEEP)(keep.restore)


def main() -> None:
    """Run the command line. An expected error is one sentence on stderr and exit status 1."""
    try:
        app()
    except (RouteprintError, httpx.HTTPError, OSError) as error:
        errors.print(f"[red]routeprint:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
