"""One analysis batch: its heatmap beside the aggregate, its samples in order, and the trainings that used it."""

import streamlit as st

from dashboard import address, data, fields, listing, ui, words
from dashboard.client import Api, Json
from dashboard.parts import batch_maps, batch_over_epochs, run_tables, samples
from dashboard.table import Column, Row, cell, table


def main() -> None:
    """Draw the batch that the address names, or a choice of analyses."""
    api = ui.api()
    analysis_id = address.text("analysis")
    if analysis_id is None:
        _choose(api)
        return
    analysis = api.get(f"/analyses/{analysis_id}")
    scope, pool = address.scope_and_pool(analysis["params"]["scopes"])
    batch_idx = address.index("batch") or 0
    version = data.version(analysis)
    batch = data.remember(api, f"/analyses/{analysis_id}/batches/{batch_idx}", version, scope=scope)
    _head(analysis, batch)
    _walk(analysis, batch_idx)
    _figures(batch, analysis)
    _maps(api, analysis, batch, scope, pool)
    trained = list(api.items(f"/analyses/{analysis_id}/batches/{batch_idx}/trainings", most=500))
    samples.show(api, batch, analysis, trained, scope, pool)
    _trainings(analysis, batch_idx, trained)


def _choose(api: Api) -> None:
    ui.page_title("Batches")
    ui.heading(
        "Batches", "The analysis batch is the unit of everything: planned once, measured once, trained as it is."
    )
    analyses = [a for a in api.get("/analyses", limit=200)["items"] if a["n_measured"]]
    if not analyses:
        ui.card("No batch is measured yet", ["Batches appear here as soon as an analysis has measured its first one."])
        if st.button("Go to analyses", type="primary"):
            address.go("analysis")
        return
    ui.note("Choose an analysis, then one of its batches.")
    run_tables.analyses(analyses, key="batch-analyses")


def _head(analysis: Json, batch: Json) -> None:
    title = f"Batch {batch['batch_idx']}"
    ui.page_title(f"{title}, {analysis['name']}")
    n = words.count(analysis["plan"]["n_batches"])
    sub = f"of {n} in “{analysis['name']}” · identity {words.short_hash(batch['batch_id'])}"
    ui.heading(title, sub, batch["status"])


def _walk(analysis: Json, batch_idx: int) -> None:
    """Step through the batches: buttons, arrow keys, by itself, a slider. The address follows."""
    last = analysis["plan"]["n_batches"] - 1
    key = f"batch-slider:{analysis['id']}"
    fields.give(key, min(batch_idx, last))

    def to(target: int) -> None:
        address.put(batch=max(0, min(last, target)), sample=None)

    with st.container(horizontal=True, vertical_alignment="bottom"):
        with st.container(width="content"):
            listing.player(batch_idx, last, of=analysis["id"], on_to=to)
        if last > 0:
            st.slider("Batch", 0, last, key=key, on_change=lambda: to(st.session_state[key]), width="stretch")
        address.link(
            "Analysis",
            "analysis",
            icon=":material/arrow_upward:",
            id=analysis["id"],
            layer=address.index("layer"),
            expert=address.index("expert"),
        )


def _figures(batch: Json, analysis: Json) -> None:
    k = sorted({s["top_k"] for s in analysis["sites"]})
    ui.facts(
        [
            ("max |risk_diff|", words.number(batch["max_abs_risk_diff"]), ""),
            ("noise floor", words.number(batch["noise_floor"]), "95 % of label shuffles"),
            ("samples", words.count(len(batch["samples"])), f"{batch['n_safe']} safe, then {batch['n_unsafe']} unsafe"),
            ("truncated", words.count(batch["n_truncated"]), ""),
            ("top-k", ", ".join(map(str, k)), "experts per token"),
        ]
    )
    risk, floor = batch["max_abs_risk_diff"], batch["noise_floor"]
    if risk is not None and floor is not None:
        side = "above" if risk > floor else "within"
        ui.note(
            f"Descriptive only: with {batch['n_safe']} + {batch['n_unsafe']} prompts, shuffling the labels inside this "
            f"batch reaches {words.number(floor)} in 5 % of shuffles; the largest difference here is {side} that. "
            "No single batch is evidence."
        )


@st.fragment
@ui.guarded
def _maps(api: Api, analysis: Json, batch: Json, scope: str, pool: str) -> None:
    batch_maps.show(api, analysis, batch, scope, pool)


COLUMNS = (
    Column("name", "Training"),
    Column("step", "Step", "right"),
    Column("epoch", "Epoch", "right", minor=True),
    Column("verified", "Verified", kind="status"),
    Column("loss", "Loss", "right"),
    Column("safe", "Loss, safe", "right", minor=True),
    Column("unsafe", "Loss, unsafe", "right", minor=True),
)


def _trainings(analysis: Json, batch_idx: int, rows: list[Json]) -> None:
    st.subheader("Trained at")
    if not rows:
        ui.note("No training step has used this batch yet.")
        return
    verified = {True: ("verified", "yes"), False: ("not verified", "no"), None: ("not checked", "none")}
    made = [
        Row(
            f"{r['training_id']}:{r['step']}",
            address.href("training", id=r["training_id"], step=r["step"]),
            {
                "name": cell(r["training_name"], hint=r["training_id"]),
                "step": cell(words.count(r["step"]), r["step"]),
                "epoch": cell(r["epoch"] + 1, r["epoch"]),
                "verified": cell(*verified[r["verified"]]),
                "loss": cell(words.number(r["loss"]), r["loss"]),
                "safe": cell(words.number(r["loss_safe"]), r["loss_safe"]),
                "unsafe": cell(words.number(r["loss_unsafe"]), r["loss_unsafe"]),
            },
        )
        for r in rows
    ]
    opened = table(COLUMNS, made, key="batch-trainings", label="Training steps that used this batch")
    batch_over_epochs.of_trainings(analysis["id"], batch_idx, rows)
    if opened:
        training, _, step = opened.rpartition(":")
        address.go("training", id=training, step=step)


ui.show(main)
