"""Commands that work with data through REST: import, export, verify, cancel."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from backend.commands.client import ApiError, Client, Json, subject_path
from backend.commands.screen import bar, console, say, size_in_words
from backend.domain.errors import InvalidInput
from backend.security import read_token
from backend.settings import get_settings

EXPORTS = {
    "pkl": "the result bundle for pandas",
    "jsonl": "the batch-structured training set",
    "parquet": "the batch-structured training set",
    "csv": "the risk_diff table",
    "npy": "the risk_diff matrix",
    "esft": "an expert set as ESFT configuration",
    "html": "the report",
    "md": "the report",
}
REPORTS = ("html", "md")
_SHOWN_PROBLEMS = 20


def connect() -> Client:
    """Return a client for this installation's API."""
    settings = get_settings()
    return Client(settings.base_url, read_token(settings))


def _read_mapping(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return json.dumps(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from None


def _proposed_meaning(previews: Sequence[Json]) -> str:
    """Return what the labels mean, as the first recognised format says; else harmless and harmful requests."""
    found = next((p["label_meaning"] for p in previews if p["label_meaning"]), None)
    if found is None:
        return "harmless_harmful"
    kind = str(found["kind"])
    return json.dumps({w: found[w] for w in ("safe", "unsafe")}) if kind == "other" else kind


def _show_preview(name: str, preview: dict[str, Any]) -> None:
    at_least = "" if preview["complete"] else "at least "
    looks = f", looks like {preview['mapping']['name']}" if preview["mapping"] else ""
    title = f"{name}: {at_least}{preview['n_rows']} rows, {preview['format']}{looks}"
    table = Table(title=title, title_justify="left")
    table.add_column("field")
    table.add_column("taken from column")
    for field, column in (preview["mapping"] or {"columns": {}})["columns"].items():
        table.add_row(field, escape(str(column)))
    console.print(table)
    for note in preview["notes"]:
        say(f"  [yellow]note[/] {escape(str(note))}")
    values = (preview["mapping"] or {}).get("label_values") or {}
    if values:
        say("  labels: " + ", ".join(f"{escape(str(raw))} → {label}" for raw, label in values.items()))
    say("  " + ", ".join(f"{label}: {n}" for label, n in preview["counts"].items()))
    for problem in preview["problems"][:_SHOWN_PROBLEMS]:
        where = f"row {problem['row']}" if problem["row"] else "the file"
        say(f"  [red]{where}[/] {escape(str(problem['message']))}")
    hidden = preview["n_problems"] - min(len(preview["problems"]), _SHOWN_PROBLEMS)
    if hidden > 0:
        say(f"  and {hidden} more")


def upload(api: Client, files: Sequence[Path], form: Mapping[str, Any]) -> Json:
    """Send the files, have every row checked, and follow the rows of a large set until all are stored."""
    n_bytes = sum(path.stat().st_size for path in files)
    with ExitStack() as opened, console.status(f"sending {size_in_words(n_bytes)} and checking every row"):
        parts = [("file", (path.name, opened.enter_context(path.open("rb")))) for path in files]
        dataset: Json = api.send("POST", "datasets", data=form, files=parts, timeout=3600.0).json()
    if dataset["status"] == "succeeded":
        return dataset
    with bar(f"rows of {escape(dataset['name'])} stored") as advance:
        return api.wait(f"datasets/{dataset['id']}", advance)


def import_(
    files: Annotated[list[Path], typer.Argument(help="CSV, JSONL, JSON or Parquet.", exists=True, dir_okay=False)],
    name: Annotated[str, typer.Option(help="Name of the prompt set.")],
    label: Annotated[
        list[str] | None, typer.Option(help="safe or unsafe: one per file, in their order, for files without a column.")
    ] = None,
    label_meaning: Annotated[
        str | None,
        typer.Option(
            help='harmless_harmful, refused_complied, or JSON: {"safe": "...", "unsafe": "..."}. Left out, what a '
            "recognised set says of its labels; else harmless_harmful."
        ),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="JSON file with the column mapping, where the proposed one is not right.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before importing.")] = False,
) -> None:
    """Preview files and import them as one prompt set.

    Shows how the columns are read, how many rows are safe and unsafe, and every problem by row number. Nothing is
    stored if one row cannot be read.

    Example: `routeprint import harmless.csv harmful.jsonl --name "My prompts" --label safe --label unsafe`
    """
    labels = list(label or [])
    if labels and len(labels) != len(files):
        raise InvalidInput(f"{len(files)} files and {len(labels)} labels: give one --label for each file, or none.")
    chosen = _read_mapping(mapping)
    shared = {"mapping": chosen} if chosen else {}
    seen: list[Json] = []
    with connect() as api:
        for path, label_ in zip(files, labels or [""] * len(files), strict=True):
            with path.open("rb") as file:
                form = shared | {"label": label_}
                seen.append(api.post("datasets/preview", data=form, files={"file": (path.name, file)}))
            _show_preview(path.name, seen[-1])
        meaning = label_meaning or _proposed_meaning(seen)
        if not yes and console.is_terminal:
            typer.confirm(f"Import {len(files)} file(s) as {name!r}?", abort=True)
        whole = shared | {"name": name, "label_meaning": meaning}
        dataset = upload(api, files, {**whole, "label": labels} if labels else whole)
    say(
        f"[bold]{dataset['id']}[/]  {escape(dataset['name'])}: {dataset['n_rows']} prompts, {dataset['n_safe']} safe, "
        f"{dataset['n_unsafe']} unsafe, {dataset['n_duplicates']} duplicates left out"
    )
    means = dataset["label_meaning"]
    say(f"  safe means {escape(means['safe'])}; unsafe means {escape(means['unsafe'])}")


def _format(id_: str, out: Path, given: str | None) -> str:
    """Return the form of a table or set: as given, else as the file's ending says, else csv.

    Raises InvalidInput for an ending that would hold something else than it says.
    """
    ending = out.suffix.lower().removeprefix(".")
    if given or ending not in {*EXPORTS, "json"}:
        return given or "csv"
    if ending == "json" and not id_.startswith(("es_", "cmp_", "rt_")):
        raise InvalidInput(f"An analysis is not exported as JSON. Choose one of: {', '.join(EXPORTS)}.")
    return ending


def _export_path(id_: str, format_: str, scope: str, pool: str, batch: int | None) -> tuple[str, dict[str, Any]]:
    """Return the route and its parameters for an export. Raises InvalidInput where id and format do not fit."""
    if format_ == "esft" and not id_.startswith("es_"):
        raise InvalidInput(f"ESFT's form is one of an expert set (es_...), and {id_} is none: name a set.")
    if id_.startswith("es_"):
        return f"expert-sets/{id_}", {"format": "esft" if format_ == "esft" else "json"}
    if id_.startswith("stu_"):
        if format_ not in REPORTS:
            raise InvalidInput(f"{id_} is a study, which is exported as a report: end the file in .html or .md.")
        return f"studies/{id_}/report", {"format": format_}
    if id_.startswith("tr_"):
        raise InvalidInput(f"{id_} is a training: export its analysis with --training {id_} instead.")
    if id_.startswith(("cmp_", "rt_")):
        form = format_ if format_ in {"csv", "npy", "parquet", "json"} else "csv"
        return (f"comparisons/{id_}/table" if id_.startswith("cmp_") else f"risk-tables/{id_}/risk-diff"), {
            "format": form
        }
    if format_ in {"csv", "npy"}:
        where = {} if batch is None else {"batch_idx": batch}
        return f"analyses/{id_}/risk-diff", {"format": format_, "scope": scope, "pool": pool, **where}
    if format_ in REPORTS:
        return f"analyses/{id_}/report", {"format": format_, "scope": scope, "pool": pool}
    return f"analyses/{id_}/export", {"format": format_}


def _report_format(out: Path, given: str | None) -> str:
    """Return the form of a report: as given, or as the file's ending says."""
    form = given or {".md": "md", ".markdown": "md", ".html": "html", ".htm": "html"}.get(out.suffix.lower(), "")
    if form not in REPORTS:
        raise InvalidInput(f"A report is html or md, and {out.name!r} says neither: end it in .html or .md.")
    return form


def export(
    id_: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="An analysis (an_...), a study (stu_...), an expert set (es_...), a comparison (cmp_...) or a "
            "published table (rt_...).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="; ".join(f"{k}: {what}" for k, what in EXPORTS.items()) + " [default: by the ending, else csv]",
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="The report of an analysis, HTML or Markdown by the file's ending.")
    ] = False,
    with_examples: Annotated[
        bool, typer.Option("--with-examples", help="For a report: show some prompts, folded away. Else it shows none.")
    ] = False,
    scope: Annotated[
        str, typer.Option(help="Tokens that count, for csv, npy and reports: prompt, response or last.")
    ] = "prompt",
    pool: Annotated[str, typer.Option(help="For csv, npy and reports: mean or pooled.")] = "mean",
    batch: Annotated[int | None, typer.Option(help="For csv and npy: one batch instead of all.")] = None,
    training: Annotated[
        str | None, typer.Option(help="For jsonl and parquet: the training whose answers to use.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write an analysis, its report, its training set or an expert set to a file.

    Example: `routeprint export an_1f0c9a2b7d3e --report -o report.html`
    """
    format_ = _report_format(out, format_) if report else _format(id_, out, format_)
    if format_ not in {*EXPORTS, "json"}:
        raise InvalidInput(f"There is no format {format_!r}. Choose one of: {', '.join(EXPORTS)}.")
    if out.exists() and not force:
        raise InvalidInput(f"{out} exists already. Choose another name, or say --force.")
    path, params = _export_path(id_, format_, scope, pool, batch)
    params |= {"training_id": training} if training else {}
    params |= {"examples": True} if with_examples else {}
    with connect() as api, console.status("exporting"):
        n_bytes = api.download(path, out, **params)
    say(f"{out}: {size_in_words(n_bytes)}")


def show_links(answer: dict[str, Any]) -> None:
    """Print a verification, one link of the chain a line, and the first break in full."""
    for link in answer["links"]:
        sign = "[green]✓[/]" if link["ok"] else "[red]✗[/]"
        say(f"{sign} {escape(link['name']):<70} {link['checked']:>6} checked")
    broken = answer["first_break"]
    if broken:
        say(f"[red]The chain breaks[/] at {escape(str(broken['where'] or broken['name']))}:")
        say(f"  expected {escape(str(broken['expected']))}\n  found    {escape(str(broken['found']))}")


def verify(
    id_: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="An analysis (an_...), a training (tr_...), statistics (st_...) or another run."
        ),
    ],
) -> None:
    """Recompute the whole chain of an analysis, a training, statistics or an evaluation from the stored rows.

    Prints every link and the first that breaks. Exit status 1 if one does.

    Example: `routeprint verify tr_5b0e6a71c2d9`
    """
    if id_.startswith("stu_"):
        raise InvalidInput(
            f"{id_} is a study, which is made of runs: verify its analysis and its trainings, one by one."
        )
    with connect() as api, console.status("verifying"):
        answer = api.post(f"{subject_path(id_)}/verify")
    show_links(answer)
    if not answer["ok"]:
        raise typer.Exit(1)
    say("The chain holds.")


def cancel(
    id_: Annotated[str, typer.Argument(metavar="ID", help="An analysis, a training, statistics, or the job of one.")],
) -> None:
    """Stop an analysis, a training or statistics. What it has stored stays, and it can be resumed.

    Example: `routeprint cancel an_1f0c9a2b7d3e`
    """
    with connect() as api:
        try:
            path = subject_path(id_)
        except ApiError:
            path = subject_path(api.get(f"jobs/{id_}")["subject_id"])
        answer = api.post(f"{path}/cancel")
    say(f"{path.partition('/')[2]}: {answer['status']}")
