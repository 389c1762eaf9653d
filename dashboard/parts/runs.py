"""Tables of analyses, trainings and jobs, and the live progress of one run."""

from collections.abc import Sequence
from html import escape

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import ApiDown, ApiError, ApiRefused, Json
from dashboard.parts import again
from dashboard.table import Column, Row, Ticks, cell, table


def _progress(run: Json) -> Json:
    progress = run["progress"]
    total = progress["total"] or 0
    part = progress["done"] / total if total else 0.0
    return cell(f"{words.count(progress['done'])} / {words.count(total)}" if total else "–", part)


def _status(run: Json) -> Json:
    return cell(words.state(run["status"]), run["status"], run.get("error"))


def _name(run: Json) -> str:
    tags = ", ".join(run["tags"])
    return f"{run['name']} · {tags}" if tags else run["name"]


def _when(stamp: str | None) -> Json:
    return cell(words.ago(stamp), stamp or "", stamp)


ANALYSIS_COLUMNS = (
    Column("name", "Analysis"),
    Column("status", "Status", kind="status"),
    Column("model", "Model", kind="code", minor=True),
    Column("dataset", "Prompt set", minor=True),
    Column("batches", "Batches", "right", "part"),
    Column("created", "Started", "right", minor=True),
)


def analyses(rows: Sequence[Json], *, key: str, ticks: Ticks | None = None) -> None:
    """Show analyses as a table of links; finished ones can be ticked."""
    made = [
        Row(
            a["id"],
            address.href("analysis", id=a["id"]),
            {
                "name": cell(_name(a), hint=a["id"]),
                "status": _status(a),
                "model": cell(a["model"]),
                "dataset": cell(a["dataset_name"]),
                "batches": _progress(a),
                "created": _when(a["created_at"]),
            },
            tick=a["status"] == "succeeded",
        )
        for a in rows
    ]
    opened = table(ANALYSIS_COLUMNS, made, key=key, label="Analyses", ticks=ticks)
    if opened:
        address.go("analysis", id=opened)


TRAINING_COLUMNS = (
    Column("name", "Training"),
    Column("status", "Status", kind="status"),
    Column("what", "What learns", minor=True),
    Column("analysis", "Analysis", minor=True),
    Column("steps", "Steps", "right", "part"),
    Column("verified", "Verified", "right"),
    Column("loss", "Last loss", "right"),
    Column("created", "Started", "right", minor=True),
)


def what_learns(training: Json) -> str:
    """Say what a training changes: 'experts of <set>', 'everything but …', 'the whole model'."""
    name = training.get("expert_set_name") or "the expert set"
    adapter = training["params"].get("adapter")
    low_rank = f"adapters (rank {adapter['rank']}) of " if adapter else ""
    routers = " and, in turn, the routers" if training["params"].get("routers") else ""
    return {
        "selected": f"only {low_rank}{name}{routers}",
        "all_but_selected": f"all but {name}",
        "full": "the whole model",
    }[training["mode"]]


def verified_words(training: Json) -> str:
    """'72 of 72', or why there is nothing to verify."""
    if training["params"].get("preserve_batches") is False:
        return "no batches kept"
    return f"{words.count(training['n_verified'])} of {words.count(training['n_recorded'])}"


def trainings(rows: Sequence[Json], *, key: str, ticks: Ticks | None = None) -> None:
    """Show trainings as a table of links; those with a step can be ticked."""
    made = [
        Row(
            t["id"],
            address.href("training", id=t["id"]),
            {
                "name": cell(_name(t), hint=t["id"]),
                "status": _status(t),
                "what": cell(what_learns(t)),
                "analysis": cell(t["analysis_name"]),
                "steps": _progress(t),
                "verified": cell(verified_words(t), t["n_verified"]),
                "loss": cell(words.number(t["final_loss"]), t["final_loss"]),
                "created": _when(t["created_at"]),
            },
            tick=t["n_recorded"] > 0,
        )
        for t in rows
    ]
    opened = table(TRAINING_COLUMNS, made, key=key, label="Trainings", ticks=ticks)
    if opened:
        address.go("training", id=opened)


EVALUATION_COLUMNS = (
    Column("name", "Evaluation"),
    Column("status", "Status", kind="status"),
    Column("what", "Intervention", minor=True),
    Column("set", "Expert set"),
    Column("sample", "Prompts"),
    Column("arms", "Arms", "right", "part"),
    Column("created", "Started", "right", minor=True),
)


def evaluations(rows: Sequence[Json], *, key: str) -> None:
    """Show evaluations as a table of links."""
    made = [
        Row(
            e["id"],
            address.href("evaluation", id=e["id"]),
            {
                "name": cell(_name(e), hint=e["id"]),
                "status": _status(e),
                "what": cell(e["intervention"]),
                "set": cell(e["expert_set_name"] or "–"),
                "sample": cell(
                    f"{e['n_safe'] + e['n_unsafe']}{', in-sample' if e['overlap']['in_sample'] else ', new'}"
                ),
                "arms": cell(f"{e['n_finished']} / {e['n_arms']}", e["n_finished"] / max(1, e["n_arms"])),
                "created": _when(e["created_at"]),
            },
        )
        for e in rows
    ]
    opened = table(EVALUATION_COLUMNS, made, key=key, label="Evaluations")
    if opened:
        address.go("evaluation", id=opened)


JOB_COLUMNS = (
    Column("subject", "Work"),
    Column("kind", "Kind"),
    Column("status", "Status", kind="status"),
    Column("progress", "Progress", "right", "part"),
    Column("eta", "Left", "right", minor=True),
    Column("created", "Submitted", "right", minor=True),
)


def jobs(rows: Sequence[Json], *, key: str, selected: str | None = None) -> None:
    """Show jobs as a table of links."""
    made = [
        Row(
            j["id"],
            address.href("jobs", id=j["id"]),
            {
                "subject": cell(j.get("subject_name") or j["kind"], hint=j["id"]),
                "kind": cell(j["kind"]),
                "status": _status(j),
                "progress": _progress(j),
                "eta": cell(_eta(j)),
                "created": _when(j["created_at"]),
            },
        )
        for j in rows
    ]
    opened = table(JOB_COLUMNS, made, key=key, label="Jobs", selected=selected)
    if opened:
        address.go("jobs", id=opened)


def _eta(run: Json) -> str:
    eta = run["progress"].get("eta_seconds")
    return words.duration(eta) if run["status"] == "running" and eta is not None else "–"


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
    api = ui.api()
    try:
        run = api.get(f"/{kind}/{run_id}", **asked)
        job = api.get(f"/jobs/{run['job_id']}") if run["status"] == "queued" and run.get("job_id") else {}
    except ApiDown:
        ui.note("The API does not answer; the work itself goes on in the worker. Waiting for it to come back …")
        return
    except ApiError as error:
        ui.note(str(error))
        return
    if seen(run) != shown:
        st.rerun(scope="app")
    progress_line(run, noun)
    if job.get("waiting_for"):
        ui.note(f"Waiting: {job['waiting_for']}")
    if st.button("Cancel", key=f"cancel:{run_id}", icon=":material/stop_circle:"):
        try:
            api.post(f"/{kind}/{run_id}/cancel")
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
    """Show what a run is doing, or how it ended and what can be done next."""
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
