"""The address is the state: reading and writing query parameters. Every value is checked before use."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import streamlit as st

PAGES = {
    "overview": "views/overview.py",
    "datasets": "views/datasets.py",
    "analysis": "views/analysis.py",
    "batch": "views/batch.py",
    "training": "views/training.py",
    "compare": "views/compare.py",
    "evaluation": "views/evaluations.py",
    "study": "views/study.py",
    "jobs": "views/jobs.py",
}


def text(name: str) -> str | None:
    """Return an id from the address; longer than any id of ours is no id."""
    value = st.query_params.get(name)
    return value if value and len(value) <= 80 and value.isprintable() and "/" not in value else None


def ids(name: str, most: int) -> list[str]:
    """Return the different ids that the address lists, separated by dots: ?of=an_1.an_2; at most `most`."""
    asked = st.query_params.get(name, "")[:2000].split(".")
    good = dict.fromkeys(one for one in asked if one.isascii() and one.isidentifier() and len(one) <= 80)
    return list(good)[:most]


def cursor() -> str | None:
    """Return the place in a paged list that the address names; whether it exists, the API knows."""
    value = st.query_params.get("after", "")
    return value if value.isascii() and 0 < len(value) <= 4000 and value.replace("-", "").isidentifier() else None


def index(name: str) -> int | None:
    """Return a non-negative integer from the address, or None where it is absent or nonsense."""
    value = st.query_params.get(name, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 9 else None


def scope_and_pool(scopes: Sequence[str]) -> tuple[str, str]:
    """Return the token scope and the pool of the address; the analysis' first scope and `mean` where none is named."""
    scope, pool = st.query_params.get("scope"), st.query_params.get("pool")
    return (scope if scope and scope in scopes else scopes[0]), ("pooled" if pool == "pooled" else "mean")


def put(**values: object) -> None:
    """Write values into the address; None removes one."""
    for name, value in values.items():
        if value is None:
            st.query_params.pop(name, None)
        elif st.query_params.get(name) != str(value):
            st.query_params[name] = str(value)


def put_expert(row: str) -> None:
    """Write the expert of a table's row into the address; '3.17' is layer 3, expert 17."""
    layer, _, expert = row.partition(".")
    put(layer=layer, expert=expert)


def put_cell(sites: Sequence[Mapping[str, Any]]) -> Callable[[int, int], None]:
    """Return what writes a cell (row, expert) of a map over these sites into the address."""
    return lambda row, expert: put(layer=sites[row]["layer"], expert=expert)


def root() -> str:
    """Return the path in front of every address, where the dashboard does not stand at the root; else ""."""
    base = (str(st.get_option("server.baseUrlPath") or "")).strip("/")
    return f"/{base}" if base else ""


def href(page: str, **values: object) -> str:
    """Return the address of a view, relative to the dashboard's root: '/batch?analysis=an_1&batch=5'."""
    given = {k: str(v) for k, v in values.items() if v is not None}
    path = f"{root()}/" if page == "overview" else f"{root()}/{page}"
    return f"{path}?{urlencode(given)}" if given else path


def here(**values: object) -> str:
    """Return this view's own address with some values changed."""
    kept = st.query_params.to_dict() | {k: str(v) for k, v in values.items() if v is not None}
    return f"?{urlencode(kept)}"


def go(page: str, **values: object) -> None:
    """Open another view in this session."""
    st.switch_page(PAGES[page], query_params={k: str(v) for k, v in values.items() if v is not None})


def link(label: str, page: str, *, icon: str | None = None, help: str | None = None, **values: object) -> None:  # noqa: A002 - Streamlit's own name
    """Show a real link to another view."""
    given = {k: str(v) for k, v in values.items() if v is not None}
    st.page_link(PAGES[page], label=label, icon=icon, help=help, query_params=given)
