"""Data -> what a plot shows. Pure: no Streamlit, no HTTP; colours and fonts are the theme's, chosen in the browser.

A `Heat` is a matrix [site, expert]; a `Lines` is a set of traces whose points can lead somewhere (`refs`).
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashboard.client import Json

Matrix = NDArray[np.float32]
Cells = tuple[tuple[int, int], ...]
MATRICES = ("z", "safe", "unsafe", "floor", "low", "high", "p", "q", "frequency", "more")
"""The matrices of a `Heat`, as the browser names them."""


@dataclass(frozen=True, slots=True)
class Heat:
    """One heatmap: matrices [site, expert] float32, NaN = no value; vmax: end of the symmetric scale.

    row: what a row is; palette: `scale` (blue safe, red unsafe), `share` or `amount`; from_zero: the scale begins at 0
    instead of −vmax; more: one further figure per cell, said
    after `more_words`. low, high: ends of the interval that `interval` names; p: of the family of all experts; q: by
    Benjamini-Hochberg; frequency: how often the expert is chosen from other prompts. marks, frames: (row, expert) that
    get a dot, that get an outline.
    """

    z: Matrix
    labels: tuple[str, ...]
    vmax: float
    label: str
    unit: str = "risk_diff"
    safe: Matrix | None = None
    unsafe: Matrix | None = None
    floor: Matrix | None = None
    low: Matrix | None = None
    high: Matrix | None = None
    p: Matrix | None = None
    q: Matrix | None = None
    frequency: Matrix | None = None
    interval: str = "interval"
    marks: Cells = ()
    frames: Cells = ()
    row: str = "Layer"
    palette: str = "scale"
    from_zero: bool = False
    digits: int = 4
    more: Matrix | None = None
    more_words: str = ""

    @property
    def height(self) -> int:
        """Pixels: rows of a comfortable height while there are few, a whole screen at most."""
        return int(min(680, max(190, len(self.labels) * 30)) + 74)

    def columns(self) -> dict[str, list[Any]]:
        """Return what the map shows as columns of a table, one line per cell."""
        rows, cols = self.z.shape
        shown = {"z": self.unit, "safe": "rate_safe", "unsafe": "rate_unsafe", "floor": "noise_floor"}
        found = {"low": "low", "high": "high", "p": "p_max_t", "q": "q", "frequency": "frequency"}
        named = shown | found | {"more": self.more_words.rstrip(":") or "more"}
        values = {word: getattr(self, name) for name, word in named.items() if getattr(self, name) is not None}
        return {
            self.row.lower(): [label for label in self.labels for _ in range(cols)],
            "other" if self.row == "Expert" else "expert": list(range(cols)) * rows,
            **{word: matrix.ravel().tolist() for word, matrix in values.items()},
        }

    def spec(self) -> Json:
        """Return JSON for the browser; arrays as base64 of little-endian float32."""
        bodies = {name: _encode(getattr(self, name)) for name in MATRICES}
        stamp = hashlib.sha256("|".join(b or "" for b in bodies.values()).encode()).hexdigest()[:16]
        return {
            **bodies,
            "matrices": list(MATRICES),
            "stamp": stamp,
            "rows": self.z.shape[0],
            "cols": self.z.shape[1],
            "labels": list(self.labels),
            "vmax": self.vmax,
            "label": self.label,
            "unit": self.unit,
            "row": self.row,
            "palette": self.palette,
            "vmin": 0.0 if self.from_zero else -self.vmax,
            "digits": self.digits,
            "moreWords": self.more_words,
            "interval": self.interval,
            "marks": [list(m) for m in self.marks],
            "frames": [list(f) for f in self.frames],
            "height": self.height,
        }


def _encode(values: Matrix | None) -> str | None:
    return None if values is None else base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()


def site_labels(sites: Sequence[Json]) -> tuple[str, ...]:
    """Return one name per row: the layer's own number, with the module where a layer holds two sites."""
    layers = [s["layer"] for s in sites]
    return tuple(
        str(s["layer"]) if layers.count(s["layer"]) == 1 else f"{s['layer']} {s['site'].rsplit('.', 1)[-1]}"
        for s in sites
    )


def round_up(value: float) -> float:
    """Return the next 'round' number at or above value, so that colour bars end on readable ticks."""
    if not np.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(s for s in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if s * power >= value * (1 - 1e-9)) * power)


def largest(values: Matrix) -> float:
    """Return the largest |value|; 0 where there is none."""
    return float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0


@dataclass(frozen=True, slots=True)
class Trace:
    """One line or cloud of points. role: all, safe, unsafe, accent, quiet, floor, series0 to series7; mode: as in
    Plotly, or `band`: a grey box per point; refs: where each point leads."""

    x: list[float]
    y: list[float | None]
    role: str
    name: str = ""
    mode: str = "lines"
    hover: list[str] | None = None
    refs: list[int] | None = None
    symbol: str | None = None
    size: float | None = None
    mirrored: bool = False  # a band from −y to y, not from 0 to y
    solid: bool = False  # a line without dashes, whatever its role
    low: list[float | None] | None = None  # with `high`: an interval along x
    high: list[float | None] | None = None


@dataclass(frozen=True, slots=True)
class Lines:
    """A plot of traces with its axes in words."""

    traces: tuple[Trace, ...]
    x_title: str
    y_title: str
    label: str
    height: int = 300
    x_whole: bool = True
    zero: bool = False
    from_zero: bool = False
    y_ticks: tuple[tuple[float, str], ...] = ()  # rows with names instead of numbers
    x_range: tuple[float, float] | None = None

    def columns(self) -> dict[str, list[Any]]:
        """Return the points as columns of a table: which trace, x, y, and the ends of intervals where there are any."""
        names = [t.name or t.role for t in self.traces for _ in t.x]
        found: dict[str, list[Any]] = {
            "trace": names,
            "x": [v for t in self.traces for v in t.x],
            "y": [v for t in self.traces for v in t.y],
        }
        if any(t.low for t in self.traces):
            for end in ("low", "high"):
                found[end] = [v for t in self.traces for v in getattr(t, end) or [None] * len(t.x)]
        return found

    def spec(self) -> Json:
        """Return JSON for the browser."""
        return asdict(self)
