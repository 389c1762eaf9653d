"""The lists of analyses, trainings and evaluations: found by words, filtered, ordered, and read page by page."""

from collections.abc import Callable, Sequence

import streamlit as st

from dashboard import fields, ui, words
from dashboard.client import Api, Json
from dashboard.parts import pager, run_tables, ticking

PER_PAGE = 50
STATES = {"": "any"} | {status: words.STATUS[status] for status in list(words.STATUS)[:5]}
ORDER = {"-created_at": "newest first", "created_at": "oldest first", "name": "name, A to Z", "-name": "name, Z to A"}


def analyses(api: Api) -> tuple[list[Json], bool]:
    """Show the analyses; return those on the page and whether anything was asked for."""
    return _list(
        api,
        "/analyses",
        ("analysis", "analyses"),
        lambda rows: run_tables.analyses(rows, key="analyses", ticks=ticking.ticks("analyses")),
    )


def trainings(api: Api) -> tuple[list[Json], bool]:
    """Show the trainings; return those on the page and whether anything was asked for."""
    return _list(
        api,
        "/trainings",
        ("training", "trainings"),
        lambda rows: run_tables.trainings(rows, key="trainings", ticks=ticking.ticks("trainings")),
    )


def evaluations(api: Api) -> tuple[list[Json], bool]:
    """Show the evaluations; return those on the page and whether anything was asked for."""
    return _list(
        api, "/evaluations", ("evaluation", "evaluations"), lambda rows: run_tables.evaluations(rows, key="evaluations")
    )


def _list(
    api: Api, path: str, noun: tuple[str, str], draw: Callable[[Sequence[Json]], None]
) -> tuple[list[Json], bool]:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        query = fields.words("Search", "q", placeholder="name, tag, note or id", resets=("after",), width=320)
        status = fields.select("Status", "status", STATES, resets=("after",), width=150)
        sort = fields.select("Order", "sort", ORDER, resets=("after",), width=170)
        if path != "/evaluations":
            ticking.bar(path.strip("/"))
    page = pager.fetch(api, path, q=query or None, status=status or None, sort=sort, limit=PER_PAGE)
    if page["items"]:
        draw(page["items"])
        pager.show(page, name=f"{path}:{query}:{status}:{sort}", noun=noun)
    elif query or status:
        ui.note(f"No {noun[0]} matches.")
    return page["items"], bool(query or status)
