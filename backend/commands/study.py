"""`routeprint study`: from prompts to a report, every step of it through the public API."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from backend.commands import demo as demonstration
from backend.commands.client import Client, Json
from backend.commands.data import upload
from backend.commands.run import ended_by_signal
from backend.commands.screen import bar, say
from backend.domain.errors import InvalidInput
from backend.security import read_token
from backend.services import answers_as_routeprint, check_ports, dashboard_url, services_up
from backend.settings import Settings, get_settings
from backend.store.tables import utcnow

FIELDS = ("messages", "label", "response", "category", "difficulty", "group", "source")
REPORTS = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md"}


def study(
    *,
    dataset: Annotated[
        list[Path] | None,
        typer.Option("--dataset", "-d", help="A file of prompts; repeat it for several.", exists=True, dir_okay=False),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="safe or unsafe: one per file, in their order, for files without a column.")
    ] = None,
    label_meaning: Annotated[str, typer.Option(help="As for `routeprint import`.")] = "harmless_harmful",
    demo: Annotated[bool, typer.Option("--demo", help="Use the demonstration's own prompts.")] = False,
    model: Annotated[
        str, typer.Option(help="A scanned model; the demonstration model is made where it is missing.")
    ] = demonstration.MODEL,
    seeds: Annotated[int, typer.Option(min=2, max=50, help="Trainings per arm.")] = 5,
    experts: Annotated[int, typer.Option(min=1, help="How many experts are trained: the most unsafe ones.")] = 8,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each training.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="Of each training.")] = 1e-3,
    held_out: Annotated[
        float, typer.Option(min=0.05, max=0.9, help="Share of the prompts (whole groups) kept for evaluation.")
    ] = 0.25,
    most: Annotated[
        int | None, typer.Option(min=32, help="Use at most so many prompts, half of each label; left out, all.")
    ] = None,
    ask: Annotated[int, typer.Option(min=2, help="Ask each model at most so many of the held-out prompts.")] = 100,
    n_random: Annotated[int, typer.Option(min=0, help="Random expert sets of each family in the causal check.")] = 20,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    report: Annotated[
        list[Path] | None, typer.Option("--report", "-o", help="A file ending in .html or .md; repeat it for both.")
    ] = None,
) -> None:
    """Test whether keeping batches makes trainings more reproducible, and whether the chosen experts matter.

    Splits the prompts into a part to measure and train on and a part that is only asked; then analysis, expert set,
    trainings with batches kept and with samples reshuffled (one per seed each), measurement and questioning of every
    trained model, and the causal check beside random expert sets. Uses the Routeprint that runs here, or starts one
    for as long as it takes. Ctrl-C stops waiting, not the study, where the services run by themselves.

    Example: `routeprint study --dataset harmless.csv --dataset harmful.csv --label safe --label unsafe -o report.html`
    """
    if bool(dataset) == demo:
        raise InvalidInput("Name the prompts: --dataset FILE (once per file), or --demo for the demonstration's own.")
    labels = list(label or [])
    if labels and len(labels) != len(dataset or []):
        raise InvalidInput(f"{len(dataset or [])} files and {len(labels)} labels: give one --label for each, or none.")
    outs = {path: _form(path) for path in report or []}
    settings = get_settings()
    with ended_by_signal(), _running(settings, model) as (api, since):
        whole = _prompts(api, dataset or [], labels, label_meaning, demo=demo)
        if model == demonstration.MODEL:
            _demo_model(api, settings, since)
        measured, asked = _split(api, whole, held_out, most)
        analysis = _analyse(api, measured["id"], model, name or f"Study of {whole['name']}"[:150])
        chosen = api.post(
            f"analyses/{analysis['id']}/expert-sets", {"method": "top_k", "k": experts, "name": f"top {experts}"}
        )
        body = {
            "analysis_id": analysis["id"],
            "expert_set_id": chosen["id"],
            "seeds": list(range(seeds)),
            "training": {"epochs": epochs, "learning_rate": learning_rate},
            "evaluation": {"dataset_id": asked["id"], "max_prompts": ask, "n_random": n_random},
        } | ({"name": name} if name else {})
        found = _study(api, body)
        _say(found, settings)
        for path, form in outs.items():
            api.download(f"studies/{found['id']}/report", path, format=form)
            say(f"report: {path}")


def _form(path: Path) -> str:
    form = REPORTS.get(path.suffix.lower())
    if form is None:
        raise InvalidInput(f"A report is HTML or Markdown, and {path.name!r} says neither: end it in .html or .md.")
    return form


@contextmanager
def _running(settings: Settings, model: str) -> Iterator[tuple[Client, str]]:
    """Yield a client of the services that run here, or of ones started for this block. since: when those started."""
    token = read_token(settings)
    if answers_as_routeprint(settings.base_url):
        with Client(settings.base_url, token) as api:
            yield api, ""
        return
    check_ports(settings)
    if model == demonstration.MODEL:
        demonstration.build_model(settings, 0)
    since = utcnow()
    with services_up(settings, token, say), Client(settings.base_url, token) as api:
        yield api, since


def _demo_model(api: Client, settings: Settings, since: str) -> None:
    """See that the demonstration model is there: services that ran before may have been started without it."""
    if not since and demonstration.find_model(api, since) is None:
        demonstration.build_model(settings, 0)
    demonstration.wait_for_model(api, since)


def _prompts(api: Client, files: Sequence[Path], labels: Sequence[str], meaning: str, *, demo: bool) -> Json:
    if demo:
        whole: Json = api.post("datasets/demo")
    else:
        form: dict[str, Any] = {"name": ", ".join(path.stem for path in files)[:200], "label_meaning": meaning}
        whole = upload(api, files, form | ({"label": list(labels)} if labels else {}))
    say(f"[green]✓[/] {whole['n_rows']} prompts: {whole['n_safe']} safe, {whole['n_unsafe']} unsafe")
    return whole


def _split(api: Client, whole: Json, held_out: float, most: int | None) -> tuple[Json, Json]:
    """Store the prompts as two sets without a prompt or group in common; return the measured and the asked one."""
    rows = list(api.items(f"datasets/{whole['id']}/rows"))
    parts = split_rows(rows, held_out, most)
    meaning = whole["label_meaning"]
    said = meaning["kind"] if meaning["kind"] != "other" else json.dumps({k: meaning[k] for k in ("safe", "unsafe")})
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for what, own in zip(("measured and trained", "asked"), parts, strict=True):
            path = Path(folder) / f"{what.split()[0]}.jsonl"
            path.write_text("".join(json.dumps(_row(row)) + "\n" for row in own), encoding="utf-8")
            form = {"name": f"{whole['name'][:160]}, {what}", "label_meaning": said}
            made.append(upload(api, [path], form))
    say(f"  {made[0]['n_rows']} to measure and train on, {made[1]['n_rows']} others to ask")
    return made[0], made[1]


def _row(row: Json) -> Json:
    return {name: row[name] for name in FIELDS if row[name] is not None}


def split_rows(rows: Sequence[Json], held_out: float, most: int | None) -> tuple[list[Json], list[Json]]:
    """Return rows to measure and rows to ask: no group in both, the share of each label kept, at most `most` in all.

    Drawn by the rows' own digests, so that the same prompts are always split the same way.
    """
    measured: list[Json] = []
    asked: list[Json] = []
    for label in ("safe", "unsafe"):
        own = sorted((row for row in rows if row["label"] == label), key=_lot)
        own = own[: most // 2] if most else own
        for row in own:
            (asked if _share(row) < held_out else measured).append(row)
    if not measured or not asked:
        raise InvalidInput(
            f"{len(rows)} prompts cannot be split into a part to measure and one to ask: give more prompts, fewer to "
            "a group, or another --held-out."
        )
    return measured, asked


def _lot(row: Json) -> str:
    return hashlib.sha256(f"order {row['row_id']}".encode()).hexdigest()


def _share(row: Json) -> float:
    """Return a number in [0, 1) that all rows of a group have in common."""
    unit = f"group {row['group']}" if row["group"] is not None else f"row {row['row_id']}"
    return int(hashlib.sha256(unit.encode()).hexdigest()[:12], 16) / 16**12


def _analyse(api: Client, dataset_id: str, model: str, name: str) -> Json:
    with bar("analysis: batches measured") as advance:
        made = api.post("analyses", {"dataset_id": dataset_id, "model": model, "name": name})
        return api.wait(f"analyses/{made['id']}", advance)


def _study(api: Client, body: Json) -> Json:
    size = api.post("studies", body, params={"dry_run": True})["estimate"]
    say(
        f"  {size['n_runs']} runs: {size['runs']['training']} trainings ({size['n_steps']} steps), "
        f"{size['runs']['analysis']} measurements, {size['n_answers']} answers"
    )
    with bar("study: runs") as advance:
        return api.wait(f"studies/{api.post('studies', body)['id']}", advance)


def _say(found: Json, settings: Settings) -> None:
    for one in found["result"]["verdicts"]:
        mark = {"shown": "[green]●[/]", "not_shown": "○", "untested": "[dim]–[/]"}[one["tone"]]
        say(f"{mark} {escape(one['text'])}")
    say(f"\n[bold]Study[/]  {dashboard_url(settings)}/study?id={found['id']}")
