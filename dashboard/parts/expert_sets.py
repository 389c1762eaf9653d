"""Expert sets of one analysis: choose by a rule, see at once how many stay, save."""

from typing import Any

import streamlit as st

from dashboard import address, charts, data, ui, words
from dashboard.client import Api, ApiRefused, Json, Upload
from dashboard.heatmap import heatmap
from dashboard.table import Column, Row, cell, table

METHODS = {
    "threshold": "every expert above a threshold",
    "top_k": "the k strongest",
    "top_k_per_layer": "the k strongest of each layer",
    "manual": "picked by hand",
}
DIRECTIONS = {"unsafe": "fires more on unsafe", "safe": "fires more on safe", "both": "either way (|risk_diff|)"}
COLUMNS = (
    Column("name", "Expert set"),
    Column("n", "Experts", "right", "part"),
    Column("rule", "Rule"),
    Column("kind", "Kind", minor=True),
    Column("sha", "Identity", kind="code", minor=True),
    Column("created", "Saved", "right", minor=True),
)


def rule_words(rule: Json) -> str:
    """Say a rule in words: 'risk_diff ≥ 0.05, mean, prompt tokens'."""
    amount = {
        "threshold": f"risk_diff ≥ {words.short_float(rule.get('threshold'))}",
        "top_k": f"{rule.get('k')} strongest",
        "top_k_per_layer": f"{rule.get('k')} strongest per layer",
        "manual": f"imported from {rule['source']['file']}" if rule.get("source") else "picked by hand",
    }.get(rule["method"], rule["method"])
    if rule.get("source"):
        return str(amount)
    side = "" if rule["method"] == "manual" else f", {DIRECTIONS.get(rule.get('direction', 'unsafe'), '')}"
    return f"{amount}{side}, {rule.get('pool', 'mean')}, {words.SCOPES.get(rule.get('scope', 'prompt'), '')}"


def show(api: Api, analysis: Json) -> None:
    """Show the saved sets and the chooser."""
    saved = list(api.items("/expert-sets", analysis_id=analysis["id"]))
    if saved:
        _saved(saved)
    else:
        ui.note("No expert set yet. Choose below; nothing is stored before you save.")
    if analysis["n_measured"]:
        _chooser(api, analysis)
    if analysis["status"] == "succeeded":
        with st.expander("Bring in a set that was chosen elsewhere", icon=":material/upload_file:"):
            _upload(api, analysis)


def _upload(api: Api, analysis: Json) -> None:
    """Show the way in for an expert configuration; the API says what is wrong with a file before it is stored."""
    file = st.file_uploader("ESFT expert configuration, or the JSON of one of our sets", type=["json"], key="set-file")
    if file is None:
        ui.note("An imported set can be trained like any other; it keeps the name and the SHA-256 of its file.")
        return
    path, upload = f"/analyses/{analysis['id']}/expert-sets/import", Upload(file.name, file.getvalue())
    try:
        found = api.send_files(path, "file", [upload], dry_run=True)
        share = words.percent(found["n_experts"] / max(1, found["n_total"]))
        ui.note(f"The file names {words.plural(found['n_experts'], 'expert')}: {share} of the model's.")
        name = st.text_input("Name", found["name"], key="set-file-name", width=420).strip()
        if st.button("Import this set", type="primary", disabled=not name):
            api.send_files(path, "file", [upload], {"name": name})
            st.toast(f"Imported: {words.plural(found['n_experts'], 'expert')}")
            st.rerun()
    except ApiRefused as error:
        ui.refused(error)


def _saved(saved: list[Json]) -> None:
    made = [
        Row(
            s["id"],
            None,
            {
                "name": cell(s["name"], hint=s["id"]),
                "n": cell(
                    f"{words.count(s['n_experts'])} of {words.count(s['n_total'])}",
                    s["n_experts"] / max(1, s["n_total"]),
                ),
                "rule": cell(rule_words(s["rule"])),
                "kind": cell("per batch" if s["kind"] == "per_batch" else "global"),
                "sha": cell(words.short_hash(s["sha256"]), hint=s["sha256"]),
                "created": cell(words.ago(s["created_at"]), s["created_at"]),
            },
        )
        for s in saved
    ]
    table(COLUMNS, made, key="sets-table", label="Expert sets")
    _does_it_matter(saved)


