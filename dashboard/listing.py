"""Two thin components of the batch page: the list of samples, and the button and keys that walk through batches."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import streamlit as st

from dashboard.assets import read

_samples = st.components.v2.component(
    "routeprint_samples",
    html='<div class="rp-samples" role="region"></div>',
    css=read("samples.css") + read("chips.css"),
    js=read("samples.js"),
    isolate_styles=False,
)
_player = st.components.v2.component(
    "routeprint_player",
    html='<button type="button" class="rp-play"></button>',
    css=read("player.css"),
    js=read("player.js"),
    isolate_styles=False,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One sample of the list. text: None while it is hidden; length: of the text, for the stand-in that is blurred.

    figures: (name, value) pairs; more: what else is known of it, in small print; flags: (kind of chip, its words).
    """

    i: int
    label: str
    href: str
    text: str | None
    length: int
    figures: tuple[tuple[str, str], ...]
    more: str = ""
    flags: tuple[tuple[str, str], ...] = ()


def samples(
    rows: Sequence[Line],
    *,
    key: str,
    label: str,
    selected: int | None,
    words: Sequence[str] = (),
    on_open: Callable[[int], None],
    on_reveal: Callable[[int], None],
) -> None:
    """Show the samples in order. words: what is marked in the texts that are shown; on_reveal: a text is asked for."""

    def called(event: str, act: Callable[[int], None]) -> Callable[[], None]:
        def run() -> None:
            index = st.session_state[key][event]
            if index is not None:
                act(int(index))

        return run

    data: dict[str, Any] = {"rows": [asdict(row) for row in rows], "label": label, "sel": selected}
    _samples(
        key=key,
        data=data | {"words": list(words)},
        on_open_change=called("open", on_open),
        on_reveal_change=called("reveal", on_reveal),
    )


def player(at: int, last: int, *, of: str, key: str, on_to: Callable[[int], None]) -> None:
    """Show the play button and listen for the arrow keys. on_to: which place is wanted next; of: what is walked."""

    def moved() -> None:
        target = st.session_state[key].to
        if target is not None:
            on_to(int(target))

    _player(key=key, data={"at": at, "last": last, "of": of}, on_to_change=moved)
