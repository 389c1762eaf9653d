"""Rows of a list ticked to be compared: kept in the session while the list is searched, ordered and paged."""

import streamlit as st

from dashboard import address, words
from dashboard.table import Ticks

MOST = 8
"""As many as the API puts side by side, and as many lines as an eye keeps apart."""


def ticks(kind: str) -> Ticks:
    """Return what is ticked in a list. kind: 'analyses' or 'trainings'."""

    def changed(ids: list[str]) -> None:
        st.session_state[f"ticked:{kind}"] = ids

    ids = tuple(st.session_state.get(f"ticked:{kind}", ()))
    return Ticks(ids, int(st.session_state.get(f"ticked-run:{kind}", 0)), changed)


def bar(kind: str) -> None:
    """Show the way to the comparison of what is ticked; always there, so that ticking moves nothing."""
    ids = ticks(kind).ids
    n = len(ids)
    if st.button(
        f"Compare {words.count(n)} ticked" if n else "Compare ticked",
        icon=":material/compare_arrows:",
        disabled=not 2 <= n <= MOST,
        help=f"Tick two to {MOST} rows.",
        key=f"compare-ticked:{kind}",
    ):
        _open(kind, ids)
    st.button(
        "Clear",
        type="tertiary",
        disabled=not n,
        key=f"clear-ticked:{kind}",
        on_click=_clear,
        args=(kind,),
        help="Untick every row.",
    )


def _clear(kind: str) -> None:
    st.session_state.pop(f"ticked:{kind}", None)
    st.session_state[f"ticked-run:{kind}"] = st.session_state.get(f"ticked-run:{kind}", 0) + 1


def _open(kind: str, ids: tuple[str, ...]) -> None:
    if kind == "trainings":
        address.go("compare", trainings=".".join(ids))
    elif len(ids) == 2:
        address.go("compare", a=ids[0], b=ids[1])
    else:
        address.go("compare", of=".".join(ids))
