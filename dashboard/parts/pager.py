"""Pages of a list that the server cuts: the place is part of the address, the way back is kept in the session."""

from typing import Any

import streamlit as st

from dashboard import address, words
from dashboard.client import Api, ApiRefused, Json


def fetch(api: Api, path: str, **params: Any) -> Json:
    """GET the page that the address names; a place that this list does not know is its beginning."""
    after = address.cursor()
    try:
        return dict(api.get(path, cursor=after, **params))
    except ApiRefused as error:
        if after is None or error.for_field("cursor") is None:
            raise
    address.put(after=None)
    return dict(api.get(path, **params))


def show(page: Json, *, name: str, noun: tuple[str, str]) -> None:
    """Show what is on the page and the way to the others; nothing where there is one page only.

    name: one list's own; noun: one and many of what it lists.
    """
    after, following = address.cursor(), page["next_cursor"]
    if after is None and following is None:
        return
    behind: list[str | None] = st.session_state.setdefault(f"pages:{name}", [])
    if after is None:
        behind.clear()

    def on() -> None:
        behind.append(after)
        address.put(after=following)

    def back() -> None:
        address.put(after=behind.pop() if behind else None)

    def first() -> None:
        behind.clear()
        address.put(after=None)

    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("First", key=f"first:{name}", on_click=first, disabled=after is None, icon=":material/first_page:")
        st.button("Previous", key=f"back:{name}", on_click=back, disabled=not behind, icon=":material/chevron_left:")
        st.button("Next", key=f"on:{name}", on_click=on, disabled=following is None, icon=":material/chevron_right:")
        st.html(
            f'<p class="rp-note">{words.plural(len(page["items"]), *noun)} on this page'
            f"{'' if following else ', the last'}</p>",
            width="content",
        )
