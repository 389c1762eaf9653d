"""Expert sets of one analysis: those that are saved, and the way in for one that was chosen elsewhere."""

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import Api, ApiRefused, Json, Upload
from dashboard.parts import set_chooser
from dashboard.table import Column, Row, cell, table

COLUMNS = (
    Column("name", "Expert set"),
    Column("n", "Experts", "right", "part"),
    Column("rule", "Rule"),
    Column("kind", "Kind", minor=True),
    Column("sha", "Identity", kind="code", minor=True),
    Column("created", "Saved", "right", minor=True),
)


def show(api: Api, analysis: Json) -> None:
    """Show the saved sets and the chooser."""
    saved = list(api.items("/expert-sets", analysis_id=analysis["id"]))
    if saved:
        _saved(saved)
    else:
        ui.note("No expert set yet. Choose below; nothing is stored before you save.")
    if analysis["n_measured"]:
        set_chooser.show(api, analysis)
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
                "rule": cell(set_chooser.rule_words(s["rule"])),
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
        if st.button("Study it", icon=":material/science:", key="study-it"):
            address.go("study", set=chosen)
    ui.note(
        "Take its experts away or force them on, and see what the model does, beside random sets of its size. A study "
        "trains it several times, with batches kept and with samples reshuffled, and tests what differs."
    )
