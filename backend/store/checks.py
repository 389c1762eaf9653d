"""How a link of the provenance chain is checked, and the stored values that several links read."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.domain.errors import ProvenanceBroken
from backend.domain.prompts import LabelMeaning, Message, PromptRow, PromptSet
from backend.domain.provenance import Link
from backend.domain.statistics.examination import findings_digest
from backend.domain.vocabulary import Label
from backend.store import tables as t


class Broken(Exception):
    """A link does not hold at one place."""

    def __init__(self, where: str, expected: Any, found: Any) -> None:
        super().__init__(where)
        self.where, self.expected, self.found = where, str(expected), str(found)


def link(name: str, check: Iterator[None]) -> Link:
    """Run a check to its end or to its first break. A check yields once for every thing that holds."""
    checked = 0
    try:
        for _ in check:
            checked += 1
    except Broken as broken:
        return Link(name, False, checked, broken.expected, broken.found, broken.where)
    except (ProvenanceBroken, ValueError) as error:
        return Link(name, False, checked, None, str(error), None)
    return Link(name, True, checked, None, None, None)


def same(where: str, expected: Any, found: Any) -> None:
    """Raise Broken at this place unless both are equal."""
    if expected != found:
        raise Broken(where, expected, found)


def check_findings(stored: t.Statistics) -> None:
    """Raise Broken unless summary and figures of statistics are those that were computed."""
    if stored.figures is None or stored.input_digest is None:
        raise Broken(stored.id, "figures", "none")
    found = findings_digest(stored.input_digest, stored.params, stored.summary, stored.figures)
    same(f"{stored.id}, its figures", stored.sha256, found)


def read_prompt_set(session: Session, dataset_id: str) -> PromptSet:
    """Return a stored prompt set as the domain knows it."""
    dataset = session.get_one(t.Dataset, dataset_id)
    rows = session.scalars(
        select(t.PromptRow).where(t.PromptRow.dataset_id == dataset_id).order_by(t.PromptRow.row_idx)
    )
    return PromptSet(
        rows=tuple(domain_row(row) for row in rows),
        label_meaning=LabelMeaning.from_dict(dataset.label_meaning),
        n_duplicates=dataset.n_duplicates,
    )


def domain_row(row: t.PromptRow) -> PromptRow:
    """Return a stored row as the domain knows it; its digest is that of what is stored now."""
    return PromptRow(
        messages=tuple(Message(**m) for m in row.messages),
        label=Label(row.label),
        response=row.response,
        category=row.category,
        difficulty=row.difficulty,
        group=row.group,
        source=row.source,
    )


def samples_by_batch(session: Session, analysis_id: str) -> dict[int, list[t.BatchSample]]:
    """Return {batch_idx: samples in order} of the stored batches."""
    found: dict[int, list[t.BatchSample]] = {}
    rows = session.scalars(
        select(t.BatchSample)
        .where(t.BatchSample.analysis_id == analysis_id)
        .order_by(t.BatchSample.batch_idx, t.BatchSample.in_batch_idx)
    )
    for row in rows:
        found.setdefault(row.batch_idx, []).append(row)
    return found
