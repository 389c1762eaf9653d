"""Frozen batch plans: stored once with their analysis, decoded once per process."""

import zlib
from functools import lru_cache

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.domain.errors import NotFound
from backend.domain.plan import BatchPlan
from backend.store import tables as t


def freeze(analysis_id: str, plan: BatchPlan) -> t.AnalysisPlan:
    """Return the row that holds the plan of an analysis."""
    return t.AnalysisPlan(analysis_id=analysis_id, plan=zlib.compress(plan.to_json()))


@lru_cache(maxsize=16)
def _thaw(blob: bytes) -> BatchPlan:
    return BatchPlan.from_json(zlib.decompress(blob))


def load(session: Session, analysis_id: str) -> BatchPlan:
    """Return the plan of an analysis. Raises NotFound, ProvenanceBroken where a batch id is not that of its samples."""
    blob = session.scalar(select(t.AnalysisPlan.plan).where(t.AnalysisPlan.analysis_id == analysis_id))
    if blob is None:
        raise NotFound("analysis", analysis_id)
    return _thaw(bytes(blob))
