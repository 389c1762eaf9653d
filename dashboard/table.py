"""A table whose rows are links: a plain click opens the view in this session, the browser's own gestures work too."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import streamlit as st

from dashboard.assets import read
from dashboard.client import Json

_component = st.components.v2.component(
    "routeprint_table",
    html='<div class="rp-table" role="region" tabindex="0"></div>',
    css=read("table.css") + read("chips.css"),
    js=read("table.js"),
    isolate_styles=False,
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column. kind: text, short (never broken), code, status, label, bar (signed, against `max`), part (0 to 1),
    whisker (a value with its interval, against `max`).

    minor: hidden where there is little room. sort: where the server sorts, the orders that a click on the head asks for
    in turn, each with its direction: ("-risk_diff", "descending").
    """

    key: str
    label: str
    align: str = "left"
    kind: str = "text"
    minor: bool = False
    max: float | None = None
    sort: tuple[tuple[str, str], ...] = ()


def cell(text: object, value: object = None, hint: str | None = None, ends: Sequence[float | None] = ()) -> Json:
    """Return one cell: what is shown, what it sorts by, its tooltip, and for a whisker the ends of the interval.

    NaN is no value: JSON has none, and the browser would refuse the whole table.
    """
    made: Json = {"t": str(text)}
    if _there(value) is not None:
        made["v"] = value
    if hint:
        made["h"] = hint
    if ends:
        made["e"] = [_there(end) for end in ends]
    return made


def _there(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class Row:
    """One row: id, where it leads (or None), its cells by column key. tick: whether it can be ticked."""

    id: str
    href: str | None
    cells: dict[str, Json]
    tick: bool = True


@dataclass(frozen=True, slots=True)
class Ticks:
    """Rows that were ticked, by id, on this page of a list and on others. run: a new number clears the browser's."""

    ids: tuple[str, ...]
    run: int
    changed: Callable[[list[str]], None]


def table(
    columns: Sequence[Column],
    rows: Sequence[Row],
    *,
    key: str,
    label: str,
    selected: str | None = None,
    height: int | None = None,
    on_open: Callable[[str], None] | None = None,
    sort: str | None = None,
    on_sort: Callable[[str], None] | None = None,
    ticks: Ticks | None = None,
) -> str | None:
    """Show the table; return the id of the row that was just opened (on_open is called with it before the rerun).

    sort, on_sort: the rows come in this order from the server, and a click on a head asks for another. ticks: gives
    every row a checkbox.
    """

    def opened() -> None:
        row = st.session_state[key].open
        if row and on_open:
            on_open(str(row))

    def sorted_() -> None:
        order = st.session_state[key].sort
        if order and on_sort:
            on_sort(str(order))

    def ticked() -> None:
        if ticks:
            ticks.changed([str(id_) for id_ in st.session_state[key].ticked or ()])

    data = {
        "ticks": {"ids": list(ticks.ids), "run": ticks.run} if ticks else None,
        "sort": sort,
        "columns": [asdict(c) for c in columns],
        "rows": [asdict(r) for r in rows],
        "label": label,
        "sel": selected,
        "height": height,
    }
    result = _component(key=key, data=data, on_open_change=opened, on_sort_change=sorted_, on_ticked_change=ticked)
    return result.open  # type: ignore[no-any-return]
