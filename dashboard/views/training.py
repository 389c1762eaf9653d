"""Trainings: the list and the form to start one, or one training whose loss curve leads to its batches."""

from collections.abc import Sequence

import streamlit as st

from dashboard import address, charts, data, loss_charts, ui, words
from dashboard.client import Api, Json
from dashboard.parts import (
    before_after,
    explanation,
    keeping,
    run_lists,
    run_tables,
    runs,
    step_panel,
    trained_batches,
    training_form,
    training_settings,
    verify,
)
from dashboard.plot import lines

CURVES = {"loss": "Loss per step", "order": "Order of batches", "risk": "Loss against risk_diff"}
ROOMS = {"batches": "Batches", "why": "Why?"}
MIXED = {"loss": "Loss per step"}  # a run that did not preserve its batches: what else is shown is of batches


def main() -> None:
    """Draw the list or the training that the address names."""
    api = ui.api()
    training_id = address.text("id")
    if training_id:
        _one(api, api.get(f"/trainings/{training_id}"))
    else:
        _list(api)


def _list(api: Api) -> None:
    ui.page_title("Trainings")
    ui.heading(
        "Trainings",
        "Only the chosen experts learn; one optimizer step is one analysis batch, verified sample by sample.",
    )
    keeping.offer_undo(api, "trainings")
    wanted = address.text("analysis")
    found, asked = run_lists.trainings(api)
    if not (found or asked):
        ui.card(
            "No training yet", ["It needs a finished analysis, and an expert set unless the whole model is to learn."]
        )
    with st.expander(
        "Start a training",
        expanded=bool(wanted or address.text("again")) or not (found or asked),
        icon=":material/add:",
    ):
        training_form.show(api, wanted)


def _one(api: Api, training: Json) -> None:
    params = training["params"]
    kept = params.get("preserve_batches", True)
    of_steps = "of the steps done" if kept else "no batches kept"
    ui.page_title(training["name"])
    ui.heading(
        training["name"],
        f"{run_tables.what_learns(training)} of {training['model']} · routing {training['routing']} · "
        f"learning rate {words.short_float(params['learning_rate'])} · {training['id']}",
        training["status"],
    )
    runs.follow("trainings", training, "steps")
    with st.container(horizontal=True, vertical_alignment="center"):
        address.link(
            f"Analysis: {ui.plain(training['analysis_name'])}",
            "analysis",
            icon=":material/arrow_upward:",
            id=training["analysis_id"],
        )
        before_after.of_training(api, training)
    ui.facts(
        [
            ("steps", words.count(training["n_recorded"]), f"of {words.count(training['n_steps'])}"),
            ("verified", words.count(training["n_verified"]) if kept else "–", of_steps),
            ("epochs", words.count(params["epochs"]), f"each visits every {'batch' if kept else 'sample'} once"),
            ("last loss", words.number(training["final_loss"]), ""),
            ("took", words.duration(words.between(training["started_at"], training["finished_at"])), ""),
            *([("processes", words.count(n), "share every batch")] if (n := _processes(training)) > 1 else []),
            *([("trained model", training["result"]["model_id"], "")] if training["result"].get("model_id") else []),
        ]
    )
    for tracker, place in training["result"].get("tracking", {}).items():
        ui.note(f"{training_settings.TRACKERS[tracker]} logs, on the worker: {place}")
    for noted in training["result"].get("notes", []):
        ui.note(f"Noted during this run: {noted['text']}.")
    steps = data.all_items(api, f"/trainings/{training['id']}/steps", data.version(training), fields="summary")
    if steps:
        _curve_and_step(api, training, steps)
    elif training["status"] in words.UNFINISHED:
        ui.note("The loss curve appears with the first step.")
    with st.expander("Record: provenance, settings, name"):
        verify.show(api, f"/trainings/{training['id']}")
        st.subheader("Settings and environment")
        st.json(
            {"params": params, "environment": training["environment"], "target_digest": training["target_digest"]},
            expanded=1,
        )
        keeping.show(api, "trainings", training)


def _processes(training: Json) -> int:
    """Return how many processes trained last; runs from before this was written had one."""
    return int(training["environment"].get("n_processes", 1))


@st.fragment
@ui.guarded
def _curve_and_step(api: Api, training: Json, steps: list[Json]) -> None:
    _strip(training, steps)
    preserved = training["params"].get("preserve_batches", True)
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        shown = ui.choice("Show", "curve", CURVES | ROOMS if preserved else MIXED, resets=("after", "sort"))
        if shown in CURVES:
            ui.share(
                f"/trainings/{training['id']}/steps",
                {"limit": 500},
                key="share-steps",
                save={form: f"steps-{training['id']}.{form}" for form in ("csv", "parquet")},
                plot=f"{shown}:{training['id']}",
            )
    if shown == "batches":
        trained_batches.show(api, training)
    elif shown == "why":
        explanation.show(api, training)
    else:
        _curve(api, training, steps, shown)
    picked = address.index("step")
    if picked is not None:
        step_panel.show(api, training, picked)
    elif shown in CURVES:
        what = "the batch it was trained on" if preserved else "the samples it was trained on"
        ui.note(f"Click a point, or focus the plot and press the arrow keys, to see a step and {what}.")


def _curve(api: Api, training: Json, steps: Sequence[Json], curve: str) -> None:
    lines(
        _figure(api, training, steps, curve),
        key=f"{curve}:{training['id']}",
        filename=f"{curve}-{training['id']}",
        selected=address.index("step"),
        on_point=lambda step: address.put(step=step),
    )


def _figure(api: Api, training: Json, steps: Sequence[Json], curve: str) -> charts.Lines:
    if curve == "order":
        return loss_charts.order_by_epoch(steps)
    if curve == "risk":
        path = f"/analyses/{training['analysis_id']}/batches"
        return loss_charts.loss_against_risk(steps, data.all_items(api, path, "trained"))
    return loss_charts.loss_curve(steps, preserved=training["params"].get("preserve_batches", True))


def _strip(training: Json, steps: Sequence[Json]) -> None:
    """One bar of all steps: verified, not verified, not checked, still to come."""
    bad = [s["step"] for s in steps if s["verified"] is False]
    unchecked = sum(s["verified"] is None for s in steps)
    kinds = ["bad" if s["verified"] is False else "none" if s["verified"] is None else "" for s in steps]
    kinds += ["open"] * max(0, training["n_steps"] - len(steps))
    ui.strip(kinds, 240, _strip_words(steps, bad, unchecked))


def _strip_words(steps: Sequence[Json], bad: Sequence[int], unchecked: int) -> str:
    if bad:
        return f"Step {', '.join(map(str, bad[:5]))} did NOT hold the samples of its analysis batch."
    if unchecked == len(steps):
        return (
            "Batches were not preserved in this run (the baseline): a step mixes samples of several batches, so there "
            "is nothing to verify, and no batch has a loss of its own."
        )
    n = words.plural(len(steps), "step")
    return f"Every one of the {n} so far held exactly the samples of its analysis batch, in order."


ui.show(main)
