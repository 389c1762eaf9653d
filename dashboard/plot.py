"""Plotly in thin Streamlit components with click events of our own: lines and points.

Why not st.plotly_chart: see heatmap.py; with one component for both, plotly.js loads once and looks the same.
"""

from collections.abc import Callable

import streamlit as st

from dashboard.address import root
from dashboard.assets import ensure_plotly, read
from dashboard.charts import Lines

SHELL = (
    '<div class="rp-shell"><div class="rp-plot" tabindex="0" role="application"></div>'
    '<div class="rp-live" aria-live="polite"></div>'
    '<details class="rp-behind" hidden><summary>Table behind this chart</summary>'
    '<div role="region" tabindex="0"></div></details></div>'
)
SCRIPTS = read("base.js") + read("behind.js")
"""What the scripts of all plots share."""
_component = st.components.v2.component(
    "routeprint_lines", html=SHELL, css=read("plot.css"), js=SCRIPTS + read("lines.js"), isolate_styles=False
)


def library() -> str:
    """Return the address of plotly.js on this server."""
    return f"{root()}/app/static/{ensure_plotly().name}"


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

    data = figure.spec() | {"key": key, "sel": selected, "filename": filename, "lib": library(), "behind": behind}
    _component(key=key, data=data, on_point_change=clicked)
