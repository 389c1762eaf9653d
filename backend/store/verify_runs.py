"""Verification of evaluations, comparisons and context runs: what they stand on is still what they recorded.

Each comes after the chain of the analyses below it. Not covered: what only a model can tell again (the answers
themselves, likelihoods, intervals).
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.domain.errors import RouteprintError
from backend.domain.evaluation.interventions import Family
from backend.domain.provenance import Link
from backend.domain.risk_tables import table_digest
from backend.store import comparisons, contexts, evaluations, risk_tables, risks, runs
from backend.store import tables as t
from backend.store.checks import Broken, domain_row, link, same
from backend.store.checks_experts import check_chosen
from backend.store.verify import verify_analysis

_KEPT_WITH_A_SIDE = ("plan_digest", "n_batches", "n_safe", "n_unsafe", "sha256")
_RECORDED_ONLY = ("sides", "trained", "pairing", "intervals")
"""Parts of a comparison that hold names, or what only a worker computes: the rest follows from the stored counts."""


# --- comparisons


def verify_comparison(session: Session, comparison_id: str) -> list[Link]:
    """Check both sides, and that the figures follow from them. Raises NotFound."""
    stored = comparisons.with_matrices(session, comparison_id)
    analyses = [side for side in dict.fromkeys((stored.side_a, stored.side_b)) if not side.startswith("rt_")]
    return [
        *(own for side in analyses for own in _of_analysis(session, side)),
        link("sides: are what was compared", _check_sides(session, stored)),
        link("figures: follow from the stored counts of both sides", _check_figures(session, stored)),
    ]


def _of_analysis(session: Session, analysis_id: str) -> list[Link]:
    return [
        Link(f"{analysis_id}, {own.name}", own.ok, own.checked, own.expected, own.found, own.where)
        for own in verify_analysis(session, analysis_id)
    ]


def _check_sides(session: Session, stored: t.Comparison) -> Iterator[None]:
    for side, about in zip((stored.side_a, stored.side_b), stored.result["sides"], strict=True):
        found = _loaded(session, side, stored)
        for name in _KEPT_WITH_A_SIDE:
            if name in about:
                same(f"{side}, {name}", about[name], found.about[name])
        if found.analysis is None:
            table = risk_tables.get(session, side)
            same(f"{side}, its counts", table.sha256, table_digest(table.layers, table.counts, table.tokens))
        yield


def _loaded(session: Session, side: str, stored: t.Comparison) -> comparisons.Loaded:
    try:
        return comparisons.load(session, side, stored.scope, stored.pool)
    except RouteprintError as error:
        raise Broken(side, "what was compared", str(error)) from None


def _check_figures(session: Session, stored: t.Comparison) -> Iterator[None]:
    try:
        again = comparisons.compare_now(session, stored.side_a, stored.side_b, stored.scope, stored.pool)
    except RouteprintError as error:
        raise Broken("both sides", "figures", str(error)) from None
    figures = json.loads(json.dumps(again.result))
    for name in sorted(set(stored.result) - set(_RECORDED_ONLY)):
        same(f"{stored.id}, {name}", stored.result[name], figures.get(name))
        yield
    if not np.array_equal(stored.matrices[:2], again.matrices, equal_nan=True):
        raise Broken(f"{stored.id}, risk_diff of both sides", "what the counts give", "another matrix")
    yield


# --- context runs


def verify_context(session: Session, context_id: str) -> list[Link]:
    """Check the analysis, and the sums over single tokens against its counts. Raises NotFound."""
    context = runs.get(session, t.Context, context_id)
    analysis = session.get_one(t.Analysis, context.analysis_id)
    return [
        *verify_analysis(session, context.analysis_id),
        link("tokens: those of the analysis, and each expert's add up", _check_tokens(session, context, analysis)),
        link("pairs: every token was sent to k (k - 1) / 2 of them", _check_pairs(session, context, analysis)),
    ]


def _is_over(context: t.Context) -> bool:
    return context.status == "succeeded"


def _check_tokens(session: Session, context: t.Context, analysis: t.Analysis) -> Iterator[None]:
    """Exact where every count came out as stored; elsewhere (half precision) the numbers of tokens are."""
    if not context.next_batch:
        return
    sums = session.get(t.AnalysisAggregate, (analysis.id, context.scope)) if _is_over(context) else None
    _, found = contexts.load(session, context, risks.sites_of(analysis))
    same("tokens of each label", found.tokens.tolist(), found.occurrences.sum(axis=1).tolist())
    yield
    if sums is None:
        return
    same("tokens, those of the analysis", sums.tokens.tolist(), found.tokens.tolist())
    yield
    if context.result["recounted"]["differing"]:
        return
    for place, (site, expert) in enumerate(found.experts):
        expected = sums.counts[:, site, expert].tolist()
        same(f"site {site}, expert {expert}", expected, found.hits[:, :, place].sum(axis=1).tolist())
        yield


def _check_pairs(session: Session, context: t.Context, analysis: t.Analysis) -> Iterator[None]:
    if not context.next_batch:
        return
    tokens = np.array(context.result["tokens"], np.int64)
    rows = session.scalars(select(t.ContextSite).where(t.ContextSite.context_id == context.id))
    pairs = {row.site: row.pairs.astype(np.int64).sum(axis=(1, 2)) for row in rows}
    for place, site in enumerate(risks.sites_of(analysis)):
        expected = tokens * (site.top_k * (site.top_k - 1) // 2)
        same(f"layer {site.layer}", expected.tolist(), pairs[place].tolist() if place in pairs else None)
        yield


# --- evaluations


def verify_evaluation(session: Session, evaluation_id: str) -> list[Link]:
    """Check what chose the experts, the prompts, the models, the arms and the verdicts. Raises NotFound."""
    evaluation = runs.get(session, t.Evaluation, evaluation_id)
    return [
        *_chosen(session, evaluation),
        link("prompts: are the rows of their prompt set", _check_prompts(session, evaluation)),
        link("models: have the digests of the submission", _check_models(session, evaluation)),
        *_arms(session, evaluation),
        link("answers: every finished arm answered every prompt once", _check_answers(session, evaluation)),
        link("verdicts: what a person changed is in the record", _check_overruled(session, evaluation)),
    ]


def _chosen(session: Session, evaluation: t.Evaluation) -> Iterator[Link]:
    if evaluation.expert_set_id is None:
        return
    chosen = session.get_one(t.ExpertSet, evaluation.expert_set_id)
    yield from verify_analysis(session, chosen.analysis_id)
    yield link("expert set: matches its SHA-256, and its rule", check_chosen(session, chosen))


def _check_prompts(session: Session, evaluation: t.Evaluation) -> Iterator[None]:
    for asked in evaluations.prompts(session, evaluation.id):
        where = f"prompt {asked.prompt_idx}, row {asked.row_idx}"
        row = session.get(t.PromptRow, (evaluation.dataset_id, asked.row_idx))
        if row is None:
            raise Broken(where, asked.row_id, "no such row")
        same(where, (asked.row_id, asked.label), (domain_row(row).digest, row.label))
        yield


def _check_models(session: Session, evaluation: t.Evaluation) -> Iterator[None]:
    """Against the last scan: a worker compares with the files themselves when it loads them."""
    for model_id, digests in sorted(evaluation.model_digests.items()):
        model = session.get(t.Model, model_id)
        for name, expected in digests.items():
            same(f"{model_id}, {name}", expected, None if model is None else getattr(model, f"{name}_digest"))
        yield


def _arms(session: Session, evaluation: t.Evaluation) -> Iterator[Link]:
    """Nothing for a trained model: its arms are models, whose digests are compared."""
    if evaluation.expert_set_id is None or evaluation.intervention not in ("deactivate", "activate"):
        return
    chosen = sorted(session.get_one(t.ExpertSet, evaluation.expert_set_id).experts)
    checks = _check_arms(session, evaluation, chosen)
    yield link("arms: the real one is of the expert set, the others have its size", checks)


def _check_arms(session: Session, evaluation: t.Evaluation, chosen: list[Any]) -> Iterator[None]:
    arms = evaluations.arms(session, evaluation.id)
    [real] = [sorted(arm.experts) for arm in arms if arm.family == Family.REAL]
    # No more than top-k experts of a layer can be activated: of a larger set, the weakest were left out.
    same("the real arm", chosen if evaluation.intervention == "deactivate" else [e for e in chosen if e in real], real)
    yield
    for arm in arms:
        if arm.family not in (Family.REAL, Family.BASELINE):
            same(f"arm {arm.arm_idx}, experts per layer", _per_layer(real), _per_layer(arm.experts))
            yield


def _per_layer(experts: list[Any]) -> dict[int, int]:
    layers = [layer for layer, _ in experts]
    return {layer: layers.count(layer) for layer in sorted(set(layers))}


def _check_answers(session: Session, evaluation: t.Evaluation) -> Iterator[None]:
    n_prompts = len(evaluations.prompts(session, evaluation.id))
    x = t.EvaluationAnswer
    query = select(x.arm_idx, x.prompt_idx, x.n).where(x.evaluation_id == evaluation.id).order_by(x.n)
    found: dict[int, list[int]] = {}
    for arm_idx, prompt_idx, n in session.execute(query):
        same(f"answer {n}", n, arm_idx * n_prompts + prompt_idx)
        found.setdefault(arm_idx, []).append(prompt_idx)
    for arm in evaluations.arms(session, evaluation.id):
        if arm.finished:
            same(f"arm {arm.arm_idx}", list(range(n_prompts)), found.get(arm.arm_idx, []))
            yield


def _check_overruled(session: Session, evaluation: t.Evaluation) -> Iterator[None]:
    o, x = t.EvaluationOverrule, t.EvaluationAnswer
    query = select(o.n, o.verdict).where(o.evaluation_id == evaluation.id).order_by(o.id)
    last = dict(session.execute(query).all())
    changed = select(x.n, x.overruled).where(x.evaluation_id == evaluation.id, x.overruled.is_not(None))
    same("answers that a person judged", last, dict(session.execute(changed).all()))
    yield from (None for _ in last)
