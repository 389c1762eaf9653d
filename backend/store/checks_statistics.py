"""The links of statistics: they stand on the counts that are stored, and say what they said when they were made."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from backend.store import tables as t
from backend.store.checks import check_findings, same
from backend.store.counted import input_digest


def check_statistics(session: Session, analysis: t.Analysis, only: str | None = None) -> Iterator[None]:
    """Each finished one that is not deleted (or this one) has the digest of the stored counts, and its own."""
    s = t.Statistics
    query = select(s).where(s.analysis_id == analysis.id, s.status == "succeeded").order_by(s.created_at, s.id)
    query = query.where(s.deleted_at.is_(None) if only is None else s.id == only)
    inputs: dict[str, str] = {}
    for stored in session.scalars(query.options(undefer(s.figures))):
        if stored.scope not in inputs:
            inputs[stored.scope] = input_digest(session, analysis, stored.scope)
        same(f"{stored.id}, the counts it stands on", stored.input_digest, inputs[stored.scope])
        check_findings(stored)
        yield
