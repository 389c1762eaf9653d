"""The results: the figure, how many experts are significant, the strongest, the layers, the batches, the baselines."""

import math

import numpy as np
from numpy.typing import NDArray

from backend.domain.report.abstract import no_statistics
from backend.domain.report.beyond import baselines, stability
from backend.domain.report.document import Block, Column, Heatmap, Paragraph, Run, Section, Strip, Strong, Table, text
from backend.domain.report.facts import Facts, StatisticsFacts
from backend.domain.report.raster import round_up
from backend.domain.report.words import count, interval, listed, number, p_value, percent, plural, shown, signed

TOP = 20
"""Experts in the table; the whole table is one call away (reproduce.py)."""


def results(facts: Facts) -> Section:
    """Return the section."""
    if facts.table is None:
        nothing = text(f"There is nothing to show yet: {facts.reason}.")
        return Section("results", "Results", (Paragraph(nothing),))
    parts = [
        Section("experts", "Experts", (_heatmap(facts), _how_many(facts), expert_table(facts))),
        Section("layers", "Layers and load", (layer_table(facts), _dead(facts))),
        Section("batches", "Batches", _batches(facts)),
    ]
    if facts.statistics:
        parts += [
            Section("steadiness", "Stability on other prompts", stability(facts, facts.statistics)),
            Section("baselines", "What words alone can do", baselines(facts.statistics)),
        ]
    return Section("results", "Results", (), tuple(parts))


def _heatmap(facts: Facts) -> Heatmap:
    largest = round_up(facts.largest)
    marked = facts.significant & facts.exists
    n = int(marked.sum())
    marks = ""
    if facts.statistics and n:
        dots = "A dot marks the one significant expert" if n == 1 else f"Dots mark the {count(n)} significant experts"
        marks = f" {dots} (p_max_t ≤ {facts.statistics.summary['alpha']:g})."
    absent = "" if facts.exists.all() else " Grey cells without a value: the layer has no such expert."
    caption = (
        f"One row per MoE layer ({facts.site_names()[0]} on top), one column per expert. Red fires more on unsafe "
        f"prompts, blue more on safe ones; the scale ends at ±{largest:g}. Scope {facts.scope}, pool {facts.pool}, "
        f"{plural(facts.measured.n_batches, 'batch', 'batches')}.{marks}{absent}"
    )
    title = "risk_diff of every expert"
    return Heatmap("heatmap", title, text(caption), facts.risk_diff, marked, facts.site_names(), largest)


def _how_many(facts: Facts) -> Paragraph:
    if facts.statistics is None:
        return Paragraph(text(no_statistics(facts)))
    summary = facts.statistics.summary
    if not facts.statistics.testable:
        return Paragraph(text(Strong("No expert can be called significant."), f" {shown(summary['design']['reason'])}"))
    return Paragraph(
        text(
            Strong(f"{_of_experts(summary['n_significant'])} of {count(summary['n_tested'])} tested"),
            f" {'is' if summary['n_significant'] <= 1 else 'are'} significant at p_max_t ≤ {summary['alpha']:g} "
            f"({count(summary['n_significant_unsafe'])} fire more on unsafe, {count(summary['n_significant_safe'])} "
            f"more on safe prompts); {count(summary['n_q05'])} have q ≤ 0.05. The critical |t| is "
            f"{number(summary['critical_t'], 2)}.",
        )
    )


def _of_experts(n: int) -> str:
    return plural(n, "expert") if n else "No expert"


def strongest(facts: Facts) -> list[tuple[int, int]]:
    """Return (row, expert) of the first experts: by p_max_t and |t| where they are tested, else by |risk_diff|."""
    size = np.abs(np.nan_to_num(facts.risk_diff, nan=-1.0))
    keys: list[NDArray[np.float64]] = [-size.ravel()]
    if facts.statistics and facts.statistics.testable:
        figures = facts.statistics.figures
        keys += [-np.nan_to_num(np.abs(figures["t"]).ravel(), nan=-1.0)]
        keys += [np.nan_to_num(figures["p_max_t"].ravel(), nan=2.0)]
    there = facts.exists.ravel()
    order = [place for place in np.lexsort(keys).tolist() if there[place]]
    return [divmod(place, facts.exists.shape[1]) for place in order[:TOP]]


def expert_table(facts: Facts) -> Table:
    """Return the strongest experts with everything known of them."""
    assert facts.table is not None
    tested = facts.statistics is not None
    columns = ["Layer", "Expert", "risk_diff", "Rate unsafe", "Rate safe"]
    if facts.statistics:
        level = percent(facts.statistics.summary["intervals"]["level"], 0)
        columns += [f"{level} interval", "p", "p_max_t", "q", "Selected in", "Load"]
    rows = [_expert_row(facts, row, expert) for row, expert in strongest(facts)]
    by = "p_max_t, then |t|" if facts.statistics and facts.statistics.testable else "|risk_diff|"
    note = "Load: tokens received, to an even share of 1. Selected in: share of resamples that choose the expert."
    return Table(
        "top-experts",
        f"The first {len(rows)} of {count(facts.n_experts)} experts by {by}",
        tuple(Column(title, "right") for title in columns),
        tuple(rows),
        text(note) if tested else text("Untested: the order is that of |risk_diff| in these very prompts."),
    )


