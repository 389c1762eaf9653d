"""Figures of a comparison: the drift per layer. Its maps are risk_charts.plain_heat. Pure: no Streamlit, no HTTP."""

from collections.abc import Sequence

import numpy as np

from dashboard import words
from dashboard.charts import Lines, Matrix, Trace, site_labels
from dashboard.client import Json


def drift_per_layer(layers: Sequence[Json], intervals: Sequence[Json | None], labels: Sequence[str]) -> Lines:
    """Drift per layer as measured, and beside it what is left after sampling noise, with its interval."""
    x = _along(layers)
    plain = [layer["rms"] for layer in layers]
    hover = [f"layer {labels[i]}<br>drift {words.number(layer['rms'], 4)}" for i, layer in enumerate(layers)]
    traces = [Trace(x, plain, "all", "drift as measured (RMS of b − a)", "lines+markers", hover, size=5)]
    own = [one or {} for one in intervals]
    if any(own):
        said = [
            f"layer {labels[i]}<br>without sampling noise {words.number(one.get('corrected'), 4)}"
            f"<br>{words.number(one.get('low'), 4)} to {words.number(one.get('high'), 4)}"
            for i, one in enumerate(own)
        ]
        corrected = [one.get("corrected") for one in own]
        traces += [
            Trace(x, [one.get("noise") for one in own], "floor", "sampling noise alone", "band"),
            Trace(x, [one.get("low") for one in own], "quiet", "interval, low end", "lines"),
            Trace(x, [one.get("high") for one in own], "quiet", "interval, high end", "lines"),
            Trace(x, corrected, "accent", "without sampling noise", "lines+markers", said, size=6),
        ]
    return Lines(
        traces=tuple(traces),
        x_title="MoE layer",
        y_title="drift of risk_diff",
        label="Drift of risk_diff per layer",
        height=300,
        from_zero=True,
    )


def drift_from_first(found: Json) -> Lines:
    """Drift per layer of every other side from the first: one line each."""
    first, sites = found["risk_diff"][0], found["sites"]
    x = _along(sites)
    labels = site_labels(sites)
    traces = []
    for number, (side, own) in enumerate(zip(found["sides"][1:], found["risk_diff"][1:], strict=True), 1):
        moved = [root_mean_square(row) for row in own - first]
        name = f"{number + 1}: {side['name']}"
        hover = [f"{name}<br>layer {labels[i]}<br>drift {words.number(value, 4)}" for i, value in enumerate(moved)]
        traces.append(Trace(x, moved, f"series{number}", name, "lines+markers", hover, size=6))
    return Lines(
        traces=tuple(traces),
        x_title="MoE layer",
        y_title="drift from the first (RMS)",
        label="Drift of risk_diff from the first side, per layer",
        height=300,
        from_zero=True,
    )


def _along(sites: Sequence[Json]) -> list[float]:
    """Return where each site stands along x: its layer's number, or its place where a layer holds two sites."""
    numbers = [float(site["layer"]) for site in sites]
    return numbers if len(set(numbers)) == len(numbers) else [float(place) for place in range(len(sites))]


def root_mean_square(values: Matrix) -> float | None:
    """Return the RMS of what is there; None where nothing is."""
    own = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(own.astype(np.float64) ** 2))) if own.size else None
