"""risk_diff -> the maps and strips that show it. Pure: no Streamlit, no HTTP."""

from collections.abc import Mapping, Sequence

from dashboard import words
from dashboard.charts import Cells, Heat, Lines, Matrix, Trace, site_labels
from dashboard.client import Json


def risk_heat(
    risk: Json,
    sites: Sequence[Json],
    vmax: float,
    what: str,
    *,
    marks: Cells = (),
    frames: Cells = (),
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
        marks=marks,
        frames=frames,
    )


def plain_heat(
    values: Matrix, sites: Sequence[Json], vmax: float, what: str, *, unit: str = "risk_diff", marks: Cells = ()
) -> Heat:
    """Return the map of values alone: one side of a comparison, or a difference."""
    label = f"{what}: heatmap of {unit}, {len(sites)} layers by {values.shape[1]} experts. Arrow keys walk the cells."
    return Heat(z=values.astype("<f4"), labels=site_labels(sites), vmax=vmax, label=label, unit=unit, marks=marks)


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
