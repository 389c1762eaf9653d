"""The heatmap: real Plotly in a thin Streamlit component.

Why not st.plotly_chart: clicks on its heatmaps never reach Python.

Plotly keeps zoom, hover, colour bar and PNG; we add the exact cell, keyboard walking and the selection's outline.
"""

from collections.abc import Callable

import streamlit as st

from dashboard.assets import read
from dashboard.charts import Heat
from dashboard.plot import SCRIPTS, SHELL, library

_component = st.components.v2.component(
    "routeprint_heatmap",
    html=SHELL,
    css=read("plot.css"),
    js=SCRIPTS + read("heatmap.js"),
    isolate_styles=False,
)


def heatmap(
    figure: Heat,
    *,
    key: str,
    filename: str,
    selected: tuple[int, int] | None = None,
    on_cell: Callable[[int, int], None] | None = None,
) -> None:
    """Show a heatmap. on_cell(row, expert) is called before the rerun, so that the outline never lags a click."""

    def clicked() -> None:
        cell = st.session_state[key].cell
        if cell and on_cell:
            on_cell(int(cell["row"]), int(cell["expert"]))

    sel = list(selected) if selected else None
    data = figure.spec() | {"key": key, "sel": sel, "filename": filename, "lib": library()}
    _component(key=key, data=data, on_cell_change=clicked)
