"""The rooms of one analysis below its heatmap: batches, experts, statistics, sets, trainings, left-out, the record."""

import streamlit as st

from dashboard import address, data, risk_charts, ui, words
from dashboard.client import Api, Json
from dashboard.parts import context, expert_sets, experts_room, keeping, run_tables, statistics_room, verify
from dashboard.plot import lines
from dashboard.table import Column, Row, cell, table

ROOMS = {
    "batches": "Batches",
    "experts": "Experts",
    "statistics": "Statistics",
    "context": "Experts in context",
    "sets": "Expert sets",
    "trainings": "Trainings",
    "left-out": "Left out",
    "record": "Record and export",
}


def show(api: Api, analysis: Json) -> None:
    """Show the chosen room; only that one is fetched."""
    st.space("small")
    room = ui.choice("Look at", "view", ROOMS, resets=("after",))
    draw = {
        "experts": experts_room.show,
        "statistics": statistics_room.show,
        "context": context.show,
        "sets": expert_sets.show,
        "trainings": _trainings,
        "left-out": _left_out,
        "record": _record,
    }.get(room, _batches)
    draw(api, analysis)


BATCH_COLUMNS = (
    Column("batch", "Batch"),
    Column("status", "Status", kind="status"),
    Column("safe", "Safe", "right", minor=True),
    Column("unsafe", "Unsafe", "right", minor=True),
    Column("risk", "max |risk_diff|", "right"),
    Column("floor", "Noise floor", "right"),
    Column("truncated", "Truncated", "right", minor=True),
    Column("id", "Identity", kind="code", minor=True),
)


def _batches(api: Api, analysis: Json) -> None:
    scope, _ = address.scope_and_pool(analysis["params"]["scopes"])
    rows = data.all_items(api, f"/analyses/{analysis['id']}/batches", data.version(analysis), scope=scope)
    if not rows:
        ui.note("The plan has no batches.")
        return

    def remember_batch(batch_idx: int) -> None:
        st.session_state["open_batch"] = batch_idx

    if any(r["status"] == "measured" for r in rows):
        lines(
            risk_charts.batches_strip(rows),
            key=f"strip:{analysis['id']}",
            filename=f"batches-{analysis['id']}",
            on_point=remember_batch,
        )
        ui.share(
            f"/analyses/{analysis['id']}/batches",
            {"scope": scope},
            key="share-batches",
            save={form: f"batches-{analysis['id']}-{scope}.{form}" for form in ("csv", "parquet")},
            plot=f"strip:{analysis['id']}",
        )
        ui.note(
            f"Descriptive: in a batch of {rows[0]['n_safe']} + {rows[0]['n_unsafe']} prompts, shuffled labels alone "
            "reach above the grey box in 5 % of shuffles."
        )
    made = [
        Row(
            str(r["batch_idx"]),
            address.href("batch", analysis=analysis["id"], batch=r["batch_idx"]),
            {
                "batch": cell(f"Batch {r['batch_idx']}", r["batch_idx"]),
                "status": cell(words.state(r["status"]), r["status"]),
                "safe": cell(r["n_safe"], r["n_safe"]),
                "unsafe": cell(r["n_unsafe"], r["n_unsafe"]),
                "risk": cell(words.number(r["max_abs_risk_diff"]), r["max_abs_risk_diff"]),
                "floor": cell(words.number(r["noise_floor"]), r["noise_floor"]),
                "truncated": cell(r["n_truncated"], r["n_truncated"]),
                "id": cell(words.short_hash(r["batch_id"]), hint=r["batch_id"]),
            },
        )
        for r in rows
    ]
    opened = table(BATCH_COLUMNS, made, key="batches-table", label="Batches", height=440)
    picked = st.session_state.pop("open_batch", None)
    if opened or picked is not None:
        address.go("batch", analysis=analysis["id"], batch=opened or picked)


def _trainings(api: Api, analysis: Json) -> None:
    found = api.get("/trainings", analysis_id=analysis["id"], limit=200)["items"]
    if found:
        run_tables.trainings(found, key="analysis-trainings")
    else:
        ui.note("No training has used these batches yet.")
    if analysis["status"] != "succeeded":
        ui.note("A training can start when the analysis has finished.")
    elif st.button(
        "Start a training on these batches", type="primary" if not found else "secondary", icon=":material/add:"
    ):
        address.go("training", analysis=analysis["id"])


LEFT_OUT_COLUMNS = (
    Column("row", "Row", "right"),
    Column("label", "Label", kind="label"),
    Column("reason", "Why it is in no batch"),
    Column("id", "Row identity", kind="code", minor=True),
)


def _left_out(api: Api, analysis: Json) -> None:
    if not analysis["plan"]["n_left_out"]:
        ui.note("No prompt was left out: every row of the prompt set is in exactly one batch.")
        return
    rows = data.all_items(api, f"/analyses/{analysis['id']}/left-out", analysis["plan"]["digest"])
    made = [
        Row(
            str(r["row_idx"]),
            None,
            {
                "row": cell(r["row_idx"], r["row_idx"]),
                "label": cell(r["label"], r["label"]),
                "reason": cell(r["reason"]),
                "id": cell(words.short_hash(r["row_id"]), hint=r["row_id"]),
            },
        )
        for r in rows
    ]
    ui.note(f"{words.plural(len(rows), 'prompt')} of the set fitted into no batch. Planned + left out = prompt set.")
    table(LEFT_OUT_COLUMNS, made, key="left-out-table", label="Left-out prompts", height=440)


def _report(api: Api, analysis: Json) -> None:
    """Offer the report of the scope and pool that the address names."""
    scope, pool = address.scope_and_pool(analysis["params"]["scopes"])
    st.subheader("Report")
    ui.note(
        f"Method, versions and hashes, the verified chain, results, caveats and how to do it again, in one file that "
        f"loads nothing: {words.SCOPES[scope]}, pool {pool}. It shows no prompt unless you say so."
    )
    examples = st.toggle("Show some prompts in it", key="report-examples")
    with st.container(horizontal=True):
        for form, title in (("html", "Report (HTML)"), ("md", "Report (Markdown)")):
            asked = {"format": form, "scope": scope, "pool": pool, "examples": examples}
            st.download_button(
                title,
                data=lambda asked=asked: api.download(f"/analyses/{analysis['id']}/report", **asked),  # type: ignore[misc]
                file_name=f"routeprint-{analysis['id']}-{scope}-{pool}.{form}",
                key=f"report:{form}",
                icon=":material/description:",
                on_click="ignore",
            )


def _record(api: Api, analysis: Json) -> None:
    verify.show(api, f"/analyses/{analysis['id']}")
    _report(api, analysis)
    st.subheader("Export")
    with st.container(horizontal=True):
        for form, words_ in (
            ("pkl", "Bundle (pickle)"),
            ("jsonl", "Batches (JSONL)"),
            ("parquet", "Batches (Parquet)"),
        ):
            org_model = analysis["model"].replace("/", "--").replace(":", "--")
            st.download_button(
                words_,
                data=lambda form=form: api.download(f"/analyses/{analysis['id']}/export", format=form),  # type: ignore[misc]
                file_name=f"sft_dataset_{org_model}.{form}",
                key=f"export:{form}",
                icon=":material/download:",
                on_click="ignore",
            )
    ui.note("Pickle executes code when it is opened: open only bundles you made yourself. The services never read one.")
    st.subheader("Settings and environment")
    st.json(
        {"params": analysis["params"], "plan": analysis["plan"], "environment": analysis["environment"]}, expanded=1
    )
    keeping.show(api, "analyses", analysis)
