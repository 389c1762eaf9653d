"""The stage `comparison`: draws the prompts of two analyses anew and adds intervals to a stored comparison.

Runs without a model, a GPU or torch. A run that was broken off starts anew and gives the same figures.
"""

import time
from typing import Any

import numpy as np
from sqlalchemy import Engine, select

from backend.domain.canonical import digest
from backend.domain.comparison_intervals import DifferenceIntervals, difference_intervals
from backend.domain.errors import Conflict
from backend.domain.statistics.samples import Samples, samples_of
from backend.domain.vocabulary import Pool
from backend.settings import get_settings
from backend.store import comparisons, writes
from backend.store import tables as t
from backend.store.counted import counted_batches, row_values
from backend.store.engine import reading, shared_engine, writing

_AT_ONCE = 32
_TELL_SECONDS = 0.5


class Stopped(Exception):
    """The run is not wanted any more."""


def run_comparison(comparison_id: str, job_id: str) -> int:
    """Compute and store the intervals in this process's database; return how many prompts of a they stand on."""
    return compute(shared_engine(get_settings().tables_url), comparison_id, job_id)


def compute(engine: Engine, comparison_id: str, job_id: str) -> int:
    """Compute and store the intervals; return how many prompts of a they stand on, 0 if they are not wanted any more.

    Raises Conflict where a side has no finite batch, or no prompt has tokens on both.
    """
    with reading(engine) as session:
        stored = session.get_one(t.Comparison, comparison_id)
        pair = [session.get_one(t.Analysis, id_) for id_ in (stored.side_a, stored.side_b)]
    paired = pair[0].plan_digest == pair[1].plan_digest
    n_sites = len(pair[0].sites)
    total = sum(one.plan_summary["n_batches"] for one in pair) + n_sites
    teller = _Teller(engine, comparison_id, total)
    try:
        read = [_Read(engine, one, stored.scope, teller) for one in pair]
        a, b, n_left_out = _samples(read, Pool(stored.pool), paired=paired)
        before = teller.done
        found = difference_intervals(
            a,
            b,
            tuple(site["n_experts"] for site in pair[0].sites),
            paired=paired,
            seed=_seed(stored, pair),
            n_resamples=stored.params["n_resamples"],
            level=stored.params["level"],
            progress=lambda done, _: teller.at("drawing prompts anew", before + done),
        )
    except Stopped:
        return 0
    figures = _figures(found, n_sites) | {"n_left_out": n_left_out, "n_a": len(a.labels), "n_b": len(b.labels)}
    with writing(engine) as session:
        if not comparisons.record_intervals(session, comparison_id, found.low, found.high, figures):
            return 0
        writes.set_stage(session, t.Comparison, comparison_id, done=total)
        kind = "paired" if paired else "unpaired"
        writes.log(session, job_id, f"{kind} intervals from {len(a.labels)} and {len(b.labels)} prompts")
    return len(a.labels)


def _seed(stored: t.Comparison, pair: list[t.Analysis]) -> str:
    """The same request on the same plans draws the same prompts."""
    return digest([[one.plan_digest for one in pair], stored.scope, stored.pool, stored.params["seed"]])


class _Teller:
    """Writes progress now and then, and looks whether the run is still wanted. Raises Stopped if it is not."""

    def __init__(self, engine: Engine, id_: str, total: int) -> None:
        self.engine, self.id, self.total = engine, id_, total
        self.done, self.last = 0, -_TELL_SECONDS

    def at(self, stage: str, done: int) -> None:
        self.done = done
        if time.monotonic() - self.last < _TELL_SECONDS:
            return
        with writing(self.engine) as session:
            if session.scalar(select(t.Comparison.status).where(t.Comparison.id == self.id)) != "running":
                raise Stopped
            writes.set_stage(session, t.Comparison, self.id, stage=stage, done=done, total=self.total)
        self.last = time.monotonic()


class _Read:
    """The finite samples of one analysis. rows: [sample] positions in the prompt set, in the plan's order."""

    def __init__(self, engine: Engine, analysis: t.Analysis, scope: str, teller: _Teller) -> None:
        parts: dict[str, list[Any]] = {"rows": [], "labels": [], "tokens": [], "counts": []}
        start = teller.done
        for first in range(0, analysis.plan_summary["n_batches"], _AT_ONCE):
            with reading(engine) as session:
                for batch in counted_batches(session, analysis.id, scope, first, first + _AT_ONCE):
                    for name, own in parts.items():
                        if batch.finite:
                            own.append(getattr(batch, name))
                    teller.at("reading the counts", start + batch.batch_idx + 1)
        if not parts["rows"]:
            raise Conflict(f"No batch of {analysis.id} with finite router values was measured.")
        self.rows, self.labels, self.tokens, self.counts = (np.concatenate(own) for own in parts.values())
        with reading(engine) as session:
            self.groups = row_values(session, analysis.dataset_id, "group")

    def samples(self, which: Any, pool: Pool) -> Samples:
        """Return the samples at these places."""
        groups = [self.groups[row] for row in self.rows[which].tolist()]
        return samples_of(self.counts[which], self.tokens[which], self.labels[which], groups=groups, pool=pool)


def _samples(read: list[_Read], pool: Pool, *, paired: bool) -> tuple[Samples, Samples, int]:
    """Return both sides' samples and how many were left out. Paired: the prompts with tokens on both, in one order."""
    one, other = read
    present = [own.tokens > 0 for own in read]
    if paired:
        at = {row: place for place, row in enumerate(other.rows.tolist()) if present[1][place]}
        pairs = [(place, at[row]) for place, row in enumerate(one.rows.tolist()) if present[0][place] and row in at]
        if not pairs:
            raise Conflict("No prompt has counted tokens on both sides.")
        first, second = np.array(pairs).T
    else:
        first, second = (np.flatnonzero(own) for own in present)
    n_left_out = len(one.rows) + len(other.rows) - len(first) - len(second)
    return one.samples(first, pool), other.samples(second, pool), n_left_out


def _figures(found: DifferenceIntervals, n_sites: int) -> dict[str, Any]:
    beyond = (found.low > 0) | (found.high < 0)
    return {
        "paired": found.paired,
        "level": found.level,
        "n_resamples": found.n_resamples,
        "unit": found.unit_name,
        "n_units": found.n_units,
        "reason": found.reason,
        "n_with_interval": int(np.isfinite(found.low).sum()),
        "n_beyond_zero": int(beyond.sum()),
        "drift": found.drift.get(None),
        "layers": [found.drift.get(site) for site in range(n_sites)],
    }
