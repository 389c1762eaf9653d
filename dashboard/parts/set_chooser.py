"""Choosing experts by a rule: see at once how many it keeps and where, then save them as a set.

The rule is part of the address, so that a colleague sees the same choice before it is saved.
"""

from typing import Any

import streamlit as st

from dashboard import address, cells, charts, data, fields, risk_charts, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.heatmap import heatmap
from dashboard.parts import statistics_room, tested
from dashboard.table import Column, Row, cell, table

METHODS = {
    "threshold": "every expert above a threshold",
    "top_k": "the k strongest",
    "top_k_per_layer": "the k strongest of each layer",
    "significant": "every expert the test calls significant",
    "cumulative": "the fewest that carry a share of all risk_diff",
    "manual": "picked by hand",
}
DIRECTIONS = {"unsafe": "fires more on unsafe", "safe": "fires more on safe", "both": "either way (|risk_diff|)"}
CORRECTIONS = {"max_t": "family-wise p (max-T)", "bh": "q (Benjamini-Hochberg)"}
ALPHAS = {"0.05": "0.05", "0.001": "0.001", "0.01": "0.01", "0.1": "0.10", "0.2": "0.20"}
MUCH = 0.25
"""From this share on a rule chooses little, and says so."""


def rule_words(rule: Json) -> str:
    """Say a rule in words: '|risk_diff| > 0.05, mean, prompt tokens'."""
    figure = "q" if rule.get("correction") == "bh" else "family-wise p"
    amount = {
        "threshold": f"|risk_diff| > {words.short_float(rule.get('threshold'))}",
        "top_k": f"{rule.get('k')} strongest",
        "top_k_per_layer": f"{rule.get('k')} strongest per layer",
        "significant": f"{figure} ≤ {words.short_float(rule.get('alpha') or 0.05)}",
        "cumulative": f"fewest for {words.percent(rule.get('share'), 0)} of risk_diff",
        "manual": f"imported from {rule['source']['file']}" if rule.get("source") else "picked by hand",
    }.get(rule["method"], rule["method"])
    if rule.get("source"):
        return str(amount)
    side = "" if rule["method"] == "manual" else f", {DIRECTIONS.get(rule.get('direction', 'unsafe'), '')}"
    return f"{amount}{side}, {rule.get('pool', 'mean')}, {words.SCOPES.get(rule.get('scope', 'prompt'), '')}"


@st.fragment
@ui.guarded
def show(api: Api, analysis: Json) -> None:
    """Show the rule, what it keeps, and the way to save it."""
    st.subheader("Choose experts")
    left, right = st.columns([2, 3], gap="medium")
    with left:
        rule = _rule(api, analysis)
    with right:
        found = _dry_run(api, analysis, rule)
    if found:
        _save(api, analysis, rule, found)


def _rule(api: Api, analysis: Json) -> Json:
    scope, pool = address.scope_and_pool(analysis["params"]["scopes"])
    method = fields.select("Rule", "rule", METHODS)
    rule: Json = {"method": method, "scope": scope, "pool": pool, "kind": "global", "direction": "unsafe"}
    if method == "manual":
        rule["experts"] = _by_hand()
        return rule
    rule["direction"] = fields.select("Direction", "direction", DIRECTIONS)
    rule |= _amount(api, analysis, rule)
    if method != "significant":
        per_batch = fields.switch(
            "One mask per batch",
            "per_batch",
            help="The same rule applied to each batch's own risk_diff. Batches are small: compare with their noise "
            "floor.",
        )
        rule["kind"] = "per_batch" if per_batch else "global"
    ui.note(f"Over {words.SCOPES[scope]}, pool {pool}, as chosen above the heatmap.")
    return rule


