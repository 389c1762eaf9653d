"""Jobs: what waits, what runs and on which machine; one job with its log."""

import streamlit as st

from dashboard import address, fields, ui, words
from dashboard.client import Api, ApiError, ApiRefused, Json
from dashboard.parts import job_log, pager, run_lists, run_tables
from dashboard.table import Column, Row, cell, table

VIEW = {"analysis": "analysis", "training": "training", "comparison": "compare", "evaluation": "evaluation"}
VIEW |= {"study": "study"}
RESOURCE = {
    "analysis": "analyses",
    "training": "trainings",
    "comparison": "comparisons",
    "evaluation": "evaluations",
    "context": "context",
    "study": "studies",
}


def main() -> None:
    """Draw the page."""
    ui.page_title("Jobs")
    api = ui.api()
    job_id = address.text("id")
    ui.heading("Jobs", "Work waits in a queue, survives restarts, and goes on at the batch or step it was in.")
    api.get("/system")  # an API that is down or asks for a token is told by the whole page, not by a part of it
    _live_queue()
    if job_id:
        _one(api, job_id)


@st.fragment(run_every=2)
def _live_queue() -> None:
    api = ui.api()
    status = st.query_params.get("status")
    asked = status if status in run_lists.STATES and status else None
    try:
        system, page = api.get("/system"), pager.fetch(api, "/jobs", limit=run_lists.PER_PAGE, status=asked)
    except ApiError:
        ui.note("The API does not answer; waiting for it to come back. Running work goes on in the worker.")
        return
    _workers(system)
    st.subheader("Queue")
    fields.select("Status", "status", run_lists.STATES, resets=("after",), width=150)
    if page["items"]:
        here = {"status": asked, "after": address.cursor()}
        run_tables.jobs(page["items"], key="jobs-table", selected=address.text("id"), **here)
        pager.show(page, name=f"/jobs:{asked}", noun=("job", "jobs"))
    elif asked:
        ui.note("No job has this status.")
    else:
        ui.card("Nothing has been queued yet", ["Analyses and trainings that you start appear here."])


WORKER_COLUMNS = (
    Column("id", "Worker"),
    Column("alive", "State", kind="status"),
    Column("device", "Device"),
    Column("engines", "Engines", minor=True),
    Column("model", "Model loaded", kind="code", minor=True),
    Column("seen", "Last heartbeat", "right"),
)


def _workers(system: Json) -> None:
    queue = system["queue"]
    alive = sum(w["alive"] for w in system["workers"])
    ui.facts(
        [
            ("waiting", words.count(queue["queued"]), "jobs"),
            ("running", words.count(queue["running"]), "jobs"),
            ("workers", words.count(alive), "alive"),
            ("disk left", words.size(system["home_free_bytes"]), ""),
        ]
    )
    if not alive:
        ui.card(
            "No worker is running",
            ["Queued work waits, nothing is lost. Start one with <code>routeprint worker</code>."],
            "rp-waits",
        )
    if not system["workers"]:
        return
    made = [
        Row(
            w["executor_id"],
            None,
            {
                "id": cell(w["executor_id"], hint=f"{w['host']}, process {w['pid']}"),
                "alive": cell("alive", "yes") if w["alive"] else cell("not seen", "no"),
                "device": cell(f"{w['device']}{', ' + words.size(w['memory_bytes']) if w['memory_bytes'] else ''}"),
                "engines": cell(", ".join(w["engines"])),
                "model": cell(w["model_loaded"] or "–"),
                "seen": cell(words.ago(w["last_seen"]), w["last_seen"], w["last_seen"]),
            },
        )
        for w in system["workers"]
    ]
    table(WORKER_COLUMNS, made, key="workers-table", label="Workers")


def _one(api: Api, job_id: str) -> None:
    try:
        job = api.get(f"/jobs/{job_id}")
    except ApiRefused as error:
        ui.refused(error)
        return
    st.subheader(ui.plain(job.get("subject_name") or job["kind"]))
    if job["kind"] in VIEW:
        address.link(
            f"Open this {job['kind']}", VIEW[job["kind"]], icon=":material/arrow_forward:", id=job["subject_id"]
        )
    elif job["kind"] == "context":
        run = api.get(f"/context/{job['subject_id']}")
        query = {"id": run["analysis_id"], "view": "context", "run": run["id"]}
        address.link("Open these experts in context", "analysis", icon=":material/arrow_forward:", **query)
    path = RESOURCE.get(job["kind"])
    job_log.show(job, f"/{path}/{job['subject_id']}" if path else None)


ui.show(main)
