"""What an evaluation's stored answers say. Computed on request and remembered until an answer or a verdict changes."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.domain.evaluation.interventions import Family
from backend.domain.evaluation.refusal import Verdict
from backend.domain.evaluation.results import ANSWERED, REFUSED, UNJUDGED, Found, Measured, measure_all, summarize
from backend.domain.statistics.rates import Estimate
from backend.domain.vocabulary import Label
from backend.store import evaluations
from backend.store import tables as t
from backend.store.caching import Recent

_CODES = {Verdict.REFUSED: REFUSED, Verdict.ANSWERED: ANSWERED}
MEASURES = ("refusal_unsafe", "refusal_safe", "perplexity", "choice_accuracy")


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """The finished arms with their measures. summary: plain JSON, one entry a measure."""

    arms: tuple[t.EvaluationArm, ...]
    measured: tuple[Measured, ...]
    summary: tuple[dict[str, Any], ...]


_results: Recent[Results] = Recent(16)


def results(session: Session, evaluation: t.Evaluation) -> Results:
    """Return what the finished arms say; nothing before the baseline is there."""
    return _results.get((evaluation.id, *_state(session, evaluation.id)), lambda: _compute(session, evaluation))


def _state(session: Session, id_: str) -> tuple[int, ...]:
    """What the results depend on: finished arms, and the number of times that somebody overruled a verdict."""
    a, o = t.EvaluationArm, t.EvaluationOverrule
    finished = select(func.count()).where(a.evaluation_id == id_, a.finished)
    changed = select(func.count()).where(o.evaluation_id == id_)
    return session.scalar(finished) or 0, session.scalar(changed) or 0


def _compute(session: Session, evaluation: t.Evaluation) -> Results:
    arms = [arm for arm in evaluations.arms(session, evaluation.id) if arm.finished]
    if not arms or arms[0].family != Family.BASELINE:
        return Results((), (), ())
    found = _found(session, evaluation, arms)
    measured = measure_all(found, seed=evaluation.id)
    return Results(tuple(arms), tuple(measured), tuple(summarize(found, measured)))


def _found(session: Session, evaluation: t.Evaluation, arms: list[t.EvaluationArm]) -> Found:
    prompts = evaluations.prompts(session, evaluation.id)
    column = {arm.arm_idx: place for place, arm in enumerate(arms)}
    verdicts = np.full((len(prompts), len(arms)), UNJUDGED, dtype=np.int8)
    raw = verdicts.copy()
    for arm_idx, prompt_idx, verdict, overruled in evaluations.verdicts(session, evaluation.id):
        if (place := column.get(arm_idx)) is not None:
            raw[prompt_idx, place] = _code(verdict)
            verdicts[prompt_idx, place] = _code(overruled or verdict)
    questions = evaluation.params.get("choices") or []
    with_texts = bool(evaluation.texts) and all(arm.nll is not None for arm in arms)
    return Found(
        arms=tuple(arm.arm_idx for arm in arms),
        families=tuple(Family(arm.family) for arm in arms),
        labels=tuple(Label(p.label) for p in prompts),
        groups=tuple(p.group for p in prompts),
        verdicts=verdicts,
        raw=raw,
        nll=_columns([arm.nll for arm in arms]).astype(np.float64) if with_texts else None,
        tokens=np.asarray(arms[0].nll_tokens, dtype=np.float64) if with_texts else None,
        text_groups=_text_groups(session, evaluation) if with_texts else (),
        picked=_columns([arm.picked for arm in arms]).astype(np.int64) if questions else None,
        right=np.array([question["answer"] for question in questions], dtype=np.int64) if questions else None,
    )


def _code(verdict: str | None) -> int:
    return _CODES.get(Verdict(verdict), UNJUDGED) if verdict else UNJUDGED


def _columns(arrays: list[NDArray[Any] | None]) -> NDArray[Any]:
    return np.stack([np.asarray(array) for array in arrays], axis=1)


def _text_groups(session: Session, evaluation: t.Evaluation) -> tuple[str | None, ...]:
    dataset_id = evaluation.capability_dataset_id or evaluation.dataset_id
    r = t.PromptRow
    query = select(r.row_idx, r.group).where(r.dataset_id == dataset_id, r.group.is_not(None))
    groups = dict(session.execute(query).all())
    return tuple(groups.get(row_idx) for row_idx in evaluation.texts)


def table(results: Results) -> dict[str, NDArray[Any]]:
    """Return the finished arms as columns: what each is, and every measure with its interval and its difference."""
    arms = results.arms
    columns: dict[str, list[Any]] = {
        "arm": [arm.arm_idx for arm in arms],
        "family": [arm.family for arm in arms],
        "model": [arm.model_id for arm in arms],
        "n_experts": [len(arm.experts) for arm in arms],
        "experts": [" ".join(f"{layer}.{expert}" for layer, expert in arm.experts) for arm in arms],
        "load_share": [_number(arm.load_share) for arm in arms],
    }
    by_key = {one.key: one for one in results.measured}
    for key in MEASURES:
        one = by_key.get(key)
        empty = (None,) * len(arms)
        for prefix, values in (
            (key, one.values if one else empty),
            (f"{key}_change", one.differences if one else empty),
        ):
            for field in ("value", "low", "high"):
                name = prefix if field == "value" else f"{prefix}_{field}"
                columns[name] = [_number(getattr(value, field, None)) for value in values]
        if key.startswith("refusal"):
            columns[f"{key}_n"] = [value.n if value else 0 for value in (one.values if one else empty)]
    return {name: np.array(values, dtype=None if values else float) for name, values in columns.items()}


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def arm_row(arm: t.EvaluationArm, place: int | None, measured: tuple[Measured, ...]) -> dict[str, Any]:
    """Return one arm as plain JSON; place: its position among the finished ones, None where it is not finished."""

    def shown(values: tuple[Estimate, ...]) -> dict[str, Any] | None:
        return asdict(values[place]) if place is not None else None

    return {
        "arm": arm.arm_idx,
        "family": arm.family,
        "model": arm.model_id,
        "experts": arm.experts,
        "load_share": arm.load_share,
        "finished": arm.finished,
        "effect": arm.effect,
        "measures": {one.key: {"value": shown(one.values), "change": shown(one.differences)} for one in measured}
        if place is not None
        else {},
    }
