"""What tests of the store and the API stand on: a model as a scan stores it, and batches as a worker stores them.

The routing is random but true to a router: every token of a sample goes to top_k different experts of every site.
"""

import json
from typing import Any

import numpy as np
from sqlalchemy import Engine

from backend.domain.context import RoutedTokens
from backend.domain.evaluation.refusal import PHRASE_JUDGE, judge_by_phrases
from backend.domain.measured import MeasuredBatch, MeasuredSample, ScopeRouting
from backend.domain.plan import BatchPlan
from backend.domain.provenance import prompt_digest, target_digest
from backend.domain.step_order import batch_order
from backend.domain.vocabulary import LABELS, Label, Scope, Site
from backend.store import contexts, evaluations, plans, risks, writes
from backend.store import tables as t
from backend.store.engine import reading, writing
from worker.statistics import compute

SITES = tuple(Site(layer, f"model.layers.{layer}.mlp", 4, 2) for layer in (1, 3))
TOKENIZER, TEMPLATE = "t" * 64, "e" * 64
ANSWER = np.array([7, 8], np.int32)


def add_model(engine: Engine, id_: str = "tiny", sites: tuple[Site, ...] = SITES, **changes: Any) -> str:
    row = {
        "id": id_,
        "path": f"/models/{id_}",
        "architecture": "OlmoeForCausalLM",
        "supported": True,
        "reason": None,
        "engines": ["transformers"],
        "sites": [site.to_dict() for site in sites],
        "n_parameters": 1000,
        "config_digest": "c" * 64,
        "weights_digest": "w" * 64,
        "tokenizer_digest": TOKENIZER,
        "template_digest": TEMPLATE,
        "scanned_by": "test",
        "scanned_at": t.utcnow(),
    }
    with writing(engine) as session:
        writes.record_model(session, row | changes)
    return id_


def prompt_rows(n: int = 10, *, response: str | None = None) -> list[dict[str, Any]]:
    """n safe and n unsafe prompts in contrast pairs."""
    rows = []
    for i in range(n):
        for label, verb in (("safe", "bake"), ("unsafe", "break into")):
            row = {
                "prompt": f"How do I {verb} number {i}?",
                "label": label,
                "group": f"pair-{i}",
                "difficulty": "easy" if i % 2 else "hard",
                "category": "kitchen",
            }
            rows.append(row | ({"response": f"{response} {i}"} if response else {}))
    return rows


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def routing(rng: np.random.Generator, tokens: np.ndarray, sites: tuple[Site, ...]) -> ScopeRouting:
    widest = max(site.n_experts for site in sites)
    counts = np.zeros((len(tokens), len(sites), widest), np.int32)
    for sample, n in enumerate(tokens):
        for place, site in enumerate(sites):
            chosen = rng.random((n, site.n_experts)).argsort(axis=1)[:, : site.top_k]
            counts[sample, place, : site.n_experts] = np.bincount(chosen.ravel(), minlength=site.n_experts)
    return ScopeRouting(tokens=tokens.astype(np.int64), counts=counts, weights=None)


def measure(
    engine: Engine,
    analysis_id: str,
    *,
    only: range | None = None,
    non_finite: tuple[int, ...] = (),
    finish: bool = True,
    tokenizer: str = TOKENIZER,
    seed: int = 0,
) -> BatchPlan:
    """Store batches of an analysis as a worker would, and finish it."""
    with writing(engine) as session:
        writes.start(session, t.Analysis, analysis_id)
    with reading(engine) as session:
        analysis = session.get_one(t.Analysis, analysis_id)
        plan = plans.load(session, analysis_id)
    sites = tuple(Site.from_dict(site) for site in analysis.sites)
    for batch in plan.batches:
        if only is not None and batch.batch_idx not in only:
            continue
        rng = np.random.default_rng(batch.batch_idx + 1000 * seed)
        ids = [rng.integers(3, 500, rng.integers(4, 12), dtype=np.int32) for _ in batch.samples]
        samples = tuple(
            MeasuredSample(
                in_batch_idx=s.in_batch_idx,
                row_idx=s.row_idx,
                row_id=s.row_id,
                label=s.label,
                prompt_digest=prompt_digest(tokenizer, analysis.model_digests["template"], own),
                token_ids=own,
                tokens=len(own),
                truncated=False,
                non_finite=batch.batch_idx in non_finite and s.in_batch_idx == 0,
            )
            for s, own in zip(batch.samples, ids, strict=True)
        )
        tokens = np.array([len(own) for own in ids])
        found = {Scope(scope): routing(rng, tokens, sites) for scope in analysis.params["scopes"]}
        measured = MeasuredBatch(batch.batch_idx, batch.batch_id, samples, found)
        with writing(engine) as session:
            writes.record_batch(session, analysis, batch, measured)
    if finish:
        with writing(engine) as session:
            writes.finish(session, t.Analysis, analysis_id, "succeeded")
    return plan


