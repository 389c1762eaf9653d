"""What a report of an analysis is made from, read out of the tables. Not covered: what it says (domain/report)."""

from collections import defaultdict
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.domain.context import contributions
from backend.domain.errors import NoTokens
from backend.domain.prompts import LabelMeaning
from backend.domain.report.facts import (
    AnalysisFacts,
    ContextFacts,
    DrivenExpert,
    Example,
    Facts,
    MeasuredFacts,
    ModelFacts,
    PromptFacts,
    PromptFile,
    StatisticsFacts,
)
from backend.domain.statistics.context import Load, load
from backend.domain.vocabulary import LABELS, Label, Pool, Scope
from backend.store import contexts, datasets, plans, risks, statistics
from backend.store import tables as t
from backend.store.verify import verify_analysis

_EXAMPLES = 5  # of each label
_TOKENS = 5  # of each side


def gather(
    session: Session,
    analysis: t.Analysis,
    scope: Scope,
    pool: Pool,
    *,
    statistics_id: str | None,
    with_examples: bool,
    verify: bool,
) -> Facts:
    """Return everything that a report of one scope and pool says.

    statistics_id: None takes the newest that are finished. verify: check the whole chain on the way.
    """
    view = risks.over_all(session, analysis, scope, pool)
    values, floors = _by_batch(session, analysis, scope)
    found, waiting = _statistics(session, analysis, scope, pool, statistics_id)
    return Facts(
        version=version("routeprint"),
        scope=scope,
        pool=pool,
        analysis=_analysis(analysis),
        prompts=_prompts(session, analysis.dataset_id),
        measured=_measured(session, analysis.id),
        model=_model(session, analysis),
        table=view.table,
        reason=view.reason,
        load=_load(view),
        values=values,
        floors=floors,
        statistics=found,
        waiting=waiting,
        context=_context(session, analysis, scope, pool),
        links=tuple(verify_analysis(session, analysis.id)) if verify else None,
        examples=_examples(session, analysis) if with_examples else (),
    )


def _analysis(analysis: t.Analysis) -> AnalysisFacts:
    names = ("id", "name", "status", "created_at", "finished_at", "engine", "params", "plan_digest", "environment")
    own = {name: getattr(analysis, name) for name in names}
    return AnalysisFacts(**own, plan=analysis.plan_summary, sites=risks.sites_of(analysis))


def _model(session: Session, analysis: t.Analysis) -> ModelFacts:
    model = session.get(t.Model, analysis.model_id)
    return ModelFacts(
        id=analysis.model_id,
        architecture=model.architecture if model else None,
        n_parameters=model.n_parameters if model else None,
        digests=analysis.model_digests,
    )


def _prompts(session: Session, dataset_id: str) -> PromptFacts:
    dataset = session.get_one(t.Dataset, dataset_id)
    r = t.PromptRow
    query = select(r.source, r.label, func.count()).where(r.dataset_id == dataset_id, r.source.is_not(None))
    sources: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for source, label, n in session.execute(query.group_by(r.source, r.label).order_by(r.source)):
        sources[str(source)][LABELS.index(Label(label))] = n
    grouped = select(func.count(), func.count(r.group.distinct())).where(r.dataset_id == dataset_id)
    n_grouped, n_groups = session.execute(grouped.where(r.group.is_not(None))).one()
    names = ("id", "name", "sha256", "n_rows", "n_safe", "n_unsafe", "n_duplicates")
    return PromptFacts(
        **{name: getattr(dataset, name) for name in names},
        meaning=LabelMeaning.from_dict(dataset.label_meaning),
        files=tuple(_file(file) for file in dataset.files),
        sources={source: (safe, unsafe) for source, (safe, unsafe) in sources.items()},
        n_grouped=n_grouped,
        n_groups=n_groups,
    )


def _file(file: dict[str, Any]) -> PromptFile:
    label = file.get("label") or (file.get("mapping") or {}).get("fixed_label")
    name, sha256, n_rows = (file[key] for key in ("name", "sha256", "n_rows"))
    return PromptFile(name, sha256, n_rows, Label(label) if label else None)


