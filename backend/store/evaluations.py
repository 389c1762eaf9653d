"""Evaluations in the store: submitted with their prompts and their arms drawn, read arm by arm and answer by answer.

What the answers say is computed in evaluation_results.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from backend.domain.canonical import digest
from backend.domain.errors import NotFound
from backend.domain.evaluation.interventions import Family
from backend.domain.evaluation.prompts import AskedPrompt, Used
from backend.domain.vocabulary import Expert, Label, Pool, Scope
from backend.store import plans, risks
from backend.store import tables as t
from backend.store.paging import Key, Page, page

TRAINED = "training:"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to run the model."""

    family: Family
    model_id: str
    experts: tuple[Expert, ...] = ()
    load_share: float | None = None


def create(
    session: Session,
    name: str,
    params: dict[str, Any],
    prompts: Sequence[AskedPrompt],
    arms: Sequence[Arm],
    **columns: Any,
) -> t.Evaluation:
    """Store a queued evaluation with its prompts and its arms. columns: the rest of `evaluations`."""
    evaluation = t.Evaluation(
        id=t.new_id("ev"),
        name=name,
        tags=[],
        notes="",
        status="queued",
        stage="",
        done=0,
        total=len(arms) * len(prompts),
        environment={},
        created_at=t.utcnow(),
        params=params,
        **columns,
    )
    session.add(evaluation)
    session.flush()
    own = {"evaluation_id": evaluation.id}
    asked = [
        own
        | {name: getattr(p, name) for name in ("row_idx", "row_id", "group", "seen")}
        | {"prompt_idx": i, "label": str(p.label)}
        for i, p in enumerate(prompts)
    ]
    drawn = [
        own
        | {"arm_idx": i, "family": str(arm.family), "model_id": arm.model_id, "load_share": arm.load_share}
        | {"experts": [list(expert) for expert in arm.experts], "finished": False}
        for i, arm in enumerate(arms)
    ]
    session.execute(insert(t.EvaluationPrompt), asked)
    session.execute(insert(t.EvaluationArm), drawn)
    return evaluation


# --- what an evaluation stands on


def rows_to_ask(session: Session, dataset_id: str) -> list[AskedPrompt]:
    """Return every row of a prompt set as it could be asked."""
    r = t.PromptRow
    query = select(r.row_idx, r.row_id, r.messages, r.label, r.group).where(r.dataset_id == dataset_id)
    rows = session.execute(query.order_by(r.row_idx))
    return [AskedPrompt(idx, id_, digest(messages), Label(label), group) for idx, id_, messages, label, group in rows]


def rows_with_response(session: Session, dataset_id: str) -> list[tuple[int, str]]:
    """Return (row_idx, label) of the rows that carry a response."""
    r = t.PromptRow
    query = select(r.row_idx, r.label).where(r.dataset_id == dataset_id, r.response.is_not(None), r.response != "")
    return [(idx, label) for idx, label in session.execute(query.order_by(r.row_idx))]


def used_by(
    session: Session, model_id: str, expert_set: t.ExpertSet | None, to_train_on: str | None = None
) -> list[Used]:
    """Return what chose the experts, every training that the model went through, and what chose the experts of that.

    to_train_on: an analysis whose prompts will be trained before the same is asked again.
    """
    chose_them = [expert_set.analysis_id] if expert_set else []
    analyses = {id_: id_ for id_ in (*chose_them, to_train_on) if id_ is not None}
    trainings: dict[str, str] = {}
    while model_id.startswith(TRAINED):
        training = session.get(t.Training, model_id.removeprefix(TRAINED))
        if training is None:
            break
        trainings[training.id] = training.analysis_id
        if training.expert_set_id is not None:
            chose = session.get_one(t.ExpertSet, training.expert_set_id).analysis_id
            if chose != training.analysis_id:  # a global set may come from another analysis
                analyses[chose] = chose
        model_id = session.get_one(t.Analysis, training.analysis_id).model_id
    own = [("analysis", ids) for ids in analyses.items()] + [("training", ids) for ids in trainings.items()]
    return [_used(session, kind, id_, analysis_id) for kind, (id_, analysis_id) in own]


def _used(session: Session, kind: str, id_: str, analysis_id: str) -> Used:
    dataset_id = session.get_one(t.Analysis, analysis_id).dataset_id
    plan = plans.load(session, analysis_id)
    planned = {sample.row_idx for batch in plan.batches for sample in batch.samples}
    rows = [row for row in rows_to_ask(session, dataset_id) if row.row_idx in planned]
    groups = frozenset(row.group for row in rows if row.group is not None)
    return Used(kind, id_, frozenset(row.key for row in rows), groups)


def load_of(session: Session, analysis: t.Analysis, scope: str) -> dict[Expert, float]:
    """Return how many tokens each expert received in an analysis; empty where nothing is counted."""
    sums = session.get(t.AnalysisAggregate, (analysis.id, scope))
    if sums is None:
        return {}
    return _per_expert(analysis, sums.counts.astype(np.int64).sum(axis=0), sum)


