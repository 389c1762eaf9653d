"""Expert sets in the store: chosen by a rule from the risk figures of an analysis, immutable, content-addressed."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from backend.domain.errors import Conflict, NotFound, NoTokens, RuleInvalid
from backend.domain.experts import SelectionRule, agreeing_p, expert_set_digest, per_layer_counts
from backend.domain.experts import select as choose
from backend.domain.rules import CORRECTIONS
from backend.domain.vocabulary import Expert, Site
from backend.store import analyses, risks, statistics
from backend.store import tables as t
from backend.store.paging import Key, Page, page


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a rule chooses. experts: for per_batch the union over batches; per_batch: {batch_id: experts}.

    statistics_id: those that `significant` went by.
    """

    rule: SelectionRule
    experts: tuple[Expert, ...]
    per_batch: dict[str, tuple[Expert, ...]] | None
    sha256: str
    statistics_id: str | None = None


def apply(session: Session, analysis: t.Analysis, rule: SelectionRule, statistics_id: str | None = None) -> Chosen:
    """Apply a rule to an analysis. statistics_id: those that `significant` goes by; None takes the newest.

    Raises RuleInvalid, NoTokens; Conflict where nothing is measured, or `significant` has no statistics to go by.
    """
    sites = risks.sites_of(analysis)
    rule.validate(sites)
    analyses.check_scope(analysis, rule.scope)
    per_batch = stored = None
    if rule.method == "manual":
        experts = rule.experts
    elif rule.kind == "per_batch":
        per_batch = _each(session, analysis, sites, rule)
        experts = tuple(sorted({expert for chosen in per_batch.values() for expert in chosen}))
    else:
        view = risks.over_all(session, analysis, rule.scope, rule.pool)
        if view.table is None:
            raise (Conflict if view.n_batches == 0 else NoTokens)(f"There is nothing to choose from: {view.reason}.")
        p = None
        if rule.method == "significant":
            stored = _tested(session, analysis, rule, statistics_id)
            rule, p = replace(rule, statistics=stored.sha256), p_of(stored, rule, view.table.risk_diff)
        experts = choose(view.table.risk_diff, sites, rule, p)
    sha256 = expert_set_digest(analysis.plan_digest, rule, experts, per_batch)
    return Chosen(rule, experts, per_batch, sha256, stored.id if stored else None)


def _tested(session: Session, analysis: t.Analysis, rule: SelectionRule, statistics_id: str | None) -> t.Statistics:
    """Return the statistics to go by. Raises RuleInvalid where they could not call any expert significant at all."""
    stored = statistics.finished(session, analysis, rule.scope, rule.pool, statistics_id)
    if stored.summary["smallest_p"] is None:
        raise RuleInvalid(f"No expert can be significant here. {stored.summary['design']['reason']}", ("method",))
    smallest = stored.summary["smallest_p"]
    if rule.alpha is not None and rule.alpha < smallest:
        raise RuleInvalid(
            f"alpha is {rule.alpha:g}, and the smallest p-value that these statistics can give is {smallest:.2g}: no "
            "expert can be significant. Take a larger alpha, or compute statistics with more permutations.",
            ("alpha",),
        )
    return stored


