"""Controls of an evaluated training: trainings of other sets of as many experts, otherwise made the same way.

A steered model is compared with random sets that are drawn here; a trained one can only be compared with trainings that
somebody made. Whether their experts were drawn at random is not stored anywhere, so the answer says that it was not
checked. Not covered: asking them (they are arms like all others).
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.api.edge import PROBLEMS, Here, PathId
from backend.api.pagination import Paged, listing
from backend.api.schemas.common import Listing
from backend.api.schemas.evaluations import ControlTrainingOut
from backend.domain.errors import InvalidInput
from backend.domain.evaluation.interventions import Family
from backend.domain.vocabulary import Expert
from backend.store import runs
from backend.store import tables as t
from backend.store.evaluations import TRAINED, Arm
from backend.store.paging import Key, Page
from backend.store.paging import page as page_of

router = APIRouter(prefix="/trainings", tags=["evaluations"], responses=PROBLEMS)

NONE_GIVEN = (
    "A trained model stands beside its base model only: what a training of random experts would do is not shown. "
    "To show it, save expert sets drawn at random (method manual, as many experts of every layer), train each with the "
    "settings of this training, and name those trainings as `controls`."
)
NOT_CHECKED = (
    "The controls trained as many experts of every layer, in the same batches with the same settings. That their "
    "experts were drawn at random is not checked: whoever made them says so."
)
_FREE = frozenset(
    (
        "expert_set_id",
        "n_processes",
        "micro_batch_size",
        "shard_weights",
        "checkpoint_every",
        "keep_checkpoints",
        "report_to",
    )
)
"""Parameters in which a control may differ: what is trained, and how it was computed and watched."""


def control_arms(session: Session, ids: Sequence[str], training: t.Training) -> list[Arm]:
    """Return an arm for each control. Raises NotFound, InvalidInput naming the first that is none, and why."""
    if len(set(ids)) < len(ids) or training.id in ids:
        raise InvalidInput("Name each control once, and not the evaluated training itself.", ("body", "controls"))
    if not ids:
        return []
    real = _set_of(session, training)
    taken: list[dict[str, set[Expert]]] = []
    arms = []
    for place, id_ in enumerate(ids):
        control = runs.get_live(session, t.Training, id_)
        why = _why_not(session, control, training, real)
        if why is None:
            chosen = _set_of(session, control)
            if _learned(chosen) in taken:
                why = "it trained the experts that another control trained, too"
            taken.append(_learned(chosen))
        if why is not None:
            raise InvalidInput(f"The training {control.name!r} is no control: {why}.", ("body", "controls", place))
        arms.append(Arm(Family.RANDOM, TRAINED + id_, tuple((layer, expert) for layer, expert in chosen.experts)))
    return arms


@router.get("/{training_id}/controls")
def get_controls(here: Here, training_id: PathId, page: Paged) -> Listing[ControlTrainingOut]:
    """List the finished trainings in the same batches, newest first, and what keeps each from being a control."""
    with here.reading() as session:
        training = runs.get(session, t.Training, training_id)
        found = _others(session, training, page.after(str, str), page.limit)
        return listing(found, lambda other: _show(session, other, training))


def _others(session: Session, training: t.Training, after: Key | None, limit: int) -> Page[t.Training]:
    other = t.Training
    query = select(other).where(other.analysis_id == training.analysis_id, other.id != training.id)
    query = query.where(other.status == "succeeded", other.deleted_at.is_(None), other.expert_set_id.is_not(None))
    return page_of(session, query, (other.created_at, other.id), after, limit, newest_first=True)


def _show(session: Session, other: t.Training, training: t.Training) -> ControlTrainingOut:
    own = _set_of(session, other)
    if training.expert_set_id is None:
        why: str | None = "this training trained no expert set"
    else:
        why = _why_not(session, other, training, _set_of(session, training))
    return ControlTrainingOut(
        id=other.id,
        name=other.name,
        expert_set_id=own.id,
        expert_set_name=own.name,
        n_experts=len(own.experts),
        why_not=why,
    )


def _why_not(session: Session, control: t.Training, training: t.Training, real: t.ExpertSet) -> str | None:
    """Say what keeps a training from being a control of another, which trained `real`; None if nothing does."""
    if why := _not_comparable(control, training):
        return why
    chosen = _set_of(session, control)
    if chosen.kind != real.kind:
        return f"its expert set is {chosen.kind}, not {real.kind}: other numbers of experts learned in a step"
    if _sizes(chosen) != _sizes(real):
        return "it trained another number of experts in some layer"
    if _learned(chosen) == _learned(real):
        return "it trained the experts that the evaluated training trained, too"
    return None


def _set_of(session: Session, training: t.Training) -> t.ExpertSet:
    if training.expert_set_id is None:
        raise InvalidInput(
            f"The training {training.name!r} trained no expert set, so there is nothing to draw at random.",
            ("body", "controls"),
        )
    return session.get_one(t.ExpertSet, training.expert_set_id)


def _learned(chosen: t.ExpertSet) -> dict[str, set[Expert]]:
    """Return what learned, by batch_id, under "" what learned anywhere; how it was chosen makes no difference."""
    return {at: {(layer, expert) for layer, expert in own} for at, own in _each(chosen).items()}


def _sizes(chosen: t.ExpertSet) -> dict[str, Counter[int]]:
    return {at: Counter(layer for layer, _ in own) for at, own in _each(chosen).items()}


def _each(chosen: t.ExpertSet) -> dict[str, list[Any]]:
    return {"": chosen.experts} | (chosen.per_batch or {})


def _not_comparable(control: t.Training, training: t.Training) -> str | None:
    """Say in what a training differs that no control may differ in; None if in nothing."""
    if control.status != "succeeded":
        return f"it is {control.status}"
    if control.analysis_id != training.analysis_id:
        return "it was trained in the batches of another analysis"
    for name in sorted((control.params.keys() | training.params.keys()) - _FREE):
        if control.params.get(name) != training.params.get(name):
            own, others = _told(control.params.get(name)), _told(training.params.get(name))
            return f"its {name} is {own}, that of the evaluated training is {others}"
    if control.expert_set_id is None:
        return "it trained no expert set"
    return None


def _told(value: Any) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)
