"""The tokens that drive the strongest experts, where a context run has read the routing token by token.

Single tokens only: no prompt can be read out of them. Without such a run there is no section.
"""

from backend.domain.report.document import Block, Column, Paragraph, Run, Section, Table, text
from backend.domain.report.facts import ContextFacts, DrivenExpert, Facts
from backend.domain.report.results import strongest
from backend.domain.report.words import NOTHING, count, percent, plural, shown, signed

_EXPERTS = 10


def tokens(facts: Facts) -> tuple[Section, ...]:
    """Return the section, or nothing."""
    if facts.context is None or facts.table is None:
        return ()
    found = {(own.row, own.expert): own for own in facts.context.experts}
    chosen = [found[place] for place in strongest(facts) if place in found][:_EXPERTS]
    blocks: tuple[Block, ...] = (Paragraph(text(_words(facts.context))),)
    if chosen:
        blocks += (_table(facts, chosen),)
    return (Section("tokens", "Tokens that drive them", blocks),)


def _words(context: ContextFacts) -> str:
    recounted = context.recounted
    same = (
        "counted exactly what the analysis had stored"
        if not recounted["differing"]
        else f"counted otherwise in {count(recounted['differing'])} of {count(recounted['batches'])} batches"
    )
    return (
        f"A second pass ({context.id}) over the same token ids read the routing token by token for "
        f"{plural(context.n_experts, 'expert')}; it {same}. Over all token ids, their contributions add up to an "
        "expert's risk_diff. A token that drives an expert stands more often in the prompts of one label, or is routed "
        "otherwise there."
    )


def _table(facts: Facts, chosen: list[DrivenExpert]) -> Table:
    numbers = (Column(title, "right") for title in ("Layer", "Expert", "risk_diff", "Five tokens make"))
    columns = (*numbers, Column("Raising it"), Column("Lowering it"))
    rows = tuple(
        (
            facts.site_names()[own.row],
            str(own.expert),
            signed(facts.risk_diff[own.row, own.expert], facts.decimals),
            percent(own.concentration, 0),
            _listed(own.raising, facts.decimals),
            _listed(own.lowering, facts.decimals),
        )
        for own in chosen
    )
    note = (
        "Each token with its contribution, the largest first. Five tokens make: the share of the five largest "
        "contributions in the sum of all, without their signs; where it is high, the expert follows a few words."
    )
    return Table("driving-tokens", f"The first {len(rows)} experts of the table above", columns, rows, text(note))


def _listed(found: tuple[tuple[str, float], ...], decimals: int) -> Run:
    smallest = 0.5 * 10.0**-decimals  # what would be written as nothing is left out
    named = [f"“{shown(token)}”\u00a0{signed(value, decimals)}" for token, value in found if abs(value) >= smallest]
    return "; ".join(named) or NOTHING
