"""Three and more analyses on one scale: a map each, what differs most, every two of them. The address restores it."""

import streamlit as st

from dashboard import address, cells, charts, comparison_charts, data, risk_charts, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.heatmap import heatmap
from dashboard.parts.side_by_side_tables import movers, pairs
from dashboard.plot import lines

ROOMS = {"movers": "What differs most", "pairs": "Every two of them", "drift": "How far from the first"}
SHOWN = {"each": "risk_diff of each", "moved": "difference to the first"}


def show(api: Api, ids: list[str]) -> None:
    """Show these sides side by side."""
    ui.page_title(f"Compare {len(ids)}")
    try:
        found = _found(api, ids)
    except ApiRefused as error:
        ui.heading("Compare")
        ui.refused(error)
        address.link("Choose others", "analysis", icon=":material/arrow_back:")
        return
    ui.heading(
        f"{len(ids)} side by side", "The same figures of several analyses on one scale: what differs, and where."
    )
    _sides(found["sides"], ids)
    _body(api, ids)


def _found(api: Api, ids: list[str]) -> Json:
    scope, pool = st.query_params.get("scope"), st.query_params.get("pool")
    return data.side_by_side(api, ids, scope if scope in words.SCOPES else None, pool if pool in words.POOLS else None)


def short(number: int, side: Json) -> str:
    """Return '2: After' for the second side."""
    return f"{number + 1}: {side['name']}"


def _sides(sides: list[Json], ids: list[str]) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        for number, side in enumerate(sides):
            if side["kind"] == "analysis":
                address.link(ui.plain(short(number, side)), "analysis", icon=":material/arrow_upward:", id=side["id"])
            else:
                st.html(f'<p class="rp-note">{ui.html(short(number, side))}</p>', width="content")
        first = st.selectbox(
            "The first is", ids, format_func=lambda id_: sides[ids.index(id_)]["name"], key="first-side", width=260
        )
    if first != ids[0]:
        address.put(of=".".join([first, *(one for one in ids if one != first)]))
        st.session_state.pop("first-side", None)
        st.rerun()


@st.fragment
@ui.guarded
def _body(api: Api, ids: list[str]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        if not any(id_.startswith("rt_") for id_ in ids):
            ui.choice("Pool", "pool", {p: p for p in words.POOLS}, help="; ".join(words.POOLS.values()))
        shown = ui.choice("Show", "show", SHOWN)
        found = _found(api, ids)
        asked: dict[str, object] = {"side": ids, "scope": found["scope"], "pool": found["pool"]}
        names = {form: f"side-by-side.{form}" for form in ("csv", "parquet", "npy")}
        ui.share("/side-by-side", asked, key="share-side-by-side", save=names)
    ui.facts(
        [
            ("sides", words.count(len(ids)), ""),
            ("experts on all sides", words.count(found["n_cells"]), ""),
            ("max |risk_diff|", words.number(found["max_abs"]), "of any side"),
            ("largest difference", words.number(found["max_difference"]), "between any two"),
        ]
    )
    _maps(found, shown)
    room = ui.choice("Look at", "view", ROOMS)
    if room == "pairs":
        pairs(found, ids)
    elif room == "drift":
        figure = comparison_charts.drift_from_first(found)
        key = f"drift:{':'.join(ids)}"
        lines(figure, key=key, filename="drift-from-the-first")
        files = (figure, "drift-from-the-first")
        ui.share("/side-by-side", asked, key="share-drift-from-first", figure=files, plot=key)
    else:
        movers(found)


def _maps(found: Json, shown: str) -> None:
    sites, sides = found["sites"], found["sides"]
    moved = shown == "moved"
    vmax = charts.round_up(found["max_difference" if moved else "max_abs"])
    chosen = cells.chosen(address.index("layer"), address.index("expert"), sites)

    first = found["risk_diff"][0]
    wide = found["n_experts"] > 64
    places = [place for _ in range(0, len(sides), 2) for place in ([st.container()] * 2 if wide else st.columns(2))]
    for number, (side, own) in enumerate(zip(sides, found["risk_diff"], strict=True)):
        if moved and number == 0:
            continue
        with places[number - moved]:
            name = short(number, side)
            ui.note(f"{name} − 1" if moved else name)
            heatmap(
                risk_charts.plain_heat(own - first, sites, vmax, f"{name} minus 1", unit="difference")
                if moved
                else risk_charts.plain_heat(own, sites, vmax, name),
                key=f"side:{shown}:{side['id']}",
                filename=f"side-{number + 1}",
                selected=chosen,
                on_cell=address.put_cell(sites),
            )
    ui.colour_key()
    ui.note(f"All maps share one scale, ±{words.short_float(vmax)}. {words.NOT_A_CAUSE}")
    if chosen:
        row, expert = chosen
        st.subheader(words.expert(sites[row]["layer"], expert))
        values = [float(own[chosen]) for own in found["risk_diff"]]
        ui.facts([(short(i, side), words.signed(values[i], 4), "") for i, side in enumerate(sides)])
    else:
        ui.note("Click a cell, or walk with the arrow keys and press Enter, to see one expert on every side.")
