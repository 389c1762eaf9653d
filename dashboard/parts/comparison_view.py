"""One comparison: badges, three maps on one scale, what moved, overlap, drift. The address restores it exactly."""

from html import escape
from typing import Any

import streamlit as st

from dashboard import address, cells, charts, comparison_charts, data, risk_charts, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.data import Matrix
from dashboard.heatmap import heatmap
from dashboard.parts import comparison_tables, keeping, runs, verify
from dashboard.plot import lines

ROOMS = {"movers": "What moved most", "layers": "Drift per layer", "overlap": "Overlap of the top"}


def show(api: Api, a: str, b: str) -> None:
    """Show the comparison of two sides."""
    ui.page_title("Compare")
    try:
        found = _found(api, a, b)
    except ApiRefused as error:
        ui.heading("Compare")
        ui.refused(error)
        address.link("Choose two others", "compare", icon=":material/arrow_back:")
        return
    first, second = found["result"]["sides"]
    ui.heading(f"{first['name']} → {second['name']}", "b − a: what moved from the first to the second, and where.")
    _badges(found)
    _sides(first, second, a, b)
    kept = _kept(api, found)
    if kept and kept["status"] in words.UNFINISHED:
        runs.live("comparisons", kept["id"], "steps", runs.seen(kept), matrices=False)
    _body(api, a, b)
    if kept:
        with st.expander("Record: name, tags, notes, delete"):
            keeping.show(api, "comparisons", kept)


def _found(api: Api, a: str, b: str) -> Json:
    """Return the comparison in the scope and pool of the address; nonsense there is ignored."""
    scope, pool = st.query_params.get("scope"), st.query_params.get("pool")
    return data.compared(api, a, b, scope if scope in words.SCOPES else None, pool if pool in words.POOLS else None)


@st.fragment
@ui.guarded
def _body(api: Api, a: str, b: str) -> None:
    choices = st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute")
    with choices:
        if not any(side.startswith("rt_") for side in (a, b)):
            ui.choice("Pool", "pool", {p: p for p in words.POOLS}, help="; ".join(words.POOLS.values()))
    found = _found(api, a, b)
    kept = _kept(api, found)
    with choices:
        if kept:
            names = {form: f"comparison-{kept['id']}.{form}" for form in ("csv", "parquet", "npy")}
            ui.share(f"/comparisons/{kept['id']}/table", {}, key="share-comparison", save=names)
        _keep(api, found, kept)
    _figures(found, kept)
    _maps(api, found, kept)
    _rooms(api, found, kept)
    if kept and kept["status"] == "succeeded":
        verify.show(api, f"/comparisons/{kept['id']}")


def _kept(api: Api, found: Json) -> Json | None:
    """Return the stored comparison of the same, with intervals if there is one."""
    rows = api.get("/comparisons", analysis_a=found["analysis_a"], analysis_b=found["analysis_b"], limit=100)["items"]
    same = [r for r in rows if (r["scope"], r["pool"]) == (found["scope"], found["pool"])]
    running = [r for r in same if r["status"] in words.UNFINISHED]
    best = [r for r in same if r["has_intervals"]] or running or same
    return best[0] if best else None


def _badges(found: Json) -> None:
    pairing, trained = found["result"]["pairing"], found["result"]["trained"]
    said = {"paired": ("succeeded", "same plan"), "unpaired": ("planned", "other prompts")}
    chips = [ui.chip(*said.get(pairing["intervals"], ("planned", "published table")))]
    if trained:
        n = f": {words.plural(len(trained['experts']), 'expert')}" if trained["experts"] else ""
        chips.append(ui.chip("running", f"{trained['side']} was trained here{n}"))
    st.html(f'<p class="rp-note">{" &nbsp; ".join(chips)} &nbsp; {escape(pairing["reason"])}</p>')