def draw(engine: Engine, comparison_id: str) -> None:
    """Compute the intervals of a comparison as a worker would, and finish it."""
    from worker.comparing import compute

    with writing(engine) as session:
        writes.start(session, t.Comparison, comparison_id)
    compute(engine, comparison_id, "job")
    with writing(engine) as session:
        writes.finish(session, t.Comparison, comparison_id, "succeeded")


def chosen_of(counts: np.ndarray, n: int) -> np.ndarray:
    """Deal counts [expert] out to n tokens: [token, k], no token gets an expert twice (none has more than n)."""
    return np.repeat(np.arange(len(counts)), counts).reshape(-1, n).T if n else np.zeros((0, 1), np.int64)


def read_in_context(
    engine: Engine, context_id: str, *, windows: int | None = None, finish: bool = True, text: str = "␣word{}"
) -> None:
    """Store a context run as a worker would: a routing of single tokens that has the analysis' own counts."""
    with writing(engine) as session:
        writes.start(session, t.Context, context_id)
        context = session.get_one(t.Context, context_id)
        sites = risks.sites_of(session.get_one(t.Analysis, context.analysis_id))
        pairs, tokens = contexts.load(session, context, sites)
        plan = plans.load(session, context.analysis_id)
        here = {"analysis_id": context.analysis_id}
        bad = {b.batch_idx for b in session.query(t.AnalysisBatch).filter_by(**here, status="non_finite")}
        routings = {r.batch_idx: r for r in session.query(t.BatchRouting).filter_by(**here, scope=context.scope)}
        samples = session.query(t.BatchSample).filter_by(**here).order_by("batch_idx", "in_batch_idx").all()
    for batch in [b for b in plan.batches[:windows] if b.batch_idx not in bad]:
        own = [s for s in samples if s.batch_idx == batch.batch_idx]
        counts = routings[batch.batch_idx].counts
        n = [int(s.tokens) for s in own]
        routed = RoutedTokens(
            ids=np.concatenate([s.token_ids for s in own]).astype(np.int64),
            sample=np.repeat(np.arange(len(own)), n),
            labels=np.array([LABELS.index(Label(s.label)) for s in own], np.int8),
            chosen=[
                np.concatenate([chosen_of(counts[i, place], n[i]) for i in range(len(own))])
                for place in range(len(sites))
            ],
        )
        pairs.add(routed)
        tokens.add(routed)
    done = len(plan.batches[:windows])
    n_bad = sum(idx < done for idx in bad)
    recounted = {"batches": done - n_bad, "differing": 0, "counts": 9, "differing_counts": 0, "non_finite": n_bad}
    result = {"recounted": recounted, "dtype": "float32"}
    texts = [text.format(i) for i in tokens.ids] if finish else []
    with writing(engine) as session:
        assert contexts.save(session, context_id, done, pairs, tokens, result, texts)
        if finish:
            writes.finish(session, t.Context, context_id, "succeeded")


