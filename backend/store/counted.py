"""The stored counts of an analysis as the statistics read them: batch by batch, in order, with their digest.

Counts come in the narrowest unsigned type that holds them. Not covered: putting them together (worker/statistics.py).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.domain.vocabulary import LABELS, Label
from backend.store import tables as t
from backend.store.arrays import narrow


@dataclass(frozen=True, slots=True, eq=False)
class CountedBatch:
    """One stored batch in one scope. labels: int8 [sample]; rows: [sample] positions in the prompt set.

    prompt_digests, token_ids: of every sample as fed. tokens: [sample] counted; counts: [sample, site, expert].
    """

    batch_idx: int
    batch_id: str
    finite: bool
    labels: NDArray[np.int8]
    rows: NDArray[np.int64]
    prompt_digests: tuple[str, ...]
    token_ids: tuple[NDArray[Any], ...]
    tokens: NDArray[Any]
    counts: NDArray[Any]


def counted_batches(
    session: Session, analysis_id: str, scope: str, first: int = 0, stop: int | None = None
) -> Iterator[CountedBatch]:
    """Yield the stored batches [first, stop) in order, one at a time."""
    b, r = t.AnalysisBatch, t.BatchRouting
    here = (r.analysis_id == b.analysis_id) & (r.batch_idx == b.batch_idx) & (r.scope == scope)
    query = select(b.batch_idx, b.batch_id, b.status, r.tokens, r.counts).join(r, here)
    query = query.where(b.analysis_id == analysis_id, b.batch_idx >= first).order_by(b.batch_idx)
    if stop is not None:
        query = query.where(b.batch_idx < stop)
    with session.execute(query.execution_options(yield_per=16)) as found:
        for batch_idx, batch_id, status, tokens, counts in found:
            samples = _samples(session, analysis_id, batch_idx)
            yield CountedBatch(
                batch_idx,
                batch_id,
                status == "measured",
                np.array([LABELS.index(Label(s.label)) for s in samples], dtype=np.int8),
                np.array([s.row_idx for s in samples], dtype=np.int64),
                tuple(s.prompt_digest for s in samples),
                tuple(s.token_ids for s in samples),
                tokens,
                narrow(counts),
            )


def _samples(session: Session, analysis_id: str, batch_idx: int) -> Any:
    s = t.BatchSample
    query = select(s.label, s.row_idx, s.prompt_digest, s.token_ids).order_by(s.in_batch_idx)
    return session.execute(query.where(s.analysis_id == analysis_id, s.batch_idx == batch_idx)).all()


class InputDigest:
    """SHA-256 of what the statistics of a scope stand on: the plan, and of every batch its prompts and counts."""

    def __init__(self, plan_digest: str, scope: str) -> None:
        self._hash = hashlib.sha256(f"{plan_digest}\n{scope}\n".encode())

    def add(self, batch: CountedBatch) -> None:
        """Add the next batch."""
        state = "measured" if batch.finite else "non_finite"
        head = f"{batch.batch_idx} {batch.batch_id} {state} {len(batch.labels)} {batch.counts.shape}\n"
        self._hash.update(head.encode() + "".join(batch.prompt_digests).encode() + batch.labels.tobytes())
        for array in (batch.tokens, batch.counts):
            small = narrow(np.asarray(array))
            little = np.ascontiguousarray(small, dtype=small.dtype.newbyteorder("<"))
            self._hash.update(little.dtype.str.encode() + little.tobytes())

    def hexdigest(self) -> str:
        """Return the digest of the batches so far."""
        return self._hash.hexdigest()


def input_digest(session: Session, analysis: t.Analysis, scope: str) -> str:
    """Return the digest of what is stored now."""
    found = InputDigest(analysis.plan_digest, scope)
    for batch in counted_batches(session, analysis.id, scope):
        found.add(batch)
    return found.hexdigest()


def row_values(session: Session, dataset_id: str, column: str) -> list[str | None]:
    """Return one text column (group, category, difficulty, source) of a prompt set, by position."""
    p = t.PromptRow
    query = select(getattr(p, column)).where(p.dataset_id == dataset_id).order_by(p.row_idx)
    return list(session.scalars(query))
