"""Steps of one training -> what a plot shows: their losses, their order, their risk. Pure: no Streamlit, no HTTP."""

from collections.abc import Sequence

from dashboard import words
from dashboard.charts import Lines, Trace
from dashboard.client import Json


def _step_hover(s: Json, name: str, value: float | None) -> str:
    where = "no single batch" if s["batch_idx"] is None else f"batch {s['batch_idx']}"
    verified = {True: "verified", False: "NOT verified", None: "not checked"}[s["verified"]]
    return f"step {s['step']} · epoch {s['epoch'] + 1} · {where}<br>{name} {words.number(value)}<br>{verified}"


def loss_curve(steps: Sequence[Json], *, preserved: bool = True) -> Lines:
    """Loss per step: all, safe, unsafe; each point leads to its step. A step that is not verified gets a cross."""
    x = [float(s["step"]) for s in steps]
    refs = [int(s["step"]) for s in steps]
    mode = "lines+markers" if len(steps) <= 400 else "lines"

    def trace(key: str, role: str, name: str, symbol: str) -> Trace:
        hover = [_step_hover(s, name, s[key]) for s in steps]
        return Trace(x, [s[key] for s in steps], role, name, mode, hover, refs, symbol, 6)

    broken = [s for s in steps if s["verified"] is False]
    marks = (
        Trace(
            [float(s["step"]) for s in broken],
            [s["loss"] for s in broken],
            "unsafe",
            "not verified",
            "markers",
            [_step_hover(s, "loss", s["loss"]) for s in broken],
            [int(s["step"]) for s in broken],
            "x",
            12,
        ),
    )
    return Lines(
        traces=(
            trace("loss_safe", "safe", "safe prompts", "square"),
            trace("loss_unsafe", "unsafe", "unsafe prompts", "triangle-up"),
            trace("loss", "all", "all", "circle"),
            *(marks if broken else ()),
        ),
        x_title="step (one step = one analysis batch)" if preserved else "step (samples of several batches)",
        y_title="loss on answer tokens",
        label="Training loss per step for all, safe and unsafe prompts; a point opens its step",
        height=340,
        from_zero=True,
    )


def order_by_epoch(steps: Sequence[Json]) -> Lines:
    """Which batch was visited when: the place in the epoch, one row of marks per batch, one colour change per epoch."""
    seen = [s for s in steps if s["batch_idx"] is not None]
    epochs: dict[int, list[Json]] = {}
    for s in seen:
        epochs.setdefault(s["epoch"], []).append(s)
    traces = [
        Trace(
            [float(s["step"]) for s in own],
            [float(s["batch_idx"]) for s in own],
            "accent" if epoch % 2 == 0 else "all",
            "",
            "markers",
            [
                f"epoch {epoch + 1}, place {i} · step {s['step']}<br>batch {s['batch_idx']}"
                for i, s in enumerate(own, 1)
            ],
            [int(s["step"]) for s in own],
            size=6,
        )
        for epoch, own in epochs.items()
    ]
    last = max((s["batch_idx"] for s in seen), default=0)
    ends = [own[-1]["step"] + 0.5 for own in list(epochs.values())[:-1]]
    rules = [Trace([end, end], [-0.5, last + 0.5], "quiet") for end in ends]
    return Lines(
        (*rules, *traces),
        "step",
        "analysis batch",
        f"Order in which batches were visited in {len(epochs)} epochs; a point opens its step",
        height=300,
    )


def loss_against_risk(steps: Sequence[Json], batches: Sequence[Json]) -> Lines:
    """Loss of each step against max |risk_diff| of its batch."""
    risk = {b["batch_idx"]: b["max_abs_risk_diff"] for b in batches}
    seen = [s for s in steps if risk.get(s["batch_idx"]) is not None and s["loss"] is not None]
    hover = [_step_hover(s, "loss", s["loss"]) for s in seen]
    trace = Trace(
        [float(risk[s["batch_idx"]]) for s in seen],
        [s["loss"] for s in seen],
        "accent",
        "",
        "markers",
        hover,
        [int(s["step"]) for s in seen],
        size=6,
    )
    label = "Loss of each step against max |risk_diff| of its batch; a point opens its step"
    return Lines((trace,), "max |risk_diff| of the batch", "loss", label, height=280, x_whole=False)
