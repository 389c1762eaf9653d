"""One analysis batch: its heatmap beside the aggregate, its samples in order, and the trainings that used it."""

from collections.abc import Callable
from html import escape

import streamlit as st

from dashboard import address, charts, data, ui, words
from dashboard.client import Api, Json
from dashboard.heatmap import heatmap
from dashboard.parts import batch_over_epochs, runs, samples
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
    samples.show(batch, analysis)
    _trainings(api, analysis, batch_idx)


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
    runs.analyses(analyses, key="batch-analyses")


def _head(analysis: Json, batch: Json) -> None:
    title = f"Batch {batch['batch_idx']}"
    ui.page_title(f"{title}, {analysis['name']}")
    n = words.count(analysis["plan"]["n_batches"])
    sub = f"of {n} in “{analysis['name']}” · identity {words.short_hash(batch['batch_id'])}"
    ui.heading(title, sub, batch["status"])


def _walk(analysis: Json, batch_idx: int) -> None:
    """Step through the batches: buttons, arrow keys with Shift, a slider. The address follows."""
    last = analysis["plan"]["n_batches"] - 1
    key = f"batch-slider:{analysis['id']}"
    st.session_state[key] = min(batch_idx, last)

    def to(target: int) -> None:
        address.put(batch=max(0, min(last, target)), sample=None)

    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button(
            "Previous",
            on_click=to,
            args=(batch_idx - 1,),
            disabled=batch_idx <= 0,
            shortcut="Shift+Left",
            icon=":material/arrow_back:",
        )
        st.button(
            "Next",
            on_click=to,
            args=(batch_idx + 1,),
            disabled=batch_idx >= last,
            shortcut="Shift+Right",
            icon=":material/arrow_forward:",
        )
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
    if batch["status"] == "planned":
        ui.card(
            "Not measured yet",
            ["The samples below are planned; the heatmap appears when the worker has measured this batch."],
        )
        return
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        shown = ui.choice("Beside the batch", "beside", {"aggregate": "all batches", "difference": "batch − all"})
        params = {"scope": scope, "pool": pool, "batch_idx": batch["batch_idx"]}
        name = f"risk-diff-{analysis['id']}-batch-{batch['batch_idx']}"
        ui.share(
            f"/analyses/{analysis['id']}/risk-diff",
            params,
            key="share-batch",
            save={"csv": f"{name}.csv", "parquet": f"{name}.parquet"},
        )
    own = data.risk(api, analysis, scope, pool, batch["batch_idx"])
    whole = data.risk(api, analysis, scope, pool)
    if own["risk_diff"] is None:
        why = escape(own["reason"] or "There is no value in this scope.")
        ui.card(
            "This batch has no risk_diff",
            [why, "It is left out of the sum over all batches; it is never counted as zero."],
            "rp-wrong",
        )
        return
    vmax = _scale(api, analysis, scope, own)
    sites = own["sites"] or analysis["sites"]
    chosen = _selected(sites)
    marks = charts.above_floor(own["risk_diff"], own["noise_floor"])

    def pick(row: int, expert: int) -> None:
        address.put(layer=sites[row]["layer"], expert=expert)

    wide = len(sites) <= 12 and own["n_experts"] > 40
    left, right = (st.container(), st.container()) if wide else st.columns(2, gap="medium")
    with left:
        ui.note(f"This batch, {words.SCOPES[scope]}, pool {pool}")
        figure = charts.risk_heat(own, sites, vmax, f"Batch {batch['batch_idx']}", marks=marks)
        assert figure is not None
        heatmap(figure, key=f"batch-map:{analysis['id']}", filename=name, selected=chosen, on_cell=pick)
    with right:
        _beside(shown, own, whole, sites, vmax, chosen, analysis, pick)
    ui.colour_key()
    reach = "Dots: cells above the batch's noise floor. " if marks else "No cell is above the batch's noise floor. "
    ui.note(f"{reach}Both maps and all batches share one scale, ±{words.short_float(vmax)}. {words.NOT_A_CAUSE}")
    if chosen:
        _cell_words(own, whole, chosen, sites)


def _beside(
    shown: str,
    own: Json,
    whole: Json,
    sites: list[Json],
    vmax: float,
    chosen: tuple[int, int] | None,
    analysis: Json,
    pick: Callable[[int, int], None],
) -> None:
    if whole["risk_diff"] is None:
        ui.note("All batches together have no value yet.")
        return
    if shown == "difference":
        ui.note("This batch − all batches")
        figure = charts.difference_heat(own["risk_diff"], whole["risk_diff"], sites, vmax)
    else:
        ui.note(f"All {words.batches(whole['n_batches'])}")
        made = charts.risk_heat(whole, sites, vmax, "All batches")
        assert made is not None
        figure = made
    heatmap(
        figure,
        key=f"beside:{analysis['id']}:{shown}",
        filename=f"{shown}-{analysis['id']}",
        selected=chosen,
        on_cell=pick,
    )


def _scale(api: Api, analysis: Json, scope: str, own: Json) -> float:
    """One scale for all batches of an analysis: the largest |risk_diff| any batch reached."""
    rows = data.all_items(api, f"/analyses/{analysis['id']}/batches", data.version(analysis), scope=scope)
    return charts.round_up(max([r["max_abs_risk_diff"] or 0.0 for r in rows] + [own["max_abs"] or 0.0]))


def _selected(sites: list[Json]) -> tuple[int, int] | None:
    layer, expert = address.index("layer"), address.index("expert")
    if layer is None or expert is None:
        return None
    cells = charts.cells_of([(layer, expert)], sites)
    return cells[0] if cells and expert < sites[cells[0][0]]["n_experts"] else None


def _cell_words(own: Json, whole: Json, chosen: tuple[int, int], sites: list[Json]) -> None:
    row, expert = chosen
    floor = own["noise_floor_cells"]
    ui.facts(
        [
            ("cell", f"Layer {sites[row]['layer']} · Expert {expert}", ""),
            ("in this batch", words.signed(float(own["risk_diff"][row, expert]), 4), ""),
            (
                "noise floor of the cell",
                f"±{words.number(float(floor[row, expert]), 4)}" if floor is not None else "–",
                "",
            ),
            (
                "all batches",
                words.signed(float(whole["risk_diff"][row, expert]), 4) if whole["risk_diff"] is not None else "–",
                "",
            ),
        ]
    )


COLUMNS = (
    Column("name", "Training"),
    Column("step", "Step", "right"),
    Column("epoch", "Epoch", "right", minor=True),
    Column("verified", "Verified", kind="status"),
    Column("loss", "Loss", "right"),
    Column("safe", "Loss, safe", "right", minor=True),
    Column("unsafe", "Loss, unsafe", "right", minor=True),
)


def _trainings(api: Api, analysis: Json, batch_idx: int) -> None:
    st.subheader("Trained at")
    rows = list(api.items(f"/analyses/{analysis['id']}/batches/{batch_idx}/trainings", most=500))
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
