"""The stage `statistics`: reads the counts of an analysis batch by batch, has them examined, stores the findings.

Runs without a model, a GPU or torch. Nothing is stored before the end, so a run that was broken off starts anew, and
gives the same findings. Not covered: what is computed (backend/domain/statistics).
"""

import os
import platform
import time
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from backend.domain.errors import NotFound, NoTokens
from backend.domain.risk import BatchCounts, RiskSums
from backend.domain.statistics.examination import WHOLE, Material, examine
from backend.domain.statistics.samples import samples_of
from backend.domain.vocabulary import Pool, Site
from backend.settings import get_settings
from backend.store import statistics as stored_statistics
from backend.store import tables as t
from backend.store import writes
from backend.store.counted import CountedBatch, InputDigest, counted_batches, row_values
from backend.store.engine import reading, shared_engine, writing

_AT_ONCE = 32
"""Batches that one read of the database gives: no reader stays open for long."""
_READING = 50
"""Of WHOLE: what reading the counts counts for."""
_TELL_SECONDS = 0.5
_NOTHING_FINITE = "No batch with finite router values was measured, so there is nothing to compare."


class Stopped(Exception):
    """The run is not wanted any more: it was cancelled, or somebody else finished it."""


def run_statistics(statistics_id: str, job_id: str) -> int:
    """Compute and store the statistics in this process's database; return how many samples they stand on."""
    return compute(shared_engine(get_settings().tables_url), statistics_id, job_id)


def compute(engine: Engine, statistics_id: str, job_id: str) -> int:
    """Compute and store the statistics; return how many samples they stand on, 0 if they are not wanted any more.

    Raises NotFound; Conflict where a batch is missing.
    """
    with reading(engine) as session:
        stored = session.get(t.Statistics, statistics_id)
        if stored is None:
            raise NotFound("statistics", statistics_id)
        analysis = session.get_one(t.Analysis, stored.analysis_id)
        stored_statistics.check_ready(session, analysis)
    teller = _Teller(engine, stored.id, job_id)
    try:
        gathered = _gather(engine, analysis, stored.scope, Pool(stored.pool), teller)
        with reading(engine) as session:
            material = gathered.material(session, analysis, Pool(stored.pool), stored.params["strata"])
        seed = f"{analysis.plan_digest}-{stored.params['seed']}"
        findings = examine(material, stored_statistics.asked_of(stored), seed=seed, told=teller.examined)
    except Stopped:
        return 0
    findings.summary.update(gathered.summary())
    with writing(engine) as session:
        stored_statistics.record(session, stored, gathered.digest.hexdigest(), findings)
        writes.set_stage(session, t.Statistics, stored.id, done=WHOLE, environment=_environment())
        writes.log(session, job_id, f"stands on {gathered.n} prompts of {gathered.n_batches} batches")
    return gathered.n


def _environment() -> dict[str, Any]:
    versions = {name: version(name) for name in ("routeprint", "numpy")} | {"python": platform.python_version()}
    threads = os.environ.get("OMP_NUM_THREADS", "")
    threads_or_none = int(threads) if threads.isdigit() else None
    return {"device": "cpu", "host": platform.node(), "threads": threads_or_none, "versions": versions}


