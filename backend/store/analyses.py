"""Analyses in the store: submitted with a frozen plan, read batch by batch. Risk figures are in risks.py."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.domain.errors import InvalidInput, NotFound
from backend.domain.plan import LeftOut, PlannedBatch
from backend.store import datasets, plans
from backend.store import tables as t
from backend.store.paging import Key, Page, page, slice_page


def create(
    session: Session, name: str, dataset: t.Dataset, model: t.Model, params: dict[str, Any], plan: plans.Frozen
) -> t.Analysis:
    """Store a queued analysis with its plan and with what the model looked like at this moment."""
    digests = ("config", "weights", "tokenizer", "template")
    analysis = t.Analysis(
        id=t.new_id("an"),
        name=name,
        tags=[],
        notes="",
        status="queued",
        stage="",
        done=0,
        total=plan.summary["n_batches"],
        environment={},
        created_at=t.utcnow(),
        dataset_id=dataset.id,
        model_id=model.id,
        engine=params["engine"],
        params=params,
        plan_digest=plan.digest,
        plan_summary=plan.summary,
        sites=model.sites,
        model_digests={name: getattr(model, f"{name}_digest") for name in digests},
    )
    session.add(analysis)
    session.flush()
    session.add(plan.row(analysis.id))
    session.flush()
    return analysis


def batch_counts(session: Session, ids: list[str]) -> dict[str, dict[str, int]]:
    """Return {analysis id: {"measured": n, "non_finite": n}} for the stored batches."""
    b = t.AnalysisBatch
    query = (
        select(b.analysis_id, b.status, func.count()).where(b.analysis_id.in_(ids)).group_by(b.analysis_id, b.status)
    )
    counts: dict[str, dict[str, int]] = {id_: {} for id_ in ids}
    for id_, status, n in session.execute(query):
        counts[id_][status] = n
    return counts


def dataset_names(session: Session, ids: set[str]) -> dict[str, str]:
    """Return the names of these prompt sets."""
    return dict(session.execute(select(t.Dataset.id, t.Dataset.name).where(t.Dataset.id.in_(ids))).all())


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One batch of a plan with what is stored of it; `stored` and `routing` are None until it is measured."""

    planned: PlannedBatch
    stored: t.AnalysisBatch | None
    max_abs_risk_diff: float | None
    noise_floor: float | None

    @property
    def status(self) -> str:
        """One of measured, non_finite, planned."""
        return self.stored.status if self.stored else "planned"


def check_scope(analysis: t.Analysis, scope: str) -> None:
    """Raises InvalidInput if the analysis did not count these tokens."""
    scopes = analysis.params["scopes"]
    if scope not in scopes:
        counted = ", ".join(scopes)
        raise InvalidInput(f"This analysis did not count the scope {str(scope)!r}, only: {counted}.", ("scope",))


def batches(session: Session, analysis: t.Analysis, scope: str, after: Key | None, limit: int) -> Page[BatchRow]:
    """Return the plan's batches in order, measured or not."""
    planned = slice_page(plans.load(session, analysis.id).batches, after, limit)
    return Page(_with_stored(session, analysis.id, scope, planned.items), planned.next_key)


def batch(session: Session, analysis: t.Analysis, scope: str, batch_idx: int) -> BatchRow:
    """Return one batch of the plan. Raises NotFound."""
    planned = plans.load(session, analysis.id).batches
    if batch_idx >= len(planned):
        raise NotFound(f"batch in an analysis of {len(planned)} batches with the index", batch_idx)
    return _with_stored(session, analysis.id, scope, [planned[batch_idx]])[0]


def _with_stored(session: Session, analysis_id: str, scope: str, planned: list[PlannedBatch]) -> list[BatchRow]:
    if not planned:
        return []
    b, r = t.AnalysisBatch, t.BatchRouting
    query = (
        select(b, r.max_abs_risk_diff, r.noise_floor)
        .outerjoin(r, (r.analysis_id == b.analysis_id) & (r.batch_idx == b.batch_idx) & (r.scope == scope))
        .where(b.analysis_id == analysis_id)
        .where(b.batch_idx.between(planned[0].batch_idx, planned[-1].batch_idx))
    )
    found = {row.batch_idx: (row, biggest, floor) for row, biggest, floor in session.execute(query)}
    return [BatchRow(p, *found.get(p.batch_idx, (None, None, None))) for p in planned]


def samples(session: Session, analysis_id: str, batch_idx: int) -> list[t.BatchSample]:
    """Return the samples of a measured batch in their order; none if it is not measured yet."""
    s = t.BatchSample
    query = select(s).where(s.analysis_id == analysis_id, s.batch_idx == batch_idx).order_by(s.in_batch_idx)
    return list(session.scalars(query))


def answers(session: Session, analysis_id: str, batch_idx: int) -> dict[int, str]:
    """Return the answers of a batch by in_batch_idx: the given one where there is one, else the model's."""
    query = select(t.Answer).where(t.Answer.analysis_id == analysis_id, t.Answer.batch_idx == batch_idx)
    rows = sorted(session.scalars(query), key=lambda row: row.kind == "given")
    return {row.in_batch_idx: row.text for row in rows}


def trainings_of(
    session: Session, analysis_id: str, batch_idx: int, after: Key | None, limit: int
) -> tuple[Page[t.TrainingStep], dict[str, str]]:
    """Return every training step that used this batch, and the trainings' names."""
    s, run = t.TrainingStep, t.Training
    query = (
        select(s)
        .join(run, run.id == s.training_id)
        .where(run.analysis_id == analysis_id, run.deleted_at.is_(None), s.batch_idx == batch_idx)
    )
    steps = page(session, query, (s.training_id, s.step), after, limit)
    ids = {step.training_id for step in steps.items}
    return steps, dict(session.execute(select(run.id, run.name).where(run.id.in_(ids))).all())


def left_out(
    session: Session, analysis: t.Analysis, after: Key | None, limit: int
) -> tuple[Page[LeftOut], dict[int, t.PromptRow]]:
    """Return the prompts that stand in no batch, and their rows."""
    out = slice_page(plans.load(session, analysis.id).left_out, after, limit)
    return out, datasets.rows_at(session, analysis.dataset_id, [row.row_idx for row in out.items])
