"""What every page shares: heading, facts, notes, and the states in which there is nothing to show yet.

Names and other words of users go through html.escape; prompts never come here (st.text and st.code only).
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from html import escape
from typing import ParamSpec

import streamlit as st

from dashboard import sharing, words
from dashboard.assets import ICON, read
from dashboard.charts import Heat, Lines
from dashboard.client import Api, ApiDown, ApiError, ApiRefused, Json, TokenNeeded
from dashboard.plot import library

P = ParamSpec("P")
STYLE = f"<style>{read('page.css')}{read('chips.css')}</style>"
_theme = st.components.v2.component(
    "routeprint_theme", html="<i hidden></i>", js=read("base.js") + read("theme.js"), isolate_styles=False
)


def api() -> Api:
    """Return the API for this session: the token typed here, or else the environment's."""
    return Api.from_environment(st.session_state.get("access_token"))


@contextmanager
def _states() -> Iterator[None]:
    """Turn what the API can answer into a state of the page that says what to do next."""
    try:
        yield
    except ApiDown as error:
        _waits_for_api(error)
    except TokenNeeded as error:
        _asks_for_token(sent=error.sent)
    except ApiRefused as error:
        refused(error)


def show(body: Callable[[], None]) -> None:
    """Run a page; whatever the API answers, end in a state that says what to do next."""
    st.html(STYLE)
    with st.container(key="routeprint-theme", height=1, border=False):
        _theme(key="theme", data={"lib": library()})
    with _states():
        body()


def guarded(body: Callable[P, None]) -> Callable[P, None]:
    """Give a fragment, which reruns without its page, the same states as a page has."""

    @wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with _states():
            body(*args, **kwargs)

    return run


@contextmanager
def patient() -> Iterator[None]:
    """In a part that follows work by itself: an API that does not answer is waited for, a refusal is said."""
    try:
        yield
    except ApiDown:
        note("The API does not answer; the work itself goes on in the worker. Waiting for it to come back …")
    except ApiError as error:
        note(str(error))


def page_title(title: str) -> None:
    """Set the browser tab's title."""
    st.set_page_config(page_title=f"{title} · Routeprint", page_icon=str(ICON), layout="wide")


def chip(status: str, text: str | None = None) -> str:
    """Return HTML of a status: colour, shape and word."""
    return f'<span class="rp-chip rp-chip-{escape(status)}">{escape(text or words.state(status))}</span>'


def heading(title: str, sub: str = "", status: str | None = None) -> None:
    """Show the page's h1 with its status and one quiet line (both plain text)."""
    mark = chip(status) if status else ""
    line = f'<p class="rp-sub">{escape(sub)}</p>' if sub else ""
    st.html(f'<div class="rp-head"><h1>{escape(title)}</h1>{mark}</div>{line}')


def facts(pairs: Iterable[tuple[str, str, str]]) -> None:
    """Show figures: (name, value, small print)."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)} <small>{escape(small)}</small></dd></div>"
        for name, value, small in pairs
    )
    st.html(f'<dl class="rp-facts">{cells}</dl>')


def plain(name: str) -> str:
    """Return a user's words as they are where Streamlit would read Markdown (labels of links and buttons)."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-.!:$~<>|" else c for c in name)


def html(text: str) -> str:
    """Return a text as it is inside HTML of ours."""
    return escape(text)


def note(text: str) -> None:
    """Show a quiet sentence (plain text)."""
    st.html(f'<p class="rp-note">{escape(text)}</p>')