class _Teller:
    """Writes progress now and then, and looks whether the run is still wanted. Raises Stopped if it is not."""

    def __init__(self, engine: Engine, id_: str, job_id: str) -> None:
        self.engine, self.id, self.job_id = engine, id_, job_id
        self.stage, self.last = "", 0.0

    def examined(self, stage: str, done: int, total: int) -> None:
        self(stage, _READING + (WHOLE - _READING) * done // total)

    def __call__(self, stage: str, done: int) -> None:
        now = time.monotonic()
        if stage == self.stage and now - self.last < _TELL_SECONDS:
            return
        with writing(self.engine) as session:
            wanted = session.scalar(select(t.Statistics.status).where(t.Statistics.id == self.id))
            if wanted != "running":
                raise Stopped
            writes.set_stage(session, t.Statistics, self.id, stage=stage, done=done, total=WHOLE)
            if stage != self.stage:
                writes.log(session, self.job_id, stage)
        self.stage, self.last = stage, now


class _Gathered:
    """The samples of all finite batches so far. counts: the narrowest unsigned type; it grows when it must."""

    def __init__(self, analysis: t.Analysis, scope: str, pool: Pool) -> None:
        self.sites = tuple(Site.from_dict(site) for site in analysis.sites)
        n, widest = analysis.plan_summary["n_samples"], max(site.n_experts for site in self.sites)
        self.pool, self.digest = pool, InputDigest(analysis.plan_digest, scope)
        self.n = self.n_batches = self.n_not_finite = self.n_batches_not_finite = 0
        self.counts: NDArray[Any] = np.zeros((n, len(self.sites), widest), dtype=np.uint8)
        self.tokens, self.labels = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int8)
        self.rows, self.token_ids = np.zeros(n, dtype=np.int64), list[NDArray[Any]]()
        self.sums = RiskSums.zero(len(self.sites), widest)
        self.risk_diffs: list[NDArray[np.float32]] = []

    def add(self, batch: CountedBatch) -> None:
        """Take the next batch; one that is not finite is counted and left out."""
        self.digest.add(batch)
        if not batch.finite:
            self.n_not_finite += len(batch.labels)
            self.n_batches_not_finite += 1
            self.risk_diffs.append(np.full(self.counts.shape[1:], np.nan, dtype=np.float32))
            return
        here = slice(self.n, self.n + len(batch.labels))
        if batch.counts.dtype.itemsize > self.counts.dtype.itemsize:
            self.counts = self.counts.astype(batch.counts.dtype)
        self.counts[here], self.tokens[here], self.labels[here] = batch.counts, batch.tokens, batch.labels
        self.rows[here] = batch.rows
        self.token_ids.extend(batch.token_ids)
        counts = BatchCounts(batch.labels, batch.tokens.astype(np.int64), batch.counts.astype(np.int32))
        share = RiskSums.of(counts)
        self.sums += share
        self.risk_diffs.append(self._risk_diff(share))
        self.n, self.n_batches = here.stop, self.n_batches + 1

    def _risk_diff(self, share: RiskSums) -> NDArray[np.float32]:
        try:
            return share.table(self.pool).risk_diff.astype(np.float32)
        except NoTokens:
            return np.full(self.counts.shape[1:], np.nan, dtype=np.float32)

    def material(self, session: Session, analysis: t.Analysis, pool: Pool, strata: str | None) -> Material:
        """Return what the statistics stand on; the counts of the single samples are given up for their rates."""
        groups = row_values(session, analysis.dataset_id, "group")
        layers = row_values(session, analysis.dataset_id, strata) if strata else None
        rows, reason, samples = self.rows[: self.n].tolist(), _NOTHING_FINITE, None
        counts, self.counts = self.counts, self.counts[:0]
        if self.n:
            try:
                samples = samples_of(
                    counts[: self.n],
                    self.tokens[: self.n],
                    self.labels[: self.n],
                    groups=[groups[row] for row in rows],
                    strata=[layers[row] for row in rows] if layers else None,
                    pool=pool,
                )
                reason = ""
            except NoTokens as error:
                reason = str(error)
        return Material(
            sites=self.sites,
            samples=samples,
            reason=reason,
            token_ids=self.token_ids,
            batch_risk_diffs=np.stack(self.risk_diffs),
            counts=self.sums.counts.sum(axis=0),
            tokens=int(self.sums.tokens.sum()),
        )

    def summary(self) -> dict[str, Any]:
        """Return how many prompts and batches were used and left out."""
        return {
            "n_batches": self.n_batches,
            "n_batches_non_finite": self.n_batches_not_finite,
            "n_prompts": int((self.tokens[: self.n] > 0).sum()),
            "n_safe": int(((self.tokens > 0) & (self.labels == 0))[: self.n].sum()),
            "n_unsafe": int(((self.tokens > 0) & (self.labels == 1))[: self.n].sum()),
            "n_left_out_non_finite": self.n_not_finite,
            "n_left_out_without_tokens": int((self.tokens[: self.n] == 0).sum()),
        }


def _gather(engine: Engine, analysis: t.Analysis, scope: str, pool: Pool, teller: _Teller) -> _Gathered:
    gathered, total = _Gathered(analysis, scope, pool), analysis.plan_summary["n_batches"]
    for first in range(0, total, _AT_ONCE):
        teller("reading the counts", _READING * first // total)
        with reading(engine) as session:
            for batch in counted_batches(session, analysis.id, scope, first, first + _AT_ONCE):
                gathered.add(batch)
    return gathered