def _does_it_matter(saved: list[Json]) -> None:
    """Lead from a set to the causal check of it."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        names = {s["id"]: s["name"] for s in saved}
        chosen = st.selectbox("Check a set", list(names), format_func=lambda i: names[i], width=320, key="set-to-check")
        if st.button("Does it matter?", icon=":material/experiment:", key="does-it-matter"):
            address.go("evaluation", set=chosen)
    ui.note("Take its experts away or force them on, and see what the model does, beside random sets of its size.")


@st.fragment
@ui.guarded
def _chooser(api: Api, analysis: Json) -> None:
    st.subheader("Choose experts")
    left, right = st.columns([2, 3], gap="medium")
    with left:
        rule = _rule(api, analysis)
    with right:
        found = _dry_run(api, analysis, rule)
    if found:
        _save(api, analysis, rule, found)


def _rule(api: Api, analysis: Json) -> Json:
    method = ui.pick("Rule", METHODS, key="set-method")
    scopes = analysis["params"]["scopes"]
    rule: Json = {"method": method, "scope": scopes[0], "pool": "mean", "kind": "global", "direction": "unsafe"}
    if len(scopes) > 1:
        rule["scope"] = ui.pick("Tokens counted", {s: words.SCOPES[s] for s in scopes}, key="set-scope")
    rule["pool"] = ui.pick("Pool", words.POOLS, key="set-pool")
    if method == "manual":
        rule["experts"] = _by_hand()
        return rule
    rule["direction"] = ui.pick("Direction", DIRECTIONS, key="set-direction")
    if method == "threshold":
        largest = charts.round_up(data.risk(api, analysis, rule["scope"], rule["pool"])["max_abs"] or 0.1)
        step = max(largest / 200, 1e-6)
        rule["threshold"] = st.slider(
            "Threshold on risk_diff",
            0.0,
            largest,
            round(largest * 0.4, 6),
            step=step,
            format="%.4f",
            key=f"set-threshold:{largest}",
        )
    else:
        per_layer = method == "top_k_per_layer"
        sizes = [s["n_experts"] for s in analysis["sites"]]
        most = min(sizes) if per_layer else sum(sizes)
        rule["k"] = st.slider("k", 1, max(2, min(most, 512)), min(most, 2 if per_layer else 8), key=f"set-k:{method}")
    per_batch = st.toggle(
        "One mask per batch",
        key="set-per-batch",
        help="The same rule applied to each batch's own risk_diff. Batches are small: compare with their noise floor.",
    )
    rule["kind"] = "per_batch" if per_batch else "global"
    return rule


def _by_hand() -> list[list[int]]:
    text = st.text_area(
        "Experts as layer.expert, separated by spaces", key="set-manual", placeholder="3.17 3.41 7.2", height=90
    )
    pairs, wrong = [], []
    for word in text.replace(",", " ").split():
        layer, _, expert = word.partition(".")
        if layer.isascii() and layer.isdigit() and expert.isascii() and expert.isdigit():
            pairs.append([int(layer), int(expert)])
        else:
            wrong.append(word)
    if wrong:
        ui.note(f"Not an expert: {', '.join(wrong[:5])}. Write layer.expert, for example 3.17.")
    return pairs


def _dry_run(api: Api, analysis: Json, rule: Json) -> Json | None:
    if rule["method"] == "manual" and not rule["experts"]:
        ui.note("Name at least one expert.")
        return None
    try:
        found: Json = api.post(f"/analyses/{analysis['id']}/expert-sets", {"name": "dry run", **rule}, dry_run=True)
    except ApiRefused as error:
        ui.refused(error)
        return None
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
        kept.append(
            (
                "per batch",
                words.count(round(pb["median"])),
                f"median; {pb['min']} to {pb['max']} over {words.batches(pb['n_batches'])}",
            )
        )
    ui.facts(kept)
    risk = data.risk(api, analysis, rule["scope"], rule["pool"])
    marks = charts.cells_of(found["experts"], risk["sites"])
    figure = charts.risk_heat(risk, risk["sites"], charts.round_up(risk["max_abs"] or 0.0), "Chosen experts", marks)
    if figure:
        heatmap(figure, key=f"set-map:{analysis['id']}", filename=f"expert-set-{analysis['id']}")
    ui.note("Dots mark the experts the rule keeps" + (": the union over all batches." if found["per_batch"] else "."))
    if share > 0.25:
        ui.note(f"This rule keeps {words.percent(share, 0)} of all experts: little is left to compare with.")
    return found


def _save(api: Api, analysis: Json, rule: Json, found: Json) -> None:
    with st.form("save-set", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input("Name", rule_words(rule), key=f"set-name:{rule_words(rule)}", width=420)
        go = st.form_submit_button(
            f"Save {words.plural(found['n_experts'], 'expert')} as a set",
            type="primary",
            disabled=not found["n_experts"],
        )
    if not go:
        return
    body: dict[str, Any] = {"name": name, **rule}
    try:
        made = api.post(f"/analyses/{analysis['id']}/expert-sets", body, key=ui.one_time_key("expert-set", body))
    except ApiRefused as error:
        ui.refused(error)
        return
    ui.accepted("expert-set")
    st.toast(f"Saved: {words.plural(made['n_experts'], 'expert')}")
    st.rerun(scope="app")
