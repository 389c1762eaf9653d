"""The links of an analysis: prompt set -> plan -> batches -> prompts -> counts -> risk_diff.

Each goes through everything it covers, computes it again, and stops at the first place that does not hold.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.domain.batches import plan_batches, plan_rows
from backend.domain.plan import PlannedBatch
from backend.domain.provenance import prompt_digest
from backend.domain.risk import BatchCounts, RiskSums, check_counts, risk_diff
from backend.domain.vocabulary import LABELS, Label, Site
from backend.store import plans
from backend.store import tables as t
from backend.store.checks import Broken, read_prompt_set, same, samples_by_batch
from backend.store.writes import sums_from_row

_PAGE = 64


def check_rows(session: Session, analysis: t.Analysis) -> Iterator[None]:
    """Every row, and the whole set, has the SHA-256 it is stored under."""
    dataset = session.get_one(t.Dataset, analysis.dataset_id)
    prompt_set = read_prompt_set(session, analysis.dataset_id)
    ids = session.scalars(
        select(t.PromptRow.row_id).where(t.PromptRow.dataset_id == dataset.id).order_by(t.PromptRow.row_idx)
    )
    for place, (row, row_id) in enumerate(zip(prompt_set.rows, ids, strict=True)):
        same(f"row {place}", row_id, row.digest)
        yield
    same("the whole set", dataset.sha256, prompt_set.sha256)
    yield


def check_plan(session: Session, analysis: t.Analysis) -> Iterator[None]:
    """The stored plan has its digest, and planning again from the rows gives the same plan."""
    stored = plans.read(session, analysis.id)
    same("the stored plan", analysis.plan_digest, stored.digest)
    yield
    prompt_set = read_prompt_set(session, analysis.dataset_id)
    again = plan_batches(plan_rows(prompt_set), prompt_set.sha256, stored.settings)
    for old, new in zip(stored.batches, again.batches, strict=True):
        same(f"batch {old.batch_idx}", old.batch_id, new.batch_id)
        yield
    same("the plan made again", stored.digest, again.digest)
    yield


def _pages(session: Session, table: Any, analysis_id: str, *more: Any) -> Iterator[Any]:
    query = select(table).where(table.analysis_id == analysis_id, *more).order_by(table.batch_idx)
    with session.scalars(query.execution_options(yield_per=_PAGE)) as rows:
        yield from rows


def check_batches(session: Session, analysis: t.Analysis) -> Iterator[None]:
    """Each stored batch holds exactly the planned samples, in order; a finished analysis holds all of them."""
    planned = {b.batch_idx: b for b in plans.read(session, analysis.id).batches}
    samples = samples_by_batch(session, analysis.id)
    seen = set()
    for batch in _pages(session, t.AnalysisBatch, analysis.id):
        plan = planned.get(batch.batch_idx)
        where = f"batch {batch.batch_idx}"
        if plan is None:
            raise Broken(where, "a planned batch", "a batch that no plan knows")
        same(where, plan.batch_id, batch.batch_id)
        _same_samples(where, plan, samples.get(batch.batch_idx, []))
        seen.add(batch.batch_idx)
        yield
    if analysis.status == "succeeded":
        same("number of batches", len(planned), len(seen))


def _same_samples(where: str, plan: PlannedBatch, stored: list[t.BatchSample]) -> None:
    same(f"{where}, number of samples", len(plan.samples), len(stored))
    for expected, found in zip(plan.samples, stored, strict=True):
        same(
            f"{where}, sample {expected.in_batch_idx}",
            (expected.in_batch_idx, expected.row_idx, expected.row_id, str(expected.label)),
            (found.in_batch_idx, found.row_idx, found.row_id, found.label),
        )


def check_prompts(session: Session, analysis: t.Analysis) -> Iterator[None]:
    """The token ids that were fed give the stored prompt digest."""
    digests = analysis.model_digests
    for sample in _pages(session, t.BatchSample, analysis.id):
        where = f"batch {sample.batch_idx}, sample {sample.in_batch_idx}"
        found = prompt_digest(digests["tokenizer"], digests["template"], sample.token_ids)
        same(where, sample.prompt_digest, found)
        same(f"{where}, length", sample.tokens, len(sample.token_ids))
        if sample.own is not None:
            same(f"{where}, tokens marked as its own or not", sample.tokens, len(sample.own))
        yield


def _batch_counts(row: t.BatchRouting, samples: list[t.BatchSample]) -> BatchCounts:
    labels = np.array([LABELS.index(Label(s.label)) for s in samples], dtype=np.int8)
    return BatchCounts(labels=labels, tokens=row.tokens.astype(np.int64), counts=row.counts.astype(np.int32))


def _counted(sample: t.BatchSample) -> int:
    return sample.tokens if sample.own is None else int(sample.own.sum())


def check_routing(session: Session, analysis: t.Analysis) -> Iterator[None]:
    """Each sample's counts sum to top-k x tokens at every site."""
    top_k = [Site.from_dict(site).top_k for site in analysis.sites]
    samples = samples_by_batch(session, analysis.id)
    for row in _pages(session, t.BatchRouting, analysis.id):
        where = f"batch {row.batch_idx}, scope {row.scope}"
        of_batch = samples.get(row.batch_idx, [])
        same(where, len(of_batch), len(row.tokens))
        try:
            check_counts(_batch_counts(row, of_batch), top_k)
        except ValueError as error:
            raise Broken(where, "counts that sum to top-k x tokens", error) from error
        if row.scope == "prompt":
            same(f"{where}, tokens", [_counted(s) for s in of_batch], row.tokens.tolist())
        yield


def check_risk(session: Session, analysis: t.Analysis) -> Iterator[None]:
    """The largest |risk_diff| of each batch follows from its counts; the running sums are the sum over the batches."""
    samples = samples_by_batch(session, analysis.id)
    finite = {b.batch_idx: b.status == "measured" for b in _pages(session, t.AnalysisBatch, analysis.id)}
    sums: dict[str, RiskSums] = {}
    for row in _pages(session, t.BatchRouting, analysis.id):
        if not finite[row.batch_idx]:
            same(f"batch {row.batch_idx}, scope {row.scope}", None, row.max_abs_risk_diff)
            continue
        counts = _batch_counts(row, samples[row.batch_idx])
        if row.max_abs_risk_diff is not None:
            largest = float(np.abs(risk_diff(counts)).max())
            same(f"batch {row.batch_idx}, scope {row.scope}, max_abs_risk_diff", largest, row.max_abs_risk_diff)
        share = RiskSums.of(counts)
        sums[row.scope] = sums[row.scope] + share if row.scope in sums else share
        yield
    for aggregate in session.scalars(select(t.AnalysisAggregate).where(t.AnalysisAggregate.analysis_id == analysis.id)):
        again_sums = sums.get(aggregate.scope)
        stored = sums_from_row(aggregate)
        equal = again_sums is not None and all(
            np.array_equal(getattr(again_sums, name), getattr(stored, name))
            for name in ("samples", "tokens", "counts", "rate_sums")
        )
        same(f"sums over batches, scope {aggregate.scope}", True, equal)
        yield
