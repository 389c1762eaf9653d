"""The samples of a batch, in order. Prompt text stays hidden until it is asked for, in this session only."""

from html import escape

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import Json

TEXT_ASKED = "show-prompt-text"


def text_switch(where: str) -> bool:
    """Show the switch for prompt text; its answer holds for the session and is never part of an address."""
    key = f"{TEXT_ASKED}:{where}"
    st.session_state[key] = st.session_state.get(TEXT_ASKED, False)

    def switched() -> None:
        st.session_state[TEXT_ASKED] = st.session_state[key]

    st.toggle(
        "Show prompt text",
        key=key,
        on_change=switched,
        help="Some prompts describe harm. The text is fetched hidden and shown only in this browser session.",
    )
    return bool(st.session_state.get(TEXT_ASKED, False))


def show(batch: Json, analysis: Json) -> None:
    """Show the list of samples and the one that the address names."""
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.subheader(f"{words.plural(len(batch['samples']), 'sample')}, in their order")
        shown = text_switch("batch")
    picked = address.index("sample")
    if not shown:
        ui.note("The text is hidden: some of these prompts describe harm.")
    with st.container(border=True, key="samples"):
        for sample in batch["samples"]:
            with st.container(key=f"sample-row-{sample['in_batch_idx']}"):
                _row(sample, shown=shown, picked=picked == sample["in_batch_idx"])
    meaning = f"What safe and unsafe mean is set by the prompt set “{analysis['dataset_name']}”."
    ui.note(f"{meaning} Safe samples come first; training sees exactly this list.")


def _row(sample: Json, *, shown: bool, picked: bool) -> None:
    index = sample["in_batch_idx"]
    with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False):
        st.html(_summary(sample), width="stretch")
        st.button(
            "Close" if picked else "Details",
            key=f"sample:{index}",
            type="tertiary",
            on_click=address.put,
            kwargs={"sample": None if picked else index},
            help=f"Sample {index}",
        )
    if shown:
        st.text(sample["text"])
    if picked:
        _details(sample, shown=shown)


def _summary(sample: Json) -> str:
    label = escape(sample["label"])
    extras = [sample["difficulty"], sample["category"], sample["group"]]
    more = " · ".join(escape(str(e)) for e in extras if e)
    flags = [name for name in ("truncated", "non_finite") if sample[name]]
    marks = "".join(f'<span class="rp-chip rp-chip-non_finite">{words.STATUS.get(f, f)}</span>' for f in flags)
    own = "" if sample.get("own_tokens") is None else f", {words.count(sample['own_tokens'])} counted"
    return (
        f'<div class="rp-sample"><b>{sample["in_batch_idx"]}</b><span class="rp-label rp-label-{label}">{label}</span>'
        f"<span>{words.plural(sample['tokens'], 'token')}{own}</span><small>{more}</small>{marks}</div>"
    )


def _details(sample: Json, *, shown: bool) -> None:
    with st.container(border=True):
        if shown:
            for message in sample["messages"]:
                st.caption(ui.plain(message["role"]))
                st.code(message["content"], language=None, wrap_lines=True)
            for name, title in (("response", "response given in the set"), ("answer", "the model's own answer")):
                if sample.get(name):
                    st.caption(title)
                    st.code(sample[name], language=None, wrap_lines=True)
        else:
            ui.note("Messages and answers are hidden with the prompt text.")
        st.caption("Row of the prompt set, its identity, and the digest of the token ids as they were fed")
        identity = [f"{name:<13} {sample[name]}" for name in ("row_idx", "row_id", "prompt_digest")]
        st.code("\n".join(identity), language=None, wrap_lines=True)
