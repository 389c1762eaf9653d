"""Commands that bring in what other tools made: expert sets, published risk tables, old pickled tables."""

import csv
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from backend.commands.data import connect
from backend.commands.screen import say, size_in_words
from backend.domain.errors import InvalidInput
from backend.domain.pickled_data import MAX_BYTES
from backend.domain.pickled_tables import read_table


def import_experts(
    file: Annotated[
        Path, typer.Argument(help="ESFT's expert configuration, or the JSON of a set.", exists=True, dir_okay=False)
    ],
    analysis: Annotated[str, typer.Option(help="The analysis whose model has these experts (an_...).")],
    name: Annotated[str | None, typer.Option(help="Name of the set; left out, it says the file.")] = None,
) -> None:
    """Bring in an expert set that was chosen elsewhere.

    The set is stored beside the analysis' own and can be trained like them; it keeps the file's name and SHA-256.
    Nothing is stored if the file names an expert that the model does not have, shared experts or other modules.

    Example: `routeprint import-experts expert_config.json --analysis an_1f0c9a2b7d3e`
    """
    with connect() as api, file.open("rb") as content:
        form = {"name": name} if name else {}
        made = api.post(f"analyses/{analysis}/expert-sets/import", data=form, files={"file": (file.name, content)})
    say(f"[bold]{made['id']}[/]  {escape(made['name'])}: {made['n_experts']} of {made['n_total']} experts")


def convert_table(
    old: Annotated[Path, typer.Argument(help="A pickled pandas.DataFrame of numbers.", exists=True, dir_okay=False)],
    new: Annotated[Path, typer.Argument(help="The CSV file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Turn an old pickled table of numbers into CSV, without running anything that it holds.

    A pickle can execute code when it is opened, so the services never read one. Here its bytes are read as data:
    nothing it names is imported or called, and a file that names anything else than a table's parts is refused by name.
    pandas is not needed. Columns of text are left out.

    Example: `routeprint convert-table activations.pkl activations.csv`
    """
    if new.suffix.lower() != ".csv":
        raise InvalidInput(f"{new} does not end in .csv, and that is what is written.")
    if new.exists() and not force:
        raise InvalidInput(f"{new} exists already. Choose another name, or say --force.")
    if old.stat().st_size > MAX_BYTES:
        raise InvalidInput(f"{old} is larger than {size_in_words(MAX_BYTES)}: that is no table of numbers per expert.")
    table = read_table(old.read_bytes())
    with new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows(zip(*(column.tolist() for column in table.columns.values()), strict=True))
    say(f"{new}: {len(next(iter(table.columns.values())))} rows of {', '.join(table.columns)}")
    if table.left_out:
        say(f"left out, since they hold no numbers: {escape(', '.join(table.left_out))}")


def import_table(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet.", exists=True, dir_okay=False)],
    name: Annotated[str, typer.Option(help="Name of the table.")],
    model: Annotated[str, typer.Option(help="The model it is about, in your words.")] = "",
    analysis: Annotated[str, typer.Option(help="An analysis of the same model, to check layers and experts.")] = "",
    layer_numbers: Annotated[
        str, typer.Option(help="model, or position: 0 is the model's first MoE layer (needs --analysis).")
    ] = "model",
    accept_mismatch: Annotated[
        bool, typer.Option("--accept-mismatch", help="Import although stated values do not follow from the counts.")
    ] = False,
) -> None:
    """Import a published risk table (layer, expert, a1, a2, d1, d2, risk_diff), to compare analyses with.

    risk_diff is computed anew from the counts, as rate on unsafe less rate on safe: SteerMoE's sign is the opposite.

    Example: `routeprint import-table activations.csv --name "SteerMoE safety" --model allenai/OLMoE`
    """
    form = {"name": name, "model": model, "analysis_id": analysis, "layer_numbers": layer_numbers}
    with connect() as api, file.open("rb") as content:
        made = api.send(
            "POST",
            "risk-tables",
            data=form | {"accept_mismatch": str(accept_mismatch).lower()},
            files={"file": (file.name, content)},
            timeout=600.0,
        ).json()
    reading = made["reading"]
    say(f"[bold]{made['id']}[/]  {escape(made['name'])}: {made['n_rows']} experts in {len(made['layers'])} layers")
    say(f"  read as {reading['columns']} (d counts {reading['denominator']}); stated risk_diff: {reading['stated']}")
    for why, n in reading["reasons"].items():
        say(f"  {n} without a rate: {why}")
