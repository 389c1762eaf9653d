"""The room "Experts in context": how evenly experts work, and the run that looks at single tokens.

What that run found is drawn in context_tokens.py.
"""

import numpy as np
import streamlit as st

from dashboard import address, context_charts, data, fields, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.heatmap import heatmap
from dashboard.parts import context_tokens, expert_panel, runs, verify
from dashboard.parts.context_tokens import LABELS
from dashboard.table import Column, Row, cell, table

MOST_EXPERTS = 256


def show(api: Api, analysis: Json) -> None:
    """Show the room, or what must happen before there is something to show."""
    scope, pool = address.scope_and_pool(analysis["params"]["scopes"])
    if not analysis["n_measured"]:
        ui.card("Nothing is measured yet", ["Load appears with the first measured batch."])
        return
    label = _load(api, analysis, scope)
    st.subheader("Token by token")
    run = _run(api, analysis, scope)
    if run is None:
        _start(api, analysis, scope)
        return
    runs.follow("context", run, "batches")
    if not run["recounted"]:
        return
    _recount(run)
    chosen = expert_panel.chosen(analysis["sites"])
    context_tokens.experts(api, run, pool)
    if chosen is None:
        ui.note("Choose an expert in the table, or on the heatmap above, to see the tokens that drive it.")
    else:
        st.subheader(f"Tokens that drive layer {chosen[0]}, expert {chosen[1]}")
        if list(chosen) in run["params"]["experts"]:
            context_tokens.tokens(api, run, chosen, pool)
        else:
            _add(api, run, chosen)
    context_tokens.pairs(api, analysis, run, label, chosen)
    verify.show(api, f"/context/{run['id']}")


# --- load

LOAD_COLUMNS = (
    Column("layer", "Layer"),
    Column("even", "Evenness", "right", "part"),
    Column("effective", "Effective experts", "right"),
    Column("busiest", "Busiest", "right"),
    Column("dead", "Never reached", "right"),
)


def _load(api: Api, analysis: Json, scope: str) -> str:
    """Show the load; return the label that it is shown for."""
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        label = ui.choice("Tokens of", "label", LABELS)
        path, params = f"/analyses/{analysis['id']}/load", {"scope": scope, "label": label}
        name = f"load-{analysis['id']}-{scope}-{label}"
        save = {"csv": f"{name}.csv", "parquet": f"{name}.parquet"}
        ui.share(path, dict(params), key="share-load", save=save, plot=f"load:{name}")
    found = data.remember(api, path, data.version(analysis), **params)
    if found["relative"] is None:
        ui.card("No load", [f"There is no counted token here ({words.SCOPES[scope]}, {LABELS[label]})."])
        return label
    load = found | {"relative": data.matrix(found["relative"])}
    dead, n_experts = len(load["dead"]), sum(s["n_experts"] for s in load["sites"])
    ui.facts(
        [
            ("tokens counted", words.count(load["tokens"]), f"{words.SCOPES[scope]}, {LABELS[label]}"),
            ("evenness", words.number(float(np.mean(load["entropy"]))), "mean of the layers; 1: all experts alike"),
            ("never reached", words.count(dead), f"of {words.count(n_experts)} experts"),
        ]
    )

    figure, pick = context_charts.load_heat(load, analysis["name"]), address.put_cell(load["sites"])
    heatmap(figure, key=f"load:{name}", filename=name, on_cell=pick)
    _load_key(dead)
    with st.expander("Layer by layer"):
        _layers(load)
    return label


def _load_key(dead: int) -> None:
    dots = " A dot: no counted token reached this expert." if dead else ""
    ui.note(
        "Green: busier than an even share; violet: less busy; each unit of log₂ is a doubling."
        + dots
        + " A busy expert "
        "is not a safety expert: load says how much an expert works, not on what."
    )


