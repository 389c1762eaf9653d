"""Overview: where things stand, and what to do first."""

import streamlit as st

from dashboard import address, charts, data, risk_charts, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.heatmap import heatmap
from dashboard.parts import run_tables


def main() -> None:
    """Draw the page."""
    ui.page_title("Overview")
    api = ui.api()
    datasets = api.get("/datasets", limit=100)["items"]
    analyses = api.get("/analyses", limit=100)["items"]
    trainings = api.get("/trainings", limit=100)["items"]
    ui.heading(
        "Overview",
        "Which experts of a Mixture-of-Experts model fire on unsafe prompts; train only those; trace every step.",
    )
    if not analyses:
        _first_minutes(api, datasets)
    else:
        own = [a for a in analyses if not run_tables.of_study(a)] or analyses
        newest = next((a for a in own if a["status"] == "succeeded"), None)
        if newest:
            _newest(api, newest)
        st.subheader("Analyses")
        run_tables.analyses(own[:8], key="overview-analyses")
        _trainings([t for t in trainings if not run_tables.of_study(t)], newest)
        _of_studies(analyses + trainings)
    _machine(api)


def _first_minutes(api: Api, datasets: list[Json]) -> None:
    step = 2 if datasets else 1
    steps = (
        "Store a set of safe and unsafe prompts.",
        "Start an analysis: a model reads them in planned batches, and every expert's risk_diff is measured.",
        "Choose experts, train only those in exactly the batches that were measured, and trace any step back.",
    )
    shown = "".join(f"<li>{'<b>' + s + '</b>' if i + 1 == step else s}</li>" for i, s in enumerate(steps))
    ui.card("Start here", [f"<ol>{shown}</ol>"], "rp-waits")
    with st.container(horizontal=True):
        if not datasets and st.button(
            "Load the demonstration prompts", type="primary", icon=":material/download_done:"
        ):
            try:
                api.post("/datasets/demo")
            except ApiRefused as error:
                ui.refused(error)
                return
            st.rerun()
        if st.button(
            "Add your own prompts" if not datasets else "Start an analysis", type="primary" if datasets else "secondary"
        ):
            address.go("analysis" if datasets else "datasets")


def _newest(api: Api, analysis: Json) -> None:
    risk = data.risk(api, analysis, analysis["params"]["scopes"][0], "mean")
    st.subheader("Newest finished analysis")
    left, right = st.columns([3, 2], gap="medium", vertical_alignment="top")
    with left:
        vmax = charts.round_up(risk["max_abs"] or 0.0)
        figure = risk_charts.risk_heat(risk, risk["sites"], vmax, "All batches")
        if figure:
            heatmap(
                figure, key=f"newest:{analysis['id']}", filename=f"risk-diff-{analysis['id']}", on_cell=lambda *_: None
            )
            cell = st.session_state[f"newest:{analysis['id']}"].cell
            if cell:
                layer = risk["sites"][cell["row"]]["layer"]
                address.go("analysis", id=analysis["id"], layer=layer, expert=cell["expert"])
            ui.share(
                f"/analyses/{analysis['id']}/risk-diff",
                {"scope": risk["scope"], "pool": "mean"},
                key="share-newest",
                save={form: f"risk-diff-{analysis['id']}.{form}" for form in ("csv", "parquet")},
                plot=f"newest:{analysis['id']}",
            )
        ui.colour_key()
    with right:
        address.link(ui.plain(analysis["name"]), "analysis", icon=":material/arrow_forward:", id=analysis["id"])
        plan = analysis["plan"]
        ui.facts(
            [
                ("batches measured", words.count(analysis["n_measured"]), f"of {words.count(plan['n_batches'])}"),
                (
                    "prompts",
                    words.count(plan["n_samples"]),
                    f"{words.count(plan['n_safe'])} safe, {words.count(plan['n_unsafe'])} unsafe",
                ),
                (
                    "experts",
                    words.count(sum(s["n_experts"] for s in analysis["sites"])),
                    f"in {len(analysis['sites'])} MoE layers",
                ),
                ("max |risk_diff|", words.number(risk["max_abs"]), ""),
            ]
        )
        ui.note(f"{analysis['model']} on “{analysis['dataset_name']}”, pool mean, {words.SCOPES[risk['scope']]}.")
        ui.note(words.NOT_A_CAUSE)


def _trainings(trainings: list[Json], newest: Json | None) -> None:
    st.subheader("Trainings")
    if trainings:
        run_tables.trainings(trainings[:8], key="overview-trainings")
        return
    ui.card(
        "No training yet",
        ["A training changes only the experts you choose, in exactly the batches the analysis measured."],
    )
    if newest and st.button("Start a training", type="primary"):
        address.go("training", analysis=newest["id"])


def _of_studies(runs: list[Json]) -> None:
    """Say where the runs are that studies made: a study makes more of them than would leave room for others here."""
    if any(run_tables.of_study(run) for run in runs):
        with st.container(horizontal=True, vertical_alignment="center"):
            address.link("Studies", "study", icon=":material/arrow_forward:")
            st.html('<p class="rp-note">The runs of studies are listed on their own pages.</p>', width="content")


def _machine(api: Api) -> None:
    system = api.get("/system")
    alive = [w for w in system["workers"] if w["alive"]]
    st.subheader("Machine")
    if not alive:
        ui.card("No worker is running", ["Queued work waits until one is: <code>routeprint worker</code>."], "rp-waits")
    device = alive[0]["device"] if alive else "–"
    ui.facts(
        [
            ("workers", words.count(len(alive)), device if alive else ""),
            ("waiting", words.count(system["queue"]["queued"]), "jobs"),
            ("running", words.count(system["queue"]["running"]), "jobs"),
            ("database", words.size(system["database"]["size_bytes"]), system["database"]["url_kind"]),
            ("disk left", words.size(system["home_free_bytes"]), ""),
            ("version", system["version"], ""),
        ]
    )


ui.show(main)
