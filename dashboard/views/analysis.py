"""Analyses: the list and the form to start one, or one analysis with its heatmap, experts and batches."""

from html import escape

import streamlit as st

from dashboard import address, cells, charts, data, risk_charts, ui, words
from dashboard.client import Api, Json
from dashboard.heatmap import heatmap
from dashboard.parts import (
    analysis_form,
    analysis_tabs,
    before_after,
    colour_range,
    expert_panel,
    keeping,
    run_lists,
    runs,
    tested,
)


def main() -> None:
    """Draw the list or the analysis that the address names."""
    api = ui.api()
    analysis_id = address.text("id")
    if analysis_id:
        _one(api, api.get(f"/analyses/{analysis_id}"))
    else:
        _list(api)


def _list(api: Api) -> None:
    ui.page_title("Analyses")
    ui.heading(
        "Analyses", "A prompt set, read in planned batches by one model; every expert's risk_diff, batch by batch."
    )
    keeping.offer_undo(api, "analyses")
    found, asked = run_lists.analyses(api)
    if not (found or asked):
        ui.card("No analysis yet", ["Choose a prompt set and a model below; the defaults are good for a first look."])
    with st.expander(
        "Start an analysis",
        expanded=bool(address.text("dataset") or address.text("again")) or not (found or asked),
        icon=":material/add:",
    ):
        analysis_form.show(api)


def _sub(analysis: Json) -> str:
    params = analysis["params"]
    return (
        f"{analysis['model']} on “{analysis['dataset_name']}” · batches of {params['batch_size']}, "
        f"{params['strategy']}, seed {params['seed']} · {analysis['engine']} · "
        f"{template_words(analysis)} · {analysis['id']}"
    )


def template_words(analysis: Json) -> str:
    """Say what a prompt is here, and what of it counts."""
    left_out = analysis["params"].get("exclude_template_tokens") and analysis["template"] == "chat template"
    return f"{analysis['template']}, its tokens not counted" if left_out else str(analysis["template"])


def _one(api: Api, analysis: Json) -> None:
    ui.page_title(analysis["name"])
    ui.heading(analysis["name"], _sub(analysis), analysis["status"])
    runs.follow("analyses", analysis, "batches")
    before_after.of_analysis(api, analysis)
    plan = analysis["plan"]
    non_finite = analysis["n_non_finite"]
    ui.facts(
        [
            ("batches measured", words.count(analysis["n_measured"]), f"of {words.count(plan['n_batches'])}"),
            (
                "prompts in batches",
                words.count(plan["n_samples"]),
                f"{words.count(plan['n_safe'])} safe, {words.count(plan['n_unsafe'])} unsafe",
            ),
            ("left out", words.count(plan["n_left_out"]), "prompts"),
            (
                "experts",
                words.count(sum(s["n_experts"] for s in analysis["sites"])),
                f"in {len(analysis['sites'])} MoE layers",
            ),
            *([("not finite", words.count(non_finite), words.batches(non_finite).split(" ")[1])] if non_finite else []),
            ("took", words.duration(words.between(analysis["started_at"], analysis["finished_at"])), ""),
        ]
    )
    if analysis["n_measured"]:
        _map_and_expert(api, analysis, _address())
    elif analysis["status"] in words.UNFINISHED:
        ui.note("The heatmap appears with the first measured batch.")
    analysis_tabs.show(api, analysis)


def scope_and_pool(analysis: Json) -> tuple[str, str]:
    """Show the choice of token scope and pool (part of the address); return it."""
    scopes = {s: words.SCOPES[s] for s in analysis["params"]["scopes"]}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        scope = ui.choice("Tokens counted", "scope", scopes) if len(scopes) > 1 else next(iter(scopes))
        pool = ui.choice("Pool", "pool", {p: p for p in words.POOLS}, help="; ".join(words.POOLS.values()))
    return scope, pool


