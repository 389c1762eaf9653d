"""Published risk tables in the store: written once, found by content, never changed."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from backend.domain.errors import Conflict, NotFound
from backend.domain.risk_tables import PublishedTable
from backend.store import tables as t
from backend.store.paging import Key, Page, page


def find(session: Session, sha256: str, name: str) -> t.RiskTable | None:
    """Return the table with these counts and this name, if it was imported before."""
    query = select(t.RiskTable).where(t.RiskTable.sha256 == sha256, t.RiskTable.name == name)
    return session.scalars(query.order_by(t.RiskTable.created_at).limit(1)).first()


def create(
    session: Session,
    table: PublishedTable,
    *,
    name: str,
    model: str,
    file: Mapping[str, Any],
    label_meaning: Mapping[str, str],
    layer_numbers: str,
) -> t.RiskTable:
    """Store a table. layer_numbers: `model`, or `position` where the file's were turned into the model's own."""
    stored = t.RiskTable(
        id=t.new_id("rt"),
        name=name,
        sha256=table.sha256,
        model=model,
        file=dict(file),
        reading={
            "columns": table.columns,
            "denominator": table.denominator,
            "stated": table.stated,
            "n_mismatched": table.n_mismatched,
            "reasons": dict(table.reasons),
            "layer_numbers": layer_numbers,
        },
        label_meaning=dict(label_meaning),
        layers=list(table.layers),
        n_experts=table.n_experts,
        n_rows=table.n_rows,
        counts=table.counts,
        tokens=table.tokens,
        created_at=t.utcnow(),
    )
    session.add(stored)
    session.flush()
    return stored


def get(session: Session, table_id: str) -> t.RiskTable:
    """Return a table. Raises NotFound."""
    found = session.get(t.RiskTable, table_id)
    if found is None:
        raise NotFound("risk table", table_id)
    return found


def listing(session: Session, after: Key | None, limit: int) -> Page[t.RiskTable]:
    """Return tables, newest first."""
    columns = (t.RiskTable.created_at, t.RiskTable.id)
    return page(session, select(t.RiskTable), columns, after, limit, newest_first=True)


def remove(session: Session, table_id: str) -> None:
    """Delete a table for good. Raises Conflict that names a comparison which uses it."""
    table = get(session, table_id)
    c = t.Comparison
    query = select(c).where((c.side_a == table_id) | (c.side_b == table_id)).order_by(c.created_at)
    user = session.scalars(query.limit(1)).first()
    if user is not None:
        deleted = " (deleted, but it can still be restored)" if user.deleted_at else ""
        raise Conflict(f"The comparison {user.name!r} ({user.id}){deleted} uses the risk table {table.name!r}.")
    session.execute(delete(t.RiskTable).where(t.RiskTable.id == table.id))
