"""One run as it goes: its live progress, or how it ended and what can be done next."""

from html import escape

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import ApiRefused, Json
from dashboard.parts import again, keeping


def progress_line(run: Json, noun: str) -> None:
    """Show a bar with what is done, what is left and for how long."""
    progress = run["progress"]
    total = progress["total"] or 0
    eta = progress.get("eta_seconds")
    stage = run.get("stage") or progress.get("stage") or words.state(run["status"])
    done = f"{words.count(progress['done'])} of {words.count(total)} {noun}"
    if not noun:  # parts of a whole, not things that one could count
        done = words.percent(progress["done"] / total, 0) if total else ""
    said = f"{stage}: {done}" if total and stage else stage or done
    left = f", about {words.duration(eta)} left" if run["status"] == "running" and eta is not None else ""
    st.progress(min(1.0, progress["done"] / total) if total else 0.0)
    ui.note(said[:1].upper() + said[1:] + left)


@st.fragment(run_every=1.5)
def live(kind: str, run_id: str, noun: str, shown: str, **asked: object) -> None:
    """Follow one run: progress, ETA, cancel. Reruns the whole page when more is to be seen than `shown`.

    kind: 'analyses', 'trainings' or 'statistics'; noun: what is counted, empty for a share of the whole; asked: what
    the call asks for, so that following fetches no more than the status.
    Survives a restart of the API: says that it waits, and goes on.
    """
    with ui.patient():
        _live(kind, ui.api().get(f"/{kind}/{run_id}", **asked), noun, shown)


def _live(kind: str, run: Json, noun: str, shown: str) -> None:
    api = ui.api()
    job = api.get(f"/jobs/{run['job_id']}") if run["status"] == "queued" and run.get("job_id") else {}
    if seen(run) != shown:
        st.rerun(scope="app")
    progress_line(run, noun)
    if job.get("waiting_for"):
        ui.note(f"Waiting: {job['waiting_for']}")
    if st.button("Cancel", key=f"cancel:{run['id']}", icon=":material/stop_circle:"):
        try:
            api.post(f"/{kind}/{run['id']}/cancel")
        except ApiRefused as error:
            ui.note(error.detail)
        st.rerun(scope="app")


def seen(run: Json) -> str:
    """Return what makes the whole page worth drawing again: the status, and every tenth of the way.

    Of statistics nothing can be seen before they are finished.
    """
    total = 0 if run["id"].startswith("st_") else run["progress"]["total"] or 0
    return f"{run['status']}:{10 * run['progress']['done'] // total if total else 0}"


def follow(kind: str, run: Json, noun: str) -> None:
    """Show what a run is doing, or how it ended and what can be done next; of a deleted one, how to bring it back."""
    keeping.offer_restore(kind, run)
    if run["status"] in words.UNFINISHED:
        live(kind, run["id"], noun, seen(run))
        _log_link(run)
    elif run["status"] in ("failed", "cancelled"):
        _ended_early(kind, run, noun)


def _log_link(run: Json) -> None:
    if run.get("job_id"):
        address.link("Log", "jobs", icon=":material/article:", id=run["job_id"])


def _ended_early(kind: str, run: Json, noun: str) -> None:
    done, total = run["progress"]["done"], run["progress"]["total"]
    title = "This run failed" if run["status"] == "failed" else "This run was cancelled"
    kept = f"{words.count(done)} of {words.count(total)} {noun} are stored and stay; resuming goes on from there."
    if not noun:
        kept = "Resuming computes it anew, with the same result as an undisturbed run."
    ui.card(
        title,
        [escape(run["error"] or "")] * bool(run["error"]) + [kept],
        "rp-wrong" if run["status"] == "failed" else "",
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        resume = st.button("Resume", key=f"resume:{run['id']}", type="primary", icon=":material/play_arrow:")
        if kind in again.VIEW:
            again.link(kind, run)
        _log_link(run)
    if resume:
        try:
            ui.api().post(f"/{kind}/{run['id']}/resume")
        except ApiRefused as error:
            ui.refused(error)
            return
        st.rerun()
