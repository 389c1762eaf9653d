"""Risk figures of an analysis: over all its batches from the running sums, or of one batch from its own counts.

Arrays are [site, expert] in the order of the analysis' sites. A site with fewer experts than the widest has NaN beyond
its own. Measured batches never change, so what is derived from one is kept for the next request.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.domain.errors import NotFound, NoTokens
from backend.domain.risk import BatchCounts, RiskSums, RiskTable, noise_floor
from backend.domain.statistics.context import Load, load
from backend.domain.vocabulary import LABELS, Label, Pool, Site
from backend.store import tables as t
from backend.store.caching import Recent
from backend.store.writes import sums_from_row

Matrix = NDArray[np.float64]
Floor = tuple[float, Matrix]

_KEEP_BYTES = 64 * 2**20
_floors: Recent[Floor | None] = Recent(128)
_stacks: Recent[tuple[list[int], NDArray[np.float32]]] = Recent(2)

NOT_MEASURED = "not measured yet"
NON_FINITE = "the router gave values that are not finite: nothing can be said of this batch"


@dataclass(frozen=True, slots=True)
class RiskView:
    """One risk table with what it stands on. `table` is None where `reason` says why."""

    sites: tuple[Site, ...]
    table: RiskTable | None
    n_batches: int
    non_finite: bool
    reason: str | None
    floor: Floor | None = None

    @property
    def n_experts(self) -> int:
        """Number of experts of the widest site."""
        return max(site.n_experts for site in self.sites)

    def masked(self, values: NDArray[Any]) -> Matrix:
        """Return a [site, expert] array with NaN where a site has no such expert."""
        return np.where(exists(self.sites), np.asarray(values, dtype=np.float64), np.nan)


def sites_of(analysis: t.Analysis) -> tuple[Site, ...]:
    """Return the MoE sites of the measured model, in model order."""
    return tuple(Site.from_dict(site) for site in analysis.sites)


def exists(sites: tuple[Site, ...]) -> NDArray[np.bool_]:
    """Return [site, expert]: whether the site has this expert."""
    sizes = np.array([site.n_experts for site in sites])
    present: NDArray[np.bool_] = np.arange(sizes.max())[None, :] < sizes[:, None]
    return present


def over_all(session: Session, analysis: t.Analysis, scope: str, pool: Pool) -> RiskView:
    """Return the figures over every measured batch."""
    sites = sites_of(analysis)
    b = t.AnalysisBatch
    bad = select(func.count()).where(b.analysis_id == analysis.id, b.status == "non_finite")
    non_finite = bool(session.scalar(bad))
    row = session.get(t.AnalysisAggregate, (analysis.id, scope))
    if row is None or not row.n_batches:
        return RiskView(sites, None, 0, non_finite, NON_FINITE if non_finite else NOT_MEASURED)
    table, reason = _table(sums_from_row(row), pool)
    return RiskView(sites, table, row.n_batches, non_finite, reason)


@dataclass(frozen=True, slots=True)
class LoadView:
    """How the tokens spread over the experts. counts: int64 [site, expert]. `load` is None where `reason` says why."""

    sites: tuple[Site, ...]
    load: Load | None
    counts: NDArray[np.int64]
    tokens: int
    n_batches: int
    reason: str | None


def load_over_all(session: Session, analysis: t.Analysis, scope: str, label: str) -> LoadView:
    """Return the load over every measured batch. label: safe, unsafe or all (both together)."""
    sites = sites_of(analysis)
    row = session.get(t.AnalysisAggregate, (analysis.id, scope))
    if row is None or not row.n_batches:
        return LoadView(sites, None, np.zeros(exists(sites).shape, np.int64), 0, 0, NOT_MEASURED)
    sums = sums_from_row(row)
    own = slice(None) if label == "all" else [LABELS.index(Label(label))]
    counts, tokens = sums.counts[own].sum(axis=0), int(sums.tokens[own].sum())
    try:
        return LoadView(sites, load(counts, tokens, sites), counts, tokens, row.n_batches, None)
    except NoTokens as error:
        return LoadView(sites, None, counts, tokens, row.n_batches, str(error))


def of_batch(
    session: Session, analysis: t.Analysis, scope: str, pool: Pool, batch_idx: int, *, with_floor: bool = True
) -> RiskView:
    """Return the figures of one batch, with its noise floor if wanted. Raises NotFound outside the plan."""
    sites = sites_of(analysis)
    total = analysis.plan_summary["n_batches"]
    if batch_idx >= total:
        raise NotFound(f"batch in an analysis of {total} batches with the index", batch_idx)
    stored = session.get(t.AnalysisBatch, (analysis.id, batch_idx))
    if stored is None:
        return RiskView(sites, None, 0, non_finite=False, reason=NOT_MEASURED)
    if stored.status == "non_finite":
        return RiskView(sites, None, 1, non_finite=True, reason=NON_FINITE)
    counts = batch_counts(session, analysis.id, scope, batch_idx)
    table, reason = _table(RiskSums.of(counts), pool)
    floor = _floor(analysis.id, scope, pool, stored, counts) if table and with_floor else None
    return RiskView(sites, table, 1, non_finite=False, reason=reason, floor=floor)


def batch_counts(session: Session, analysis_id: str, scope: str, batch_idx: int) -> BatchCounts:
    """Return the stored counts of a measured batch. Raises NotFound."""
    routing = session.get(t.BatchRouting, (analysis_id, batch_idx, scope))
    if routing is None:
        raise NotFound(f"measured {scope} routing of batch", batch_idx)
    s = t.BatchSample
    query = select(s.label).where(s.analysis_id == analysis_id, s.batch_idx == batch_idx).order_by(s.in_batch_idx)
    labels = [LABELS.index(Label(label)) for label in session.scalars(query)]
    return _counts(labels, routing.tokens, routing.counts)


def _counts(labels: list[int], tokens: NDArray[Any], counts: NDArray[Any]) -> BatchCounts:
    return BatchCounts(
        labels=np.array(labels, dtype=np.int8), tokens=tokens.astype(np.int64), counts=counts.astype(np.int32)
    )


def _table(sums: RiskSums, pool: Pool) -> tuple[RiskTable | None, str | None]:
    try:
        return sums.table(pool), None
    except NoTokens as error:
        return None, str(error)


def _floor(analysis_id: str, scope: str, pool: Pool, stored: t.AnalysisBatch, counts: BatchCounts) -> Floor | None:
    def make() -> Floor | None:
        try:
            return noise_floor(counts, pool, seed=stored.batch_id)
        except NoTokens:
            return None

    return _floors.get((analysis_id, stored.batch_idx, scope, pool), make)


def each_batch(
    session: Session, analysis: t.Analysis, scope: str, pool: Pool
) -> Iterator[tuple[int, str, NDArray[np.float32] | None]]:
    """Yield (batch_idx, batch_id, risk_diff [site, expert] or None) of every stored batch in order, one at a time."""
    b, r = t.AnalysisBatch, t.BatchRouting
    here = (r.analysis_id == b.analysis_id) & (r.batch_idx == b.batch_idx) & (r.scope == scope)
    query = select(b.batch_idx, b.batch_id, r.tokens, r.counts, b.status, b.n_safe, b.n_unsafe).join(r, here)
    query = query.where(b.analysis_id == analysis.id).order_by(b.batch_idx)
    with session.execute(query.execution_options(yield_per=32)) as found:
        for row in found:
            yield row[0], row[1], _risk_diff(pool, *row[2:])


def _risk_diff(
    pool: Pool, tokens: NDArray[Any], counts: NDArray[Any], status: str, n_safe: int, n_unsafe: int
) -> NDArray[np.float32] | None:
    if status == "non_finite":
        return None
    labels = [0] * n_safe + [1] * n_unsafe  # a batch holds its safe samples first
    table, _ = _table(RiskSums.of(_counts(labels, tokens, counts)), pool)
    return None if table is None else table.risk_diff.astype(np.float32)


def expert_over_batches(
    session: Session, analysis: t.Analysis, scope: str, pool: Pool, site: int, expert: int
) -> list[tuple[int, float | None, float | None]]:
    """Return (batch_idx, risk_diff, the batch's noise floor) of one expert in every stored batch."""
    indices, values = _cells(session, analysis, scope, pool, site, expert)
    r = t.BatchRouting
    query = select(r.batch_idx, r.noise_floor).where(r.analysis_id == analysis.id, r.scope == scope)
    floors = dict(session.execute(query).all()) if pool is Pool.MEAN else {}
    return [
        (idx, None if np.isnan(value) else float(value), floors.get(idx))
        for idx, value in zip(indices, values, strict=True)
    ]


def _cells(
    session: Session, analysis: t.Analysis, scope: str, pool: Pool, site: int, expert: int
) -> tuple[list[int], NDArray[np.float32]]:
    """Read one cell of every batch; where all batches fit into a little memory, keep them for the next cell."""
    shape = (len(analysis.sites), max(s["n_experts"] for s in analysis.sites))
    b = t.AnalysisBatch
    n = session.scalar(select(func.count()).where(b.analysis_id == analysis.id)) or 0
    if n * shape[0] * shape[1] * 4 > _KEEP_BYTES:
        found = [
            (idx, np.float32(np.nan) if diff is None else diff[site, expert])
            for idx, _, diff in each_batch(session, analysis, scope, pool)
        ]
        return [idx for idx, _ in found], np.array([value for _, value in found], dtype=np.float32)

    def make() -> tuple[list[int], NDArray[np.float32]]:
        nothing = np.full(shape, np.nan, dtype=np.float32)
        found = [(i, nothing if d is None else d) for i, _, d in each_batch(session, analysis, scope, pool)]
        return [i for i, _ in found], np.array([d for _, d in found], dtype=np.float32).reshape(-1, *shape)

    indices, stack = _stacks.get((analysis.id, scope, pool, n), make)
    return indices, stack[:, site, expert]
