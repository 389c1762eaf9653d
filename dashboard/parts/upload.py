"""Bringing prompts in: preview, the mapping shown and changeable, a label per file, what the labels mean."""

import json
from typing import Any

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import Api, ApiRefused, Json, Upload
from dashboard.parts import mapping_form
from dashboard.table import Column, Row, cell, table

MEANINGS = {
    "harmless_harmful": "harmless and harmful requests",
    "refused_complied": "refused and complied attacks",
    "other": "something else, said in words",
}
PROBLEM_COLUMNS = (
    Column("row", "Row", "right"),
    Column("column", "Column", kind="code"),
    Column("message", "What is wrong"),
)


def show(api: Api) -> None:
    """Show the uploader and, for each file, its preview."""
    files = st.file_uploader(
        "CSV, JSONL (plain or chat messages), JSON or Parquet. Several files, each with its own label, make one set.",
        type=["csv", "tsv", "jsonl", "ndjson", "json", "parquet", "txt"],
        accept_multiple_files=True,
    )
    _known_formats(api)
    if not files:
        return
    uploads = [Upload(f.name, f, f.file_id) for f in files]
    mappings, labels, seen = [], [], []
    for number, upload in enumerate(uploads):
        mapping, label, found = _one_file(api, upload, number)
        mappings.append(mapping)
        labels.append(label)
        seen.append(found)
    _store(api, uploads, mappings, labels, seen)


def _known_formats(api: Api) -> None:
    with st.popover("Published sets that are recognised", icon=":material/fact_check:"):
        for known in api.get("/datasets/formats")["items"]:
            if known["name"] not in mapping_form.UNPUBLISHED:
                columns = ", ".join(f"<code>{ui.html(name)}</code>" for name in known["columns"])
                st.html(
                    f'<p class="rp-note"><b>{ui.html(known["name"])}</b> {columns}<br>{ui.html(known["about"])}</p>'
                )


def _preview(api: Api, upload: Upload, mapping: Json | None, label: str) -> Json | None:
    """Ask for a preview, once per file, mapping and label (the last few are kept for the session)."""
    kept: dict[Any, Json] = st.session_state.setdefault("previews", {})
    key = (upload.filename, upload.key, json.dumps(mapping, sort_keys=True), label)
    if key not in kept:
        fields: dict[str, str | list[str]] = {"mapping": json.dumps(mapping)} if mapping else {}
        if label:
            fields["label"] = label
        try:
            with st.spinner("Reading the file …"):
                kept[key] = api.send_files("/datasets/preview", "file", [upload], fields)
        except ApiRefused as error:
            ui.refused(error)
            return None
        while len(kept) > 12:
            kept.pop(next(iter(kept)))
    return kept[key]


def _one_file(api: Api, upload: Upload, number: int) -> tuple[Json | None, str, Json | None]:
    """Show one file; return (mapping, label of the whole file or '', what it would become, or None)."""
    with st.container(border=True):
        st.subheader(ui.plain(upload.filename))
        proposed = _preview(api, upload, None, "")
        if proposed is None:
            return None, "", None
        if not proposed["columns"]:  # not a table: nothing to map
            _judge(proposed, number)
            return None, "", proposed
        mapping_form.recognised(proposed)
        mapping, label = mapping_form.fields(proposed, number)
        if "label" in mapping["columns"]:
            column = mapping["columns"]["label"]
            own = bool(proposed["mapping"]) and proposed["mapping"]["columns"].get("label") == column
            values = proposed if own else _preview(api, upload, mapping, "")
            mapping["label_values"] = mapping_form.label_values(values, column, number) if values else {}
        seen = proposed if mapping == proposed["mapping"] and not label else _preview(api, upload, mapping, label)
        if seen is not None:
            for said in seen["notes"]:
                if said not in proposed["notes"]:
                    ui.note(said)
            _judge(seen, number)
        return mapping, label, seen


def _judge(seen: Json, number: int) -> None:
    """Show what the file would become."""
    counts, at_least = seen["counts"], "" if seen["complete"] else "at least "
    ui.facts(
        [
            ("rows", at_least + words.count(seen["n_rows"]), seen["format"]),
            ("safe", words.count(counts["safe"]), ""),
            ("unsafe", words.count(counts["unsafe"]), ""),
            ("without a label", words.count(counts["unlabelled"]), ""),
            ("left out", words.count(sum(seen["left_out"].values())), ""),
            ("duplicates", words.count(seen["n_duplicates"]), ""),
        ]
    )
    _problems(seen)
    _first_rows(seen, number)


