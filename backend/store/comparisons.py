"""Comparisons in the store: two sides read as rates, compared at once, and what a worker adds afterwards.

Not covered: the figures themselves (backend/domain/comparison.py), the intervals (worker/comparing.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session, undefer

from backend.domain.comparison import Side, compare, split
from backend.domain.errors import Conflict, InvalidInput
from backend.domain.experts import expert_mask
from backend.domain.jobs import ACTIVE
from backend.domain.risk_tables import rates_of
from backend.domain.vocabulary import Pool, Site
from backend.store import analyses, jobs, risk_tables, risks, runs
from backend.store import tables as t

TRAINED = "training:"
Matrices = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """One side as it stands in the store. about: what a comparison keeps of it, for good."""

    side: Side
    sites: tuple[Site, ...]
    about: dict[str, Any]
    analysis: t.Analysis | None


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """What is known before any interval. matrices: float32 [risk_diff of a, of b; site, expert]."""

    side_a: str
    side_b: str
    scope: str
    pool: str
    result: dict[str, Any]
    matrices: Matrices


def compare_now(session: Session, side_a: str, side_b: str, scope: str | None, pool: str | None) -> Compared:
    """Read both sides and compare them. scope, pool: None for what both have.

    Raises NotFound; Conflict where a side is not measured; InvalidInput where the sides do not go together.
    """
    pool = common_pool((side_a, side_b), pool)
    scope = scope or common_scope(session, (side_a, side_b))
    a, b = (load(session, id_, scope, pool) for id_ in (side_a, side_b))
    result = compare(a.side, b.side)
    result |= {
        "sides": [a.about, b.about],
        "sites": [site.to_dict() for site in (b if a.analysis is None else a).sites],
        "pairing": _pairing(a, b),
        "trained": _trained(session, a, b),
        "intervals": None,
    }
    matrices = np.stack([a.side.risk_diff, b.side.risk_diff]).astype(np.float32)
    return Compared(side_a, side_b, scope, pool, result, matrices)


def _is_table(id_: str) -> bool:
    return id_.startswith("rt_")


def common_pool(sides: Sequence[str], pool: str | None) -> str:
    """Return the pool in which these sides are compared; None: the one that all have. Raises InvalidInput."""
    tables = [id_ for id_ in sides if _is_table(id_)]
    if tables and pool == Pool.MEAN:
        raise InvalidInput(
            f"{tables[0]} is a published table, whose rates are over tokens: all sides are compared in pool 'pooled'.",
            ("body", "pool"),
        )
    return pool or str(Pool.POOLED if tables else Pool.MEAN)


def common_scope(session: Session, sides: Sequence[str]) -> str:
    """Return the first scope that every analysis among the sides counted. Raises NotFound, InvalidInput."""
    counted = [list(runs.get(session, t.Analysis, id_).params["scopes"]) for id_ in sides if not _is_table(id_)]
    if not counted:
        return "prompt"
    both = [scope for scope in counted[0] if all(scope in own for own in counted)]
    if not both:
        raise InvalidInput("These analyses counted no scope in common.", ("body", "scope"))
    return str(both[0])


def load(session: Session, id_: str, scope: str, pool: str) -> Loaded:
    """Read one side: an analysis or a published table. Raises NotFound, Conflict, InvalidInput."""
    if _is_table(id_):
        return _load_table(risk_tables.get(session, id_))
    analysis = runs.get_live(session, t.Analysis, id_)
    if analysis.status != "succeeded":
        raise Conflict(
            f"The analysis {analysis.name!r} ({id_}) is {analysis.status}: compare it once it has succeeded."
        )
    analyses.check_scope(analysis, scope)
    view = risks.over_all(session, analysis, scope, Pool(pool))
    if view.table is None:
        raise Conflict(f"The analysis {analysis.name!r} ({id_}) has nothing to compare: {view.reason}.")
    rates = np.stack([view.masked(view.table.rate_safe), view.masked(view.table.rate_unsafe)])
    dataset = session.get_one(t.Dataset, analysis.dataset_id)
    about = {
        "kind": "analysis",
        "id": id_,
        "name": analysis.name,
        "model": analysis.model_id,
        "training_id": _training_id(analysis),
        "dataset_id": dataset.id,
        "dataset_name": dataset.name,
        "label_meaning": dataset.label_meaning,
        "plan_digest": analysis.plan_digest,
        "n_batches": view.n_batches,
        "n_safe": view.table.n_safe,
        "n_unsafe": view.table.n_unsafe,
    }
    return Loaded(_side(view.sites, rates), view.sites, about, analysis)


def _load_table(table: t.RiskTable) -> Loaded:
    sizes = [_size(own, table.n_experts) for own in np.asarray(table.tokens.sum(axis=0))]
    sites = tuple(
        Site(layer, f"layer {layer}", n, 0, trainable=False) for layer, n in zip(table.layers, sizes, strict=True)
    )
    about = {
        "kind": "table",
        "id": table.id,
        "name": table.name,
        "model": table.model,
        "training_id": None,
        "label_meaning": table.label_meaning,
        "sha256": table.sha256,
        "file": table.file,
    }
    return Loaded(_side(sites, rates_of(table.counts, table.tokens)), sites, about, None)


def _size(tokens: NDArray[Any], widest: int) -> int:
    """Return how many experts a layer of a table has: up to the last one with tokens [expert]."""
    return int(np.flatnonzero(tokens)[-1]) + 1 if tokens.any() else widest


def _side(sites: tuple[Site, ...], rates: NDArray[np.float64]) -> Side:
    return Side(tuple(site.layer for site in sites), tuple(site.n_experts for site in sites), rates)


def _training_id(analysis: t.Analysis) -> str | None:
    return analysis.model_id.removeprefix(TRAINED) if analysis.model_id.startswith(TRAINED) else None


def _pairing(a: Loaded, b: Loaded) -> dict[str, Any]:
    """Say whether the same plan was measured, and what intervals that allows: paired, unpaired, or none."""
    if a.analysis is None or b.analysis is None:
        reason = "A published table holds no prompts, so there is nothing to draw anew: no intervals."
        return {"same_plan": False, "same_prompts": False, "intervals": None, "reason": reason}
    same_plan = a.analysis.plan_digest == b.analysis.plan_digest
    same_prompts = a.analysis.dataset_id == b.analysis.dataset_id
    if same_plan:
        reason = "The same plan was measured on both sides: every prompt is its own control."
    else:
        reason = "The plans differ, so each side's prompts are drawn on their own; that is less powerful."
    kind = "paired" if same_plan else "unpaired"
    return {"same_plan": same_plan, "same_prompts": same_prompts, "intervals": kind, "reason": reason}


def _trained(session: Session, a: Loaded, b: Loaded) -> dict[str, Any] | None:
    """Say which side is a model trained here, which experts were trained, and the drift inside and outside them."""
    for name, own in (("b", b), ("a", a)):
        id_ = own.about["training_id"]
        training = session.get(t.Training, id_) if id_ else None
        if training is None:
            continue
        found: dict[str, Any] = {
            "side": name,
            "training_id": training.id,
            "training_name": training.name,
            "analysis_id": training.analysis_id,
            "mode": training.mode,
            "expert_set_id": training.expert_set_id,
            "experts": None,
        }
        chosen = session.get(t.ExpertSet, training.expert_set_id) if training.expert_set_id else None
        if chosen is None or training.mode == "full":
            return found
        mask = expert_mask([(layer, expert) for layer, expert in chosen.experts], own.sites)
        there = risks.exists(own.sites)
        learned = mask if training.mode == "selected" else there & ~mask
        sites, experts = np.nonzero(learned)
        pairs = sorted({(own.sites[site].layer, expert) for site, expert in zip(sites, experts.tolist(), strict=True)})
        return found | {"experts": [list(pair) for pair in pairs]} | split(a.side, b.side, learned)
    return None


def find(session: Session, compared: Compared, *, intervals: bool, params: dict[str, Any]) -> t.Comparison | None:
    """Return a comparison of the same, with intervals if they are wanted, that was made before and did not fail."""
    c = t.Comparison
    query = select(c).where(c.side_a == compared.side_a, c.side_b == compared.side_b, c.deleted_at.is_(None))
    query = query.where(c.scope == compared.scope, c.pool == compared.pool, c.status.in_((*ACTIVE, "succeeded")))
    rows = session.scalars(query.order_by(c.created_at.desc(), c.id.desc()))
    return next((row for row in rows if not intervals or row.params == params), None)


def create(
    session: Session, compared: Compared, name: str | None, *, intervals: bool, params: dict[str, Any]
) -> tuple[t.Comparison, t.Job | None]:
    """Store a comparison; where intervals are wanted, queued with its job."""
    first, second = (one["name"] for one in compared.result["sides"])
    now = t.utcnow()
    stored = t.Comparison(
        id=t.new_id("cmp"),
        name=name or f"{first} and {second}"[:200],
        tags=[],
        notes="",
        status="queued" if intervals else "succeeded",
        stage="",
        done=0,
        total=0,
        environment={},
        created_at=now,
        started_at=None if intervals else now,
        finished_at=None if intervals else now,
        side_a=compared.side_a,
        side_b=compared.side_b,
        scope=compared.scope,
        pool=compared.pool,
        params=params,
        result=compared.result,
        matrices=compared.matrices,
        has_intervals=False,
    )
    session.add(stored)
    session.flush()
    return stored, jobs.add(session, "comparison", stored.id) if intervals else None


def with_matrices(session: Session, id_: str) -> t.Comparison:
    """Return a comparison with its matrices. Raises NotFound."""
    runs.get(session, t.Comparison, id_)
    return session.get_one(t.Comparison, id_, options=[undefer(t.Comparison.matrices)], populate_existing=True)


def record_intervals(
    session: Session, id_: str, low: NDArray[Any], high: NDArray[Any], figures: dict[str, Any]
) -> bool:
    """Store the intervals of a comparison: [site, expert] each, and their figures. False if it is no longer running."""
    stored = with_matrices(session, id_)
    matrices = np.concatenate([stored.matrices[:2], np.stack([low, high])]).astype(np.float32)
    result = stored.result | {"intervals": figures}
    values = {"matrices": matrices, "result": result, "has_intervals": True}
    wanted = (t.Comparison.id == id_, t.Comparison.status == "running")
    found = session.execute(update(t.Comparison).where(*wanted).values(**values))
    return isinstance(found, CursorResult) and found.rowcount == 1
