"""Losses of batches and samples over the epochs -> what a plot shows. Pure: no Streamlit, no HTTP."""

from collections.abc import Mapping, Sequence

from dashboard import words
from dashboard.charts import Lines, Trace
from dashboard.client import Json

ROLES = {"safe": ("safe", "safe prompts"), "unsafe": ("unsafe", "unsafe prompts")}


def over_epochs(detail: Json) -> Lines:
    """Loss of one batch and of each of its samples at every visit; a point of the batch leads to its step."""
    visits = detail["visits"]
    x = [float(visit["epoch"] + 1) for visit in visits]
    named: set[str] = set()
    traces = [_sample(sample, x, named) for sample in detail["samples"]]
    hover = [
        f"epoch {visit['epoch'] + 1} · step {visit['step']}<br>loss of the batch {words.number(visit['loss'])}"
        for visit in visits
    ]
    losses = [visit["loss"] for visit in visits]
    refs = [int(visit["step"]) for visit in visits]
    whole = Trace(x, losses, "all", "the batch", "lines+markers", hover, refs, size=9)
    return Lines(
        traces=(*traces, whole),
        x_title="epoch",
        y_title="loss on answer tokens",
        label=f"Loss of batch {detail['batch_idx']} and of its samples; a point of the batch opens its step",
        height=300,
        from_zero=True,
    )


def _sample(sample: Json, x: list[float], named: set[str]) -> Trace:
    """One thin line; the legend names the first of each label."""
    role, name = ROLES[sample["label"]]
    shown = "" if role in named else name
    named.add(role)
    hover = [f"sample {sample['in_batch_idx']}, {sample['label']}<br>loss {words.number(v)}" for v in sample["losses"]]
    return Trace(x[: len(hover)], list(sample["losses"]), role, shown, "lines+markers", hover, size=4)


def batch_in_trainings(rows: Sequence[Json]) -> Lines:
    """Loss of one batch over the epochs of the trainings that visited it most, four at most; refs: places in `rows`."""
    runs: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        runs.setdefault(row["training_id"], []).append(place)
    roles = ("accent", "all", "quiet", "floor")
    symbols = ("circle", "square", "diamond", "triangle-up")
    traces = []
    longest = sorted(runs.values(), key=len, reverse=True)[: len(roles)]
    for n, places in enumerate(longest):
        own = [rows[place] for place in places]
        hover = [f"epoch {row['epoch'] + 1} · step {row['step']}<br>loss {words.number(row['loss'])}" for row in own]
        name = own[0]["training_name"].replace("<", "‹").replace(">", "›")
        x, y = [float(row["epoch"] + 1) for row in own], [row["loss"] for row in own]
        traces.append(Trace(x, y, roles[n], name, "lines+markers", hover, places, symbols[n], 8))
    return Lines(
        traces=tuple(traces),
        x_title="epoch",
        y_title="loss",
        label="Loss of this batch over the epochs of the trainings that used it; a point opens its step",
        height=260,
        from_zero=True,
    )


def outcome_against(rows: Sequence[Json], feature: Json, outcome: str) -> Lines:
    """Fall of every batch (or its first loss) against one feature; refs: the batch. Unusual batches are crosses."""
    key, field = feature["key"], "fall" if outcome == "fall" else "loss_first"
    seen = [row for row in rows if row[key] is not None and row[field] is not None]
    marked = (
        ([row for row in seen if not row["unusual"]], "accent", "", "circle", 7.0),
        ([row for row in seen if row["unusual"]], "unsafe", "unusual", "x", 11.0),
    )
    traces = tuple(
        Trace(
            [float(row[key]) for row in own],
            [row[field] for row in own],
            role,
            name,
            "markers",
            [_batch_hover(row, feature, key) for row in own],
            [int(row["batch_idx"]) for row in own],
            symbol,
            size,
        )
        for own, role, name, symbol, size in marked
        if own
    )
    return Lines(
        traces,
        feature["name"],
        "fall of the loss" if outcome == "fall" else "loss at the first visit",
        f"{outcome} of each of {len(seen)} batches against {feature['name']}; a point opens its batch",
        height=320,
        x_whole=False,
        zero=outcome == "fall",
    )


def _batch_hover(row: Json, feature: Json, key: str) -> str:
    fell = f"<br>fell by {words.signed(row['fall'])}, foretold {words.signed(row['expected'])}"
    return (
        f"batch {row['batch_idx']}<br>{feature['name']} {words.number(row[key])}"
        f"<br>first loss {words.number(row['loss_first'])}" + (fell if row["fall"] is not None else "")
    )


def losses_in_words(losses: Sequence[float | None], digits: int = 2) -> str:
    """'2.31 → 1.20 → 0.80'; of many visits the first and the last two."""
    said = [words.number(loss, digits) for loss in losses]
    return " → ".join(said if len(said) <= 5 else [*said[:2], "…", *said[-2:]])


def legend_of(features: Mapping[str, Json]) -> dict[str, str]:
    """Return {key: name} of the features that vary, those that are related first."""
    order = {"beyond": 0, "gone": 1, "none": 2, "aliased": 3, "control": 4}
    kept = [f for f in features.values() if f["verdict"] in order]
    return {f["key"]: f["name"] for f in sorted(kept, key=lambda f: order[f["verdict"]])}
