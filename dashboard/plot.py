"""Plotly in thin Streamlit components with click events of our own: lines and points.

Why not st.plotly_chart: see heatmap.py; with one component for both, plotly.js loads once and looks the same.
"""

from collections.abc import Callable

import streamlit as st

from dashboard.address import root
from dashboard.assets import PLOTLY, ensure_whole_plotly, read
from dashboard.charts import Lines

MANY = 4000
"""A trace of more points than this is drawn by WebGL."""
SHELL = (
    '<div class="rp-shell"><div class="rp-plot" tabindex="0" role="application"></div>'
    '<div class="rp-live" aria-live="polite"></div>'
    '<details class="rp-behind" hidden><summary>Table behind this chart</summary>'
    '<div role="region" tabindex="0"></div></details></div>'
)
SCRIPTS = read("base.js") + read("behind.js")
"""What the scripts of all plots share."""
_component = st.components.v2.component(
    "routeprint_lines",
    html=SHELL,
    css=read("plot.css"),
    js=SCRIPTS + read("walk.js") + read("lines.js"),
    isolate_styles=False,
)


def library(*, whole: bool = False) -> str:
    """Return the address of plotly.js on this server. whole: the one that can draw by WebGL too."""
    return f"{root()}/app/static/{ensure_whole_plotly().name if whole else PLOTLY}"


def lines(
    figure: Lines,
    *,
    key: str,
    filename: str,
    selected: int | None = None,
    on_point: Callable[[int], None] | None = None,
    behind: bool = True,
) -> None:
    """Show a plot. on_point is called with the `ref` of the point that was clicked, before the rerun.

    behind: offer the table behind it; false where the page has a table of the same beside it.
    """

    def clicked() -> None:
        point = st.session_state[key].point
        if point and on_point:
            on_point(int(point["ref"]))

    lib = library(whole=any(len(trace.x) > MANY for trace in figure.traces))
    more = {"key": key, "sel": selected, "filename": filename, "lib": lib, "behind": behind, "many": MANY}
    _component(key=key, data=figure.spec() | more, on_point_change=clicked)
