"""Data -> what a plot shows. Pure: no Streamlit, no HTTP; colours and fonts are the theme's, chosen in the browser.

A `Heat` is a matrix [site, expert]; a `Lines` is a set of traces whose points can lead somewhere (`refs`).
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashboard import words
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


def risk_heat(
    risk: Json,
    sites: Sequence[Json],
    vmax: float,
    what: str,
    *,
    marks: Sequence[tuple[int, int]] = (),
    frames: Sequence[tuple[int, int]] = (),
    tests: Mapping[str, Matrix | None] | None = None,
    interval: str = "interval",
) -> Heat | None:
    """Return the heatmap of a risk-diff answer (matrices already float32), or None where it holds no values.

    tests: figures of the statistics by their names in the API, for the hover.
    """
    if risk["risk_diff"] is None:
        return None
    rows, tested = len(sites), tests or {}
    label = (
        f"{what}: heatmap of risk_diff, {rows} layers by {risk['risk_diff'].shape[1]} experts. "
        "Arrow keys walk the cells, Enter opens one."
    )
    return Heat(
        z=risk["risk_diff"],
        labels=site_labels(sites),
        vmax=vmax,
        label=label,
        safe=risk.get("rate_safe"),
        unsafe=risk.get("rate_unsafe"),
        floor=risk.get("noise_floor_cells"),
        low=tested.get("ci_low"),
        high=tested.get("ci_high"),
        p=tested.get("p_max_t"),
        q=tested.get("q"),
        frequency=tested.get("frequency"),
        interval=interval,
        marks=tuple(marks),
        frames=tuple(frames),
    )


def difference_heat(a: Matrix, b: Matrix, sites: Sequence[Json], vmax: float, what: str) -> Heat:
    """Return batch minus aggregate."""
    label = f"{what} minus all batches: heatmap of {len(sites)} layers by {a.shape[1]} experts."
    return Heat(z=(a - b).astype("<f4"), labels=site_labels(sites), vmax=vmax, label=label, unit="difference")


def above_floor(values: Matrix | None, floor: float | None) -> tuple[tuple[int, int], ...]:
    """Return the cells (row, expert) whose |value| exceeds `floor`; NaN never does."""
    if values is None or floor is None:
        return ()
    rows, experts = np.nonzero(np.abs(np.nan_to_num(values)) > floor)
    return tuple(zip(rows.tolist(), experts.tolist(), strict=True))


def below(values: Matrix | None, limit: float) -> Cells:
    """Return the cells (row, expert) whose value is at most `limit`; NaN never is."""
    if values is None:
        return ()
    rows, experts = np.nonzero(values <= np.float32(limit))
    return tuple(zip(rows.tolist(), experts.tolist(), strict=True))


def cells_of(experts: Sequence[Sequence[int]], sites: Sequence[Json]) -> tuple[tuple[int, int], ...]:
    """Turn [layer, expert] pairs into (row, expert); a layer with two sites means both."""
    rows: dict[int, list[int]] = {}
    for row, site in enumerate(sites):
        rows.setdefault(site["layer"], []).append(row)
    return tuple((row, int(expert)) for layer, expert in experts for row in rows.get(int(layer), ()))


def chosen_cell(layer: int | None, expert: int | None, sites: Sequence[Json]) -> tuple[int, int] | None:
    """Return (row, expert) of an address that may name no cell of this model."""
    if layer is None or expert is None:
        return None
    cells = cells_of([(layer, expert)], sites)
    return cells[0] if cells and expert < sites[cells[0][0]]["n_experts"] else None


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


def expert_over_batches(expert: Json) -> Lines:
    """risk_diff of one expert in every batch, inside the band that label shuffles alone reach."""
    rows = expert["batches"]
    x = [float(r["batch_idx"]) for r in rows]
    floor = [r["noise_floor"] for r in rows]
    hover = [f"batch {r['batch_idx']}<br>risk_diff {words.signed(r['risk_diff'], 4)}" for r in rows]
    mean = expert["risk_diff"]
    return Lines(
        traces=(
            Trace(x, floor, "floor", "95 % of label shuffles", "band", mirrored=True),
            Trace([x[0], x[-1]] if x else [], [mean, mean] if x else [], "accent", name="all batches"),
            Trace(
                x, [r["risk_diff"] for r in rows], "all", "one batch", "markers", hover, [r["batch_idx"] for r in rows]
            ),
        ),
        x_title="batch",
        y_title="risk_diff",
        label=f"risk_diff of layer {expert['layer']}, expert {expert['expert']} per batch; a point opens its batch",
        height=290,
        zero=True,
    )


def batches_strip(rows: Sequence[Json]) -> Lines:
    """max |risk_diff| of every batch beside what shuffled labels reach."""
    x = [float(r["batch_idx"]) for r in rows]
    hover = [
        f"batch {r['batch_idx']}<br>max |risk_diff| {words.number(r['max_abs_risk_diff'])}"
        f"<br>noise floor {words.number(r['noise_floor'])}"
        for r in rows
    ]
    return Lines(
        traces=(
            Trace(x, [r["noise_floor"] for r in rows], "floor", "noise floor (95 % of label shuffles)", "band"),
            Trace(
                x,
                [r["max_abs_risk_diff"] for r in rows],
                "all",
                "max |risk_diff|",
                "markers",
                hover,
                [r["batch_idx"] for r in rows],
            ),
        ),
        x_title="batch",
        y_title="max |risk_diff|",
        label="Largest |risk_diff| of every batch beside its noise floor; a point opens its batch",
        height=260,
        from_zero=True,
    )


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
