"""Trainings in the store: submitted against a finished analysis, read step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.domain.errors import NotFound
from backend.domain.turns import pairs_in
from backend.store import plans
from backend.store import tables as t
from backend.store.paging import Key, Page, page


def create(
    session: Session,
    name: str,
    analysis: t.Analysis,
    expert_set: t.ExpertSet | None,
    params: dict[str, Any],
    n_steps: int,
) -> t.Training:
    """Store a queued training."""
    training = t.Training(
        id=t.new_id("tr"),
        name=name,
        tags=[],
        notes="",
        status="queued",
        stage="",
        done=0,
        total=n_steps,
        environment={},
        created_at=t.utcnow(),
        analysis_id=analysis.id,
        expert_set_id=expert_set.id if expert_set else None,
        mode=params["mode"],
        routing=params["routing"],
        params=params,
        result={},
    )
    session.add(training)
    session.flush()
    return training


def batches_without_pairs(session: Session, analysis: t.Analysis) -> list[int]:
    """Return the batches of a plan in which no safe sample has an unsafe counterpart."""
    r = t.PromptRow
    named = select(r.row_idx, r.group).where(r.dataset_id == analysis.dataset_id, r.group.is_not(None))
    groups = dict(session.execute(named).all())
    return [
        batch.batch_idx
        for batch in plans.load(session, analysis.id).batches
        if not pairs_in((s.in_batch_idx, s.label, groups.get(s.row_idx)) for s in batch.samples)
    ]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is stored of a training's steps."""

    n: int = 0
    n_verified: int = 0
    final_loss: float | None = None


def recorded(session: Session, ids: Sequence[str]) -> dict[str, Recorded]:
    """Return per training: steps recorded, steps verified, loss of the last step."""
    s = t.TrainingStep
    n_verified = func.count().filter(s.verified.is_(True))
    totals = select(s.training_id, func.count(), n_verified, func.max(s.step)).where(s.training_id.in_(ids))
    found = {}
    for id_, n, verified, last in session.execute(totals.group_by(s.training_id)).all():
        loss = session.scalar(select(s.loss).where(s.training_id == id_, s.step == last))
        found[id_] = Recorded(n, verified, loss)
    return found


def analysis_heads(session: Session, ids: set[str]) -> dict[str, tuple[str, str]]:
    """Return {analysis id: (name, model id)}."""
    rows = session.execute(select(t.Analysis.id, t.Analysis.name, t.Analysis.model_id).where(t.Analysis.id.in_(ids)))
    return {id_: (name, model) for id_, name, model in rows}


def expert_set_names(session: Session, ids: set[str]) -> dict[str, str]:
    """Return the names of these expert sets."""
    return dict(session.execute(select(t.ExpertSet.id, t.ExpertSet.name).where(t.ExpertSet.id.in_(ids))).all())


def steps(session: Session, training_id: str, after: Key | None, limit: int) -> Page[t.TrainingStep]:
    """Return the steps of a training in their order."""
    query = select(t.TrainingStep).where(t.TrainingStep.training_id == training_id)
    return page(session, query, (t.TrainingStep.step,), after, limit)


def step(session: Session, training_id: str, number: int) -> t.TrainingStep:
    """Return one step. Raises NotFound."""
    found = session.get(t.TrainingStep, (training_id, number))
    if found is None:
        raise NotFound("recorded step", number)
    return found


def neighbours(session: Session, training_id: str, number: int) -> tuple[int | None, int | None]:
    """Return the recorded steps before and after this one."""
    s = t.TrainingStep
    before = select(func.max(s.step)).where(s.training_id == training_id, s.step < number)
    after = select(func.min(s.step)).where(s.training_id == training_id, s.step > number)
    return session.scalar(before), session.scalar(after)


def examples(session: Session, training_id: str, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Any]:
    """Return the frozen targets at these (batch_idx, in_batch_idx)."""
    e = t.TrainingExample
    query = select(e).where(e.training_id == training_id, e.batch_idx.in_({batch_idx for batch_idx, _ in places}))
    wanted = set(places)
    rows = session.scalars(query)
    return {key: row for row in rows if (key := (row.batch_idx, row.in_batch_idx)) in wanted}


def texts(session: Session, dataset_id: str, row_ids: Sequence[str]) -> dict[str, str]:
    """Return the texts of these rows by row_id."""
    query = select(t.PromptRow).where(t.PromptRow.dataset_id == dataset_id, t.PromptRow.row_id.in_(row_ids))
    return {row.row_id: str(row.messages[-1]["content"]) for row in session.scalars(query)}