def _is_good(seen: Json | None) -> bool:
    return seen is not None and not seen["n_problems"] and not seen["counts"]["unlabelled"]


def _problems(seen: Json) -> None:
    """Show problems by row."""
    if not seen["n_problems"]:
        return
    ui.note(f"▲ {words.plural(seen['n_problems'], 'problem')}; nothing is stored until the file has none.")
    rows = [
        Row(
            str(i),
            None,
            {
                "row": cell(words.count(p["row"]) if p["row"] else "file", p["row"]),
                "column": cell(p["column"]),
                "message": cell(p["message"]),
            },
        )
        for i, p in enumerate(seen["problems"])
    ]
    table(PROBLEM_COLUMNS, rows, key=f"problems:{seen['filename']}", label="Problems by row", height=220)


def _first_rows(seen: Json, number: int) -> None:
    if st.toggle("Show the first rows", key=f"first-rows:{number}", help="Their text may describe harm."):
        for row in seen["first_rows"][:10]:
            st.code("\n".join(f"{name}: {value}" for name, value in row.items()), language=None, wrap_lines=True)


def _meaning(seen: list[Json | None]) -> str:
    """Show what the labels mean; what the first recognised format says of them is proposed."""
    proposals: list[Json] = [s["label_meaning"] for s in seen if s and s["label_meaning"]]
    proposed = proposals[0] if proposals else {}
    of_what = "|".join(s["mapping"]["name"] for s in seen if s and s["mapping"])
    kind = ui.pick(
        "What safe and unsafe mean in this set", MEANINGS, first=proposed.get("kind"), key=f"meaning:{of_what}"
    )
    if kind != "other":
        return str(kind)
    a, b = st.columns(2)
    safe, unsafe = (
        place.text_input(
            f"“{word}” means", proposed.get(word, ""), placeholder=f"for example: {said}", key=f"{word}:{of_what}"
        ).strip()
        for place, word, said in ((a, "safe", "the model refused the attack"), (b, "unsafe", "the model complied"))
    )
    return json.dumps({"safe": safe, "unsafe": unsafe}) if safe and unsafe else ""


def _store(
    api: Api, uploads: list[Upload], mappings: list[Json | None], labels: list[str], seen: list[Json | None]
) -> None:
    refused = st.session_state.get("upload-refused")
    meaning = _meaning(seen)
    ui.field_error(refused, "label_meaning")
    name = st.text_input("Name of the set", uploads[0].filename.rsplit(".", 1)[0], width=420).strip()
    ui.field_error(refused, "name")
    needed: dict[str, Any] = {
        "a name": name,
        "what the labels mean": meaning,
        "files whose every row has a label and no problem": all(_is_good(one) for one in seen),
    }
    counts = [one["counts"] for one in seen if one]
    for label, other in (("safe", "unsafe"), ("unsafe", "safe")):
        if sum(c[other] for c in counts) and all(one and one["complete"] for one in seen):
            needed[f"{label} prompts (another file, with its own label)"] = sum(c[label] for c in counts)
    if seen and all(one and one["complete"] and not sum(one["counts"].values()) for one in seen):
        needed["a prompt that is not left out"] = False
    missing = [said for said, there in needed.items() if not there]
    if missing:
        ui.note(f"Missing: {', '.join(missing)}.")
    if st.button("Store the prompt set", type="primary", disabled=bool(missing)):
        data: dict[str, str | list[str]] = {"name": name, "label_meaning": meaning}
        _send(api, uploads, data | {"mapping": json.dumps(mappings), "label": labels})
    elif refused:
        ui.refused(refused)


def _send(api: Api, uploads: list[Upload], data: dict[str, str | list[str]]) -> None:
    st.session_state.pop("upload-refused", None)
    try:
        with st.spinner("Checking every row. A million rows take a minute or two …", show_time=True):
            made = api.send_files("/datasets", "file", uploads, data)
    except ApiRefused as error:
        st.session_state["upload-refused"] = error
        st.rerun()
    st.session_state.pop("previews", None)
    address.go("datasets", id=made["id"])
