"""Studies: does it matter, and does keeping batches make results more reproducible? The list and the form, or one."""

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import Api, Json
from dashboard.parts import keeping, run_lists, run_tables, runs, study_figures, study_form
from dashboard.table import Column, Row, cell, table

RUN_COLUMNS = (
    Column("what", "Run"),
    Column("arm", "Arm"),
    Column("seed", "Seed", "right"),
    Column("status", "Status", kind="status"),
    Column("progress", "Progress", "right", "part"),
)
ROLES = {
    "training": "training",
    "causal": "causal check",
    "analysis": "measurement of the trained model",
    "evaluation": "answers of the trained model",
    "comparison": "comparison with the untrained model",
}
VIEW = {"training": "training", "evaluation": "evaluation", "analysis": "analysis", "comparison": "compare"}


def main() -> None:
    """Draw the list or the study that the address names."""
    api = ui.api()
    study_id = address.text("id")
    if study_id:
        _one(api, api.get(f"/studies/{study_id}"))
    else:
        _list(api)


def _list(api: Api) -> None:
    ui.page_title("Studies")
    ui.heading(
        "Studies",
        "The same training with batches kept and with samples reshuffled, several seeds each: does it matter, and does "
        "keeping batches make results more reproducible?",
    )
    keeping.offer_undo(api, "studies")
    found, asked = run_lists.studies(api)
    wanted = address.text("set")
    if not (found or asked):
        ui.card(
            "No study yet",
            [
                "One training says nothing about chance. A study trains the same experts on the same samples with "
                "several seeds, in both ways, asks every trained model, and tests what differs. Whichever way it comes "
                "out, it says so."
            ],
        )
    with st.expander("Start a study", expanded=bool(wanted) or not (found or asked), icon=":material/add:"):
        study_form.show(api, wanted)


def _one(api: Api, study: Json) -> None:
    ui.page_title(study["name"])
    n = len(study["params"]["seeds"])
    ui.heading(
        study["name"],
        f"batches kept against samples reshuffled, {words.plural(n, 'seed')} each · {study['model']} · {study['id']}",
        study["status"],
    )
    runs.follow("studies", study, "runs")
    _links(api, study)
    _facts(study)
    if study["result"]:
        study_figures.show(study)
    elif study["status"] in words.UNFINISHED:
        ui.note("The answers appear when every run is done; each run can be opened from the table below meanwhile.")
    _runs(study)
    with st.expander("Record: settings, name"):
        st.json({name: study[name] for name in ("params", "sha256")}, expanded=1)
        keeping.show(api, "studies", study)


def _links(api: Api, study: Json) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        address.link(
            f"Analysis: {ui.plain(study['analysis_name'])}",
            "analysis",
            icon=":material/arrow_upward:",
            id=study["analysis_id"],
        )
        address.link(
            f"Expert set: {ui.plain(study['expert_set_name'])}",
            "analysis",
            icon=":material/arrow_upward:",
            id=study["analysis_id"],
            view="sets",
        )
        ui.share(f"/studies/{study['id']}", {}, key="share-study")
        for form, title in (("html", "Report (HTML)"), ("md", "Report (Markdown)")) if study["result"] else ():
            st.download_button(
                title,
                data=lambda form=form: api.download(f"/studies/{study['id']}/report", format=form),  # type: ignore[misc]
                file_name=f"routeprint-{study['id']}.{form}",
                key=f"study-report:{form}",
                icon=":material/description:",
                on_click="ignore",
            )


def _facts(study: Json) -> None:
    size, training = study["params"]["estimate"], study["params"]["training"]
    ui.facts(
        [
            ("experts trained", words.count(study["n_experts"]), study["expert_set_name"]),
            ("seeds", words.count(len(study["params"]["seeds"])), "per arm"),
            ("steps per training", words.count(size["n_steps"] // size["runs"]["training"]), ""),
            (
                "epochs",
                words.count(training["epochs"]),
                f"learning rate {words.short_float(training['learning_rate'])}",
            ),
            ("answers asked for", words.count(size["n_answers"]), _short(study["dataset_name"])),
            ("took", words.duration(words.between(study["started_at"], study["finished_at"])), ""),
        ]
    )


def _short(name: str) -> str:
    return name if len(name) <= 48 else f"{name[:47]}…"


def _runs(study: Json) -> None:
    done = study["status"] == "succeeded"
    with st.expander(f"The {words.count(len(study['runs']))} runs of this study", expanded=not done):
        rows = [
            Row(
                str(run["n"]),
                address.href(VIEW[run["kind"]], id=run["id"]) if run["id"] else None,
                {
                    "what": cell(ROLES[run["role"]], hint=run["id"]),
                    "arm": cell(study_figures.ARMS.get(run["arm"] or "", "–")),
                    "seed": cell("–" if run["seed"] is None else run["seed"], run["seed"]),
                    "status": run_tables.status_cell(run) if run["status"] else cell("not made yet", "planned"),
                    "progress": run_tables.progress_cell(run["progress"]) if run["progress"] else cell("–", 0.0),
                },
            )
            for run in study["runs"]
        ]
        opened = table(RUN_COLUMNS, rows, key=f"study-runs:{study['id']}", label="Runs of this study")
    chosen = next((run for run in study["runs"] if opened is not None and str(run["n"]) == opened), None)
    if chosen and chosen["id"]:
        address.go(VIEW[chosen["kind"]], id=chosen["id"])


ui.show(main)
