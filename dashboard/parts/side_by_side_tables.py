"""Tables of several analyses side by side: the experts that differ most, and every two of the sides."""

from dashboard import address, ui, words
from dashboard.client import Json
from dashboard.parts import expert_tables
from dashboard.table import Column, Row, cell, table


def movers(found: Json) -> None:
    """Show the experts whose risk_diff spreads most over the sides; a row leads to its cell."""
    rows = found["movers"]
    if not rows:
        ui.note("No expert's risk_diff differs between these.")
        return
    largest = rows[0]["spread"]
    columns = (
        expert_tables.EXPERT,
        Column("spread", "Spread", "right", "part"),
        *(Column(f"s{i}", f"{i + 1}: {side['name']}"[:40], "right") for i, side in enumerate(found["sides"])),
    )
    made = []
    for r in rows:
        cells = {
            "spread": cell(words.number(r["spread"], 4), r["spread"] / largest),
        }
        cells |= {f"s{i}": cell(words.signed(value, 4), value) for i, value in enumerate(r["risk_diff"])}
        made.append(expert_tables.expert_row(r["layer"], r["expert"], cells))

    expert_tables.show(columns, made, key="spreads", label="Experts that differ most")
    ui.note("Spread: the largest risk_diff of any side minus the smallest. The largest of many is large by luck too.")


PAIRS = (
    Column("pair", "Pair"),
    Column("rms", "Drift (RMS)", "right"),
    Column("largest", "Largest difference", "right", minor=True),
    Column("spearman", "Spearman", "right"),
    Column("shared", "Top 5 % in both", "right"),
    Column("jaccard", "Jaccard", "right", "part"),
    Column("by_chance", "Jaccard by chance", "right", minor=True),
)


def pairs(found: Json, ids: list[str]) -> None:
    """Show drift, correlation and overlap of every two; a row leads to the two in depth."""
    made = []
    for r in found["pairs"]:
        top = next(one for one in r["overlap"] if one["direction"] == "both" and one["top"] == "5 %")
        address_of = address.href("compare", a=ids[r["a"]], b=ids[r["b"]], scope=found["scope"], pool=found["pool"])
        names = [f"{r[side] + 1}: {found['sides'][r[side]]['name']}" for side in "ab"]
        cells = {
            "pair": cell(" → ".join(names)),
            "rms": cell(words.number(r["drift"]["rms"], 4), r["drift"]["rms"]),
            "largest": cell(words.number(r["drift"]["max_abs"], 4), r["drift"]["max_abs"]),
            "spearman": cell(words.number(r["correlation"]["spearman"], 2), r["correlation"]["spearman"]),
            "shared": cell(f"{top['both']} of {max(top['n_a'], top['n_b'])}", top["both"]),
            "jaccard": cell(words.number(top["jaccard"], 2), top["jaccard"]),
            "by_chance": cell(words.number(top["jaccard_by_chance"], 2), top["jaccard_by_chance"]),
        }
        made.append(Row(f"{r['a']}.{r['b']}", address_of, cells))
    opened = table(PAIRS, made, key="pairs", label="Every two of them")
    if opened:
        a, b = (int(place) for place in opened.split("."))
        address.go("compare", a=ids[a], b=ids[b], scope=found["scope"], pool=found["pool"])
    ui.note("A row opens the two: their difference map, drift per layer, and intervals where prompts allow them.")
