"""Prompt sets in the store: written once, found by content, read in pages."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Text, cast, delete, func, insert, select, update
from sqlalchemy.orm import Session

from backend.domain.errors import Conflict, NotFound
from backend.domain.plan import PlanRow
from backend.domain.prompts import PromptRow as DomainRow
from backend.domain.prompts import PromptSet
from backend.domain.vocabulary import Label
from backend.store import tables as t
from backend.store.paging import Key, Page, page

_CHUNK = 2000


def find(session: Session, sha256: str, name: str) -> t.Dataset | None:
    """Return the prompt set with this content and this name, if it was imported before."""
    query = select(t.Dataset).where(t.Dataset.sha256 == sha256, t.Dataset.name == name, t.Dataset.status != "failed")
    return session.scalars(query.order_by(t.Dataset.created_at).limit(1)).first()


def create(
    session: Session, name: str, sha256: str, prompts: PromptSet, files: list[dict[str, Any]], status: str
) -> t.Dataset:
    """Store the head of a prompt set; its rows follow with `add_rows`. sha256: the set's own, computed beforehand."""
    n_safe = prompts.count(Label.SAFE)
    dataset = t.Dataset(
        id=t.new_id("ds"),
        name=name,
        sha256=sha256,
        label_meaning=prompts.label_meaning.to_dict(),
        n_rows=len(prompts.rows),
        n_safe=n_safe,
        n_unsafe=len(prompts.rows) - n_safe,
        n_duplicates=prompts.n_duplicates,
        files=files,
        status=status,
        created_at=t.utcnow(),
    )
    session.add(dataset)
    session.flush()
    return dataset


def row_values(rows: Iterable[DomainRow], first: int = 0) -> list[dict[str, Any]]:
    """Return rows as columns, at the positions from `first` on. Slow work that needs no transaction."""
    names = ("response", "category", "difficulty", "group", "source")
    return [
        {
            "row_idx": idx,
            "row_id": row.digest,
            "label": str(row.label),
            "messages": [{"role": m.role, "content": m.content} for m in row.messages],
            **{name: getattr(row, name) for name in names},
        }
        for idx, row in enumerate(rows, first)
    ]


def add_rows(session: Session, dataset_id: str, values: Sequence[dict[str, Any]]) -> None:
    """Store what `row_values` returned."""
    for start in range(0, len(values), _CHUNK):
        chunk = [{"dataset_id": dataset_id, **value} for value in values[start : start + _CHUNK]]
        session.execute(insert(t.PromptRow), chunk)


def set_status(session: Session, dataset_id: str, status: str) -> None:
    """Change the status of a prompt set whose rows land in the background."""
    session.execute(update(t.Dataset).where(t.Dataset.id == dataset_id).values(status=status))


def drop_unfinished(session: Session) -> list[str]:
    """Remove prompt sets whose import was cut off by the end of its process; return their names."""
    unfinished = list(session.scalars(select(t.Dataset).where(t.Dataset.status.in_(("queued", "running")))))
    for dataset in unfinished:
        session.delete(dataset)
    return [dataset.name for dataset in unfinished]


def get(session: Session, dataset_id: str) -> t.Dataset:
    """Return a prompt set. Raises NotFound."""
    dataset = session.get(t.Dataset, dataset_id)
    if dataset is None or dataset.deleted_at is not None:
        raise NotFound("dataset", dataset_id)
    return dataset


def get_ready(session: Session, dataset_id: str) -> t.Dataset:
    """Return a prompt set whose rows are all there. Raises NotFound, Conflict."""
    dataset = get(session, dataset_id)
    if dataset.status != "succeeded":
        raise Conflict(f"The prompt set {dataset.name!r} is still being imported (status {dataset.status}).")
    return dataset


def listing(session: Session, q: str | None, after: Key | None, limit: int) -> Page[t.Dataset]:
    """Return prompt sets, newest first, with `q` in their name."""
    query = select(t.Dataset).where(t.Dataset.deleted_at.is_(None))
    if q:
        query = query.where(t.Dataset.name.icontains(q, autoescape=True))
    return page(session, query, (t.Dataset.created_at, t.Dataset.id), after, limit, newest_first=True)


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
    rows = session.execute(query.where(r.dataset_id == dataset_id).order_by(r.row_idx))
    return [PlanRow(idx, id_, Label(label), category, level, group) for idx, id_, label, category, level, group in rows]


def n_without_response(session: Session, dataset_id: str, label: str | None = None) -> int:
    """Count the rows (of one label) that carry no response."""
    query = select(func.count()).where(t.PromptRow.dataset_id == dataset_id, t.PromptRow.response.is_(None))
    return session.scalar(query.where(t.PromptRow.label == label) if label else query) or 0


def remove(session: Session, dataset_id: str) -> None:
    """Delete a prompt set and its rows for good. Raises Conflict that names a run which uses it."""
    dataset = get(session, dataset_id)
    e = t.Evaluation
    for noun, query in (
        ("analysis", select(t.Analysis).where(t.Analysis.dataset_id == dataset.id).order_by(t.Analysis.created_at)),
        ("evaluation", select(e).where((e.dataset_id == dataset.id) | (e.capability_dataset_id == dataset.id))),
    ):
        user = session.scalars(query.limit(1)).first()
        if user is not None:
            deleted = " (deleted, but it can still be restored)" if user.deleted_at else ""
            raise Conflict(f"The {noun} {user.name!r} ({user.id}){deleted} uses the prompt set {dataset.name!r}.")
    session.execute(delete(t.Dataset).where(t.Dataset.id == dataset.id))


def text_of(row: t.PromptRow) -> str:
    """Return what to show for a row: the user's last message."""
    return str(row.messages[-1]["content"])
