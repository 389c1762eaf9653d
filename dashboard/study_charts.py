"""Both arms of a study as strips of dots, one dot a run. Pure: no Streamlit, no HTTP."""

from collections.abc import Sequence

from dashboard import words
from dashboard.charts import Lines, Trace
from dashboard.client import Json

ROWS = {"preserved": (2.0, "batches kept"), "shuffled": (1.0, "reshuffled")}
LOOKS = {"preserved": ("accent", "diamond"), "shuffled": ("all", "circle")}
_APART = 0.4
"""Height over which the runs of an arm are spread, so that no dot hides another."""


def value(measure: Json, one: float | None, *, sign: bool = False) -> str:
    """Say a figure of a measure: '92.0 %' for a share, else with as many digits as it needs."""
    if one is None:
        return "–"
    if measure["unit"] == "share":
        return f"{words.signed(100 * one, 1)} points" if sign else words.percent(one, 1)
    digits = 2 if measure["key"] == "perplexity" else 4
    return words.signed(one, digits) if sign else words.number(one, digits)


def span(measure: Json, low: float | None, high: float | None, *, sign: bool = False) -> str:
    """Say an interval of a measure."""
    if low is None or high is None:
        return "no interval"
    return f"{value(measure, low, sign=sign)} to {value(measure, high, sign=sign)}"


def of_measure(measure: Json, refs: dict[tuple[str, int], int]) -> Lines:
    """Return the strip of one measure. refs: where the dot of an arm and seed leads."""
    scale = 100.0 if measure["unit"] == "share" else 1.0
    traces = []
    if measure["base"] is not None:
        base = scale * measure["base"]
        traces.append(Trace([base, base], [0.5, 2.5], "quiet", "untrained model"))
    for arm, (row, name) in ROWS.items():
        own = measure["arms"][arm]
        role, symbol = LOOKS[arm]
        hover = [
            f"{name}, seed {seed}<br>{value(measure, one)}<br>opens its training"
            for seed, one in zip(measure["seeds"], own["values"], strict=True)
        ]
        lead = [refs[arm, seed] for seed in measure["seeds"]]
        x = [scale * one for one in own["values"]]
        if own["low"] is not None:
            ends = [scale * own["low"], scale * own["high"]]
            traces.append(Trace(ends, [row - 0.3] * 2, role, "", "lines+markers", size=4.0, solid=True))
        traces.append(Trace(x, _rows(row, len(x)), role, "", "markers", hover, lead, symbol, 9.0))
    unit = "%" if measure["unit"] == "share" else measure["unit"]
    label = f"{measure['title']} of every run, batches kept above, reshuffled below; a dot opens its training"
    return _strip(traces, f"{measure['title']} ({unit})", label)


def of_maps(maps: Json) -> Lines:
    """Return the strip of distances between the maps of every two seeds of an arm; a dot leads to its pair."""
    traces, start = [], 0
    for arm, (row, name) in ROWS.items():
        pairs = maps["arms"][arm]["pairs"]
        role, symbol = LOOKS[arm]
        hover = [
            f"{name}, seeds {pair['seeds'][0]} and {pair['seeds'][1]}<br>{words.number(pair['distance'], 5)} apart"
            f"<br>correlation {words.number(pair['correlation'], 4)}<br>opens both, compared"
            for pair in pairs
        ]
        x = [float(pair["distance"]) for pair in pairs]
        refs = list(range(start, start + len(pairs)))
        start += len(pairs)
        mean = maps["arms"][arm]["mean_distance"]
        if mean is not None:
            traces.append(Trace([mean, mean], [row - 0.42, row + 0.42], role, "", solid=True))
        traces.append(Trace(x, _rows(row, len(x)), role, "", "markers", hover, refs, symbol, 8.0))
    label = "Distance between the risk_diff maps of every two seeds, batches kept above; a dot compares its pair"
    return _strip(traces, "distance of two models' maps (RMS)", label)


def _strip(traces: Sequence[Trace], x_title: str, label: str) -> Lines:
    return Lines(tuple(traces), x_title, "", label, height=230, x_whole=False, y_ticks=tuple(ROWS.values()))


def _rows(row: float, n: int) -> list[float | None]:
    return [row + (0.5 - (place + 0.5) / n) * _APART for place in range(n)]
