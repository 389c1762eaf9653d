"""Published risk tables: what is stored, and the way in."""

import streamlit as st

from dashboard import ui, words
from dashboard.client import Api, ApiRefused, Json, Upload
from dashboard.table import Column, Row, cell, table

COLUMNS = (
    Column("name", "Published table"),
    Column("model", "Model"),
    Column("experts", "Experts", "right"),
    Column("stated", "Its own sign", minor=True),
    Column("sha", "Identity", kind="code", minor=True),
    Column("created", "Stored", "right", minor=True),
)


def show(api: Api, stored: list[Json]) -> None:
    """Show the stored tables and the upload."""
    if stored:
        _stored(api, stored)
    with st.expander("Bring in a published risk table", icon=":material/upload_file:"):
        _upload(api)


def _stored(api: Api, stored: list[Json]) -> None:
    made = [
        Row(
            one["id"],
            None,
            {
                "name": cell(one["name"], hint=one["id"]),
                "model": cell(one["model"] or "–"),
                "experts": cell(words.count(one["n_rows"]), one["n_rows"]),
                "stated": cell(one["reading"]["stated"] or "not stated"),
                "sha": cell(words.short_hash(one["sha256"]), hint=one["sha256"]),
                "created": cell(words.ago(one["created_at"]), one["created_at"]),
            },
        )
        for one in stored
    ]
    table(COLUMNS, made, key="published", label="Published tables")
    with st.popover("Delete a table", icon=":material/delete:"):
        chosen = ui.pick("Table", {one["id"]: one["name"] for one in stored}, key="delete-table")
        if st.button("Delete it for good", key="delete-table-now"):
            try:
                api.delete(f"/risk-tables/{chosen}")
            except ApiRefused as error:
                ui.refused(error)
                return
            st.rerun()


def _upload(api: Api) -> None:
    ui.note(
        "Columns layer, expert, a1, a2, d1, d2 and maybe risk_diff, as SteerMoE writes them: a, tokens that took the "
        "expert; d, tokens that did not; group 1 safe, group 2 unsafe. risk_diff is computed anew from the counts in "
        "our sign (+ fires more on unsafe) and checked against the stated one in either sign."
    )
    file = st.file_uploader("CSV or Parquet", type=["csv", "parquet"], key="table-file")
    a, b = st.columns(2)
    name = a.text_input("Name", file.name.rsplit(".", 1)[0] if file else "", key=f"table-name:{file and file.name}")
    model = b.text_input("Model, in your words", key="table-model")
    accept = st.checkbox(
        "Import although stated values do not follow from the counts",
        key="table-accept",
        help="The counts then decide.",
    )
    ui.note("An old .pkl? Convert it on your own machine: routeprint convert-table OLD.pkl NEW.csv")
    if not st.button("Store the table", type="primary", disabled=not (file and name.strip())):
        return
    assert file is not None
    fields: dict[str, str | list[str]] = {"name": name.strip(), "model": model.strip(), "accept_mismatch": str(accept)}
    try:
        made = api.send_files("/risk-tables", "file", [Upload(file.name, file.getvalue())], fields)
    except ApiRefused as error:
        ui.refused(error)
        return
    st.toast(f"Stored: {words.plural(made['n_rows'], 'expert')}")
    st.rerun()
