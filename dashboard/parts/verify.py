"""`verify`: recompute the chain from stored rows and show every link."""

from html import escape

import streamlit as st

from dashboard import ui, words
from dashboard.client import Api, Json
from dashboard.table import Column, Row, cell, table

COLUMNS = (
    Column("name", "Link of the chain"),
    Column("ok", "Holds", kind="status"),
    Column("checked", "Checked", "right"),
    Column("where", "Where it breaks"),
    Column("expected", "Expected", kind="code", minor=True),
    Column("found", "Found", kind="code", minor=True),
)


def show(api: Api, path: str) -> None:
    """Offer the check and show its last result in this session."""
    st.subheader("Provenance")
    if st.button(
        "Verify the whole chain",
        icon=":material/verified:",
        help="Recomputes every digest from the stored rows.",
        key=f"verify-button:{path}",
    ):
        with st.spinner("Recomputing every link from the stored rows …"):
            st.session_state[f"verify:{path}"] = api.post(f"{path}/verify")
    result: Json | None = st.session_state.get(f"verify:{path}")
    if result is None:
        ui.note(
            "Recomputes prompt set, plan, batches, samples, routing and what was made of them from what is stored, "
            "and names the first break."
        )
        return
    broken = result["first_break"]
    if broken is None:
        ui.card(
            "Every link holds", [f"{words.count(sum(link['checked'] for link in result['links']))} checks, no break."]
        )
    else:
        where = escape(broken["where"] or broken["name"])
        ui.card("The chain is broken", [f"First break: {escape(broken['name'])}, {where}."], "rp-wrong")
    made = [
        Row(
            str(i),
            None,
            {
                "name": cell(link["name"]),
                "ok": cell("holds" if link["ok"] else "broken", "yes" if link["ok"] else "no"),
                "checked": cell(words.count(link["checked"]), link["checked"]),
                "where": cell(link["where"] or ""),
                "expected": cell(words.short_hash(link["expected"]), hint=link["expected"]),
                "found": cell(words.short_hash(link["found"]), hint=link["found"]),
            },
        )
        for i, link in enumerate(result["links"])
    ]
    table(COLUMNS, made, key=f"verify-table:{path}", label="Links of the chain")
