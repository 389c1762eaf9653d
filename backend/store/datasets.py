"""Prompt sets in the store: written once, found by content, read in pages."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Text, cast, delete, func, insert, select
from sqlalchemy.orm import Session

from backend.domain.errors import Conflict
from backend.domain.jobs import ACTIVE
from backend.domain.plan import PlanRow
from backend.domain.prompts import LabelMeaning, PromptSet
from backend.domain.prompts import PromptRow as DomainRow
from backend.domain.reading import CheckedSet
from backend.domain.vocabulary import Label
from backend.store import runs
from backend.store import tables as t
from backend.store.paging import Key, Page, page

FEW_ROWS = 1000
"""So many are stored, or deleted, in one transaction without anybody noticing."""
_CHUNK = 2000


def find(session: Session, sha256: str, name: str) -> t.Dataset | None:
    """Return the prompt set with this content and this name, if it was imported before."""
    query = select(t.Dataset).where(t.Dataset.sha256 == sha256, t.Dataset.name == name, t.Dataset.status != "failed")
    query = query.where(t.Dataset.deleted_at.is_(None))
    return session.scalars(query.order_by(t.Dataset.created_at).limit(1)).first()


def create(
    session: Session, name: str, sha256: str, prompts: PromptSet, files: list[dict[str, Any]], status: str
) -> t.Dataset:
    """Store the head of a prompt set in memory; its rows follow with `add_rows`. sha256: computed beforehand."""
    n_safe, n_rows = prompts.count(Label.SAFE), len(prompts.rows)
    counts = {"n_rows": n_rows, "n_safe": n_safe, "n_unsafe": n_rows - n_safe, "n_duplicates": prompts.n_duplicates}
    stored = n_rows if status == "succeeded" else 0
    return _add(
        session, prompts.label_meaning, counts, name=name, sha256=sha256, files=files, status=status, stored=stored
    )


def begin(session: Session, name: str, checked: CheckedSet, files: list[dict[str, Any]]) -> t.Dataset:
    """Store the head of a checked set, `running`; its rows follow."""
    settled = checked.settled
    counts = {
        "n_rows": settled.n_rows,
        "n_safe": settled.n_safe,
        "n_unsafe": settled.n_rows - settled.n_safe,
        "n_duplicates": settled.n_duplicates,
    }
    left_out = [asdict(row) for row in settled.listed]
    return _add(
        session,
        checked.label_meaning,
        counts,
        name=name,
        sha256=settled.sha256,
        files=files,
        left_out=left_out,
        status="running",
    )


def _add(session: Session, meaning: LabelMeaning, counts: dict[str, int], **fields: Any) -> t.Dataset:
    created = {"id": t.new_id("ds"), "created_at": t.utcnow(), "label_meaning": meaning.to_dict()}
    dataset = t.Dataset(**created, **counts, **fields)
    session.add(dataset)
    session.flush()
    return dataset


def row_values(rows: Iterable[DomainRow], first: int = 0) -> list[dict[str, Any]]:
    """Return rows as columns, at the positions from `first` on. Slow work that needs no transaction."""
    return identified_values(((row.digest, row) for row in rows), first)


def identified_values(rows: Iterable[tuple[str, DomainRow]], first: int = 0) -> list[dict[str, Any]]:
    """Do what `row_values` does for rows that come with their digests."""
    return [
        {
            "row_idx": idx,
            "row_id": row_id,
            "label": str(row.label),
            "messages": [{"role": m.role, "content": m.content} for m in row.messages],
            "response": row.response,
            "category": row.category,
            "difficulty": row.difficulty,
            "group": row.group,
            "source": row.source,
        }
        for idx, (row_id, row) in enumerate(rows, first)
    ]


def add_rows(session: Session, dataset_id: str, values: Sequence[dict[str, Any]]) -> None:
    """Store what `row_values` returned."""
    for start in range(0, len(values), _CHUNK):
        chunk = [{"dataset_id": dataset_id, **value} for value in values[start : start + _CHUNK]]
        session.execute(insert(t.PromptRow), chunk)


def get(session: Session, dataset_id: str) -> t.Dataset:
    """Return a prompt set, deleted or not; one that is deleted for good is not there. Raises NotFound."""
    return runs.get(session, t.Dataset, dataset_id)


def get_ready(session: Session, dataset_id: str) -> t.Dataset:
    """Return a prompt set that is not deleted and whose rows are all there. Raises NotFound, Conflict."""
    dataset = runs.get_live(session, t.Dataset, dataset_id)
    if dataset.status == "failed":
        raise Conflict(f"The import of the prompt set {dataset.name!r} failed: import it again. {dataset.error or ''}")
    if dataset.status != "succeeded":
        raise Conflict(
            f"The prompt set {dataset.name!r} is still being imported (status {dataset.status}, "
            f"{dataset.stored:,} of {dataset.n_rows:,} rows)."
        )
    return dataset


def left_out(session: Session, dataset_id: str) -> list[dict[str, Any]]:
    """Return the first rows that were left out of a set: {"file", "row", "reason"}. Raises NotFound."""
    return list(get(session, dataset_id).left_out)


def set_status(session: Session, dataset_id: str, status: str) -> None:
    """Change the status of a prompt set."""
    get(session, dataset_id).status = status


def rows(
    session: Session, dataset_id: str, label: str | None, q: str | None, after: Key | None, limit: int
) -> Page[t.PromptRow]:
    """Return rows in the set's own order, of one label and with `q` in their messages where given."""
    query = select(t.PromptRow).where(t.PromptRow.dataset_id == dataset_id)
    if label:
        query = query.where(t.PromptRow.label == label)
    if q:
        stored = json.dumps(q)[1:-1]  # JSON columns hold escaped text
        query = query.where(cast(t.PromptRow.messages, Text).icontains(stored, autoescape=True))
    return page(session, query, (t.PromptRow.row_idx,), after, limit)


