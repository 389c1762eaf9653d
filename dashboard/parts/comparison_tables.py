"""Tables of a comparison: what moved most, overlap of the top experts, drift layer by layer."""

from collections.abc import Sequence

from dashboard import ui, words
from dashboard.client import Json
from dashboard.data import Matrix
from dashboard.parts import expert_tables
from dashboard.table import Column, Row, cell, table

DIRECTIONS = {"unsafe": "fires more on unsafe", "safe": "fires more on safe", "both": "either way"}


def interval_words(low: float | None, high: float | None) -> str:
    """'−0.012 to +0.034', or a dash where there is none."""
    there = low is not None and high is not None and low == low and high == high  # noqa: PLR0124 - NaN is not itself
    return f"{words.signed(low)} to {words.signed(high)}" if there else "–"


def movers(found: Json, low: Matrix | None, high: Matrix | None, trained: set[tuple[int, int]]) -> None:
    """Show the experts whose risk_diff moved most; a row leads to its cell."""
    rows = found["result"]["movers"]
    if not rows:
        ui.note("No expert's risk_diff differs between the two.")
        return
    largest = abs(rows[0]["difference"]) or 1.0
    columns = (
        expert_tables.EXPERT,
        Column("difference", "b − a", "right", "bar", max=largest),
        Column("a", "risk_diff in a", "right"),
        Column("b", "risk_diff in b", "right"),
        *((Column("interval", "Interval of b − a", "right"),) if low is not None else ()),
        *((Column("trained", "Trained", minor=True),) if trained else ()),
    )
    made = []
    for r in rows:
        at = (r["site"], r["expert"])
        cells = {
            "difference": cell(words.signed(r["difference"], 4), r["difference"]),
            "a": cell(words.signed(r["risk_diff_a"], 4), r["risk_diff_a"]),
            "b": cell(words.signed(r["risk_diff_b"], 4), r["risk_diff_b"]),
            "trained": cell("yes" if (r["layer"], r["expert"]) in trained else ""),
        }
        if low is not None and high is not None:
            cells["interval"] = cell(interval_words(float(low[at]), float(high[at])), float(low[at]))
        made.append(expert_tables.expert_row(r["layer"], r["expert"], cells))

    expert_tables.show(columns, made, key="movers", label="Experts that moved most")
    ui.note(
        "The largest differences of many are large by luck too: an interval here is each expert's own."
        if low is not None
        else "Without intervals nothing here says what is more than luck."
    )


OVERLAP = (
    Column("direction", "Direction"),
    Column("top", "Top", "right"),
    Column("both", "In both", "right"),
    Column("expected", "By chance", "right"),
    Column("jaccard", "Jaccard", "right", "part"),
    Column("by_chance", "Jaccard by chance", "right", minor=True),
)


def overlap(rows: Sequence[Json]) -> None:
    """Show how many of both sides' top experts are the same."""
    made = [
        Row(
            f"{r['direction']}:{r['top']}",
            None,
            {
                "direction": cell(DIRECTIONS[r["direction"]]),
                "top": cell(r["top"], r["k"]),
                "both": cell(f"{r['both']} of {max(r['n_a'], r['n_b'])}", r["both"]),
                "expected": cell(words.number(r["expected"], 1), r["expected"]),
                "jaccard": cell(words.number(r["jaccard"], 2), r["jaccard"]),
                "by_chance": cell(words.number(r["jaccard_by_chance"], 2), r["jaccard_by_chance"]),
            },
        )
        for r in rows
    ]
    table(OVERLAP, made, key="overlap", label="Overlap of the top experts")
    ui.note("By chance: what two sets of these sizes, drawn at random from all experts, share on average.")


LAYERS = (
    Column("layer", "Layer"),
    Column("rms", "Drift (RMS)", "right"),
    Column("corrected", "Without noise", "right"),
    Column("interval", "Interval", "right"),
    Column("js_safe", "JS distance, safe", "right", minor=True),
    Column("js_unsafe", "JS distance, unsafe", "right", minor=True),
    Column("spearman", "Spearman", "right", minor=True),
    Column("trained", "Trained experts", "right", minor=True),
)


def layers(rows: Sequence[Json], intervals: Sequence[Json | None], trained: set[tuple[int, int]]) -> None:
    """Show the drift of every layer."""
    made = []
    for r, interval in zip(rows, intervals, strict=True):
        own = interval or {}
        n = sum(layer == r["layer"] for layer, _ in trained)
        there = f"{words.number(own['low'], 4)} to {words.number(own['high'], 4)}" if own else "–"
        made.append(
            Row(
                str(r["site"]),
                None,
                {
                    "layer": cell(f"Layer {r['layer']}", r["site"]),
                    "rms": cell(words.number(r["rms"], 4), r["rms"]),
                    "corrected": cell(words.number(own.get("corrected"), 4), own.get("corrected")),
                    "interval": cell(there, own.get("low")),
                    "js_safe": cell(words.number(r["jensen_shannon_safe"]), r["jensen_shannon_safe"]),
                    "js_unsafe": cell(words.number(r["jensen_shannon_unsafe"]), r["jensen_shannon_unsafe"]),
                    "spearman": cell(words.number(r["spearman"], 2), r["spearman"]),
                    "trained": cell(n or "", n),
                },
            )
        )
    table(LAYERS, made, key="drift-layers", label="Drift per layer", height=420)
    ui.note(
        "JS distance: how far apart the layer's activations are on the same kind of prompts, 0 (alike) to 1 (disjoint)."
    )
