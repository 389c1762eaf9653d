"""The samples of a batch, in order: what is known of each, its loss where it was trained on, its text on request."""

from collections.abc import Sequence

import streamlit as st

from dashboard import address, fields, listing, ui, words
from dashboard.client import Api, Json
from dashboard.parts import prompt_text, sample_panel

FLAGS = {"truncated": "truncated", "non_finite": "not finite"}


def show(api: Api, batch: Json, analysis: Json, trained: Sequence[Json], scope: str, pool: str) -> None:
    """Show the list of samples and the one that the address names. trained: the steps that used the batch."""
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        st.subheader(f"{words.plural(len(batch['samples']), 'sample')}, in their order")
        prompt_text.switch("batch")
    asked, step = _asks(trained)
    found = [s for s in batch["samples"] if prompt_text.found(_searched(s), asked)]
    ui.note(_what_is_listed(batch, found, asked))
    _list(analysis, batch, found, step, asked)
    if step:
        ui.note(f"Loss: on the answer tokens of the sample, before step {step['step']} of “{step['training_name']}”.")
    meaning = f"What safe and unsafe mean is set by the prompt set “{analysis['dataset_name']}”."
    ui.note(f"{meaning} Safe samples come first; training sees exactly this list.")
    picked = next((s for s in batch["samples"] if s["in_batch_idx"] == address.index("sample")), None)
    if picked:
        sample_panel.show(api, analysis, batch, picked, trained, scope, pool)


def _asks(trained: Sequence[Json]) -> tuple[list[str], Json | None]:
    """Show the search and, where the batch was trained on, the choice of the step whose losses are listed."""
    steps = {f"{s['training_id']}.{s['step']}": s for s in reversed(trained)}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        find = st.text_input(
            "Search in these samples",
            key="find-samples",
            placeholder="a word of the prompt, a category, …",
            max_chars=200,
            width=340,
            help="Looks into hidden texts too, without showing them. Not part of the address.",
        )
        options = {key: f"{s['training_name']}, step {words.count(s['step'])}" for key, s in steps.items()}
        chosen = fields.select("Losses of", "losses", options, width=340) if options else ""
    return find.split(), steps.get(chosen)


def _searched(sample: Json) -> str:
    names = ("text", "label", "category", "difficulty", "group")
    return "\n".join(str(sample[name]) for name in names if sample[name])


def _what_is_listed(batch: Json, found: Sequence[Json], asked: Sequence[str]) -> str:
    hidden = sum(not prompt_text.is_shown(s["row_id"]) for s in found)
    said = (
        f"{words.count(len(found))} of {words.count(len(batch['samples']))} hold what is looked for. " if asked else ""
    )
    if not hidden:
        return f"{said}Texts are shown in this browser session only."
    which = "Their" if hidden == len(found) else f"{words.plural(hidden, 'text is', 'texts are')} hidden: their"
    return f"{said}{which} text stays hidden until you ask for it: some of these prompts describe harm."


def _list(analysis: Json, batch: Json, found: Sequence[Json], step: Json | None, asked: Sequence[str]) -> None:
    by_place = {s["in_batch_idx"]: s for s in batch["samples"]}

    def open_(index: int) -> None:
        address.put(sample=None if address.index("sample") == index else index)

    listing.samples(
        [_line(analysis, batch, sample, step) for sample in found],
        key="samples",
        label="Samples of this batch, in order",
        selected=address.index("sample"),
        words=asked,
        on_open=open_,
        on_reveal=lambda index: prompt_text.reveal(by_place[index]["row_id"]),
    )


def _line(analysis: Json, batch: Json, sample: Json, step: Json | None) -> listing.Line:
    index = sample["in_batch_idx"]
    more = [sample["category"], sample["group"]]
    where = {"analysis": analysis["id"], "batch": batch["batch_idx"], "sample": index}
    return listing.Line(
        i=index,
        label=sample["label"],
        href=address.href("batch", **where),
        text=sample["text"] if prompt_text.is_shown(sample["row_id"]) else None,
        length=len(sample["text"]),
        figures=_figures(sample, step),
        more=" · ".join(str(one) for one in more if one),
        flags=tuple(("non_finite", said) for name, said in FLAGS.items() if sample[name]),
    )


def _figures(sample: Json, step: Json | None) -> tuple[tuple[str, str], ...]:
    tokens = words.count(sample["tokens"])
    if sample.get("own_tokens") is not None:
        tokens += f", {words.count(sample['own_tokens'])} counted"
    shown = [("tokens", tokens)]
    if sample["difficulty"]:
        shown.insert(0, ("difficulty", str(sample["difficulty"])))
    if step:
        shown.append(("loss", words.number(sample_panel.loss_of(step, sample["in_batch_idx"]))))
    return tuple(shown)