def _sides(first: Json, second: Json, a: str, b: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        for place, side in (("a", first), ("b", second)):
            label = f"{place}: {ui.plain(side['name'])}"
            if side["kind"] == "analysis":
                address.link(label, "analysis", icon=":material/arrow_upward:", id=side["id"])
            else:
                said = escape(f"{place}: {side['name']}, {side['model'] or 'model not said'}")
                st.html(f'<p class="rp-note">{said}</p>', width="content")
        for side in (first, second):
            if side["training_id"]:
                address.link("Training", "training", icon=":material/model_training:", id=side["training_id"])
        if st.button("Exchange a and b", icon=":material/swap_horiz:", type="tertiary"):
            address.put(a=b, b=a)
            st.rerun()


def _figures(found: Json, kept: Json | None) -> None:
    result = found["result"]
    drift, corr, trained = result["drift"], result["correlation"], result["trained"]
    intervals = kept["result"]["intervals"] if kept and kept["has_intervals"] else None
    whole = (intervals or {}).get("drift")
    shown: list[tuple[str, str, str]] = [
        ("drift", words.number(drift["rms"], 4), "RMS of b − a over all experts"),
        ("mean |b − a|", words.number(drift["mean_abs"], 4), f"largest {words.number(drift['max_abs'], 3)}"),
        ("Spearman", words.number(corr["spearman"], 2), f"Kendall {words.number(corr['kendall'], 2)}"),
    ]
    if whole:
        said = f"{words.number(whole['low'], 4)} to {words.number(whole['high'], 4)}"
        shown.insert(1, ("without sampling noise", words.number(whole["corrected"], 4), said))
    if intervals:
        n, of = intervals["n_beyond_zero"], intervals["n_with_interval"]
        percent = words.percent(1 - intervals["level"], 0)
        shown.append(("intervals beyond 0", words.count(n), f"of {words.count(of)}; {percent} would be by luck"))
    if trained and trained["experts"]:
        inside, outside = (words.number(trained[part]["rms"], 4) for part in ("inside", "outside"))
        shown.append(("drift of the trained", inside, f"of all others {outside}"))
    ui.facts(shown)
    if intervals and intervals["reason"]:
        ui.note(intervals["reason"])


def _maps(api: Api, found: Json, kept: Json | None) -> None:
    sites, vmax = found["sites"], charts.round_up(found["max_abs"])
    trained = found["result"]["trained"]
    marks = cells.of_experts(trained["experts"], sites) if trained and trained["experts"] else ()
    chosen = cells.chosen(address.index("layer"), address.index("expert"), sites)
    first, second = found["result"]["sides"]

    def draw(name: str, figure: charts.Heat) -> None:
        key = f"compare:{name}:{found['analysis_a']}:{found['analysis_b']}:{found['scope']}:{found['pool']}"
        heatmap(figure, key=key, filename=f"compare-{name}", selected=chosen, on_cell=address.put_cell(sites))
        _share(found, figure, f"share-{name}", key)

    plain = risk_charts.plain_heat
    ui.note(f"b − a, {words.SCOPES[found['scope']]}, pool {found['pool']}")
    draw("difference", plain(found["difference"], sites, vmax, "b minus a", unit="b − a", marks=marks))
    stacked = found["n_experts"] > 64
    left, right = (st.container(), st.container()) if stacked else st.columns(2, gap="medium")
    with left:
        ui.note(f"a: {first['name']}")
        draw("a", plain(found["risk_diff_a"], sites, vmax, "a", marks=marks))
    with right:
        ui.note(f"b: {second['name']}")
        draw("b", plain(found["risk_diff_b"], sites, vmax, "b", marks=marks))
    ui.colour_key()
    dots = "Dots: the experts that were trained. " if marks else ""
    ui.note(
        f"{dots}All three maps share one scale, ±{words.short_float(vmax)}. In the difference, red moved towards "
        f"unsafe and blue towards safe. {words.NOT_A_CAUSE}"
    )
    if chosen:
        _cell(api, found, kept, chosen)
    else:
        ui.note("Click a cell, or walk with the arrow keys and press Enter, to see one expert on both sides.")


def _share(found: Json, figure: charts.Heat | charts.Lines, key: str, plot: str) -> None:
    """Offer a figure of a comparison: the call computes it anew and stores nothing."""
    body = {name: found[name] for name in ("analysis_a", "analysis_b", "scope", "pool")}
    files = (figure, f"{key.removeprefix('share-')}-{found['analysis_a']}-{found['analysis_b']}")
    ui.share("/comparisons", {"dry_run": True}, key=key, figure=files, plot=plot, body=body)


def _keep(api: Api, found: Json, kept: Json | None) -> None:
    """Offer intervals where they are possible and not there yet, or else to keep the comparison."""
    possible = found["result"]["pairing"]["intervals"]
    wanted = possible and not (kept and (kept["has_intervals"] or kept["status"] in words.UNFINISHED))
    if not wanted and kept:
        return
    label = "Compute intervals" if wanted else "Keep this comparison"
    if not st.button(label, type="primary", icon=":material/query_stats:" if wanted else ":material/bookmark:"):
        return
    body: dict[str, Any] = {name: found[name] for name in ("analysis_a", "analysis_b", "scope", "pool")}
    body["intervals"] = bool(wanted)
    try:
        api.post("/comparisons", body, key=ui.one_time_key("comparison", body))
    except ApiRefused as error:
        ui.refused(error)
        return
    ui.accepted("comparison")
    st.rerun(scope="app")


def _bounds(api: Api, kept: Json | None) -> tuple[Matrix | None, Matrix | None]:
    if not kept or not kept["has_intervals"]:
        return None, None
    whole = data.remember(api, f"/comparisons/{kept['id']}/table", "intervals")
    return data.matrix(whole["low"]), data.matrix(whole["high"])


def _cell(api: Api, found: Json, kept: Json | None, at: tuple[int, int]) -> None:
    row, expert = at
    values = {name: float(found[name][at]) for name in ("risk_diff_a", "risk_diff_b", "difference")}
    low, high = _bounds(api, kept)
    interval = (
        comparison_tables.interval_words(float(low[at]), float(high[at]))
        if low is not None and high is not None
        else "no interval"
    )
    st.subheader(words.expert(found["sites"][row]["layer"], expert))
    ui.facts(
        [
            ("b − a", words.signed(values["difference"], 4), interval),
            ("risk_diff in a", words.signed(values["risk_diff_a"], 4), ""),
            ("risk_diff in b", words.signed(values["risk_diff_b"], 4), ""),
        ]
    )


def _rooms(api: Api, found: Json, kept: Json | None) -> None:
    room = ui.choice("Look at", "view", ROOMS)
    result = found["result"]
    trained = {(layer, expert) for layer, expert in (result["trained"] or {}).get("experts") or []}
    intervals = kept["result"]["intervals"] if kept and kept["has_intervals"] else None
    each = intervals["layers"] if intervals else [None] * len(result["layers"])
    if room == "overlap":
        comparison_tables.overlap(result["overlap"])
    elif room == "layers":
        figure = comparison_charts.drift_per_layer(result["layers"], each, charts.site_labels(found["sites"]))
        key = f"drift:{found['analysis_a']}:{found['analysis_b']}"
        lines(figure, key=key, filename="drift-per-layer")
        _share(found, figure, "share-drift-per-layer", key)
        comparison_tables.layers(result["layers"], each, trained)
    else:
        comparison_tables.movers(found, *_bounds(api, kept), trained)
