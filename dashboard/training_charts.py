"""Figures of several trainings beside each other. Pure: no Streamlit, no HTTP."""

from collections.abc import Sequence

from dashboard import words
from dashboard.charts import Lines, Trace
from dashboard.client import Json

LOSSES = {"loss": "all", "loss_safe": "safe prompts", "loss_unsafe": "unsafe prompts"}


def losses(names: Sequence[str], steps: Sequence[Sequence[Json]], key: str, *, epochs: bool) -> Lines:
    """Return one loss curve per training on one scale. steps: of each training; key: one of LOSSES.

    epochs: x is the share of the plan that was trained, so that runs over plans of other sizes meet.
    """
    traces = []
    for number, (name, own) in enumerate(zip(names, steps, strict=True)):
        x = [_epochs(step, own) if epochs else float(step["step"]) for step in own]
        where = "epoch" if epochs else "step"
        hover = [f"{name}<br>step {step['step']}<br>{LOSSES[key]} {words.number(step[key])}" for step in own]
        traces.append(Trace(x, [step[key] for step in own], f"series{number}", name, "lines", hover))
    return Lines(
        traces=tuple(traces),
        x_title="epochs trained" if epochs else "step",
        y_title=f"loss, {LOSSES[key]}",
        label=f"Loss per {where}, {LOSSES[key]}, of {len(names)} trainings on one scale",
        height=360,
        x_whole=not epochs,
        from_zero=True,
    )


def _epochs(step: Json, own: Sequence[Json]) -> float:
    """Return how many epochs were trained after this step; an epoch is as long as the run's first."""
    length = max(1, sum(other["epoch"] == own[0]["epoch"] for other in own))
    return float(step["step"] / length)


def differing(params: Sequence[Json]) -> dict[str, list[object]]:
    """Return the settings that are not the same in all runs, by their name, with the value in each."""
    names = sorted({name for own in params for name in own})
    values = {name: [own.get(name) for own in params] for name in names}
    return {name: own for name, own in values.items() if any(value != own[0] for value in own)}


def shared(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> tuple[int, float | None]:
    """Return how many experts two sets have in common, and their Jaccard index (None: both are empty)."""
    one, other = ({tuple(expert) for expert in own} for own in (a, b))
    both = len(one & other)
    return both, both / len(one | other) if one | other else None
