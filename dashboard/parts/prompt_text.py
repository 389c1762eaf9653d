"""Prompt text stays hidden until it is asked for: in this session only, and never by an address."""

from collections.abc import Iterable

import streamlit as st

from dashboard import fields

ASKED = "show-prompt-text"
SHOWN = "shown-prompts"


def switch(where: str) -> bool:
    """Show the switch for all prompt text; its answer holds for the session and is never part of an address."""
    key = f"{ASKED}:{where}"
    fields.give(key, st.session_state.get(ASKED, False))

    def switched() -> None:
        st.session_state[ASKED] = st.session_state[key]
        if not st.session_state[key]:
            st.session_state.pop(SHOWN, None)

    st.toggle(
        "Show prompt text",
        key=key,
        on_change=switched,
        help="Some prompts describe harm. Their text is not in the page until it is asked for, and is shown only in "
        "this browser session.",
    )
    return bool(st.session_state.get(ASKED, False))


def reveal(row_id: str) -> None:
    """Show one prompt from now on."""
    st.session_state.setdefault(SHOWN, set()).add(row_id)


def is_shown(row_id: str) -> bool:
    """Tell whether this prompt, or all of them, were asked for."""
    return bool(st.session_state.get(ASKED, False)) or row_id in st.session_state.get(SHOWN, set())


def found(text: str, words: Iterable[str]) -> bool:
    """Tell whether a text holds every one of these words, whatever their case."""
    low = text.casefold()
    return all(word.casefold() in low for word in words)
