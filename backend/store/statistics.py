"""Statistics in the store: asked for once per request and data, found again, read figure by figure.

Not covered: computing them (worker/statistics.py, backend/domain/statistics).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, undefer

from backend.domain.errors import Conflict, NotFound
from backend.domain.jobs import ACTIVE
from backend.domain.statistics.examination import FIGURES, METHOD, WHOLE, Asked, Findings, findings_digest
from backend.domain.vocabulary import Pool
from backend.store import jobs
from backend.store import tables as t

DEFAULTS: dict[str, Any] = {"n_permutations": 10_000, "n_resamples": 1999, "n_stability": 200, "n_splits": 50}
DEFAULTS |= {"level": 0.95, "alpha": 0.05, "stability_top_k": None, "strata": None, "seed": 0}
"""What is computed where nothing else is asked for."""

Figures = dict[str, NDArray[np.float64]]
"""The tables [site, expert] by name."""


def check_ready(session: Session, analysis: t.Analysis) -> None:
    """Raise Conflict, with the reason, unless every batch of the analysis is stored."""
    total = analysis.plan_summary["n_batches"]
    b = t.AnalysisBatch
    stored = session.scalar(select(func.count()).where(b.analysis_id == analysis.id)) or 0
    if stored < total or analysis.status != "succeeded":
        raise Conflict(
            f"Statistics need every batch of a finished analysis: this one is {analysis.status}, with {stored} of "
            f"{total} batches measured. Wait until it has succeeded, or resume it."
        )


def request_once(
    session: Session, analysis: t.Analysis, scope: str, pool: str, asked: dict[str, Any], name: str | None = None
) -> tuple[t.Statistics, t.Job | None]:
    """Store queued statistics and their job. What already runs or succeeded with the same request comes back instead.

    A finished analysis never changes, so the same request on it is one on the same data.
    """
    params = DEFAULTS | asked | {"scope": scope, "pool": pool, "method": METHOD}
    found = next((one for one in session.scalars(_of(analysis.id, scope, pool)) if one.params == params), None)
    if found is not None:
        return found, None
    stored = t.Statistics(
        id=t.new_id("st"),
        name=name or f"{scope}, {pool}: {analysis.name}"[:200],
        tags=[],
        notes="",
        status="queued",
        stage="",
        done=0,
        total=WHOLE,
        environment={},
        created_at=t.utcnow(),
        analysis_id=analysis.id,
        scope=scope,
        pool=pool,
        params=params,
        summary={},
    )
    session.add(stored)
    session.flush()
    return stored, jobs.add(session, "statistics", stored.id)


def _of(analysis_id: str, scope: str, pool: str) -> Select[t.Statistics]:
    """What runs, will run or has succeeded, newest first."""
    s = t.Statistics
    query = select(s).where(s.analysis_id == analysis_id, s.scope == scope, s.pool == pool, s.deleted_at.is_(None))
    return query.where(s.status.in_((*ACTIVE, "succeeded"))).order_by(s.created_at.desc(), s.id.desc())


def request_defaults(session: Session, analysis_id: str) -> list[t.Job]:
    """Ask for the statistics that every finished analysis gets: each of its scopes, pool mean. Return their jobs.

    None if the analysis did not succeed or asked for none. Done twice, it returns the jobs that are still queued.
    """
    analysis = session.get_one(t.Analysis, analysis_id)
    if analysis.status != "succeeded" or not analysis.params.get("statistics", True):
        return []
    made = []
    for scope in analysis.params["scopes"]:
        stored, job = request_once(session, analysis, scope, Pool.MEAN, {})
        query = select(t.Job).where(t.Job.subject_id == stored.id, t.Job.status == "queued")
        made += [job] if job else list(session.scalars(query))
    return made


def newest(session: Session, analysis_id: str, scope: str, pool: str) -> t.Statistics | None:
    """Return the newest finished statistics of a scope and pool, with their figures."""
    query = _of(analysis_id, scope, pool).where(t.Statistics.status == "succeeded")
    return session.scalars(query.options(undefer(t.Statistics.figures)).limit(1)).first()


def finished(
    session: Session, analysis: t.Analysis, scope: str, pool: str, statistics_id: str | None = None
) -> t.Statistics:
    """Return the statistics to choose experts by: these, or the newest. Raises Conflict, saying how to get them."""
    if statistics_id is not None:
        stored = session.get(t.Statistics, statistics_id, options=[undefer(t.Statistics.figures)])
        if stored is None or stored.analysis_id != analysis.id:
            raise NotFound(f"statistics of the analysis {analysis.id} with the id", statistics_id)
        if (stored.scope, stored.pool) != (scope, pool):
            raise Conflict(
                f"{statistics_id} are of scope {stored.scope!r} and pool {stored.pool!r}, not {scope!r} and {pool!r}."
            )
        if stored.deleted_at is not None:
            raise Conflict(f"The statistics {statistics_id} are deleted: undelete them first.")
        figures_of(stored)
        return stored
    found = newest(session, analysis.id, scope, pool)
    if found is not None:
        return found
    coming = session.scalars(_of(analysis.id, scope, pool).limit(1)).first()
    if coming is not None:
        raise Conflict(f"The statistics {coming.id} are {coming.status}: wait until they have succeeded.")
    raise Conflict(
        f"There are no statistics of scope {scope!r} and pool {pool!r} yet: POST "
        f'/api/v1/analyses/{analysis.id}/statistics {{"scope": "{scope}", "pool": "{pool}"}} and wait until they have '
        "succeeded."
    )


def heads(session: Session, analysis_ids: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """Return {analysis id: [{id, scope, pool, status}, ...]}, newest first."""
    s = t.Statistics
    query = select(s.analysis_id, s.id, s.scope, s.pool, s.status).where(s.deleted_at.is_(None))
    rows = session.execute(query.where(s.analysis_id.in_(analysis_ids)).order_by(s.created_at.desc(), s.id.desc()))
    found: dict[str, list[dict[str, str]]] = {id_: [] for id_ in analysis_ids}
    for analysis_id, id_, scope, pool, status in rows:
        found[analysis_id].append({"id": id_, "scope": scope, "pool": pool, "status": status})
    return found


def asked_of(stored: t.Statistics) -> Asked:
    """Return the numbers that were asked for."""
    return Asked(**{name: stored.params[name] for name in Asked.__slots__})


def record(session: Session, stored: t.Statistics, digest: str, findings: Findings) -> None:
    """Store what was found. Doing it twice changes nothing: the same input and request give the same findings."""
    row = session.get_one(t.Statistics, stored.id)
    row.input_digest, row.summary, row.figures = digest, findings.summary, findings.figures
    row.sha256 = findings_digest(digest, row.params, findings.summary, findings.figures)
    session.flush()


def figures_of(stored: t.Statistics) -> Figures:
    """Return the tables by name. Raises Conflict while there are none."""
    if stored.status != "succeeded" or stored.figures is None:
        raise Conflict(f"The statistics {stored.id} are {stored.status}: they have no figures yet.")
    return dict(zip(FIGURES, stored.figures, strict=True))