def strip(kinds: Sequence[str], most: int, text: str) -> None:
    """Show a bar of many small parts, each of a kind ('' good, bad, none, open); at most `most` pieces are drawn.

    A piece that stands for several parts takes the gravest of their kinds, so that one bad step is never averaged away.
    """
    n = min(most, len(kinds)) or 1
    pieces = [kinds[i * len(kinds) // n : (i + 1) * len(kinds) // n] for i in range(n)]
    worst = ("bad", "open", "none", "")
    drawn = "".join(f'<span class="{next(w for w in worst if w in piece)}"></span>' for piece in pieces if piece)
    st.html(
        f'<div class="rp-strip{" rp-dense" if n > 90 else ""}" role="img" aria-label="{escape(text)}">{drawn}</div>'
        f'<p class="rp-note">{escape(text)}</p>'
    )


def colour_key(dots: str = "", frames: str = "") -> None:
    """Say what the two colours of a heatmap mean, and where there are any, its dots and outlines (plain text)."""
    keys = (
        '<span class="rp-key"><i style="background:var(--st-red-color)"></i>+ fires more on unsafe</span>'
        '<span class="rp-key"><i style="background:var(--st-blue-color)"></i>− fires more on safe</span>'
    )
    keys += '<span class="rp-key">grey: no value</span>'
    keys += f'<span class="rp-key"><i class="rp-dot"></i>{escape(dots)}</span>' if dots else ""
    keys += f'<span class="rp-key"><i class="rp-frame"></i>{escape(frames)}</span>' if frames else ""
    st.html(f'<p class="rp-note rp-legend">{keys}</p>')


def card(title: str, paragraphs: Iterable[str], kind: str = "") -> None:
    """Show a framed message. `paragraphs` is trusted HTML of ours; escape what came from elsewhere."""
    body = "".join(f"<p>{p}</p>" for p in paragraphs)
    st.html(f'<div class="rp-card {kind}" role="status"><h2>{escape(title)}</h2>{body}</div>')


def refused(error: ApiRefused) -> None:
    """Show problem details: what was wrong, where."""
    places = [
        f"<code>{escape(' › '.join(map(str, e.get('loc', ()))))}</code> {escape(str(e.get('msg', '')))}"
        for e in error.errors
    ]
    more = [f"… and {len(places) - 12} more."] if len(places) > 12 else []
    card(error.title, [escape(error.detail), *places[:12], *more], "rp-wrong")


def _waits_for_api(error: ApiDown) -> None:
    card(
        "Waiting for the Routeprint API",
        [
            f"Nobody answers at <code>{escape(error.base_url)}</code>. "
            "This page opens by itself as soon as the API is back.",
            "Start it with <code>routeprint backend</code>, or everything at once with <code>routeprint up</code>. "
            "If it listens elsewhere, set <code>ROUTEPRINT_API_URL</code> and restart the dashboard.",
            f"<small>{escape(error.reason)}</small>",
        ],
        "rp-waits",
    )
    _watch_for_api()


@st.fragment(run_every=2)
def _watch_for_api() -> None:
    if api().is_up():
        st.rerun(scope="app")


def _asks_for_token(*, sent: bool) -> None:
    said = "The API refused the token that this dashboard sent." if sent else "The API asks for an access token."
    card(
        "Access token needed",
        [
            f"{said} <code>routeprint token</code> prints it.",
            "Set <code>ROUTEPRINT_TOKEN</code> for the dashboard, or enter it here: it stays in this browser session "
            "and is never part of an address.",
        ],
        "rp-waits",
    )
    with st.form("token", width=460, border=False):
        token = st.text_input("Access token", type="password", autocomplete="off")
        if st.form_submit_button("Use this token", type="primary") and token.strip():
            st.session_state["access_token"] = token.strip()
            st.rerun()


def choice(
    label: str,
    name: str,
    options: Mapping[str, str],
    *,
    resets: Sequence[str] = (),
    help: str | None = None,  # noqa: A002 - Streamlit's own name
) -> str:
    """Show a choice that is part of the address: /analysis?<name>=<option>. The first option is the default.

    resets: other parameters that a change takes out of the address.

    Not Streamlit's own `bind`: that writes the label into the address, and labels may change.
    """
    key = f"choice:{name}"
    asked = st.query_params.get(name)
    keys = list(options)
    st.session_state[key] = asked if asked in options else keys[0]

    def chosen() -> None:
        picked = st.session_state[key]
        for other in resets:
            st.query_params.pop(other, None)
        if picked == keys[0]:
            st.query_params.pop(name, None)
        else:
            st.query_params[name] = str(picked)

    made = st.segmented_control(
        label, keys, format_func=lambda k: options[k], key=key, help=help, on_change=chosen, required=True
    )
    return str(made or keys[0])


def pick(
    label: str,
    options: Mapping[str, str],
    *,
    first: object = None,
    key: str | None = None,
    help: str | None = None,  # noqa: A002
) -> str:
    """Show a drop-down of {value: what is shown}; return the value. first: what it begins with, if it is offered."""
    values = list(options)
    index = values.index(str(first)) if first in values else 0
    return str(st.selectbox(label, values, index=index, format_func=lambda v: options[v], key=key, help=help))


def one_time_key(form: str, content: object) -> str:
    """Return an Idempotency-Key: the same for a double click, a new one after a change or an accepted request."""
    slot = f"once:{form}"
    kept = st.session_state.get(slot)
    if not kept or kept[0] != repr(content):
        kept = (repr(content), uuid.uuid4().hex)
        st.session_state[slot] = kept
    return str(kept[1])


def accepted(form: str) -> None:
    """Forget the key of a form whose request was accepted."""
    st.session_state.pop(f"once:{form}", None)


def field_error(error: ApiRefused | None, name: str) -> None:
    """Show, directly below a field, what the API said about it."""
    message = error.for_field(name) if error else None
    if message:
        st.html(f'<p class="rp-note" style="color:var(--st-red-text-color)" role="alert">▲ {escape(message)}</p>')


def share(
    api_path: str,
    params: Mapping[str, object],
    *,
    key: str,
    save: dict[str, str] | None = None,
    figure: tuple[Heat | Lines, str] | None = None,
    plot: str | None = None,
    body: Json | None = None,
    label: str = "Link, API, download",
) -> None:
    """Offer the view's link, the call behind it as curl and Python, and downloads. None of them holds the token.

    save: {format: file name}, each fetched when clicked; figure: whose numbers are offered, with the name of the files,
    where the API gives no table; plot: key of the figure on the page, whose picture is offered; body: JSON, where the
    call is a POST.
    """
    here = api()
    files: sharing.Files = {
        form: (name, lambda form=form: here.download(api_path, **params, format=form))  # type: ignore[misc]
        for form, name in (save or {}).items()
    }
    if figure is not None:
        files = sharing.of_figure(*figure)
    call = sharing.Call(here.base_url, api_path, params, body)
    sharing.offer(call, key=key, files=files, label=label, plot=plot)
