"""Facts in, report out: the sections in the order in which a reader of a paper wants them."""

from dataclasses import replace
from typing import Literal

from backend.domain.report.abstract import abstract
from backend.domain.report.as_html import as_html
from backend.domain.report.as_markdown import as_markdown
from backend.domain.report.caveats import caveats
from backend.domain.report.document import Code, Document, Fold, Paragraph, Run, Section, Strong, text
from backend.domain.report.facts import Facts
from backend.domain.report.method import method
from backend.domain.report.record import reproduce, versions
from backend.domain.report.results import results
from backend.domain.report.tokens import tokens
from backend.domain.report.words import count, day, shown

ReportFormat = Literal["html", "md"]


def report(facts: Facts, form: ReportFormat) -> bytes:
    """Return the report as a file. The same facts give the same bytes."""
    document = compose(facts)
    written = as_html(document) if form == "html" else as_markdown(document)
    return written.encode()


def compose(facts: Facts) -> Document:
    """Return the report as blocks."""
    found = results(facts)
    found = replace(found, parts=(*found.parts[:1], *tokens(facts), *found.parts[1:]))
    sections = [method(facts), versions(facts), found, caveats(facts)]
    if facts.examples:
        sections.append(_examples(facts))
    plan = facts.analysis.plan
    head: list[tuple[str, Run]] = [
        ("Model", shown(facts.model.id)),
        ("Prompts measured", count(facts.measured.n_prompts)),
        ("Batches", f"{count(facts.measured.n_batches)} of {count(plan['n_batches'])}"),
        ("Experts", count(facts.n_experts)),
        ("Tokens", str(facts.scope)),
        ("Pool", str(facts.pool)),
        ("Figures of", day(facts.as_of)),
    ]
    return Document(
        title=shown(facts.analysis.name),
        subtitle=_subtitle(facts),
        facts=tuple(head),
        abstract=abstract(facts),
        sections=(*sections, reproduce(facts)),
        footer=text(
            "Written by Routeprint ",
            facts.version,
            " from the stored record of ",
            Code(facts.analysis.id),
            *((" and ", Code(facts.statistics.id)) if facts.statistics else ()),
            f". Figures of {day(facts.as_of)}.",
        ),
        made_with=f"Routeprint {facts.version}",
    )


def _subtitle(facts: Facts) -> str:
    return f"Which experts of {shown(facts.model.id)} fire more on the unsafe prompts of “{shown(facts.prompts.name)}”"


def _examples(facts: Facts) -> Section:
    folds = []
    for label in ("safe", "unsafe"):
        own = [example for example in facts.examples if example.label == label]
        lines = tuple(
            Paragraph(text(Strong(f"{place}. "), shown(example.text), " ", Code(example.row_id[:12])))
            for place, example in enumerate(own, 1)
        )
        folds.append(Fold(f"{len(own)} {label} prompts", lines))
    return Section("examples", "Example prompts", tuple(folds))