def _expert_row(facts: Facts, row: int, expert: int) -> tuple[Run, ...]:
    assert facts.table is not None
    value = signed(facts.risk_diff[row, expert], facts.decimals)
    cells: tuple[Run, ...] = (
        facts.site_names()[row],
        str(expert),
        Strong(value) if facts.significant[row, expert] else value,
        number(facts.table.rate_unsafe[row, expert], facts.decimals),
        number(facts.table.rate_safe[row, expert], facts.decimals),
    )
    if facts.statistics is None:
        return cells
    own = {name: float(figure[row, expert]) for name, figure in facts.statistics.figures.items()}
    return (
        *cells,
        interval(own["ci_low"], own["ci_high"], facts.decimals),
        *(p_value(own[name]) for name in ("p", "p_max_t", "q")),
        percent(own["frequency"]),
        number(own["load"], 2),
    )


def layer_table(facts: Facts) -> Table:
    """Return one line per MoE site: how much moved, its extremes, how even its load is."""
    columns = ["Layer", "Experts", "Moved", "Most unsafe", "Most safe"]
    columns += ["Significant"] if facts.statistics else []
    columns += ["Load entropy", "Effective experts", "Dead"] if facts.load else []
    rows = [_layer_row(facts, row) for row in range(len(facts.sites))]
    return Table(
        "layers-table",
        "MoE layers",
        tuple(Column(title, "right") for title in columns),
        tuple(rows),
        text(
            "Moved: half the sum of |risk_diff|, the part of a token's expert choices that differ between the labels. "
            "Most unsafe, most safe: the expert and its risk_diff. Load entropy: 1 is perfectly even, 0 one expert "
            "(both labels together). Dead: experts that no counted token reached."
        ),
    )


def _layer_row(facts: Facts, row: int) -> tuple[Run, ...]:
    size = facts.sites[row].n_experts
    own = facts.risk_diff[row, :size]
    extremes = [f"{place}: {signed(own[place], facts.decimals)}" for place in (int(own.argmax()), int(own.argmin()))]
    cells: list[Run] = [facts.site_names()[row], count(size), number(float(np.abs(own).sum()) / 2, facts.decimals)]
    cells += extremes
    if facts.statistics:
        cells.append(count(int(facts.significant[row, :size].sum())))
    if facts.load:
        dead = int((facts.load.rate[row, :size] == 0).sum())
        cells += [number(facts.load.entropy[row], 3), number(facts.load.effective_experts[row], 1), count(dead)]
    return tuple(cells)


def _dead(facts: Facts) -> Paragraph:
    dead = facts.load.dead if facts.load else ()
    if not dead:
        return Paragraph(text("Every expert received at least one counted token."))
    named = listed([f"{layer}/{expert}" for layer, expert in dead[:12]])
    more = f" and {count(len(dead) - 12)} more" if len(dead) > 12 else ""
    return Paragraph(text(f"{plural(len(dead), 'expert')} received no counted token (layer/expert): {named}{more}."))


def _batches(facts: Facts) -> tuple[Block, ...]:
    known = np.isfinite(facts.values) & np.isfinite(facts.floors)
    above = int((facts.values[known] > facts.floors[known]).sum())
    summary = (
        f"Largest |risk_diff| within a batch (pool mean): median {_median(facts.values, facts.decimals)}; median noise "
        f"floor {_median(facts.floors, facts.decimals)}. {count(above)} of "
        f"{plural(int(known.sum()), 'batch', 'batches')} lie above their own floor; about one in twenty would if the "
        "labels meant nothing. This view is descriptive: a batch holds too few prompts for a test, and the floor is no "
        "threshold for significance."
    )
    caption = text(
        "Square: the largest |risk_diff| of the batch over all experts. Grey: its noise floor, which 95 % of label "
        "shuffles inside the batch stay below. Descriptive."
    )
    figure = Strip("batch-strip", "Batch by batch", caption, facts.values, facts.floors)
    blocks: tuple[Block, ...] = (figure,) if known.any() else ()
    drift = (Paragraph(text(_drift_words(facts.statistics))),) if facts.statistics else ()
    return (*blocks, Paragraph(text(summary)), *drift)


def _median(values: NDArray[np.float64], decimals: int) -> str:
    return number(float(np.nanmedian(values)) if np.isfinite(values).any() else math.nan, decimals)


def _drift_words(statistics: StatisticsFacts) -> str:
    found = statistics.summary["drift"]
    if found.get("p") is None:
        return f"Drift over the batches was not tested: {shown(found['reason'])}"
    largest = found["largest"]
    verdict = "risk_diff drifted over the batches" if found["p"] <= 0.05 else "no drift over the batches was found"
    return (
        f"Drift: {verdict} (max-T over all experts, p = {p_value(found['p'])}, smallest attainable "
        f"{p_value(found['smallest_p'])}). The largest slope, from the first to the last batch, is "
        f"{signed(largest['slope'])} at layer {largest['layer']}, expert {largest['expert']}; risk_diff of the first "
        f"and the second half of the batches correlate at {signed(found['correlation'], 2)}."
    )
