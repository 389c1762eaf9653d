"""The log of a job, which follows while the job runs: only new lines are fetched, and the newest stays in view."""

from html import escape

import streamlit as st

from dashboard import ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.parts import runs

PAGE = 500
SHOWN = 400
HEIGHT = 320


def show(job: Json, resource: str | None) -> None:
    """Show what a job is doing and what it wrote. resource: path of what it works on, where that can be cancelled."""
    _follow(job["id"], resource) if job["status"] in words.UNFINISHED else _draw(ui.api(), job, resource)


@st.fragment(run_every=2)
def _follow(job_id: str, resource: str | None) -> None:
    api = ui.api()
    with ui.patient():
        job = api.get(f"/jobs/{job_id}")
        if job["status"] not in words.UNFINISHED:
            st.rerun(scope="app")
        _draw(api, job, resource)


def _draw(api: Api, job: Json, resource: str | None) -> None:
    if job["status"] in words.UNFINISHED:
        runs.progress_line(job, "done")
        if resource and st.button("Cancel", key=f"cancel-job:{job['id']}", icon=":material/stop_circle:"):
            _cancel(api, resource)
    if job["waiting_for"]:
        ui.card("Waiting", [escape(job["waiting_for"])], "rp-waits")
    if job["error"]:
        ui.card(
            "This job failed",
            [escape(job["error"]), "Its page offers to resume it, or to change its settings."],
            "rp-wrong",
        )
    tail, total = newest(api, job["id"])
    st.caption(f"Log, {words.plural(total, 'line')}, times in UTC")
    text = "\n".join(f"{line['at'][11:19]}  {line['level']:<7}  {line['message']}" for line in tail)
    follows = job["status"] in words.UNFINISHED
    with st.container(height=HEIGHT if total > 12 else "content", autoscroll=follows, border=False, key="job-log"):
        st.code(text or "nothing written yet", language=None)


def newest(api: Api, job_id: str) -> tuple[list[Json], int]:
    """Return the newest lines of a log and how many there are; full pages before the last are read once a session."""
    kept: tuple[str | None, int, list[Json]] = st.session_state.get("log:kept", {}).get(job_id, (None, 0, []))
    cursor, before, tail = kept
    while True:
        page = api.get(f"/jobs/{job_id}/logs", limit=PAGE, cursor=cursor)
        if page["next_cursor"] is None:
            break
        cursor, before = page["next_cursor"], before + len(page["items"])
        tail = (tail + page["items"])[-SHOWN:]
        st.session_state["log:kept"] = {job_id: (cursor, before, tail)}  # of one job only: the session stays small
    return (tail + page["items"])[-SHOWN:], before + len(page["items"])


def _cancel(api: Api, resource: str) -> None:
    try:
        api.post(f"{resource}/cancel")
    except ApiRefused as error:
        ui.note(error.detail)
        return
    st.rerun(scope="app")
