"""Compare: two analyses, or an analysis and a published table, side by side on one scale."""

import streamlit as st

from dashboard import address, ui
from dashboard.client import Api, Json
from dashboard.parts import (
    comparison_view,
    keeping,
    published_tables,
    run_lists,
    side_by_side_view,
    ticking,
    trainings_view,
)

NEWEST = 200  # how many analyses the form offers; older ones are found, and ticked, in their list


def main() -> None:
    """Draw the comparison that the address names, or what there is to choose from."""
    api = ui.api()
    kept = address.text("id")
    if kept:
        one = api.get(f"/comparisons/{kept}", matrices=False)
        if one["deleted_at"]:
            _deleted(one)
            return
        address.put(id=None, a=one["analysis_a"], b=one["analysis_b"], scope=one["scope"], pool=one["pool"])
    a, b = address.text("a"), address.text("b")
    several, trainings = (address.ids(name, ticking.MOST) for name in ("of", "trainings"))
    if len(several) > 1:
        side_by_side_view.show(api, several)
    elif len(trainings) > 1:
        trainings_view.show(api, trainings)
    elif a and b:
        comparison_view.show(api, a, b)
    else:
        _choose(api, a)


def _deleted(one: Json) -> None:
    ui.page_title(one["name"])
    ui.heading(one["name"], f"{one['analysis_a']} and {one['analysis_b']} · {one['id']}", one["status"])
    keeping.offer_restore("comparisons", one)


def _choose(api: Api, a: str | None) -> None:
    ui.page_title("Compare")
    ui.heading(
        "Compare",
        "The same figures on two models, two prompt sets, or beside a published table: what moved, and where.",
    )
    keeping.offer_undo(api, "comparisons")
    analyses = api.get("/analyses", status="succeeded", limit=NEWEST)["items"]
    if a and not a.startswith("rt_") and a not in [one["id"] for one in analyses]:
        analyses.append(api.get(f"/analyses/{a}"))
    stored = list(api.items("/risk-tables", most=500))
    if not analyses:
        ui.card(
            "No finished analysis yet",
            ["A comparison needs two finished analyses, or one and a published table. Start with an analysis."],
        )
        if st.button("Start an analysis", type="primary", icon=":material/add:"):
            address.go("analysis")
    else:
        _form(analyses, stored, a)
    _kept(api)
    st.subheader("Published tables")
    published_tables.show(api, stored)


def _form(analyses: list[Json], stored: list[Json], a: str | None) -> None:
    options = {one["id"]: f"{one['name']}  ({one['model']})" for one in analyses}
    options |= {one["id"]: f"{one['name']}  (published table)" for one in stored}
    first = a if a in options else list(options)[:2][-1]
    left, right = st.columns(2, gap="medium")
    with left:
        one = ui.pick("a: from", options, first=first, key="compare-a")
    with right:
        other = ui.pick("b: to", options, key="compare-b")
    same = one == other
    if same:
        ui.note(
            "Choose two different ones. To see what a training changed, measure the trained model on the same plan: "
            "its training page offers that."
        )
    ui.note(
        "To compare more than two, or trainings, tick their rows in the lists of analyses and trainings"
        + (f"; offered here are the newest {NEWEST} analyses." if len(analyses) >= NEWEST else ".")
    )
    if st.button("Compare", type="primary", icon=":material/compare_arrows:", disabled=same):
        address.go("compare", a=one, b=other)


def _kept(api: Api) -> None:
    st.subheader("Kept comparisons")
    found, asked = run_lists.comparisons(api)
    if not (found or asked):
        ui.note("None yet: a comparison is kept, with a name, tags and notes, from its own page.")


ui.show(main)
