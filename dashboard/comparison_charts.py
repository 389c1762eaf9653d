"""Figures of a comparison: three maps on one scale, and the drift per layer. Pure: no Streamlit, no HTTP."""

from collections.abc import Sequence

from dashboard import words
from dashboard.charts import Heat, Lines, Matrix, Trace, site_labels
from dashboard.client import Json

Marks = tuple[tuple[int, int], ...]


def side_heat(values: Matrix, sites: Sequence[Json], vmax: float, what: str, marks: Marks) -> Heat:
    """Return the map of one side's risk_diff."""
    label = f"{what}: heatmap of risk_diff, {len(sites)} layers by {values.shape[1]} experts."
    return Heat(z=values, labels=site_labels(sites), vmax=vmax, label=label, marks=marks)


def difference_map(values: Matrix, sites: Sequence[Json], vmax: float, marks: Marks) -> Heat:
    """Return the map of b − a, on the sides' own scale."""
    label = f"b minus a: heatmap of {len(sites)} layers by {values.shape[1]} experts. Arrow keys walk the cells."
    return Heat(z=values, labels=site_labels(sites), vmax=vmax, label=label, unit="b − a", marks=marks)


def drift_per_layer(layers: Sequence[Json], intervals: Sequence[Json | None], labels: Sequence[str]) -> Lines:
    """Drift per layer as measured, and beside it what is left after sampling noise, with its interval."""
    numbers = [float(layer["layer"]) for layer in layers]
    x = numbers if len(set(numbers)) == len(numbers) else [float(place) for place in range(len(layers))]
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
