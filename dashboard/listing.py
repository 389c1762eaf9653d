"""Two thin components: the list of a batch's samples, and the buttons and keys that walk through batches or steps."""

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
    html='<div class="rp-walk"><button type="button" title="Arrow left">'
    '<span aria-hidden="true">←</span> Previous</button>'
    '<button type="button" title="Arrow right">Next <span aria-hidden="true">→</span></button>'
    '<button type="button" class="rp-play"></button></div>',
    css=read("player.css"),
    js=read("walk.js") + read("player.js"),
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


def player(at: int, last: int, *, of: str, on_to: Callable[[int], None], noun: str = "batch", first: int = 0) -> None:
    """Show Previous, Next and Play, and listen for the arrow keys. on_to: a place is wanted; of: what is walked.

    Places go from `first` to `last`; noun: what each of them is, and its parameter in the address.

    All of it in the browser, which alone knows what was asked for before the page shows it: of two quick clicks on a
    button of Streamlit's, both would ask for the same place.
    """

    key = f"{noun}-player"

    def moved() -> None:
        target = st.session_state[key].to
        if target is not None:
            on_to(int(target))

    _player(key=key, data={"at": at, "first": first, "last": last, "of": of, "noun": noun}, on_to_change=moved)