def _amount(api: Api, analysis: Json, rule: Json) -> Json:
    """Show the one number that the rule needs."""
    method = rule["method"]
    if method == "threshold":
        largest = charts.round_up(data.risk(api, analysis, rule["scope"], rule["pool"])["max_abs"] or 0.1)
        step = max(largest / 200, 1e-6)
        return {
            "threshold": fields.slide(
                "Threshold on risk_diff", "threshold", (0.0, largest), round(largest * 0.4, 6), step=step, form="%.4f"
            )
        }
    if method == "significant":
        correction = fields.select("Compared with", "correction", CORRECTIONS)
        return {"correction": correction, "alpha": float(fields.select("At most", "alpha", ALPHAS))}
    if method == "cumulative":
        help_ = "The fewest experts, the largest first, whose |risk_diff| adds up to this share of the direction's sum."
        percent = fields.slide("Share of all risk_diff, in %", "share", (1, 100), 50, step=1, form="%d %%", help=help_)
        return {"share": round(percent) / 100}
    per_layer = method == "top_k_per_layer"
    sizes = [s["n_experts"] for s in analysis["sites"]]
    most = min(sizes) if per_layer else sum(sizes)
    return {"k": int(fields.slide("k", "k", (1, max(2, min(most, 512))), min(most, 2 if per_layer else 8), step=1))}


def _by_hand() -> list[list[int]]:
    text = fields.words("Experts as layer.expert, separated by spaces", "hand", placeholder="3.17 3.41 7.2", tall=True)
    pairs, wrong = [], []
    for word in text.replace(",", " ").split():
        layer, _, expert = word.partition(".")
        if layer.isascii() and layer.isdigit() and expert.isascii() and expert.isdigit():
            pairs.append([int(layer), int(expert)])
        else:
            wrong.append(word)
    if wrong:
        ui.note(f"Not an expert: {', '.join(wrong[:5])}. Write layer.expert, for example 3.17.")
    ui.note("A click on a cell of the map adds the expert, or takes it out again.")
    return pairs


def _dry_run(api: Api, analysis: Json, rule: Json) -> Json | None:
    if rule["method"] == "significant" and not _can_test(api, analysis, rule):
        return None
    empty = rule["method"] == "manual" and not rule["experts"]
    found: Json = {"experts": [], "per_batch": None, "n_experts": 0}
    if not empty:
        try:
            found = api.post(
                f"/analyses/{analysis['id']}/expert-sets", {"name": "dry run", **_asked(rule)}, dry_run=True
            )
        except ApiRefused as error:
            ui.refused(error)
            return None
        _kept(found)
    _map(api, analysis, rule, found)
    if empty:
        return None
    _per_layer(analysis, found)
    return found


def _can_test(api: Api, analysis: Json, rule: Json) -> bool:
    """Return whether there are statistics to go by; else say what is missing and offer it."""
    stored = tested.finished(api, analysis, rule["scope"], rule["pool"])
    if stored and not tested.testable(stored):
        ui.card("No expert can be called significant", [ui.html(stored["summary"]["design"]["reason"])], "rp-waits")
        return False
    if stored:
        rule["statistics_id"] = stored["id"]
        return True
    ui.card(
        "This rule needs the statistics",
        ["It keeps the experts whose difference is more than chance, so the test over all experts has to be there."],
        "rp-waits",
    )
    head = tested.newest(analysis, rule["scope"], rule["pool"])
    if head and head["status"] in words.UNFINISHED:
        ui.note("They are being computed: see the room Statistics.")
    elif analysis["status"] == "succeeded":
        statistics_room.start(api, analysis, {"scope": rule["scope"], "pool": rule["pool"]})
    else:
        ui.note("They can be computed once the analysis has finished.")
    return False


def _asked(rule: Json) -> Json:
    return {k: v for k, v in rule.items() if v is not None}


