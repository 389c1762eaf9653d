"""The real set among the random ones: one dot a set, how far each moved a measure. Pure: no Streamlit, no HTTP."""

from collections.abc import Sequence

from dashboard import words
from dashboard.charts import Lines, Trace
from dashboard.client import Json

ROWS = {"real": (3.0, "this set"), "random": (2.0, "random sets"), "load_matched": (1.0, "same load")}
_BINS, _STEP, _MOST = 60, 0.12, 0.36
REAL_ARM = 1
"""The arm of the real set, in every evaluation that has one."""


def moved(measure: Json, change: float | None) -> str:
    """Say a change: '−86 points' for a rate, '× 1.07' for a ratio."""
    if change is None:
        return "–"
    if measure["scale"] == "ratio":
        return f"× {words.number(change, 2)}"
    return f"{words.signed(100 * change, 0)} points"


def value(measure: Json, one: Json | None) -> str:
    """Say a figure: '92 %' for a rate, '12.4' for a perplexity."""
    if one is None or one["value"] is None:
        return "–"
    if measure["scale"] == "ratio":
        return words.number(one["value"], 1 if one["value"] < 100 else 0)
    return words.percent(one["value"], 0)


def span(measure: Json, one: Json | None) -> str:
    """Say an interval: '81 to 97 %', or why there is none."""
    if one is None or one["value"] is None:
        return one["how"] if one else ""
    if one["low"] is None or one["high"] is None:
        return str(one["how"])
    if measure["scale"] == "ratio":
        digits = 1 if one["high"] < 100 else 0
        return f"{words.number(one['low'], digits)} to {words.number(one['high'], digits)}"
    return f"{100 * one['low']:.0f} to {100 * one['high']:.0f} %"


def span_of_change(measure: Json) -> str:
    """Say the interval of the real set's change."""
    one = measure["difference"]
    if one is None or one["low"] is None:
        return str(one["how"]) if one else ""
    if measure["scale"] == "ratio":
        return f"{moved(measure, one['low'])} to {moved(measure, one['high'])}"
    return f"{words.signed(100 * one['low'], 0)} to {words.signed(100 * one['high'], 0)}"


def strip(measure: Json, title: str) -> Lines:
    """Return the plot of one measure: change to the baseline, the real set above its random ones."""
    rows = [("real", [REAL_ARM], [_change(measure)])] if _change(measure) is not None else []
    rows += [(c["family"], c["arms"], c["differences"]) for c in measure["controls"]]
    ratio = measure["scale"] == "ratio"
    scale = 1.0 if ratio else 100.0
    everything = [scale * float(x) for _, _, xs in rows for x in xs if x is not None]
    none = 1.0 if ratio else 0.0
    shown = [ROWS[family] for family, _, _ in rows]
    traces = [Trace([none, none], [0.5, 3.5], "quiet", "baseline")]
    traces += _interval(measure, scale)
    for family, arms, xs in rows:
        y, name = ROWS[family]
        x = [scale * float(v) for v in xs if v is not None]
        hover = [
            f"{name}{f', arm {arm}' if family != 'real' else ''}<br>{moved(measure, v)}"
            for arm, v in zip(arms, xs, strict=True)
        ]
        role, symbol, size = ("unsafe", "diamond", 11.0) if family == "real" else ("all", "circle", 7.0)
        traces.append(Trace(x, _stacked(x, y, everything), role, "", "markers", hover, list(arms), symbol, size))
    return Lines(
        tuple(traces),
        "times the baseline's" if ratio else "change to the baseline, in percentage points",
        "",
        f"{title}: change to the baseline of this set and of every random one; a point opens its answers",
        height=230 if len(rows) > 2 else 190,
        x_whole=False,
        y_ticks=tuple(shown),
    )


def _change(measure: Json) -> float | None:
    return measure["difference"]["value"] if measure["difference"] else None


def _interval(measure: Json, scale: float) -> list[Trace]:
    one = measure["difference"]
    if one is None or one["low"] is None or one["high"] is None:
        return []
    ends, row = [scale * one["low"], scale * one["high"]], [ROWS["real"][0]] * 2
    return [Trace(ends, [*row], "unsafe", "its 95 % interval", "lines+markers", size=4.0, solid=True)]


def _stacked(x: Sequence[float], y: float, everything: Sequence[float]) -> list[float | None]:
    """Put dots that would hide each other above and below one another, within their row."""
    low, high = min(everything), max(everything)
    width = (high - low) / _BINS or 1.0
    bins = [round((one - low) / width) for one in x]
    seen: dict[int, int] = {}
    placed: list[float | None] = []
    for bin_ in bins:
        place = seen[bin_] = seen.get(bin_, -1) + 1
        n = bins.count(bin_)
        placed.append(y + (place - (n - 1) / 2) * min(_STEP, 2 * _MOST / n))
    return placed


def verdict(measure: Json, control: Json) -> str:
    """Say where the real set stands among the random ones of a family."""
    if control["p"] is None:
        return ""
    n, k = control["n"], control["n_as_extreme"]
    sets = words.plural(n, "random set")
    kind = f"{sets} of its size per layer" if control["family"] == "random" else f"{sets} matched on load"
    how_many = "none" if k == 0 else ("every one" if k == n else f"{k}")
    best = (
        f", the smallest that {words.plural(n, 'set')} can show"
        if k == 0
        else f" (at best {words.number(control['smallest_p'], 3)})"
    )
    return f"Of {kind}, {how_many} moved it as far: p = {words.number(control['p'], 3)}{best}."
