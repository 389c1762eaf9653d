"""Figures of the statistics -> what a plot shows. Pure: no Streamlit, no HTTP."""

from collections.abc import Sequence

from dashboard import words
from dashboard.charts import Lines, Trace
from dashboard.client import Json

BASELINES = {
    "routing": "routing",
    "length": "prompt length alone",
    "tokens": "bag of token ids alone",
    "routing_and_tokens": "routing and token ids",
}


def baselines(beside: Json) -> Lines:
    """AUC of routing and of the baselines: a dot and its interval each, chance as a line."""
    names = list(BASELINES)
    y = [float(len(names) - 1 - place) for place in range(len(names))]
    aucs = [beside[name] for name in names]
    hover = [
        f"{BASELINES[name]}<br>AUC {words.number(auc['auc'])}<br>95 % interval {words.span(auc['low'], auc['high'])}"
        for name, auc in zip(names, aucs, strict=True)
    ]
    ends = [[auc[end] for auc in aucs] for end in ("low", "high")]
    dots = Trace(
        [auc["auc"] for auc in aucs], list(y), "accent", "", "markers", hover, size=9, low=ends[0], high=ends[1]
    )
    return Lines(
        traces=(Trace([0.5, 0.5], [-0.6, len(names) - 0.4], "quiet", "chance"), dots),
        x_title="AUC on held-out groups, with 95 % interval",
        y_title="",
        label="; ".join(text.replace("<br>", ", ") for text in hover),
        height=250,
        x_whole=False,
        y_ticks=tuple((place, BASELINES[name]) for place, name in zip(y, names, strict=True)),
        x_range=(min([0.45, *(auc["low"] - 0.02 for auc in aucs if auc["low"] is not None)]), 1.015),
    )


def drift(rows: Sequence[Json]) -> Lines:
    """Distance of every batch from the mean of all batches."""
    x = [float(r["batch_idx"]) for r in rows]
    hover = [f"batch {r['batch_idx']}<br>distance {words.number(r['distance'], 4)}" for r in rows]
    mode = "lines+markers" if len(rows) <= 400 else "lines"
    return Lines(
        traces=(Trace(x, [r["distance"] for r in rows], "all", "", mode, hover, size=5),),
        x_title="batch",
        y_title="distance of risk_diff",
        label=f"Distance of risk_diff of each of {len(rows)} batches from the mean of all batches",
        height=250,
        from_zero=True,
    )
