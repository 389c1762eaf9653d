"""The batches of a training: their losses over the epochs, what is known of them, and why they fell as they did."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.domain.errors import Conflict, NotFound
from backend.domain.explanation.explain import Explanation, explain
from backend.domain.explanation.visits import Visit, Visits, visits_of
from backend.domain.plan import PlannedBatch
from backend.store import batch_features, plans
from backend.store import tables as t
from backend.store.caching import Recent

Vector = NDArray[np.float64]
LOSSES = {"all": "loss", "safe": "loss_safe", "unsafe": "loss_unsafe"}

_explained: Recent[Explanation] = Recent(32)


@dataclass(frozen=True, slots=True, eq=False)
class TrainedBatches:
    """planned: the plan's batches, in order. verified: [batch] of all visits together; features: [batch] by key."""

    planned: Sequence[PlannedBatch]
    visits: Visits
    verified: list[bool | None]
    features: dict[str, Vector]
    explanation: Explanation


def check_preserved(training: t.Training) -> None:
    """Raises Conflict for a run without batches."""
    if not training.params.get("preserve_batches", True):
        raise Conflict(
            "This training did not preserve its batches (preserve_batches=false): its samples were mixed anew in every "
            "epoch, so no batch has a loss of its own. Its steps are there; train with preserve_batches=true for this."
        )


def batches_of(session: Session, training: t.Training, which: str, seed: int) -> TrainedBatches:
    """Return every batch of a training with the losses so far. which: of LOSSES. Raises Conflict (check_preserved)."""
    check_preserved(training)
    analysis = session.get_one(t.Analysis, training.analysis_id)
    planned = plans.load(session, analysis.id).batches
    s = t.TrainingStep
    loss = getattr(s, LOSSES[which])
    query = select(s.batch_idx, s.epoch, s.step, loss, s.verified, s.n_answer_tokens)
    rows = session.execute(query.where(s.training_id == training.id).order_by(s.step)).all()
    visits = visits_of([batch.batch_idx for batch in planned], (Visit(*row[:4]) for row in rows))
    features = dict(batch_features.of_batches(session, training, analysis, len(planned)))
    features["answer_tokens"] = np.full(len(planned), np.nan)
    verified: list[bool | None] = [None] * len(planned)
    for batch_idx, *_, held, n_answer_tokens in rows:
        features["answer_tokens"][batch_idx] = n_answer_tokens / len(planned[batch_idx].samples)
        verified[batch_idx] = held if verified[batch_idx] is None else verified[batch_idx] and bool(held)
    so_far = visits.n_complete or -len(rows)  # what an incomplete epoch adds is not looked at
    key = (training.id, so_far, which, seed)
    explanation = _explained.get(key, lambda: explain(visits, features, seed=seed))
    return TrainedBatches(planned, visits, verified, features, explanation)


def rows_of(found: TrainedBatches) -> list[dict[str, Any]]:
    """Return one row per batch of the plan; NaN where something is not known."""
    visits, why = found.visits, found.explanation
    expected, z = (np.full(len(found.planned), np.nan) for _ in range(2))
    if why.rests is not None:
        expected[why.batches], z[why.batches] = why.rests.expected, why.rests.z
        unusual = dict(zip(why.batches.tolist(), why.rests.unusual.tolist(), strict=True))
    else:
        unusual = {}
    last = visits.step_of(visits.n_complete - 1)
    columns: dict[str, Sequence[Any]] = {
        "n_visits": (visits.steps > 0).sum(axis=1).tolist(),
        "step_first": [step or None for step in visits.step_of(0).tolist()],
        "step_last": [step or None for step in last.tolist()],
        "loss_first": visits.first.tolist(),
        "loss_last": visits.last.tolist(),
        "fall": visits.fall.tolist(),
        "relative_fall": _divided(visits.fall, visits.first),
        "fall_per_epoch": (visits.fall / max(1, visits.n_complete - 1)).tolist(),
        "expected": expected.tolist(),
        "z": z.tolist(),
        "unusual": [unusual.get(batch.batch_idx) for batch in found.planned],
        "verified": found.verified,
        "losses": [[loss for loss, step in zip(*pair, strict=True) if step] for pair in _pairs(visits)],
    } | {key: values.tolist() for key, values in found.features.items()}
    return [
        {"batch_idx": batch.batch_idx, "batch_id": batch.batch_id, "n_safe": batch.n_safe, "n_unsafe": batch.n_unsafe}
        | {name: values[place] for name, values in columns.items()}
        for place, batch in enumerate(found.planned)
    ]


def _pairs(visits: Visits) -> Any:
    return zip(visits.losses.tolist(), visits.steps.tolist(), strict=True)


def _divided(part: Vector, whole: Vector) -> list[float]:
    shares: list[float] = (part / np.where(whole > 0, whole, np.nan)).tolist()
    return shares


def steps_of(session: Session, training_id: str, batch_idx: int) -> list[t.TrainingStep]:
    """Return every recorded visit to a batch, in order, with the losses of its samples."""
    s = t.TrainingStep
    query = select(s).where(s.training_id == training_id, s.batch_idx == batch_idx).order_by(s.step)
    return list(session.scalars(query))


def planned_batch(session: Session, training: t.Training, batch_idx: int) -> PlannedBatch:
    """Return a batch of the plan. Raises NotFound, and Conflict where batches were not preserved."""
    check_preserved(training)
    planned = plans.load(session, training.analysis_id).batches
    if batch_idx >= len(planned):
        raise NotFound(f"batch in a training on {len(planned)} batches with the index", batch_idx)
    return planned[batch_idx]


def sample_facts(session: Session, training: t.Training, batch_idx: int) -> dict[int, dict[str, Any]]:
    """Return, by in_batch_idx: prompt_tokens, answer_tokens and target of a batch's samples, as far as they are known.

    Answers are counted by their ids, as they enter the loss.
    """
    s, e = t.BatchSample, t.TrainingExample
    query = select(s.in_batch_idx, s.tokens).where(s.analysis_id == training.analysis_id, s.batch_idx == batch_idx)
    found: dict[int, dict[str, Any]] = {place: {"prompt_tokens": n} for place, n in session.execute(query)}
    targets = select(e.in_batch_idx, e.target, e.answer_ids).where(
        e.training_id == training.id, e.batch_idx == batch_idx
    )
    for place, target, ids in session.execute(targets):
        found.setdefault(place, {}).update(target=target, answer_tokens=len(ids))
    return found
