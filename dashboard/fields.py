"""Fields whose values are part of the address: a view reopens with its filters in any browser.

Every value from the address is checked; one that is the default is not written. Not covered: choices shown as a row of
buttons (ui.choice).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

Resets = Sequence[str]


def give(key: str, value: object) -> None:
    """Give a widget its value, unless it has it already.

    A value that is given is sent to the browser and takes the place of what is chosen there, also of what the user has
    chosen since: a slider moved by quick keys would jump back.
    """
    if key not in st.session_state or st.session_state[key] != value:
        st.session_state[key] = value


def _bind(
    name: str, shown: object, write: Callable[[Any], str | None], resets: Resets
) -> tuple[str, Callable[[], None]]:
    """Set a field to what the address says; return its key and what to do when it is changed.

    resets: other parameters that a change takes out of the address, such as the page of a list.
    """
    key = f"field:{name}"
    give(key, shown)

    def changed() -> None:
        text = write(st.session_state[key])
        for other in (name, *resets):
            st.query_params.pop(other, None)
        if text is not None:
            st.query_params[name] = text

    return key, changed


def select(
    label: str,
    name: str,
    options: Mapping[str, str],
    *,
    resets: Resets = (),
    width: int | None = None,
    help: str | None = None,  # noqa: A002 - Streamlit's own name
) -> str:
    """Show a drop-down of {value: what is shown}, the first being the default; return the value."""
    values = list(options)
    asked = st.query_params.get(name)
    shown = asked if asked in options else values[0]
    key, changed = _bind(name, shown, lambda v: None if v == values[0] else str(v), resets)
    return str(
        st.selectbox(
            label,
            values,
            format_func=lambda v: options[v],
            key=key,
            on_change=changed,
            help=help,
            width=width or "stretch",
        )
    )


def switch(label: str, name: str, *, resets: Resets = (), help: str | None = None, disabled: bool = False) -> bool:  # noqa: A002 - Streamlit's own name
    """Show a toggle; return whether it is on."""
    key, changed = _bind(name, st.query_params.get(name) == "yes", lambda v: "yes" if v else None, resets)
    return bool(st.toggle(label, key=key, on_change=changed, help=help, disabled=disabled))


def words(
    label: str,
    name: str,
    *,
    placeholder: str = "",
    resets: Resets = (),
    width: int | None = None,
    tall: bool = False,
) -> str:
    """Show a field for text of at most 2,000 characters; return it without spaces around it."""
    asked = st.query_params.get(name, "")[:2000]
    key, changed = _bind(name, asked if asked.isprintable() else "", lambda v: v.strip() or None, resets)
    kind = st.text_area if tall else st.text_input
    made = kind(label, key=key, on_change=changed, placeholder=placeholder, max_chars=2000, width=width or "stretch")
    return str(made or "").strip()


def slide(
    label: str,
    name: str,
    ends: tuple[float, float],
    default: float,
    *,
    step: float,
    form: str | None = None,
    help: str | None = None,  # noqa: A002 - Streamlit's own name
) -> float:
    """Show a slider (whole numbers where `step` is one); return its value, inside `ends`."""
    whole = isinstance(step, int)
    low, high = (int(v) if whole else float(v) for v in ends)
    try:
        asked = float(st.query_params.get(name, "nan"))
    except ValueError:
        asked = float("nan")
    value = asked if low <= asked <= high else default
    shown = round(value) if whole else float(value)
    key, changed = _bind(name, min(high, max(low, shown)), lambda v: f"{v:.6g}", ())
    return float(st.slider(label, low, high, step=step, format=form, key=key, on_change=changed, help=help))