@st.fragment
@ui.guarded
def _map_and_expert(api: Api, analysis: Json, drawn: tuple[object, ...]) -> None:
    """Show the heatmap and the chosen expert. drawn: what the rooms below were drawn for."""
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        scope, pool = scope_and_pool(analysis)
        stored = tested.finished(api, analysis, scope, pool)
        marks = _marks(stored)
        risk = data.risk(api, analysis, scope, pool)
        reach = colour_range.choose(colour_range.ends(api, analysis, scope, risk), "all")
        ui.share(
            f"/analyses/{analysis['id']}/risk-diff",
            {"scope": scope, "pool": pool},
            key="share-map",
            save={"csv": f"risk-diff-{analysis['id']}.csv", "parquet": f"risk-diff-{analysis['id']}.parquet"},
            plot=f"map:{analysis['id']}:{scope}:{pool}",
        )
    if _address() != drawn:  # the rooms below show the same scope, pool and expert
        st.rerun(scope="app")
    figures = data.tests(api, stored["id"]) if stored else None
    dots = tested.marked(marks, stored, figures) if stored and figures else ()
    if not _heatmap(analysis, risk, reach.vmax, stored, figures, dots):
        return
    _legend(analysis, stored, marks, len(dots), scope, pool)
    ui.note(reach.beyond(risk["risk_diff"]) + _what_is_shown(risk, scope, pool))
    chosen = expert_panel.chosen(risk["sites"] or analysis["sites"])
    if chosen:
        expert_panel.show(api, analysis, chosen, scope, pool, stored)
    else:
        ui.note("Click a cell, or walk with the arrow keys and press Enter, to see one expert in every batch.")


def _address() -> tuple[object, ...]:
    """What the rooms below the heatmap depend on; the chosen expert only where a room lists experts."""
    asked = st.query_params
    cell = ("layer", "expert") if asked.get("view") == "experts" else ()
    return tuple(asked.get(name) for name in ("scope", "pool", *cell))


def _marks(stored: Json | None) -> str:
    if stored is None or not tested.testable(stored):
        return "none"
    return ui.choice("Mark experts by", "marks", tested.MARKS, help="Which experts get a dot on the heatmap.")


def _heatmap(
    analysis: Json,
    risk: Json,
    vmax: float,
    stored: Json | None,
    figures: dict[str, charts.Matrix | None] | None,
    marks: charts.Cells,
) -> bool:
    sites = risk["sites"] or analysis["sites"]
    figure = risk_charts.risk_heat(
        risk,
        sites,
        vmax,
        analysis["name"],
        marks=marks,
        tests=figures,
        interval=tested.interval_words(stored) if stored else "",
    )
    if figure is None:
        ui.card("No heatmap", [escape(risk["reason"] or "There is no value to show yet.")])
        return False

    selected, pick = cells.chosen(address.index("layer"), address.index("expert"), sites), address.put_cell(sites)
    scope, pool = risk["scope"], risk["pool"]
    name = f"risk-diff-{analysis['id']}-{scope}-{pool}"
    heatmap(figure, key=f"map:{analysis['id']}:{scope}:{pool}", filename=name, selected=selected, on_cell=pick)
    return True


def _legend(analysis: Json, stored: Json | None, marks: str, n: int, scope: str, pool: str) -> None:
    """Say what the colours and the dots mean, or why there are no dots."""
    if stored is None:
        ui.colour_key()
        running = any(head["status"] in words.UNFINISHED for head in tested.heads(analysis, scope, pool))
        if analysis["status"] == "succeeded":
            ui.note(
                "Which of these differences are more than chance: the statistics are being computed."
                if running
                else "Which of these differences are more than chance is not computed yet: see Statistics below."
            )
    elif not tested.testable(stored):
        ui.colour_key()
        ui.note(stored["summary"]["design"]["reason"])
    elif marks == "none":
        ui.colour_key()
    else:
        said = f"{tested.mark_words(marks, stored)}: {words.count(n)} of {words.count(stored['summary']['n_tested'])}"
        ui.colour_key(f"{said} experts")


def _what_is_shown(risk: Json, scope: str, pool: str) -> str:
    whole = risk["n_batches"] == risk["n_batches_total"]
    of = (
        f"all {words.batches(risk['n_batches'])}"
        if whole
        else f"{risk['n_batches']} of {risk['n_batches_total']} batches"
    )
    return (
        f"risk_diff = rate on unsafe − rate on safe, over the prompts of {of}; {words.POOLS[pool]}; "
        f"{words.SCOPES[scope]}. {words.NOT_A_CAUSE}"
    )


ui.show(main)