def strength_of(session: Session, analysis: t.Analysis, rule: Mapping[str, Any]) -> dict[Expert, float]:
    """Return |risk_diff| of each expert in the pool and scope of a rule."""
    view = risks.over_all(session, analysis, Scope(rule["scope"]), Pool(rule["pool"]))
    if view.table is None:
        return {}
    return _per_expert(analysis, np.abs(np.nan_to_num(view.table.risk_diff)), max)


def _per_expert(analysis: t.Analysis, cells: Any, join: Any) -> dict[Expert, float]:
    found: dict[Expert, list[float]] = {}
    for place, site in enumerate(risks.sites_of(analysis)):
        for expert in range(site.n_experts):
            found.setdefault((site.layer, expert), []).append(float(cells[place, expert]))
    return {expert: float(join(values)) for expert, values in found.items()}


# --- reading


def prompts(session: Session, evaluation_id: str) -> list[t.EvaluationPrompt]:
    """Return what is asked, in order."""
    p = t.EvaluationPrompt
    return list(session.scalars(select(p).where(p.evaluation_id == evaluation_id).order_by(p.prompt_idx)))


def arms(session: Session, evaluation_id: str) -> list[t.EvaluationArm]:
    """Return the arms in order."""
    a = t.EvaluationArm
    return list(session.scalars(select(a).where(a.evaluation_id == evaluation_id).order_by(a.arm_idx)))


def heads(session: Session, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return per evaluation: n_arms, n_finished, n_safe, n_unsafe, n_overruled."""
    a, p, o = t.EvaluationArm, t.EvaluationPrompt, t.EvaluationOverrule
    found = {id_: dict.fromkeys(("n_arms", "n_finished", "n_safe", "n_unsafe", "n_overruled"), 0) for id_ in ids}
    per_arm = select(a.evaluation_id, func.count(), func.count().filter(a.finished)).where(a.evaluation_id.in_(ids))
    for id_, n, finished in session.execute(per_arm.group_by(a.evaluation_id)):
        found[id_] |= {"n_arms": n, "n_finished": finished}
    per_label = select(p.evaluation_id, p.label, func.count()).where(p.evaluation_id.in_(ids))
    for id_, label, n in session.execute(per_label.group_by(p.evaluation_id, p.label)):
        found[id_][f"n_{label}"] = n
    overruled = select(o.evaluation_id, func.count(o.n.distinct())).where(o.evaluation_id.in_(ids))
    for id_, n in session.execute(overruled.group_by(o.evaluation_id)):
        found[id_]["n_overruled"] = n
    return found


def judges(session: Session, evaluation_id: str) -> list[str]:
    """Return who judged, each with its version."""
    x = t.EvaluationAnswer
    query = select(x.judge).where(x.evaluation_id == evaluation_id, x.judge.is_not(None)).distinct()
    return sorted(judge for judge in session.scalars(query) if judge)


def answers(
    session: Session,
    evaluation_id: str,
    *,
    arm: int | None,
    verdict: str | None,
    label: str | None,
    q: str | None,
    after: Key | None,
    limit: int,
) -> Page[t.EvaluationAnswer]:
    """Return answers in order: of one arm, with the verdict that counts, to prompts of one label, with `q` in them."""
    x, p = t.EvaluationAnswer, t.EvaluationPrompt
    query = select(x).where(x.evaluation_id == evaluation_id)
    if arm is not None:
        query = query.where(x.arm_idx == arm)
    if verdict:
        query = query.where(func.coalesce(x.overruled, x.verdict) == verdict)
    if label:
        own = select(p.prompt_idx).where(p.evaluation_id == evaluation_id, p.label == label)
        query = query.where(x.prompt_idx.in_(own))
    if q:
        query = query.where(x.text.icontains(q, autoescape=True))
    return page(session, query, (x.n,), after, limit)


def answer(session: Session, evaluation_id: str, n: int) -> t.EvaluationAnswer:
    """Return one answer. Raises NotFound."""
    found = session.get(t.EvaluationAnswer, (evaluation_id, n))
    if found is None:
        raise NotFound("answer", n)
    return found


def overrule(session: Session, found: t.EvaluationAnswer, verdict: str, reason: str, by: str) -> None:
    """Let a person's verdict count instead of the judge's, and keep the record of it."""
    row = t.EvaluationOverrule(
        evaluation_id=found.evaluation_id,
        n=found.n,
        before=found.overruled or found.verdict,
        verdict=verdict,
        reason=reason,
        by=by,
        at=t.utcnow(),
    )
    session.add(row)
    found.overruled = verdict
    session.flush()


def overrules(session: Session, evaluation_id: str, after: Key | None, limit: int) -> Page[t.EvaluationOverrule]:
    """Return the record of overruled verdicts, oldest first."""
    o = t.EvaluationOverrule
    return page(session, select(o).where(o.evaluation_id == evaluation_id), (o.id,), after, limit)


def verdicts(session: Session, evaluation_id: str) -> Iterator[tuple[int, int, str | None, str | None]]:
    """Yield (arm_idx, prompt_idx, verdict, overruled) of every answer."""
    x = t.EvaluationAnswer
    query = select(x.arm_idx, x.prompt_idx, x.verdict, x.overruled).where(x.evaluation_id == evaluation_id)
    yield from session.execute(query.order_by(x.n))
