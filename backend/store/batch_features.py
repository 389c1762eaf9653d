"""What is known of every batch of a training before it was trained: routing of the expert set, composition, lengths.

From the analysis and the frozen targets; nothing here changes once the analysis is finished.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import distinct, func, select
from sqlalchemy.orm import Session

from backend.domain.errors import NoTokens
from backend.domain.experts import expert_mask
from backend.domain.risk import BatchCounts, risk_diff
from backend.domain.vocabulary import Site
from backend.store import tables as t
from backend.store.caching import Recent

Vector = NDArray[np.float64]
Features = dict[str, Vector]

_known: Recent[Features] = Recent(16)


def of_batches(session: Session, training: t.Training, analysis: t.Analysis, n_batches: int) -> Features:
    """Return [batch] by feature key (domain: explanation/features.py), NaN: not known."""

    def make() -> Features:
        found = {key: np.full(n_batches, np.nan) for key in (*_ROUTED, *_COMPOSED)}
        expert_set = session.get(t.ExpertSet, training.expert_set_id) if training.expert_set_id else None
        for batch_idx, figures in _routed(session, analysis, expert_set):
            for key, value in figures.items():
                found[key][batch_idx] = value
        for batch_idx, figures in _composed(session, analysis):
            for key, value in figures.items():
                found[key][batch_idx] = np.nan if value is None else float(value)
        return found

    return _known.get((analysis.id, training.expert_set_id, n_batches), make)


_ROUTED = ("max_abs_risk_diff", "risk_above_floor", "set_abs_risk_diff", "set_load", "share_unsafe", "n_samples")
_COMPOSED = ("prompt_tokens", "n_groups", "n_sources")


def _routed(session: Session, analysis: t.Analysis, expert_set: t.ExpertSet | None) -> Any:
    """Yield (batch_idx, figures) of every measured batch, in the analysis' first scope."""
    b, r = t.AnalysisBatch, t.BatchRouting
    here = (r.analysis_id == b.analysis_id) & (r.batch_idx == b.batch_idx) & (r.scope == analysis.params["scopes"][0])
    columns = (b.batch_idx, b.batch_id, b.status, b.n_safe, b.n_unsafe, r.max_abs_risk_diff, r.noise_floor)
    query = select(*columns, *((r.tokens, r.counts) if expert_set else ())).join(r, here)
    sites = tuple(Site.from_dict(site) for site in analysis.sites)
    whole = _cells(expert_set.experts, sites) if expert_set else None
    for row in session.execute(query.where(b.analysis_id == analysis.id).execution_options(yield_per=32)):
        n = row.n_safe + row.n_unsafe
        figures = {"share_unsafe": row.n_unsafe / n, "n_samples": n}
        if row.max_abs_risk_diff is not None:
            figures["max_abs_risk_diff"] = row.max_abs_risk_diff
            if row.noise_floor is not None:
                figures["risk_above_floor"] = row.max_abs_risk_diff - row.noise_floor
        if whole is not None and expert_set is not None and row.status == "measured":
            own = expert_set.per_batch
            cells = whole if own is None else _cells(own.get(row.batch_id, []), sites)
            figures |= _of_set(cells, sites, row)
        yield row.batch_idx, figures


def _cells(experts: list[Any], sites: tuple[Site, ...]) -> NDArray[np.bool_]:
    return expert_mask(((layer, expert) for layer, expert in experts), sites)


def _of_set(cells: NDArray[np.bool_], sites: tuple[Site, ...], row: Any) -> dict[str, float]:
    """Return what a set's experts did in a batch; a set that holds none of them did nothing that could be told."""
    if not cells.any():
        return {}
    tokens, counts = row.tokens.astype(np.int64), row.counts.astype(np.int64)
    places = sum(site.top_k for site, chosen in zip(sites, cells, strict=True) if chosen.any()) * int(tokens.sum())
    chosen = counts[:, cells]
    found = {"set_load": float(chosen.sum() / places)} if places else {}
    labels = np.array([0] * row.n_safe + [1] * row.n_unsafe, dtype=np.int8)  # a batch holds its safe samples first
    try:
        own = risk_diff(BatchCounts(labels=labels, tokens=tokens, counts=chosen[:, None].astype(np.int32)))
    except NoTokens:
        return found
    return found | {"set_abs_risk_diff": float(np.abs(own).mean())}


def _composed(session: Session, analysis: t.Analysis) -> Any:
    """Yield (batch_idx, figures); a prompt without a group or source, where others have one, counts as its own."""
    s, p = t.BatchSample, t.PromptRow
    query = (
        select(
            s.batch_idx,
            func.avg(s.tokens),
            *(func.count(distinct(column)) for column in (p.group, p.source)),
            *(func.count().filter(column.is_(None)) for column in (p.group, p.source)),
        )
        .join(p, (p.dataset_id == analysis.dataset_id) & (p.row_idx == s.row_idx))
        .where(s.analysis_id == analysis.id)
        .group_by(s.batch_idx)
    )
    rows = session.execute(query).all()
    named = [any(row[2 + i] for row in rows) for i in (0, 1)]
    for row in rows:
        counts = [row[2 + i] + row[4 + i] if named[i] else None for i in (0, 1)]
        yield row[0], {"prompt_tokens": row[1], "n_groups": counts[0], "n_sources": counts[1]}
