"""Frozen batch plans: stored once with their analysis; the ones used last stay decoded."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.domain.errors import NotFound
from backend.domain.plan import BatchPlan
from backend.store import tables as t
from backend.store.caching import Recent


def packed(plan: BatchPlan) -> Iterator[bytes]:
    """Yield the stored form of a plan, piece by piece."""
    packer = zlib.compressobj()
    for part in plan.json_parts():
        yield packer.compress(part)
    yield packer.flush()


@dataclass(frozen=True, slots=True)
class Frozen:
    """A plan as it is stored. blob: its JSON, compressed."""

    blob: bytes
    digest: str
    summary: dict[str, Any]
    settings: dict[str, Any]

    @classmethod
    def of(cls, plan: BatchPlan) -> "Frozen":
        """Freeze a plan; its whole JSON is never in memory."""
        return cls(b"".join(packed(plan)), plan.digest, plan.summary(), plan.settings.to_dict())

    @classmethod
    def stored(cls, session: Session, analysis: t.Analysis) -> "Frozen":
        """Return the plan of an analysis, without decoding it."""
        return cls(_blob(session, analysis.id), analysis.plan_digest, analysis.plan_summary, analysis.params)

    def row(self, analysis_id: str) -> t.AnalysisPlan:
        """Return the row that holds the plan of an analysis."""
        return t.AnalysisPlan(analysis_id=analysis_id, plan=self.blob)


def n_rows(plan: BatchPlan) -> int:
    """Return how many prompts a plan knows: in its batches, and left out."""
    return len(plan.left_out) + sum(len(batch.samples) for batch in plan.batches)


_decoded = Recent(500_000, n_rows)
"""Half a kilobyte each. A plan never changes, so its analysis and its digest name it."""


def load(session: Session, analysis_id: str) -> BatchPlan:
    """Return the plan of an analysis, for showing it. Raises NotFound, ProvenanceBroken like `read`.

    What was decoded before is not looked at again: whoever checks or trains on a plan takes `read`.
    """
    digest = session.scalar(select(t.Analysis.plan_digest).where(t.Analysis.id == analysis_id))
    if digest is None:
        raise NotFound("analysis", analysis_id)
    return _decoded.get((analysis_id, digest), lambda: read(session, analysis_id))


def read(session: Session, analysis_id: str) -> BatchPlan:
    """Return the plan as it is stored now. Raises NotFound, ProvenanceBroken where a batch id is not its samples'."""
    return BatchPlan.from_json(zlib.decompress(_blob(session, analysis_id)))


def _blob(session: Session, analysis_id: str) -> bytes:
    blob = session.scalar(select(t.AnalysisPlan.plan).where(t.AnalysisPlan.analysis_id == analysis_id))
    if blob is None:
        raise NotFound("analysis", analysis_id)
    return bytes(blob)
