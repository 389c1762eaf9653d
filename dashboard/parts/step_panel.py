"""One training step: what it learned from, its losses per sample, and the way to its analysis batch."""

import streamlit as st

from dashboard import address, data, fall_charts, listing, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.parts import batch_over_epochs, prompt_text
from dashboard.table import Column, Row, cell, table

COLUMNS = (
    Column("index", "Sample"),
    Column("label", "Label", kind="label"),
    Column("loss", "Loss", "right", "part"),
    Column("over", "Over the epochs", minor=True),
    Column("fall", "Fall", "right"),
    Column("target", "Learns from", minor=True),
    Column("digest", "Prompt digest", kind="code", minor=True),
)
TARGETS = {"given": "the given response", "model": "the model's own answer", "refusal": "the refusal text"}


def show(api: Api, training: Json, number: int) -> None:
    """Show the panel below the loss curve."""
    try:
        step = data.remember(api, f"/trainings/{training['id']}/steps/{number}", "recorded")
    except ApiRefused as error:
        ui.refused(error)
        return
    _head(training, step)
    batch = batch_over_epochs.detail(api, training, step["batch_idx"])
    if batch is not None:
        _way_to_batch(step)
        batch_over_epochs.show(training, batch, number)
    _samples(step, batch)


def _head(training: Json, step: Json) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(f"Step {words.count(step['step'])}, epoch {step['epoch'] + 1}")
        with st.container(width="content"):
            listing.player(
                step["step"],
                training["n_recorded"],
                of=training["id"],
                on_to=lambda target: address.put(step=target),
                noun="step",
                first=1,
            )
    verified = {True: "verified", False: "NOT verified", None: "not checked"}[step["verified"]]
    against = "no analysis batch" if step["batch_idx"] is None else "against the analysis"
    ui.facts(
        [
            ("loss", words.number(step["loss"]), f"{words.count(step['n_answer_tokens'])} answer tokens"),
            ("loss, safe", words.number(step["loss_safe"]), ""),
            ("loss, unsafe", words.number(step["loss_unsafe"]), ""),
            *_in_turn(step),
            ("gradient norm", words.number(step["grad_norm"], 2), ""),
            ("learning rate", words.short_float(step["learning_rate"]), ""),
            ("took", words.duration(step["seconds"]), ""),
            ("batch contents", verified, against),
        ]
    )
    if step["verified"] is False:
        ui.card(
            "This step was not trained on its analysis batch",
            ["The token ids that reached the model differ from the ones the analysis measured. The run stopped here."],
            "rp-wrong",
        )


def _in_turn(step: Json) -> list[tuple[str, str, str]]:
    """Return what a step of a run with router steps taught, and how far apart its counterparts were routed."""
    if step["consistency_loss"] is None:
        return []
    taught = {"experts": "the chosen experts", "routers": "the routers"}[step["kind"]]
    note = "learned from" if step["kind"] == "routers" else "measured only"
    return [("taught", taught, ""), ("routing consistency", words.number(step["consistency_loss"], 4), f"KL, {note}")]


def _way_to_batch(step: Json) -> None:
    batch = step["batch"] or {}
    with st.container(border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        ui.facts(
            [
                ("trained on", f"Batch {step['batch_idx']}", f"identity {words.short_hash(step['batch_id'])}"),
                (
                    "max |risk_diff|",
                    words.number(batch.get("max_abs_risk_diff")),
                    f"noise floor {words.number(batch.get('noise_floor'))}",
                ),
                ("prompts", f"{batch.get('n_safe', '–')} + {batch.get('n_unsafe', '–')}", "safe + unsafe"),
            ]
        )
        if st.button(
            f"Open batch {step['batch_idx']} in its analysis", type="primary", icon=":material/arrow_forward:"
        ):
            address.go("batch", analysis=step["analysis_id"], batch=step["batch_idx"])


def _samples(step: Json, batch: Json | None) -> None:
    over = batch_over_epochs.sample_cells(batch)
    columns = [c for c in COLUMNS if over or c.key not in ("over", "fall")]
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.subheader("Losses per sample")
        shown = prompt_text.switch("step")
    losses = [s["loss"] for s in step["samples"] if s["loss"] is not None]
    largest = max(losses, default=1.0) or 1.0
    rows = [
        Row(
            str(i),
            address.href("batch", analysis=step["analysis_id"], batch=s["batch_idx"], sample=s["in_batch_idx"]),
            {
                "index": cell(f"Batch {s['batch_idx']}, sample {s['in_batch_idx']}", i),
                "label": cell(s["label"], s["label"]),
                "loss": {"t": words.number(s["loss"]), "v": (s["loss"] or 0.0) / largest},
                **(_over_epochs(over[s["in_batch_idx"]]) if over else {}),
                "target": cell(TARGETS.get(s["target"], s["target"])),
                "digest": cell(words.short_hash(s["prompt_digest"]), hint=s["prompt_digest"]),
            },
        )
        for i, s in enumerate(step["samples"])
    ]
    opened = table(columns, rows, key="step-samples", label="Samples of this step, in order")
    if opened:
        sample = step["samples"][int(opened)]
        address.go("batch", analysis=step["analysis_id"], batch=sample["batch_idx"], sample=sample["in_batch_idx"])
    if shown:
        for s in step["samples"]:
            st.caption(f"Sample {s['in_batch_idx']}, {s['label']}")
            st.text(s["text"])
            st.code(s["answer"] or "", language=None, wrap_lines=True)
    else:
        ui.note("Prompt and answer texts are hidden: some of these prompts describe harm.")


def _over_epochs(sample: Json) -> dict[str, Json]:
    return {
        "over": cell(fall_charts.losses_in_words(sample["losses"])),
        "fall": cell(words.signed(sample["fall"]), sample["fall"]),
    }