def _layers(load: Json) -> None:
    made = [
        Row(
            str(place),
            None,
            {
                "layer": cell(f"Layer {r['label']}", place),
                "even": cell(words.number(r["entropy"]), r["entropy"]),
                "effective": cell(f"{words.number(r['effective'], 1)} of {r['n_experts']}", r["effective"]),
                "busiest": cell(f"Expert {r['busiest']}, {words.number(r['busiest_load'], 1)} ×", r["busiest_load"]),
                "dead": cell(words.count(r["dead"]), r["dead"]),
            },
        )
        for place, r in enumerate(context_charts.layer_rows(load))
    ]
    table(LOAD_COLUMNS, made, key="load-table", label="Load of every layer", height=420)
    ui.note(
        "Evenness is the entropy of the shares over that of even shares. Effective experts: how many evenly used ones "
        "would be as uneven. Busiest: times an even share."
    )


# --- the run


def _run(api: Api, analysis: Json, scope: str) -> Json | None:
    """Return the run that the address names, or the newest of this scope; offer the others."""
    found = [r for r in api.get(f"/analyses/{analysis['id']}/context", limit=50)["items"] if r["scope"] == scope]
    if not found:
        return None
    by_id = {r["id"]: r for r in found}
    wanted = address.text("run")
    if len(found) == 1:
        return dict(found[0])
    fields.give("context-run", wanted if wanted in by_id else found[0]["id"])
    picked = st.selectbox(
        "Run",
        list(by_id),
        key="context-run",
        format_func=lambda i: (
            f"{words.plural(by_id[i]['n_experts'], 'expert')}, {words.ago(by_id[i]['created_at'])}, "
            f"{words.state(by_id[i]['status'])}"
        ),
        on_change=lambda: address.put(run=st.session_state["context-run"]),
        width=420,
    )
    return dict(by_id[picked])


def _start(api: Api, analysis: Json, scope: str) -> None:
    ui.card(
        "Is it a safety expert, or does it read question marks?",
        [
            "Counts do not tell. A second pass feeds the stored tokens through the model again and looks at each one: "
            "which tokens make an expert's risk_diff, and which experts work on the same tokens.",
            "It takes about as long as the analysis, and checks on the way that every count is the one stored.",
        ],
    )
    if analysis["status"] != "succeeded":
        ui.note("It can start when the analysis has finished.")
    elif st.button("Read the routing token by token", type="primary", icon=":material/play_arrow:"):
        _submit(api, analysis, {"scope": scope})


def _submit(api: Api, analysis: Json, body: Json) -> None:
    try:
        made = api.post(f"/analyses/{analysis['id']}/context", body, key=ui.one_time_key("context", body))
    except ApiRefused as error:
        ui.refused(error)
        return
    ui.accepted("context")
    address.put(run=made["id"])
    st.rerun()


def _recount(run: Json) -> None:
    found = run["recounted"]
    left_out = f" {words.batches(found['non_finite'])} not finite, left out." if found["non_finite"] else ""
    if not found["differing"]:
        ui.note(
            f"Recounted {words.batches(found['batches'])} in {run['dtype']}: every count is the stored one.{left_out}"
        )
        return
    n, share = words.count(found["differing_counts"]), words.percent(found["differing_counts"] / found["counts"], 3)
    ui.note(
        f"Recounted {words.batches(found['batches'])}, {run['dtype']}: {n} counts ({share}) in "
        f"{words.batches(found['differing'])} differ from the stored ones. In this number format router scores that "
        f"are nearly equal may fall either way.{left_out}"
    )


def _add(api: Api, run: Json, which: tuple[int, int]) -> None:
    ui.note("This run did not look at this expert.")
    experts = [list(which), *run["params"]["experts"]][:MOST_EXPERTS]
    if st.button("Read again, with this expert", icon=":material/add:", key="context-add"):
        _submit(api, {"id": run["analysis_id"]}, {"scope": run["scope"], "experts": experts})