def _kept(found: Json) -> None:
    share = found["n_experts"] / max(1, found["n_total"])
    kept: list[tuple[str, str, str]] = [
        (
            "experts kept",
            words.count(found["n_experts"]),
            f"of {words.count(found['n_total'])}, {words.percent(share)}",
        ),
        ("layers touched", words.count(sum(p["n"] > 0 for p in found["per_layer"])), f"of {len(found['per_layer'])}"),
    ]
    if found["per_batch"]:
        pb = found["per_batch"]
        median = words.count(round(pb["median"]))
        kept.append(("per batch", median, f"median; {pb['min']} to {pb['max']} over {words.batches(pb['n_batches'])}"))
    ui.facts(kept)
    if share > MUCH:
        ui.card(
            f"This rule keeps {words.percent(share, 0)} of all experts",
            ["That chooses little: much of the model would be trained, and little is left to compare with."],
            "rp-wrong",
        )


def _map(api: Api, analysis: Json, rule: Json, found: Json) -> None:
    risk = data.risk(api, analysis, rule["scope"], rule["pool"])
    sites = risk["sites"]
    figure = risk_charts.risk_heat(
        risk,
        sites,
        charts.round_up(risk["max_abs"] or 0.0),
        "Chosen experts",
        frames=cells.of_experts(found["experts"], sites),
    )
    if figure is None:
        return

    def toggle(row: int, expert: int) -> None:
        word = f"{sites[row]['layer']}.{expert}"
        chosen = st.query_params.get("hand", "").split()
        chosen = [one for one in chosen if one != word] if word in chosen else [*chosen, word]
        address.put(hand=" ".join(chosen) or None)

    by_hand = rule["method"] == "manual"
    name, key = f"expert-set-{analysis['id']}", f"set-map:{analysis['id']}:{by_hand}"
    heatmap(figure, key=key, filename=name, on_cell=toggle if by_hand else None)
    path = f"/analyses/{analysis['id']}/expert-sets"
    ui.share(
        path,
        {"dry_run": True},
        key="share-set-map",
        figure=(figure, name),
        plot=key,
        body={"name": "dry run", **_asked(rule)},
    )
    ui.colour_key(frames="kept by the rule" + (", in one batch at least" if found["per_batch"] else ""))


LAYER_COLUMNS = (Column("layer", "Layer"), Column("kept", "Kept", "right", "part"), Column("share", "Share", "right"))


def _per_layer(analysis: Json, found: Json) -> None:
    sizes: dict[int, int] = {}
    for site in analysis["sites"]:
        sizes[site["layer"]] = sizes.get(site["layer"], 0) + site["n_experts"]
    made = [
        Row(
            str(p["layer"]),
            None,
            {
                "layer": cell(f"Layer {p['layer']}", p["layer"]),
                "kept": cell(f"{words.count(p['n'])} of {words.count(sizes[p['layer']])}", p["n"] / sizes[p["layer"]]),
                "share": cell(words.percent(p["n"] / sizes[p["layer"]], 0), p["n"] / sizes[p["layer"]]),
            },
        )
        for p in found["per_layer"]
        if p["layer"] in sizes
    ]
    with st.expander("Kept in each layer"):
        table(LAYER_COLUMNS, made, key="set-layers", label="Experts kept in each layer", height=320)


def _save(api: Api, analysis: Json, rule: Json, found: Json) -> None:
    if analysis["status"] != "succeeded":
        ui.note("The set can be saved once the analysis has finished.")
        return
    with st.form("save-set", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input("Name", rule_words(rule), key=f"set-name:{rule_words(rule)}", width=420)
        go = st.form_submit_button(
            f"Save {words.plural(found['n_experts'], 'expert')} as a set",
            type="primary",
            disabled=not found["n_experts"],
        )
    if not go:
        return
    body: dict[str, Any] = {"name": name, **_asked(rule)}
    try:
        made = api.post(f"/analyses/{analysis['id']}/expert-sets", body, key=ui.one_time_key("expert-set", body))
    except ApiRefused as error:
        ui.refused(error)
        return
    ui.accepted("expert-set")
    st.toast(f"Saved: {words.plural(made['n_experts'], 'expert')}")
    st.rerun(scope="app")