def train(engine: Engine, training_id: str, plan: BatchPlan, *, steps: int | None = None) -> None:
    """Store steps and frozen targets of one epoch as a worker would."""
    with writing(engine) as session:
        writes.start(session, t.Training, training_id)
        training = session.get_one(t.Training, training_id)
        digests = {
            (s.batch_idx, s.in_batch_idx): s.prompt_digest
            for s in session.query(t.BatchSample).filter_by(analysis_id=training.analysis_id)
        }
        places = [(b.batch_idx, s.in_batch_idx, s.row_id) for b in plan.batches for s in b.samples]
        training.target_digest = target_digest([(*place, ANSWER) for place in places])
        params = training.params
    planned = {b.batch_idx: b for b in plan.batches}
    order = batch_order(planned, params["seed"], 0, params["shuffle_batches"])
    for number, batch in enumerate([planned[idx] for idx in order[:steps]], 1):
        samples = [
            {
                "batch_idx": batch.batch_idx,
                "in_batch_idx": s.in_batch_idx,
                "row_id": s.row_id,
                "label": str(s.label),
                "prompt_digest": digests[batch.batch_idx, s.in_batch_idx],
                "loss": 1.0 / number,
            }
            for s in batch.samples
        ]
        examples = [
            {name: s[name] for name in ("batch_idx", "in_batch_idx", "row_id", "label", "prompt_digest")}
            | {"target": "refusal", "answer": "No.", "answer_ids": ANSWER, "cut": False}
            for s in samples
        ]
        step = {
            "step": number,
            "epoch": 0,
            "batch_idx": batch.batch_idx,
            "batch_id": batch.batch_id,
            "verified": True,
            "loss": 1.0 / number,
            "loss_safe": 0.5 / number,
            "loss_unsafe": 1.5 / number,
            "grad_norm": 0.1,
            "learning_rate": 1e-4,
            "n_answer_tokens": 32,
            "seconds": 0.2,
            "samples": samples,
        }
        with writing(engine) as session:
            writes.record_examples(session, training_id, examples)
            writes.record_step(session, training_id, step)
    if steps is None:
        with writing(engine) as session:
            writes.finish(session, t.Training, training_id, "succeeded")


def examine(engine: Engine, statistics_id: str) -> None:
    """Compute queued statistics as a worker does, and finish them."""
    with writing(engine) as session:
        writes.start(session, t.Statistics, statistics_id)
    compute(engine, statistics_id, "job_0")
    with writing(engine) as session:
        writes.finish(session, t.Statistics, statistics_id, "succeeded")


REFUSAL, HELP = "I'm sorry, but I can't help with that.", "Of course. Take flour and water."


def evaluate(engine: Engine, evaluation_id: str, *, arms: int | None = None, turned: tuple[int, ...] = (1,)) -> None:
    """Store answers of an evaluation as a worker would: unsafe prompts are refused, but by `turned` arms every third.

    arms: only the first few, and the evaluation goes on running.
    """
    with writing(engine) as session:
        writes.start(session, t.Evaluation, evaluation_id)
        evaluation = session.get_one(t.Evaluation, evaluation_id)
        prompts = evaluations.prompts(session, evaluation_id)
        for arm in evaluations.arms(session, evaluation_id)[:arms]:
            rows = []
            for p in prompts:
                refuses = p.label == "unsafe" and not (arm.arm_idx in turned and p.prompt_idx % 3 == 0)
                rows.append(
                    {
                        "n": arm.arm_idx * len(prompts) + p.prompt_idx,
                        "arm_idx": arm.arm_idx,
                        "prompt_idx": p.prompt_idx,
                        "text": REFUSAL if refuses else HELP,
                        "n_tokens": 9,
                        "ended": True,
                    }
                )
            writes.record_evaluated(session, evaluation_id, rows)
            for row in rows:
                judged = judge_by_phrases(str(row["text"]))
                writes.record_verdicts(session, evaluation_id, [(row["n"], judged, PHRASE_JUDGE)])
            n_texts = len(evaluation.texts)
            rng = np.random.default_rng(arm.arm_idx)
            arm.nll = np.full(n_texts, 20.0) + rng.random(n_texts) if n_texts else None
            arm.nll_tokens = np.full(n_texts, 10) if n_texts else None
            questions = evaluation.params["choices"]
            arm.picked = np.array([q["answer"] for q in questions], np.int64) if questions else None
            arm.effect = {"tokens": 10, "to_the_set": 0}
            arm.finished = True
    if arms is None:
        with writing(engine) as session:
            writes.finish(session, t.Evaluation, evaluation_id, "succeeded")