def _measured(session: Session, analysis_id: str) -> MeasuredFacts:
    b, s = t.AnalysisBatch, t.BatchSample
    states = dict(
        session.execute(select(b.status, func.count()).where(b.analysis_id == analysis_id).group_by(b.status)).all()
    )
    lengths: dict[Label, list[int]] = defaultdict(list)
    n_truncated = 0
    for label, tokens, truncated in session.execute(
        select(s.label, s.tokens, s.truncated).where(s.analysis_id == analysis_id)
    ):
        lengths[Label(label)].append(tokens)
        n_truncated += truncated
    return MeasuredFacts(
        n_batches=states.get("measured", 0),
        n_non_finite=states.get("non_finite", 0),
        n_prompts=sum(map(len, lengths.values())),
        n_truncated=n_truncated,
        lengths={label: float(np.median(own)) for label, own in lengths.items()},
        longest=max(map(max, lengths.values()), default=0),
    )


def _by_batch(session: Session, analysis: t.Analysis, scope: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the largest |risk_diff| and the noise floor of every planned batch, NaN where there is none."""
    table = np.full((2, analysis.plan_summary["n_batches"]), np.nan)
    r = t.BatchRouting
    query = select(r.batch_idx, r.max_abs_risk_diff, r.noise_floor)
    for batch_idx, largest, floor in session.execute(query.where(r.analysis_id == analysis.id, r.scope == scope)):
        table[:, batch_idx] = [np.nan if value is None else value for value in (largest, floor)]
    return table[0], table[1]


def _load(view: risks.RiskView) -> Load | None:
    if view.table is None:
        return None
    counts = view.table.count_safe + view.table.count_unsafe
    try:
        return load(counts, view.table.tokens_safe + view.table.tokens_unsafe, view.sites)
    except NoTokens:
        return None


def _statistics(
    session: Session, analysis: t.Analysis, scope: str, pool: str, wanted: str | None
) -> tuple[StatisticsFacts | None, str]:
    """Return the finished statistics; without any, how far those are that were asked for ("": none were)."""
    if wanted is None:
        stored = statistics.newest(session, analysis.id, scope, pool)
    else:
        stored = statistics.finished(session, analysis, scope, pool, wanted)
    if stored is None:
        heads = statistics.heads(session, [analysis.id])[analysis.id]
        return None, next((head["status"] for head in heads if (head["scope"], head["pool"]) == (scope, pool)), "")
    names = ("id", "params", "summary", "input_digest", "sha256", "finished_at", "environment")
    own = {name: getattr(stored, name) for name in names}
    return StatisticsFacts(**own, figures=statistics.figures_of(stored)), ""


def _context(session: Session, analysis: t.Analysis, scope: str, pool: Pool) -> ContextFacts | None:
    """Return what the newest finished context run of this scope says."""
    c = t.Context
    query = select(c).where(c.analysis_id == analysis.id, c.scope == scope, c.status == "succeeded")
    query = query.where(c.deleted_at.is_(None)).order_by(c.created_at.desc(), c.id.desc())
    context = session.scalars(query.limit(1)).first()
    if context is None:
        return None
    experts = contexts.expert_tokens(session, context)
    return ContextFacts(
        id=context.id,
        finished_at=context.finished_at,
        recounted=context.result["recounted"],
        n_experts=len(experts),
        experts=tuple(driven for own in experts if (driven := _driven(own, pool)) is not None),
    )


def _driven(own: contexts.ExpertTokens, pool: Pool) -> DrivenExpert | None:
    try:
        parts = contributions(own.samples, own.tokens, own.hits, own.shares, pool)
    except NoTokens:
        return None
    order = np.argsort(-parts.values, kind="stable").tolist()
    named = [(own.texts[place] or f"#{own.ids[place]}", float(parts.values[place])) for place in order]
    return DrivenExpert(
        row=own.site,
        expert=own.expert,
        concentration=parts.concentration,
        raising=tuple(pair for pair in named[:_TOKENS] if pair[1] > 0),
        lowering=tuple(pair for pair in named[::-1][:_TOKENS] if pair[1] < 0),
    )


def _examples(session: Session, analysis: t.Analysis) -> tuple[Example, ...]:
    """Return the first prompts of each label in the order of the plan."""
    chosen = []
    for label in LABELS:
        own = (s for batch in plans.load(session, analysis.id).batches for s in batch.samples if s.label == label)
        chosen += [sample for sample, _ in zip(own, range(_EXAMPLES), strict=False)]
    rows = datasets.rows_at(session, analysis.dataset_id, [sample.row_idx for sample in chosen])
    return tuple(Example(s.label, s.row_id, datasets.text_of(rows[s.row_idx])) for s in chosen)
