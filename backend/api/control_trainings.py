"""Controls of an evaluated training: trainings of other sets of as many experts, otherwise made the same way.

A steered model is compared with random sets that are drawn here; a trained one can only be compared with trainings that
somebody made. Whether their experts were drawn at random is not stored anywhere, so the answer says that it was not
checked. Not covered: asking them (they are arms like all others).
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from backend.domain.errors import InvalidInput
from backend.domain.evaluation.interventions import Family
from backend.domain.vocabulary import Expert
from backend.store import runs
from backend.store import tables as t
from backend.store.evaluations import TRAINED, Arm

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
    taken, arms = [_learned(real)], []
    for place, id_ in enumerate(ids):
        control = runs.get_live(session, t.Training, id_)
        why = _not_comparable(control, training)
        if why is None:
            chosen = _set_of(session, control)
            if chosen.kind != real.kind:
                why = f"its expert set is {chosen.kind}, not {real.kind}: other numbers of experts learned in a step"
            elif _sizes(chosen) != _sizes(real):
                why = "it trained another number of experts in some layer"
            elif _learned(chosen) in taken:
                why = "it trained the experts that the evaluated training or another control trained, too"
            taken.append(_learned(chosen))
        if why is not None:
            raise InvalidInput(f"The training {control.name!r} is no control: {why}.", ("body", "controls", place))
        arms.append(Arm(Family.RANDOM, TRAINED + id_, tuple((layer, expert) for layer, expert in chosen.experts)))
    return arms


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
