"""What the routes of contexts.py answer with: pairs of experts and driving tokens, as JSON bodies and as columns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.context import Coactivation, Contributions, contributions, top_pairs
from backend.domain.errors import NoTokens
from backend.domain.vocabulary import LABELS, Pool, Site
from backend.store import tables as t
from backend.store.contexts import ExpertTokens

ONE_EXPERT = "every token goes to one expert of this layer, so no two are chosen together"


def coactivation_body(
    context: t.Context, site: Site, found: Coactivation, label: str, order: str, top: int, *, matrix: bool
) -> dict[str, Any]:
    """Return a site's co-activation with its first pairs."""
    named = [
        {
            "a": a,
            "b": b,
            "observed": int(found.observed[a, b]),
            "expected": float(found.expected[a, b]),
            "lift": float(found.lift[a, b]),
        }
        for a, b in top_pairs(found, order, top)
    ]
    return {
        "context_id": context.id,
        "scope": context.scope,
        "label": label,
        "layer": site.layer,
        "site": site.site,
        "n_experts": site.n_experts,
        "top_k": site.top_k,
        "n_batches": context.next_batch,
        "pairs": int(found.observed.sum()) // 2,
        "order": order,
        "top_pairs": named,
        "observed": found.observed.tolist() if matrix else None,
        "lift": found.lift.round(4).tolist() if matrix else None,
        "reason": ONE_EXPERT if site.top_k < 2 else None,
    }


def pair_columns(found: Coactivation, layer: int) -> dict[str, NDArray[Any]]:
    """Return every pair a < b of a site as columns."""
    a, b = np.triu_indices(len(found.observed), 1)
    return {
        "layer": np.full(len(a), layer),
        "expert_a": a,
        "expert_b": b,
        "observed": found.observed[a, b],
        "expected": found.expected[a, b],
        "lift": found.lift[a, b],
    }


def expert_row(own: ExpertTokens, site: Site, pool: Pool) -> dict[str, Any]:
    """Return an expert in a line: its risk_diff, how few tokens make it, and the token that does most."""
    parts, reason = _parts(own, pool)
    best = None if parts is None else int(np.argmax(np.abs(parts.values)))
    hits = own.hits.sum(axis=1).tolist()
    return {
        "layer": site.layer,
        "expert": own.expert,
        "site": site.site,
        **{f"hits_{label}": n for label, n in zip(LABELS, hits, strict=True)},
        "risk_diff": parts and parts.risk_diff,
        "concentration": parts and parts.concentration,
        "n_tokens": int((own.hits.sum(axis=0) > 0).sum()),
        "top": None if parts is None or best is None or not parts.values[best] else _token(own, parts, best),
        "reason": reason,
    }


def expert_body(
    context: t.Context, own: ExpertTokens, site: Site, pool: Pool, top: int, stored: float | None
) -> dict[str, Any]:
    """Return the tokens that raise an expert's risk_diff and those that lower it, `top` of each."""
    parts, _ = _parts(own, pool)
    raising: list[int] = []
    lowering: list[int] = []
    if parts is not None:
        order = np.argsort(-parts.values, kind="stable").tolist()
        raising = [i for i in order[:top] if parts.values[i] > 0]
        lowering = [i for i in order[::-1][:top] if parts.values[i] < 0]
    shown = float(parts.values[raising + lowering].sum()) if parts else 0.0
    return expert_row(own, site, pool) | {
        "context_id": context.id,
        "scope": context.scope,
        "pool": str(pool),
        "n_batches": context.next_batch,
        "analysis_risk_diff": stored,
        "raising": [_token(own, parts, i) for i in raising if parts],
        "lowering": [_token(own, parts, i) for i in lowering if parts],
        "rest": parts and parts.risk_diff - shown,
    }


def token_columns(own: ExpertTokens, site: Site, pool: Pool) -> dict[str, NDArray[Any]]:
    """Return every distinct token as columns. Raises NoTokens where there is no risk_diff to explain."""
    parts, reason = _parts(own, pool)
    if parts is None:
        raise NoTokens(f"There is no table to return: {reason}")
    return {
        "layer": np.full(len(own.ids), site.layer),
        "expert": np.full(len(own.ids), own.expert),
        "token_id": own.ids,
        "text": np.array(list(own.texts), dtype=object),
        "hits_safe": own.hits[0],
        "hits_unsafe": own.hits[1],
        "occurrences_safe": own.occurrences[0],
        "occurrences_unsafe": own.occurrences[1],
        "contribution": parts.values,
    }


def _parts(own: ExpertTokens, pool: Pool) -> tuple[Contributions | None, str | None]:
    try:
        return contributions(own.samples, own.tokens, own.hits, own.shares, pool), None
    except NoTokens as error:
        return None, str(error)


def _token(own: ExpertTokens, parts: Contributions, place: int) -> dict[str, Any]:
    value = float(parts.values[place])
    return {
        "token_id": int(own.ids[place]),
        "text": own.texts[place],
        "hits_safe": int(own.hits[0, place]),
        "hits_unsafe": int(own.hits[1, place]),
        "occurrences_safe": int(own.occurrences[0, place]),
        "occurrences_unsafe": int(own.occurrences[1, place]),
        "contribution": value,
        "share": value / parts.risk_diff if parts.risk_diff else None,
    }
