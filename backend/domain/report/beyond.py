"""How far the results reach: what split halves say of other prompts, and what words alone can do."""

from typing import Any

from backend.domain.report.abstract import interval_of
from backend.domain.report.document import Block, Column, Paragraph, Run, Table, text
from backend.domain.report.facts import Facts, StatisticsFacts
from backend.domain.report.words import count, interval, number, shown, signed

_AREAS = (
    ("routing", "Routing"),
    ("length", "Prompt length alone"),
    ("tokens", "Bag of token ids alone"),
    ("routing_and_tokens", "Routing and bag of token ids"),
    ("routing_less_length", "Difference: routing less length"),
    ("routing_less_tokens", "Difference: routing less token ids"),
    ("added_to_tokens", "Difference: what routing adds to token ids"),
)


def stability(facts: Facts, statistics: StatisticsFacts) -> tuple[Block, ...]:
    """Return what split halves say of the choice of experts."""
    found = statistics.summary["stability"]
    if found["reason"]:
        return (Paragraph(text(f"Not computed: {shown(found['reason'])}")),)
    figures = (
        ("Overlap of what two halves choose (Jaccard)", number(found["jaccard"], 3)),
        ("… of random sets of the same sizes", number(found["jaccard_by_chance"], 3)),
        ("Correlation of the halves' risk_diff over all experts", signed(found["correlation"], 3)),
        ("Mean |risk_diff| of what one half chose, in that half", number(found["risk_diff_in_half"], facts.decimals)),
        ("… of the same experts, in the other half", signed(found["risk_diff_in_other"], facts.decimals)),
    )
    words = (
        f"Split halves, mean over {count(found['n_splits'])} splits, for this choice: {shown(found['rule'])}. What a "
        "half chooses looks stronger in that half than in the other: the last line is the one without luck. Halves "
        "hold half the prompts, so the whole set is steadier than they show."
    )
    columns = (Column("Figure"), Column("Value", "right"))
    return (Table("split-half", "Split halves", columns, figures, text(words)),)


def baselines(statistics: StatisticsFacts) -> tuple[Block, ...]:
    """Return the AUC of routing beside those of prompt length and of the bag of token ids."""
    found = statistics.summary["baselines"]
    if found["reason"]:
        return (Paragraph(text(f"Not computed: {shown(found['reason'])}")),)
    columns = (Column("Predictor"), Column("AUC, held out", "right"), Column("95 % interval", "right"))
    rows = tuple(_area_row(name, title, found[name]) for name, title in _AREAS)
    note = text(
        "0.5 is chance for an AUC, 0 for a difference. Words alone separate most public pairs of safe and unsafe "
        "prompts at 0.93 to 1.00: an AUC of routing that is no higher than that of the token ids shows nothing of its "
        "own."
    )
    return (Table("auc", "How well the labels can be told apart", columns, rows, note),)


def _area_row(name: str, title: str, area: dict[str, Any]) -> tuple[Run, ...]:
    if title.startswith("Difference"):
        return title, signed(area["auc"], 3), interval(area["low"], area["high"], 3)
    return title, number(area["auc"], 3), interval_of(area)
