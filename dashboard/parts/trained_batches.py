"""The room of a training's batches: their losses, falls and features, ordered and paged by the API."""

from collections.abc import Sequence

import streamlit as st

from dashboard import address, fall_charts, ui, words
from dashboard.client import Api, Json
from dashboard.parts import pager
from dashboard.table import Column, Row, cell, table

PER_PAGE = 100
LOSSES = {"all": "all answers", "safe": "safe prompts", "unsafe": "unsafe prompts"}
_DOWN, _UP = "descending", "ascending"


def _both(key: str, first: str = _DOWN) -> tuple[tuple[str, str], ...]:
    down, up = (f"-{key}", _DOWN), (key, _UP)
    return (down, up) if first == _DOWN else (up, down)


COLUMNS = (
    Column("batch", "Batch", kind="short", sort=(("batch_idx", _UP),)),
    Column("first", "First loss", "right", sort=_both("loss_first")),
    Column("last", "Last loss", "right", sort=_both("loss_last"), minor=True),
    Column("fall", "Fall", "right", sort=_both("fall")),
    Column("share", "Of first loss", "right", sort=_both("relative_fall"), minor=True),
    Column("over", "Over the epochs", minor=True),
    Column("z", "Unusual (z)", "right", sort=_both("z")),
    Column("risk", "max |risk_diff|", "right", sort=_both("max_abs_risk_diff"), minor=True),
    Column("set", "Set's |risk_diff|", "right", sort=_both("set_abs_risk_diff"), minor=True),
    Column("load", "Set's load", "right", sort=_both("set_load"), minor=True),
    Column("prompt", "Prompt tokens", "right", sort=_both("prompt_tokens"), minor=True),
    Column("answer", "Answer tokens", "right", sort=_both("answer_tokens"), minor=True),
)
ORDERS = {order for column in COLUMNS for order, _ in column.sort}


def which_loss() -> str:
    """Show the choice of the loss that is looked at."""
    return ui.choice("Loss of", "loss", LOSSES, resets=("after",))


def show(api: Api, training: Json) -> None:
    """Show the page of batches that the address names, and the ways to take them along."""
    asked = st.query_params.get("sort")
    sort = asked if asked in ORDERS else "batch_idx"
    path = f"/trainings/{training['id']}/batches"
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        loss = which_loss()
        params = {"sort": sort, "loss": loss}
        save = {form: f"batches-{training['id']}-{loss}.{form}" for form in ("csv", "parquet")}
        ui.share(path, dict(params), key="share-batches", save=save)
    page = pager.fetch(api, path, **params, limit=PER_PAGE)
    _table(training, page["items"], sort)
    pager.show(page, name=f"{path}:{loss}:{sort}", noun=("batch", "batches"))
    ui.note(
        "First loss: at the batch's first visit, before the model learned from it. Fall: first less last, over the "
        "complete epochs; positive where the loss fell. z: how far from what first loss and place in the run foretell; "
        "beyond 5 in either direction a batch is called unusual (▲). A click on a head orders all batches, a click on "
        "a row opens its last step below."
    )


def _table(training: Json, rows: Sequence[Json], sort: str) -> None:
    def order(key: str) -> None:
        address.put(sort=None if key == "batch_idx" else key, after=None)

    steps = {str(row["batch_idx"]): row["step_last"] or row["step_first"] for row in rows}

    def pick(batch: str) -> None:
        if steps.get(batch):
            address.put(step=steps[batch])

    table(
        COLUMNS,
        [_row(training, row) for row in rows],
        key="trained-batches",
        label="Batches of this training",
        selected=next((b for b, step in steps.items() if step and step == address.index("step")), None),
        height=480,
        on_open=pick,
        sort=sort,
        on_sort=order,
    )


def _row(training: Json, row: Json) -> Row:
    step = row["step_last"] or row["step_first"]
    mark = {True: " ▲", False: "", None: ""}[row["unusual"]]
    prompts = f"{row['n_safe']} safe + {row['n_unsafe']} unsafe prompts, {words.plural(row['n_visits'], 'visit')}"
    return Row(
        str(row["batch_idx"]),
        address.href("training", id=training["id"], curve="batches", step=step) if step else None,
        {
            "batch": cell(f"Batch {row['batch_idx']}", hint=prompts),
            "first": cell(words.number(row["loss_first"])),
            "last": cell(words.number(row["loss_last"])),
            "fall": cell(words.signed(row["fall"])),
            "share": cell(words.percent(row["relative_fall"], 0)),
            "over": cell(fall_charts.losses_in_words(row["losses"])),
            "z": cell(words.signed(row["z"], 1) + mark, hint="unusual" if row["unusual"] else None),
            "risk": cell(words.number(row["max_abs_risk_diff"])),
            "set": cell(words.number(row["set_abs_risk_diff"])),
            "load": cell(words.percent(row["set_load"])),
            "prompt": cell(words.number(row["prompt_tokens"], 1)),
            "answer": cell(words.number(row["answer_tokens"], 1)),
        },
    )
