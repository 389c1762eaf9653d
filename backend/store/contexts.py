"""Experts in context in the store: a second pass over an analysis, its exact sums, and what is read from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from backend.domain.context import PairSums, Place, TokenSums
from backend.domain.errors import InvalidInput, NotFound
from backend.domain.jobs import ACTIVE
from backend.domain.vocabulary import Expert, Pool, Site
from backend.store import risks
from backend.store import tables as t

DEFAULT_EXPERTS = 64


def create(session: Session, name: str, analysis: t.Analysis, scope: str, params: dict[str, Any]) -> t.Context:
    """Store a queued context run."""
    context = t.Context(
        id=t.new_id("cx"),
        name=name,
        tags=[],
        notes="",
        status="queued",
        stage="",
        done=0,
        total=analysis.plan_summary["n_batches"],
        environment={},
        created_at=t.utcnow(),
        analysis_id=analysis.id,
        engine=analysis.engine,
        scope=scope,
        params=params,
        next_batch=0,
        result={},
    )
    session.add(context)
    session.flush()
    return context


def default_experts(view: risks.RiskView, n: int = DEFAULT_EXPERTS) -> list[Expert]:
    """Return the n experts with the largest |risk_diff|, the largest first; none where there is no table."""
    if view.table is None:
        return []
    size = np.nan_to_num(np.abs(view.masked(view.table.risk_diff)), nan=-1.0)
    width = size.shape[1]
    order = np.argsort(-size.ravel(), kind="stable")[: min(n, int((size >= 0).sum()))]
    return list(dict.fromkeys((view.sites[cell // width].layer, cell % width) for cell in order.tolist()))


def places_of(experts: Sequence[Sequence[int]], sites: Sequence[Site]) -> list[Place]:
    """Return where these (layer, expert) stand; a layer with two sites means both. Raises InvalidInput."""
    found: dict[Place, None] = {}
    for i, (layer, expert) in enumerate(experts):
        own = [(place, expert) for place, s in enumerate(sites) if s.layer == layer and expert < s.n_experts]
        if not own:
            layers = ", ".join(f"{site.layer} ({site.n_experts})" for site in sites)
            raise InvalidInput(
                f"There is no expert {expert} in layer {layer}. Layers and their number of experts: {layers}.",
                ("body", "experts", i),
            )
        found |= dict.fromkeys(own)
    return list(found)


def load(session: Session, context: t.Context, sites: Sequence[Site]) -> tuple[PairSums, TokenSums]:
    """Return the sums over the batches before `next_batch`."""
    pairs, tokens = PairSums(sites), TokenSums(places_of(context.params["experts"], sites))
    if not context.next_batch:
        return pairs, tokens
    for row in session.scalars(select(t.ContextSite).where(t.ContextSite.context_id == context.id)):
        pairs.pairs[row.site] = row.pairs.astype(np.int64)
    known = session.get_one(t.ContextTokens, context.id)
    tokens.ids, tokens.occurrences = known.ids.astype(np.int64), known.occurrences.astype(np.int64)
    tokens.samples, tokens.tokens = (np.array(context.result[name], np.int64) for name in ("samples", "tokens"))
    rows = [session.get_one(t.ContextExpert, (context.id, *place)) for place in tokens.experts]
    tokens.hits = np.stack([row.hits for row in rows], axis=2).astype(np.int64)
    tokens.shares = np.stack([row.shares for row in rows], axis=2).astype(np.int64)
    return pairs, tokens


def save(
    session: Session,
    context_id: str,
    next_batch: int,
    pairs: PairSums,
    tokens: TokenSums,
    result: dict[str, Any],
    texts: Sequence[str] = (),
) -> bool:
    """Store the sums over the batches before `next_batch`, all together.

    Returns False, and changes nothing, where the run is no longer active or somebody else is as far already.
    """
    c = t.Context
    result = result | {"samples": tokens.samples.tolist(), "tokens": tokens.tokens.tolist()}
    found = session.execute(
        update(c)
        .where(c.id == context_id, c.status.in_(ACTIVE), c.deleted_at.is_(None), c.next_batch < next_batch)
        .values(next_batch=next_batch, done=next_batch, result=result)
    )
    if not (isinstance(found, CursorResult) and found.rowcount == 1):
        return False
    for table in (t.ContextSite, t.ContextTokens, t.ContextExpert):
        session.execute(delete(table).where(table.context_id == context_id))
    key = {"context_id": context_id}
    session.add_all(t.ContextSite(**key, site=site, pairs=own) for site, own in enumerate(pairs.pairs))
    session.add(t.ContextTokens(**key, ids=tokens.ids, occurrences=tokens.occurrences, texts=list(texts)))
    for column, (site, expert) in enumerate(tokens.experts):
        hits, shares = tokens.hits[:, :, column], tokens.shares[:, :, column]
        session.add(t.ContextExpert(**key, site=site, expert=expert, hits=hits, shares=shares))
    session.flush()
    return True


@dataclass(frozen=True, slots=True, eq=False)
class ExpertTokens:
    """What the tokens did for one expert. samples, tokens: [label]; ids, texts: [id]; the others [label, id]."""

    site: int
    expert: int
    samples: NDArray[np.int64]
    tokens: NDArray[np.int64]
    ids: NDArray[np.int64]
    texts: Sequence[str]
    occurrences: NDArray[np.int64]
    hits: NDArray[np.int64]
    shares: NDArray[np.int64]


def expert_tokens(session: Session, context: t.Context) -> list[ExpertTokens]:
    """Return the tokens of every expert of a run, in the order in which the experts were asked for."""
    known = session.get(t.ContextTokens, context.id)
    if known is None:
        return []
    rows = {(r.site, r.expert): r for r in session.scalars(_experts_of(context.id))}
    sites = risks.sites_of(session.get_one(t.Analysis, context.analysis_id))
    return [_expert(context, known, rows[place]) for place in places_of(context.params["experts"], sites)]


def expert_token(session: Session, context: t.Context, site: int, expert: int) -> ExpertTokens:
    """Return the tokens of one expert. Raises NotFound where the run did not look at it."""
    known, row = session.get(t.ContextTokens, context.id), session.get(t.ContextExpert, (context.id, site, expert))
    if known is None or row is None:
        raise NotFound("expert that this context run looked at, with the number", expert)
    return _expert(context, known, row)


def _experts_of(context_id: str) -> Any:
    return select(t.ContextExpert).where(t.ContextExpert.context_id == context_id)


def _expert(context: t.Context, known: t.ContextTokens, row: t.ContextExpert) -> ExpertTokens:
    return ExpertTokens(
        site=row.site,
        expert=row.expert,
        samples=np.array(context.result["samples"], np.int64),
        tokens=np.array(context.result["tokens"], np.int64),
        ids=known.ids.astype(np.int64),
        texts=known.texts or [""] * len(known.ids),
        occurrences=known.occurrences.astype(np.int64),
        hits=row.hits.astype(np.int64),
        shares=row.shares.astype(np.int64),
    )


def pairs_of(session: Session, context_id: str, site: int) -> NDArray[np.int64]:
    """Return the pairs of one site: int64 [label, a, b], a < b. Raises NotFound before the first window is counted."""
    row = session.get(t.ContextSite, (context_id, site))
    if row is None:
        raise NotFound("counted window of the context run", context_id)
    return row.pairs.astype(np.int64)


def stored_risk_diff(session: Session, analysis: t.Analysis, scope: str, pool: Pool) -> NDArray[np.float64] | None:
    """Return the analysis' own risk_diff [site, expert]; None where it has none."""
    view = risks.over_all(session, analysis, scope, pool)
    return None if view.table is None else view.masked(view.table.risk_diff)