def p_of(stored: t.Statistics, rule: SelectionRule, risk_diff: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the figure that `significant` compares with alpha: [site, expert], NaN where there is none."""
    figures = statistics.figures_of(stored)
    return agreeing_p(figures[CORRECTIONS[rule.correction or "max_t"]], figures["difference"], risk_diff)


def _each(
    session: Session, analysis: t.Analysis, sites: tuple[Site, ...], rule: SelectionRule
) -> dict[str, tuple[Expert, ...]]:
    chosen = {
        batch_id: choose(diff, sites, rule)
        for _, batch_id, diff in risks.each_batch(session, analysis, rule.scope, rule.pool)
        if diff is not None
    }
    if not chosen:
        raise Conflict(f"There is nothing to choose from: {risks.NOT_MEASURED}.")
    return chosen


def create(session: Session, analysis: t.Analysis, name: str, chosen: Chosen) -> tuple[t.ExpertSet, bool]:
    """Store a set; return it and whether it is new (the same set under the same name is stored once).

    Raises RuleInvalid for an empty set: nothing could be trained with it.
    """
    if not chosen.experts:
        raise RuleInvalid("This rule chooses no expert at all: nothing could be trained with it. Loosen it.")
    same = select(t.ExpertSet).where(
        t.ExpertSet.analysis_id == analysis.id, t.ExpertSet.sha256 == chosen.sha256, t.ExpertSet.name == name
    )
    found = session.scalars(same.limit(1)).first()
    if found is not None:
        return found, False
    stored = t.ExpertSet(
        id=t.new_id("es"),
        name=name,
        sha256=chosen.sha256,
        analysis_id=analysis.id,
        kind=chosen.rule.kind,
        rule=chosen.rule.to_dict(),
        experts=[list(expert) for expert in chosen.experts],
        per_batch=_plain(chosen.per_batch),
        n_experts=len(chosen.experts),
        created_at=t.utcnow(),
    )
    session.add(stored)
    session.flush()
    return stored, True


def _plain(per_batch: dict[str, tuple[Expert, ...]] | None) -> dict[str, Any] | None:
    return per_batch and {id_: [list(expert) for expert in experts] for id_, experts in per_batch.items()}


def get(session: Session, set_id: str) -> t.ExpertSet:
    """Return an expert set. Raises NotFound."""
    found = session.scalar(_findable().where(t.ExpertSet.id == set_id))
    if found is None:
        raise NotFound("expert set", set_id)
    return found


def listing(session: Session, analysis_id: str | None, after: Key | None, limit: int) -> Page[t.ExpertSet]:
    """Return expert sets, newest first."""
    query = _findable()
    if analysis_id:
        query = query.where(t.ExpertSet.analysis_id == analysis_id)
    return page(session, query, (t.ExpertSet.created_at, t.ExpertSet.id), after, limit, newest_first=True)


def _findable() -> Select[t.ExpertSet]:
    """All sets but those that go with their analysis just now."""
    return select(t.ExpertSet).join(t.Analysis).where(~t.Analysis.purged)


def sizes(per_batch: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return {n_batches, min, median, max} of the batches' own sets; None for a global set."""
    if per_batch is None:
        return None
    counts = [len(experts) for experts in per_batch.values()]
    return {"n_batches": len(counts), "min": min(counts), "median": median(counts), "max": max(counts)}


def layers(experts: Any, sites: tuple[Site, ...]) -> list[dict[str, int]]:
    """Return how many experts of each layer are in the set."""
    return per_layer_counts(tuple((layer, expert) for layer, expert in experts), sites)


def default_name(rule: SelectionRule) -> str:
    """Return a name that says how a set was chosen."""
    if rule.source is not None:
        return f"imported from {rule.source['file']}"[:200]
    corrected = {"max_t": "max-T", "bh": "BH"}.get(rule.correction or "", "")
    how = {
        "threshold": f"threshold {rule.threshold}",
        "significant": f"significant at {rule.alpha:g} ({corrected})" if rule.alpha is not None else "",
        "cumulative": f"cumulative {rule.share:.0%}" if rule.share is not None else "",
        "manual": f"by hand: {len(rule.experts)}",
    }.get(rule.method, f"{rule.method.replace('_', ' ')} {rule.k}")
    return f"{how} {rule.direction}" + (" in each batch" if rule.kind == "per_batch" else "")


def statistics_ids(session: Session, sets: Iterable[t.ExpertSet]) -> dict[str, str]:
    """Return {set id: id of the statistics that its rule went by}; sets that went by none are left out."""
    named = {one.id: (one.analysis_id, one.rule["statistics"]) for one in sets if one.rule.get("statistics")}
    s = t.Statistics
    query = select(s.analysis_id, s.sha256, s.id).where(s.sha256.in_({sha256 for _, sha256 in named.values()}))
    found = {(analysis_id, sha256): id_ for analysis_id, sha256, id_ in session.execute(query) if sha256}
    return {id_: found[key] for id_, key in named.items() if key in found}
