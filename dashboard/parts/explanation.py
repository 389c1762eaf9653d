"""The room "Why?" of a training: what goes with the fall of its batches' losses, and what does not."""

import streamlit as st

from dashboard import address, data, fall_charts, fields, ui, words
from dashboard.client import Api, Json
from dashboard.parts import trained_batches
from dashboard.plot import lines
from dashboard.table import Column, Row, cell, table

COLUMNS = (
    Column("feature", "Feature"),
    Column("verdict", "What may be said"),
    Column("beyond", "Rank correlation beyond controls", "right"),
    Column("p_beyond", "p over all features", "right"),
    Column("plain", "As it is", "right", minor=True),
    Column("p_plain", "p over all, as it is", "right", minor=True),
)


def show(api: Api, training: Json) -> None:
    """Show what may be said in words, the figures behind it, and any of them as a plot whose points open batches."""
    version = data.version(training)
    path = f"/trainings/{training['id']}/explanation"
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        loss = trained_batches.which_loss()
        save = {form: f"explanation-{training['id']}-{loss}.{form}" for form in ("csv", "parquet")}
        ui.share(path, {"loss": loss}, key="share-explanation", save=save)
    why = data.remember(api, path, version, loss=loss)
    ui.card(_title(why), [ui.html(sentence) for sentence in why["findings"]])
    with st.expander("How this is found, and what it does not say", expanded=bool(why["reason"])):
        for sentence in why["method"]:
            ui.note(sentence)
    if why["reason"]:
        return
    _unusual(training, why)
    _figures(why)
    _table(why)
    for left in why["left_out"][:10]:
        ui.note(f"Left out: batch {left['batch_idx']}, {left['reason']}.")
    _plot(api, training, why, loss, version)


def _title(why: Json) -> str:
    if not why["n_complete"]:
        return "Why batches did well or badly"
    return "What goes with the fall of a batch's loss" if why["outcome"] == "fall" else "Which batches were hard"


def _figures(why: Json) -> None:
    names = {f["key"]: f["name"] for f in why["figures"]}
    ui.facts(
        [
            ("batches", words.count(why["n_used"]), f"of {words.count(why['n_batches'])}"),
            ("complete epochs", words.count(why["n_complete"]), ""),
            ("taken out first", ", ".join(names[key] for key in why["controls"]), ""),
            ("permutations", words.count(why["n_permutations"]), f"of batches; p ≥ {words.small(why['smallest_p'])}"),
        ]
    )


def _unusual(training: Json, why: Json) -> None:
    if not why["unusual"]:
        return
    sides = {"better": "fell more", "worse": "fell less", "harder": "was harder", "easier": "was easier"}
    with st.container(horizontal=True):
        for one in why["unusual"][:6]:
            said = f"Batch {one['batch_idx']}: {sides[one['side']]} (z {words.signed(one['z'], 1)})"
            address.link(said, "batch", analysis=training["analysis_id"], batch=one["batch_idx"])


def _plot(api: Api, training: Json, why: Json, loss: str, version: str) -> None:
    figures = {f["key"]: f for f in why["figures"]}
    key = fields.select("Against", "feature", fall_charts.legend_of(figures), width=320)
    rows = data.all_items(api, f"/trainings/{training['id']}/batches", version, loss=loss)
    steps = {row["batch_idx"]: row["step_last"] or row["step_first"] for row in rows}
    picked = next((b for b, step in steps.items() if step and step == address.index("step")), None)
    figure = fall_charts.outcome_against(rows, figures[key], why["outcome"])
    lines(
        figure,
        key=f"against:{training['id']}:{key}:{loss}",
        filename=f"{why['outcome']}-against-{key}-{training['id']}",
        selected=picked,
        on_point=lambda batch: address.put(step=steps[batch]),
    )
    ui.note(f"{figures[key]['what']} {figures[key]['verdict_words'].capitalize()}. A point opens its batch below.")


def _table(why: Json) -> None:
    rows = [
        Row(
            f["key"],
            None,
            {
                "feature": cell(f["name"], hint=f["what"]),
                "verdict": cell(f["verdict_words"]),
                "beyond": cell(words.signed(f["rho_beyond"], 2), f["rho_beyond"]),
                "p_beyond": cell(
                    words.p_value(f["p_family_beyond"]), f["p_family_beyond"], f"alone {words.p_value(f['p_beyond'])}"
                ),
                "plain": cell(words.signed(f["rho"], 2), f["rho"]),
                "p_plain": cell(words.p_value(f["p_family"]), f["p_family"], f"alone {words.p_value(f['p'])}"),
            },
        )
        for f in why["figures"]
    ]
    table(COLUMNS, rows, key="explanation-table", label="What goes with the fall, feature by feature")
    ui.note(
        "Spearman's rank correlation over batches. Only what is beyond controls carries a claim; “as it is” shows what "
        "would have been believed without them. All features are one family; looking at all, safe and unsafe losses in "
        "turn is three."
    )
