"""One batch over the epochs: how the loss of it and of each of its samples went, in one training or in all."""

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard import address, data, fall_charts, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.plot import lines


def detail(api: Api, training: Json, batch_idx: int | None) -> Json | None:
    """Return a batch of a training with the losses of its samples; None where batches were not preserved."""
    if batch_idx is None:
        return None
    try:
        path = f"/trainings/{training['id']}/batches/{batch_idx}"
        return dict(data.remember(api, path, data.version(training)))
    except ApiRefused as error:
        ui.refused(error)
        return None


def show(training: Json, batch: Json, step: int) -> None:
    """Show how often a batch was visited and what its loss and its samples' did; nothing after a single visit."""
    if len(batch["visits"]) < 2:
        return
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.subheader(f"Batch {batch['batch_idx']} over the epochs")
        name = f"losses-{training['id']}-batch-{batch['batch_idx']}"
        ui.share(
            f"/trainings/{training['id']}/batches/{batch['batch_idx']}",
            {},
            key="share-over-epochs",
            save={form: f"{name}.{form}" for form in ("csv", "parquet")},
            plot=f"over-epochs:{training['id']}",
        )
    _figures(batch)
    lines(
        fall_charts.over_epochs(batch),
        key=f"over-epochs:{training['id']}",
        filename=name,
        selected=step,
        on_point=lambda picked: address.put(step=picked),
    )
    ui.note(
        "Every loss is the one before the step's update. A thin line is one sample, the thick one the batch; the fall "
        "is taken over the epochs that are complete."
    )


def _figures(batch: Json) -> None:
    facts = [("visits", words.count(batch["n_visits"]), fall_charts.losses_in_words(batch["losses"]))]
    if batch["fall"] is not None:
        share = words.percent(batch["relative_fall"], 0)
        facts.append(("fall of its loss", words.signed(batch["fall"]), f"{share} of the first loss"))
        if batch["expected"] is not None:
            unusual = {True: "unusual", False: "not unusual", None: ""}[batch["unusual"]]
            z = f"z {words.signed(batch['z'], 1)}, {unusual}" if batch["z"] is not None else ""
            facts.append(("foretold fall", words.signed(batch["expected"]), z))
    ui.facts(facts)


def sample_cells(batch: Json | None) -> Mapping[int, Json]:
    """Return the samples of a batch by in_batch_idx where there is more than one visit to show."""
    if batch is None or len(batch["visits"]) < 2:
        return {}
    return {sample["in_batch_idx"]: sample for sample in batch["samples"]}


def of_trainings(analysis_id: str, batch_idx: int, rows: Sequence[Json]) -> None:
    """On the batch's own page: its loss over the epochs of the trainings that used it; a point opens its step."""
    if not any(row["epoch"] for row in rows):
        return
    slot = f"batch-step:{analysis_id}"

    def pick(place: int) -> None:
        st.session_state[slot] = place

    figure, key = fall_charts.batch_in_trainings(rows), f"batch-losses:{analysis_id}"
    name = f"losses-{analysis_id}-batch-{batch_idx}"
    lines(figure, key=key, filename=name, on_point=pick)
    path = f"/analyses/{analysis_id}/batches/{batch_idx}/trainings"
    ui.share(path, {}, key="share-batch-losses", figure=(figure, name), plot=key)
    picked = st.session_state.pop(slot, None)
    if picked is not None and picked < len(rows):
        address.go("training", id=rows[picked]["training_id"], step=rows[picked]["step"])
