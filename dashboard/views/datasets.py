"""Prompt sets: the list, one set with its rows, and the way in for new ones."""

from html import escape

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.parts import keeping, prompt_text, run_lists, upload
from dashboard.parts.mapping_form import LEAVE_OUT
from dashboard.parts.runs import progress_line
from dashboard.table import Column, Row, cell, table


def main() -> None:
    """Draw the list or the set that the address names."""
    api = ui.api()
    dataset_id = address.text("id")
    if dataset_id:
        _one(api, api.get(f"/datasets/{dataset_id}"))
    else:
        _list(api)


def _list(api: Api) -> None:
    ui.page_title("Prompt sets")
    ui.heading("Prompt sets", "Safe and unsafe prompts, content-addressed: the same rows are the same set, for ever.")
    keeping.offer_undo(api, "datasets")
    found, asked = run_lists.datasets(api)
    none = not (found or asked)
    if none:
        ui.card(
            "No prompt set yet",
            [
                "Load the demonstration set (short prompts of our own, safe and unsafe, with topics and contrast "
                "pairs), or add your own files below: CSV, JSONL or Parquet."
            ],
            "rp-waits",
        )
    if none and st.button("Load the demonstration prompts", type="primary", icon=":material/download_done:"):
        try:
            api.post("/datasets/demo")
        except ApiRefused as error:
            ui.refused(error)
            return
        st.rerun()
    with st.expander("Add prompts", expanded=none, icon=":material/add:"):
        upload.show(api)


@st.fragment(run_every=1)
@ui.guarded
def _landing(dataset_id: str) -> None:
    """Follow the rows of a large set; draw the page again when all are there, or none will be."""
    dataset = ui.api().get(f"/datasets/{dataset_id}")
    if dataset["status"] not in words.UNFINISHED:
        st.rerun(scope="app")
    progress_line(dataset, "rows")


def _state(dataset: Json) -> bool:
    """Show what keeps a set from being used; return whether nothing does."""
    if dataset["status"] in words.UNFINISHED:
        _landing(dataset["id"])
    elif dataset["status"] == "failed":
        ui.card(
            "The import failed", [escape(dataset["error"] or ""), "Nothing of it is kept but this note."], "rp-wrong"
        )
    return bool(dataset["status"] == "succeeded")


def _one(api: Api, dataset: Json) -> None:
    ui.page_title(dataset["name"])
    ui.heading(
        dataset["name"],
        f"{words.short_hash(dataset['sha256'])} · stored {words.ago(dataset['created_at'])} · {dataset['id']}",
        None if dataset["status"] == "succeeded" else dataset["status"],
    )
    meaning = dataset["label_meaning"]
    ui.facts(
        [
            ("prompts", words.count(dataset["n_rows"]), ""),
            ("safe", words.count(dataset["n_safe"]), meaning["safe"]),
            ("unsafe", words.count(dataset["n_unsafe"]), meaning["unsafe"]),
            ("duplicates dropped", words.count(dataset["n_duplicates"]), ""),
            ("left out", words.count(_n_left_out(dataset)), "on request"),
            ("files", words.count(len(dataset["files"])), ""),
        ]
    )
    keeping.offer_restore("datasets", dataset)
    if dataset["notes"]:
        st.text(dataset["notes"])
    usable = _state(dataset) and not dataset["deleted_at"]
    if usable and st.button("Start an analysis", type="primary", icon=":material/play_arrow:"):
        address.go("analysis", dataset=dataset["id"])
    _left_out(api, dataset)
    if dataset["status"] != "failed":
        _rows(api, dataset)
    with st.expander("Record: name, tags, notes, delete"):
        keeping.show(api, "datasets", dataset)
        _delete_for_good(api, dataset)


def _n_left_out(dataset: Json) -> int:
    return sum(n for file in dataset["files"] for n in file["left_out"].values())


def _left_out(api: Api, dataset: Json) -> None:
    if not _n_left_out(dataset):
        return
    with st.expander("Rows that were left out"):
        for file in dataset["files"]:
            for reason, n in file["left_out"].items():
                ui.note(f"{file['name']}: {words.plural(n, 'row')}, {LEAVE_OUT.get(reason, reason)}.")
        listed = api.get(f"/datasets/{dataset['id']}/left-out", limit=500)["items"]
        by_file: dict[str, list[str]] = {}
        for row in listed:
            by_file.setdefault(row["file"], []).append(words.count(row["row"]))
        for name, numbers in by_file.items():
            st.text(f"{name}, rows {', '.join(numbers)}")
        if len(listed) < _n_left_out(dataset):
            ui.note(f"Listed: the first {words.count(len(listed))}.")


def _delete_for_good(api: Api, dataset: Json) -> None:
    with st.popover("Delete for good", icon=":material/delete_forever:"):
        ui.note("Deletes the prompts themselves: nothing brings them back. A set that a run uses cannot be deleted.")
        if not st.button("Delete these prompts for good"):
            return
        try:
            api.delete(f"/datasets/{dataset['id']}", for_good=True)
        except ApiRefused as error:
            ui.refused(error)
            return
        address.go("datasets")


ROW_COLUMNS = (
    Column("row", "Row", "right"),
    Column("label", "Label", kind="label"),
    Column("difficulty", "Difficulty"),
    Column("category", "Category"),
    Column("group", "Group", minor=True),
    Column("response", "Response", minor=True),
    Column("id", "Row identity", kind="code", minor=True),
)


def _rows(api: Api, dataset: Json) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.subheader("Rows")
        label = st.selectbox("Label", ["", "safe", "unsafe"], format_func=lambda v: v or "both", width=130)
        query = st.text_input("Text contains", width=260)
        shown = prompt_text.switch("datasets")
    page = api.get(f"/datasets/{dataset['id']}/rows", label=label or None, q=query or None, limit=100)
    rows = page["items"]
    if shown:
        for r in rows[:50]:
            with st.container(border=True, gap="xsmall"):
                label = escape(r["label"])
                chip = f'<span class="rp-label rp-label-{label}">{label}</span>'
                st.html(f'<div class="rp-sample"><b>{r["row_idx"]}</b>{chip}</div>')
                st.text(r["text"])
    else:
        _row_table(rows)
    more = " Narrow the search to see others." if page["next_cursor"] else ""
    ui.note(f"Shown: {words.plural(min(len(rows), 50) if shown else len(rows), 'row')}.{more}")


def _row_table(rows: list[Json]) -> None:
    made = [
        Row(
            str(r["row_idx"]),
            None,
            {
                "row": cell(r["row_idx"], r["row_idx"]),
                "label": cell(r["label"], r["label"]),
                "difficulty": cell(r["difficulty"] or "–"),
                "category": cell(r["category"] or "–"),
                "group": cell(r["group"] or "–"),
                "response": cell("given" if r["response"] else "–"),
                "id": cell(words.short_hash(r["row_id"]), hint=r["row_id"]),
            },
        )
        for r in rows
    ]
    table(ROW_COLUMNS, made, key="rows-table", label="Rows of the prompt set", height=520)


ui.show(main)
