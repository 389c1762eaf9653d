"""How one file is read: what it was recognised as, and the mapping as fields that can be changed."""

import streamlit as st

from dashboard import ui, words
from dashboard.client import Json

FIELDS = {
    "prompt": "Prompt",
    "before": "Context in front of the prompt",
    "after": "Input behind the prompt",
    "messages": "Chat messages",
    "label": "Label",
    "response": "Response",
    "category": "Category",
    "difficulty": "Difficulty",
    "group": "Group (topic or contrast pair)",
    "source": "Source",
}
LEAVE_OUT = {
    "unlabelled": "rows without a label",
    "redacted": "prompts that say REDACTED",
    "both_labels": "prompts with both labels",
}
UNPUBLISHED = ("plain", "chat messages", "custom")
"""Names of mappings that are no published format."""


def recognised(seen: Json) -> None:
    """Say what the file looks like, and what there is to mind."""
    name = (seen["mapping"] or {"name": "custom"})["name"]
    if name == "custom":
        ui.note("Read as you say below.")
    elif name in UNPUBLISHED:
        ui.note(f"No published format is recognised: read as {name}. Change below what is wrong.")
    else:
        st.html(f'<p class="rp-note"><b>Looks like {ui.html(name)}.</b> Change below what is wrong.</p>')
    for said in seen.get("notes") or ():
        ui.note(said.replace("`", ""))


def fields(seen: Json, number: int) -> tuple[Json, str]:
    """Show the proposed mapping; return it as it was changed, with the label of the whole file or ''.

    Its label values are still to be said (`label_values`).
    """
    proposed = seen["mapping"] or {"name": "custom", "columns": {}, "fixed_label": None}
    a, b = st.columns([1, 2], vertical_alignment="bottom")
    with a:
        label = _file_label(seen, proposed, number)
    with b:
        left_out = st.pills(
            "Leave out (on request only; counted, and listed by row)",
            list(LEAVE_OUT),
            selection_mode="multi",
            default=[word for word in proposed.get("leave_out") or () if word in LEAVE_OUT],
            format_func=lambda word: LEAVE_OUT[word],
            key=f"leave-out:{number}",
        )
    columns = _columns(seen, proposed, number, label)
    if not {"prompt", "messages"} & set(columns):
        ui.note("▲ Missing: which column holds the prompt, or the chat messages.")
    name = proposed["name"] if columns == proposed["columns"] or (label and _but_label(columns, proposed)) else "custom"
    source = None if "source" in columns else proposed.get("source")
    if source:
        ui.note(f"Source of every row: {source}.")
    mapping = {"name": name, "columns": columns, "label_values": {}, "fixed_label": None}
    return mapping | {"source": source, "leave_out": sorted(left_out)}, label


def _but_label(columns: Json, proposed: Json) -> bool:
    return columns == {name: column for name, column in proposed["columns"].items() if name != "label"}


def _file_label(seen: Json, proposed: Json, number: int) -> str:
    options = ["", "safe", "unsafe"]
    suggested = seen.get("suggested_label")
    chosen = st.selectbox(
        "Label of the whole file",
        options,
        format_func=lambda v: f"every row is {v}" if v else "each row has its own",
        index=options.index(proposed.get("fixed_label") or suggested or ""),
        key=f"file-label:{number}",
        help="For files of one kind. The columns do not tell; the file's name does." if suggested else None,
    )
    if suggested and chosen == suggested:
        ui.note(f"▲ Only the file's name says that every row is {suggested}: is it so?")
    return str(chosen)


def _columns(seen: Json, proposed: Json, number: int, label: str) -> dict[str, str]:
    columns: dict[str, str] = {}
    places = st.columns(4)
    shown = [name for name in FIELDS if not (name == "label" and label)]
    for i, name in enumerate(shown):
        offered = ["", *seen["columns"]]
        current = proposed["columns"].get(name, "")
        with places[i % 4]:
            chosen = st.selectbox(
                FIELDS[name],
                offered,
                index=offered.index(current) if current in offered else 0,
                format_func=lambda c: c or "–",
                key=f"map:{number}:{name}",
            )
        if chosen:
            columns[name] = chosen
    return columns


def counted_as(found: dict[str, int], known: list[str]) -> dict[str, int]:
    """Count raw label values (value -> rows) under the known value or pattern that says what they mean.

    As in the import: without case, an exact value first, then the first `abc*` that fits. Others stand for themselves.
    """
    counts: dict[str, int] = {}
    for value, n in found.items():
        word = value.strip().casefold()
        exact = [key for key in known if key.strip().casefold() == word]
        fits = [key for key in known if key.endswith("*") and word.startswith(key[:-1].strip().casefold())]
        name = [*exact, *fits, value][0]
        counts[name] = counts.get(name, 0) + n
    return counts


def label_values(seen: Json, column: str, number: int) -> dict[str, str]:
    """Show each raw label value with its meaning. 0 and 1 are never guessed: the user says what they mean."""
    known: dict[str, str] = dict((seen["mapping"] or {}).get("label_values") or {})
    found = counted_as(seen.get("label_values") or {}, list(known))
    meanings: dict[str, str] = {}
    ui.note("What the label values mean (0 and 1 are never guessed):")
    places = st.columns(4)
    options = ["", "safe", "unsafe"]
    for i, value in enumerate(list(dict.fromkeys([*found, *known]))[:40]):
        with places[i % 4]:
            chosen = st.selectbox(
                f"{ui.plain(value) or '(empty)'} · {words.plural(found.get(value, 0), 'row')}",
                options,
                index=options.index(known.get(value, "")),
                format_func=lambda v: v or "not said",
                key=f"value:{number}:{column}:{value}",
            )
        if chosen:
            meanings[value] = chosen
    return meanings
