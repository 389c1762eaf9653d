"""One sample of a batch: its messages on request, its loss in every step, and where its tokens were routed."""

from collections.abc import Mapping, Sequence

import numpy as np
import streamlit as st

from dashboard import address, charts, data, sample_charts, ui, words
from dashboard.client import Api, Json
from dashboard.heatmap import heatmap
from dashboard.parts import expert_tables, prompt_text
from dashboard.table import Column, Row, cell, table

MOST = 12
"""Rows of the list of experts."""
MAPS = {"rates": "share of its tokens", "beyond": "beyond other prompts"}


def show(api: Api, analysis: Json, batch: Json, sample: Json, trained: Sequence[Json], scope: str, pool: str) -> None:
    """Show the panel below the list."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.subheader(f"Sample {sample['in_batch_idx']} of batch {batch['batch_idx']}, {sample['label']}")
            st.button("Close", key="close-sample", type="tertiary", on_click=address.put, kwargs={"sample": None})
        _messages(sample)
        _losses(trained, sample["in_batch_idx"])
        _routing(api, analysis, batch, sample, scope, pool)
        st.caption("Row of the prompt set, its identity, and the digest of the token ids as they were fed")
        identity = [f"{name:<13} {sample[name]}" for name in ("row_idx", "row_id", "prompt_digest")]
        st.code("\n".join(identity), language=None, wrap_lines=True)


def _messages(sample: Json) -> None:
    if not prompt_text.is_shown(sample["row_id"]):
        ui.note("Messages and answers are hidden with the prompt text.")
        st.button("Show messages and answers", key="show-sample", on_click=prompt_text.reveal, args=(sample["row_id"],))
        return
    for message in sample["messages"]:
        st.caption(ui.plain(message["role"]))
        st.code(message["content"], language=None, wrap_lines=True)
    for name, title in (("response", "response given in the set"), ("answer", "the model's own answer")):
        if sample.get(name):
            st.caption(title)
            st.code(sample[name], language=None, wrap_lines=True)


# --- losses

LOSS_COLUMNS = (
    Column("name", "Training"),
    Column("step", "Step", "right"),
    Column("loss", "Loss of this sample", "right"),
    Column("batch", "Loss of the batch", "right"),
)


def loss_of(step: Mapping[str, object], index: int) -> float | None:
    """Return the loss of one sample in a step; None where it has none."""
    losses = step["losses"]
    assert isinstance(losses, list)
    return losses[index] if index < len(losses) else None


def _losses(trained: Sequence[Json], index: int) -> None:
    if not trained:
        return
    made = [
        Row(
            f"{r['training_id']}:{r['step']}",
            address.href("training", id=r["training_id"], step=r["step"]),
            {
                "name": cell(r["training_name"], hint=r["training_id"]),
                "step": cell(words.count(r["step"]), r["step"]),
                "loss": cell(words.number(loss_of(r, index)), loss_of(r, index)),
                "batch": cell(words.number(r["loss"]), r["loss"]),
            },
        )
        for r in trained
    ]
    opened = table(LOSS_COLUMNS, made, key="sample-losses", label="Losses of this sample", height=260)
    if opened:
        training, _, step = opened.rpartition(":")
        address.go("training", id=training, step=step)


# --- routing


def _routing(api: Api, analysis: Json, batch: Json, sample: Json, scope: str, pool: str) -> None:
    """Show how the sample's tokens spread over the experts, beside the other prompts of its label."""
    place = (batch["batch_idx"], sample["in_batch_idx"])
    path = f"/analyses/{analysis['id']}/batches/{place[0]}/samples/{place[1]}/routing"
    found = data.routing(api, path, scope, data.version(analysis))
    st.markdown("**Where its tokens went**")
    if found["counts"] is None:
        ui.note(f"Nothing can be shown: {found['reason']}.")
        return
    whole = data.risk(api, analysis, scope, pool)
    usual = whole[f"rate_{sample['label']}"]
    sites, key = found["sites"], f"sample-map:{analysis['id']}"
    kind = "rates"
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        if usual is not None:
            kind = ui.choice("Show", "routing", MAPS)
        name = f"routing-{analysis['id']}-{place[0]}-{place[1]}"
        files = {form: f"{name}.{form}" for form in ("csv", "parquet")}
        ui.share(path, {"scope": scope}, key="share-routing", save=files, plot=f"{key}:{kind}")
    beyond = found["rates"] - usual if usual is not None else None
    shown = beyond if kind == "beyond" and beyond is not None else found["rates"]
    what = f"Sample {place[1]} of batch {place[0]}"
    figure = sample_charts.routed(shown, found["counts"], sites, what, beyond=kind == "beyond")

    heatmap(figure, key=f"{key}:{kind}", filename=name, on_cell=address.put_cell(sites))
    ui.note(_explain(found, sample["label"], scope, kind, figure.vmax))
    _top(found, usual, whole["risk_diff"], sample["label"])


def _explain(found: Json, label: str, scope: str, kind: str, vmax: float) -> str:
    k = sorted({s["top_k"] for s in found["sites"]})
    tokens = (
        f"{words.plural(found['tokens'], 'token')} ({words.SCOPES[scope]}), each to {', '.join(map(str, k))} experts"
    )
    if kind == "beyond":
        return (
            f"Its share less the mean share over all {label} prompts of the analysis: green reached by more of its "
            f"tokens, violet by fewer; scale of its own, ±{words.short_float(vmax)}. {tokens} of every layer. "
            "One prompt: a description of it, no evidence."
        )
    return (
        f"Share of its tokens that reached each expert, 0 to {words.short_float(vmax)}, a scale of its own. "
        f"{tokens} of every layer."
    )


TOP_COLUMNS = (
    expert_tables.EXPERT,
    Column("count", "Its tokens", "right"),
    Column("rate", "Share", "right"),
    Column("usual", "Mean share of its label", "right", minor=True),
    Column("beyond", "Beyond it", "right"),
    Column("risk", "risk_diff, all batches", "right", minor=True),
)


def _top(found: Json, usual: charts.Matrix | None, risk: charts.Matrix | None, label: str) -> None:
    rates, counts, sites = found["rates"], found["counts"], found["sites"]
    beyond = np.nan_to_num(rates - usual if usual is not None else rates, nan=-np.inf)
    order = np.argsort(-beyond, axis=None, kind="stable")[:MOST]

    def at(matrix: charts.Matrix | None, place: tuple[int, int]) -> float | None:
        return None if matrix is None or not np.isfinite(matrix[place]) else float(matrix[place])

    made = []
    for flat in order.tolist():
        place = divmod(flat, rates.shape[1])
        layer, over = sites[place[0]]["layer"], at(rates, place)
        mean = at(usual, place)
        less = None if mean is None or over is None else over - mean
        made.append(
            expert_tables.expert_row(
                layer,
                place[1],
                {
                    "count": cell(words.count(int(counts[place])), int(counts[place])),
                    "rate": cell(words.percent(over), over),
                    "usual": cell(words.percent(mean), mean),
                    "beyond": cell(words.signed(less), less),
                    "risk": cell(words.signed(at(risk, place), 4), at(risk, place)),
                },
            )
        )

    caption = f"Experts that its tokens reached most beyond other {label} prompts"
    ui.note(f"{caption}:")
    expert_tables.show(TOP_COLUMNS, made, key="sample-experts", label=caption, height=None)
