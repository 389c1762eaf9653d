"""The room of statistics: asked for, followed while they are computed, started again with other settings."""

from html import escape

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.parts import runs, statistics_figures, tested

STRATA = {
    "": "none",
    "category": "category: never exchange labels across categories",
    "difficulty": "difficulty: never exchange labels across difficulties",
    "source": "source: never exchange labels across sources",
}
WHAT_FOR = (
    "Which experts differ by more than chance: a permutation test over all experts at once, with the prompt (or its "
    "group) as the unit. Beside it: intervals, how often an expert is chosen from other prompts, what a held-out half "
    "says, and how far prompt length or the words alone would get you. Runs on a CPU, next to other work."
)


def show(api: Api, analysis: Json) -> None:
    """Show where the statistics of the page's scope and pool stand, and what they say."""
    scope, pool = address.scope_and_pool(analysis["params"]["scopes"])
    head = tested.newest(analysis, scope, pool)
    if head is None:
        _first(api, analysis, scope, pool)
        return
    stored = api.get(f"/statistics/{head['id']}")
    _which(analysis, stored, scope, pool)
    runs.follow("statistics", stored, "")
    if stored["status"] == "succeeded":
        statistics_figures.show(api, analysis, stored)
    with st.expander("Compute with other settings", icon=":material/tune:"):
        _form(api, analysis, scope, pool, stored["params"])


def _first(api: Api, analysis: Json, scope: str, pool: str) -> None:
    ui.card(f"No statistics yet of {words.SCOPES[scope]}, pool {pool}", [WHAT_FOR])
    if analysis["status"] != "succeeded":
        ui.note("They need every batch of a finished analysis, and start by themselves or here once it has finished.")
        return
    start(api, analysis, {"scope": scope, "pool": pool})
    with st.expander("Settings", icon=":material/tune:"):
        _form(api, analysis, scope, pool, {})


def start(api: Api, analysis: Json, body: Json) -> None:
    """Show the button that asks for statistics, and go to their room once they are accepted."""
    if st.button("Compute the statistics", type="primary", icon=":material/play_arrow:", key="start-statistics"):
        ask(api, analysis, body)


def ask(api: Api, analysis: Json, body: Json) -> None:
    """Ask for statistics. The same request on the same analysis is one: it leads to what is there."""
    try:
        made = api.post(f"/analyses/{analysis['id']}/statistics", body, key=ui.one_time_key("statistics", body))
    except ApiRefused as error:
        ui.refused(error)
        return
    ui.accepted("statistics")
    address.put(
        view="statistics",
        statistics=made["id"],
        scope=made["scope"] if made["scope"] != analysis["params"]["scopes"][0] else None,
        pool=made["pool"] if made["pool"] != "mean" else None,
    )
    st.rerun(scope="app")


def _which(analysis: Json, stored: Json, scope: str, pool: str) -> None:
    """Let one choose among several runs; else say what this one is."""
    found = tested.heads(analysis, scope, pool)
    st.html(
        f'<div class="rp-head"><h3>Statistics of {escape(words.SCOPES[scope])}, pool {escape(pool)}</h3>'
        f"{ui.chip(stored['status'])}</div>"
    )
    if len(found) == 1:
        return
    names = {h["id"]: f"{h['id']} · {words.state(h['status'])}" + (" · newest" * (h is found[0])) for h in found}
    key = f"which-statistics:{scope}:{pool}"
    st.session_state[key] = stored["id"]

    def chosen() -> None:
        picked = st.session_state[key]
        address.put(statistics=None if picked == found[0]["id"] else picked)

    st.selectbox("Run", list(names), format_func=lambda i: names[i], key=key, on_change=chosen, width=420)


def _form(api: Api, analysis: Json, scope: str, pool: str, before: Json) -> None:
    scopes = analysis["params"]["scopes"]
    with st.form("statistics-form", border=False):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            n_permutations = st.number_input(
                "Permutations",
                19,
                1_000_000,
                before.get("n_permutations", 10_000),
                help="The smallest attainable p is 1 / (permutations + 1).",
                width=150,
            )
            n_resamples = st.number_input(
                "Resamples", 100, 100_000, before.get("n_resamples", 1999), help="For the intervals.", width=150
            )
            alpha = st.number_input(
                "Alpha", 0.0001, 0.5, before.get("alpha", 0.05), step=0.01, format="%.4g", width=130
            )
            seed = st.number_input("Seed", 0, 2**31 - 1, before.get("seed", 0), width=130)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            strata = st.selectbox(
                "Strata",
                list(STRATA),
                list(STRATA).index(before.get("strata") or ""),
                format_func=lambda s: STRATA[s],
                width=360,
                help="A column of the prompt set that could explain the difference by itself.",
            )
            asked_scope = st.selectbox(
                "Tokens counted", scopes, scopes.index(scope), format_func=lambda s: words.SCOPES[s], width=180
            )
            asked_pool = st.selectbox("Pool", list(words.POOLS), list(words.POOLS).index(pool), width=130)
        go = st.form_submit_button("Compute", icon=":material/play_arrow:", disabled=analysis["status"] != "succeeded")
    if go:
        body = {"scope": asked_scope, "pool": asked_pool, "strata": strata or None, "alpha": float(alpha)}
        body |= {"n_permutations": int(n_permutations), "n_resamples": int(n_resamples), "seed": int(seed)}
        ask(api, analysis, body)
