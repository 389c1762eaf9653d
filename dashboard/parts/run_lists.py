"""The lists of runs and of prompt sets: found by words and tag, filtered, ordered, and read page by page."""

from collections.abc import Callable, Sequence

import streamlit as st

from dashboard import fields, ui, words
from dashboard.client import Api, Json
from dashboard.parts import kept_comparisons, pager, prompt_sets, run_tables, ticking

PER_PAGE = 50
STATES = {"": "any"} | {status: words.STATUS[status] for status in list(words.STATUS)[:5]}
DELETED = "deleted"
ORDER = {"-created_at": "newest first", "created_at": "oldest first", "name": "name, A to Z", "-name": "name, Z to A"}
Found = tuple[list[Json], bool]


def analyses(api: Api) -> Found:
    """Show the analyses; return those on the page and whether anything was asked for."""
    return _list(
        api,
        "analyses",
        "analysis",
        lambda rows: run_tables.analyses(rows, key="analyses", ticks=ticking.ticks("analyses")),
        compared=True,
    )


def trainings(api: Api) -> Found:
    """Show the trainings; return those on the page and whether anything was asked for."""
    return _list(
        api,
        "trainings",
        "training",
        lambda rows: run_tables.trainings(rows, key="trainings", ticks=ticking.ticks("trainings")),
        compared=True,
    )


def evaluations(api: Api) -> Found:
    """Show the evaluations; return those on the page and whether anything was asked for."""
    return _list(api, "evaluations", "evaluation", lambda rows: run_tables.evaluations(rows, key="evaluations"))


def studies(api: Api) -> Found:
    """Show the studies; return those on the page and whether anything was asked for."""
    return _list(api, "studies", "study", lambda rows: run_tables.studies(rows, key="studies"))


def comparisons(api: Api) -> Found:
    """Show the kept comparisons; return those on the page and whether anything was asked for."""
    return _list(api, "comparisons", "comparison", lambda rows: kept_comparisons.show(rows, key="kept-comparisons"))


def datasets(api: Api) -> Found:
    """Show the prompt sets; return those on the page and whether anything was asked for."""
    return _list(api, "datasets", "prompt set", lambda rows: prompt_sets.show(rows, key="datasets-table"))


def _list(api: Api, kind: str, noun: str, draw: Callable[[Sequence[Json]], None], *, compared: bool = False) -> Found:
    """kind: the list's name in the API, for prompt sets not its name on screen; compared: whether rows are ticked."""
    resets = ("after",)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        query = fields.words("Search", "q", placeholder="name, tag, note or id", resets=resets, width=320)
        status = fields.select("Status", "status", STATES | {DELETED: "deleted"}, resets=resets, width=150)
        tag = _tag(api, kind)
        sort = fields.select("Order", "sort", ORDER, resets=resets, width=170)
        if compared:
            ticking.bar(kind)
    asked = {"q": query or None, "tag": tag or None, "sort": sort, "limit": PER_PAGE}
    asked |= {"deleted": True} if status == DELETED else {"status": status or None}
    page = pager.fetch(api, f"/{kind}", **asked)
    many = "prompt sets" if kind == "datasets" else kind
    if page["items"]:
        draw(page["items"])
        pager.show(page, name=f"/{kind}:{query}:{status}:{tag}:{sort}", noun=(noun, many))
    elif query or status or tag:
        ui.note(f"No {noun} matches.")
    return page["items"], bool(query or status or tag)


def _tag(api: Api, kind: str) -> str:
    """Show the tags in use to choose from; return the one that is asked for. No field where there are none.

    The ids of studies, which mark their runs, are not offered, but one in the address is kept, as is a tag that has
    gone out of use since.
    """
    asked = st.query_params.get("tag", "")[:60]
    found = {one["tag"]: f"{one['tag']}  ({words.count(one['n'])})" for one in api.items("/tags", of=kind, most=500)}
    offered = {tag: shown for tag, shown in found.items() if not run_tables.is_study_id(tag)}
    if asked:
        offered.setdefault(asked, asked)
    return fields.select("Tag", "tag", {"": "any"} | offered, resets=("after",), width=190) if offered else ""