def rows_at(session: Session, dataset_id: str, positions: Sequence[int]) -> dict[int, t.PromptRow]:
    """Return the rows at these positions, keyed by position."""
    found: dict[int, t.PromptRow] = {}
    for start in range(0, len(positions), 500):
        chunk = positions[start : start + 500]
        query = select(t.PromptRow).where(t.PromptRow.dataset_id == dataset_id, t.PromptRow.row_idx.in_(chunk))
        found |= {row.row_idx: row for row in session.scalars(query)}
    return found


def plan_rows(session: Session, dataset_id: str) -> list[PlanRow]:
    """Return what a batch plan needs to know of every row, without loading any text."""
    r = t.PromptRow
    query = select(r.row_idx, r.row_id, r.label, r.category, r.difficulty, r.group)
    rows = session.execute(
        query.where(r.dataset_id == dataset_id).order_by(r.row_idx).execution_options(yield_per=_CHUNK)
    )
    once: dict[str | None, str | None] = {}  # the same few words in a million rows: each is kept once
    return [
        PlanRow(idx, id_, Label(label), *(once.setdefault(word, word) for word in words))
        for idx, id_, label, *words in rows
    ]


def n_without_response(session: Session, dataset_id: str, label: str | None = None) -> int:
    """Count the rows (of one label) that carry no response."""
    query = select(func.count()).where(t.PromptRow.dataset_id == dataset_id, t.PromptRow.response.is_(None))
    return session.scalar(query.where(t.PromptRow.label == label) if label else query) or 0


def remove(session: Session, dataset_id: str) -> None:
    """Hide a prompt set from listings; `runs.restore` brings it back. Raises NotFound, and Conflict as `unused`."""
    runs.remove(session, t.Dataset, unused(session, dataset_id).id)


def remove_for_good(session: Session, dataset_id: str) -> int:
    """Delete a prompt set with its prompts; return how many rows `imports.purge` has yet to take away.

    Those of a small set go at once. Raises NotFound, and Conflict as `unused`.
    """
    dataset = unused(session, dataset_id)
    if dataset.stored > FEW_ROWS:
        dataset.deleted_at, dataset.purged = dataset.deleted_at or t.utcnow(), True
        return dataset.stored
    session.execute(delete(t.Dataset).where(t.Dataset.id == dataset.id))
    return 0


def unused(session: Session, dataset_id: str) -> t.Dataset:
    """Return a prompt set that may be deleted. Raises Conflict where a run uses it, by name, or while it comes in."""
    dataset = get(session, dataset_id)
    if dataset.status in ACTIVE:
        raise Conflict(f"The prompt set {dataset.name!r} is still being imported: wait until that has ended.")
    e = t.Evaluation
    for noun, query in (
        ("analysis", select(t.Analysis).where(t.Analysis.dataset_id == dataset.id).order_by(t.Analysis.created_at)),
        ("evaluation", select(e).where((e.dataset_id == dataset.id) | (e.capability_dataset_id == dataset.id))),
    ):
        user = session.scalars(query.limit(1)).first()
        if user is not None:
            deleted = " (deleted, but it can still be restored)" if user.deleted_at else ""
            raise Conflict(f"The {noun} {user.name!r} ({user.id}){deleted} uses the prompt set {dataset.name!r}.")
    return dataset


def text_of(row: t.PromptRow) -> str:
    """Return what to show for a row: the user's last message."""
    return str(row.messages[-1]["content"])
