"""The link between an analysis and what is trained: an expert set is what its rule chooses from the stored figures."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from backend.domain.experts import SelectionRule, agreeing_p, expert_set_digest
from backend.domain.experts import select as choose
from backend.domain.rules import CORRECTIONS, sorted_experts
from backend.domain.statistics.examination import FIGURES
from backend.domain.vocabulary import Expert, Site
from backend.store import risks
from backend.store import tables as t
from backend.store.checks import Broken, check_findings, same
from backend.store.writes import sums_from_row


def check_expert_set(session: Session, training: t.Training, analysis: t.Analysis) -> Iterator[None]:
    """The training's expert set is whole, and one per batch is of the training's own batches."""
    if training.expert_set_id is None:
        return
    chosen = session.get_one(t.ExpertSet, training.expert_set_id)
    if chosen.per_batch is not None:
        same(f"expert set {chosen.id}, analysis", analysis.id, chosen.analysis_id)
    yield from check_chosen(session, chosen)


def check_chosen(session: Session, chosen: t.ExpertSet) -> Iterator[None]:
    """An expert set has the SHA-256 of its rule and its experts, and the rule chooses just these experts."""
    source = session.get_one(t.Analysis, chosen.analysis_id)
    found = expert_set_digest(source.plan_digest, chosen.rule, chosen.experts, chosen.per_batch)
    same(f"expert set {chosen.id}", chosen.sha256, found)
    yield
    rule = SelectionRule.from_dict(chosen.rule)
    if rule.kind == "per_batch":
        again = _chosen_in_each_batch(session, source, rule)
        same(f"expert set {chosen.id}, its rule in each batch", again, chosen.per_batch)
        union = sorted(expert for own in again.values() for expert in own)
        same(f"expert set {chosen.id}, all batches", [list(e) for e in sorted_experts(union)], chosen.experts)
        yield
    if rule.method != "manual" and rule.kind == "global":
        same(f"expert set {chosen.id}, its rule", chosen.experts, [list(e) for e in _chosen(session, source, rule)])
        yield


def _chosen(session: Session, analysis: t.Analysis, rule: SelectionRule) -> tuple[Expert, ...]:
    """Apply a rule again to what is stored of its analysis."""
    sums = session.get_one(t.AnalysisAggregate, (analysis.id, str(rule.scope)))
    risk_diff = sums_from_row(sums).table(rule.pool).risk_diff
    p = None
    if rule.alpha is not None:
        figures = _figures(session, analysis, rule)
        p = agreeing_p(figures[CORRECTIONS[rule.correction or "max_t"]], figures["difference"], risk_diff)
    return choose(risk_diff, [Site.from_dict(site) for site in analysis.sites], rule, p)


def _chosen_in_each_batch(session: Session, analysis: t.Analysis, rule: SelectionRule) -> dict[str, list[list[int]]]:
    """Apply a rule again to the counts of every batch: {batch_id: experts}."""
    sites = [Site.from_dict(site) for site in analysis.sites]
    return {
        batch_id: [list(expert) for expert in choose(diff, sites, rule)]
        for _, batch_id, diff in risks.each_batch(session, analysis, rule.scope, rule.pool)
        if diff is not None
    }


def _figures(session: Session, analysis: t.Analysis, rule: SelectionRule) -> dict[str, NDArray[np.float64]]:
    """Return the figures of the statistics that a rule names, once they are seen to be what they were."""
    s = t.Statistics
    query = select(s).where(s.analysis_id == analysis.id, s.sha256 == rule.statistics).options(undefer(s.figures))
    stored = session.scalars(query.order_by(s.created_at).limit(1)).first()
    if stored is None:
        raise Broken("the statistics of the expert set", rule.statistics, "none")
    check_findings(stored)
    assert stored.figures is not None
    return dict(zip(FIGURES, stored.figures, strict=True))
