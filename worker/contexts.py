"""Experts in context: an analysis' stored token ids once more through its engine, window by window, token by token.

The same windows make the same forward passes, so the counts of this pass must be those that the analysis stored; they
are compared batch by batch. The sums so far are stored after every window, as whole numbers: a run that is taken up
again ends with the same bytes. What is added up, and how, stands in backend/domain/context.py.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from transformers import PreTrainedTokenizerBase

from backend.domain.context import PairSums, RoutedTokens, TokenSums
from backend.domain.errors import Conflict, NotFound, ProvenanceBroken
from backend.domain.measured import MeasuredBatch
from backend.domain.vocabulary import LABELS, Label, Scope
from backend.settings import get_settings
from backend.store import contexts, risks, writes
from backend.store import tables as t
from backend.store.engine import reading, shared_engine, writing
from worker.capture.engines import open_engine
from worker.capture.protocol import CaptureEngine, SampleInput, TokenRouting
from worker.measuring import check_model, engine_request, still_wanted
from worker.prompts import EncodedPrompt
from worker.scanning import environment
from worker.windows import windows

_RECOUNTED = {"batches": 0, "differing": 0, "counts": 0, "differing_counts": 0, "non_finite": 0}


def run_context(context_id: str, job_id: str) -> int:
    """Run a context run to its end, from wherever an earlier process left it; return how many batches are counted."""
    settings = get_settings()
    engine = shared_engine(settings.tables_url)
    with reading(engine) as session:
        context = session.get(t.Context, context_id)
        if context is None:
            raise NotFound("context", context_id)
        analysis = session.get_one(t.Analysis, context.analysis_id)
        model = session.get_one(t.Model, analysis.model_id)
    n_batches: int = analysis.plan_summary["n_batches"]
    if context.next_batch >= n_batches:
        return n_batches
    if model.weights_digest != analysis.model_digests["weights"]:
        raise Conflict(
            f"The weights of {analysis.model_id} are not the ones that were analysed. Restore them, or analyse again."
        )
    with closing(open_engine(analysis.engine, engine_request(analysis, model.path, settings))) as capture:
        check_model(analysis, capture.words)
        with writing(engine) as session:
            env = environment(settings)
            writes.set_stage(session, t.Context, context_id, environment=env, done=context.next_batch, total=n_batches)
            writes.set_stage(session, t.Context, context_id, stage="reading the routing of single tokens")
        return _Pass(engine, analysis, capture, job_id).run(context_id)


class _Pass:
    """One process' share of a context run."""

    def __init__(self, engine: Engine, analysis: t.Analysis, capture: CaptureEngine, job_id: str) -> None:
        self.engine, self.analysis, self.capture, self.job_id = engine, analysis, capture, job_id
        self.sites = risks.sites_of(analysis)
        self.n_batches: int = analysis.plan_summary["n_batches"]

    def run(self, context_id: str) -> int:
        """Count window after window; return how many batches are counted."""
        context, pairs, tokens = self._load(context_id)
        scope = Scope(context.scope)
        recounted = _RECOUNTED | context.result.get("recounted", {})
        for window in windows(context.next_batch, self.n_batches, ()):
            if not still_wanted(self.engine, t.Context, context_id):
                return window.start
            started = time.monotonic()
            routed = self._read(window, scope, recounted)
            pairs.add(routed)
            tokens.add(routed)
            texts = token_texts(self.capture.words.tokenizer, tokens.ids) if window.stop == self.n_batches else ()
            result = {"recounted": recounted, "dtype": self.capture.dtype}
            with writing(self.engine) as session:
                if not contexts.save(session, context_id, window.stop, pairs, tokens, result, texts):
                    return window.start  # cancelled, or another worker took this run over and is as far
                seconds = time.monotonic() - started
                span = f"batches {window.start} to {window.stop - 1}"
                writes.log(session, self.job_id, f"{span} read token by token in {seconds:.1f} s")
        return self.n_batches

    def _load(self, context_id: str) -> tuple[t.Context, PairSums, TokenSums]:
        with reading(self.engine) as session:
            context = session.get_one(t.Context, context_id)
            return context, *contexts.load(session, context, self.sites)

    def _read(self, window: range, scope: Scope, recounted: dict[str, int]) -> RoutedTokens:
        """Run a window again and return its counted tokens; what differs from the stored counts goes to `recounted`."""
        with reading(self.engine) as session:
            stored = _stored(session, self.analysis, window)
        collector = _Collector(scope, {})
        measured = self.capture.measure(stored.batches, stored.inputs, collector)
        kept = []
        for batch, found in zip(stored.batches, measured, strict=True):
            kept.append(batch.status == "measured")
            self._compare(batch, found, stored.routing, recounted)
        return collector.tokens(stored.inputs, kept)

    def _compare(
        self, batch: t.AnalysisBatch, found: MeasuredBatch, routing: "_Routing", recounted: dict[str, int]
    ) -> None:
        if batch.status != "measured":
            recounted["non_finite"] += 1
            return
        differing = 0
        for scope, own in found.routing.items():
            row = routing[batch.batch_idx, str(scope)]
            cells = int((row.counts.astype(np.int64) != own.counts).sum())
            recounted["counts"] += own.counts.size
            differing += cells
            if cells and self.capture.dtype == "float32":
                raise ProvenanceBroken(
                    f"Batch {batch.batch_idx}: {cells} of {own.counts.size} counts of scope {scope} are not those that "
                    "the analysis stored, though both were made in float32. The model, or the software that runs it, "
                    "is not what it was: compare `environment` with the analysis', or analyse again."
                )
        recounted["batches"] += 1
        recounted["differing"] += bool(differing)
        recounted["differing_counts"] += differing


_Routing = dict[tuple[int, str], t.BatchRouting]


@dataclass(frozen=True, slots=True, eq=False)
class _Stored:
    """A window of an analysis as it was measured: its batches, their samples as they were fed, their counts."""

    batches: list[t.AnalysisBatch]
    inputs: list[list[SampleInput]]
    routing: _Routing


def _stored(session: Session, analysis: t.Analysis, window: range) -> _Stored:
    """Read a window. Raises Conflict where a batch is missing."""

    def rows(table: Any, *order: Any) -> Any:
        inside = table.batch_idx.between(window.start, window.stop - 1)
        return session.scalars(select(table).where(table.analysis_id == analysis.id, inside).order_by(*order)).all()

    batches = list(rows(t.AnalysisBatch, t.AnalysisBatch.batch_idx))
    if [batch.batch_idx for batch in batches] != list(window):
        raise Conflict(f"The analysis {analysis.id} has not measured all batches from {window.start} on: resume it.")
    kind = "model" if analysis.params["max_new_tokens"] else "given"
    answers: dict[tuple[int, int], NDArray[Any]] = {}
    if Scope.RESPONSE in analysis.params["scopes"]:
        answers = {
            (a.batch_idx, a.in_batch_idx): a.token_ids for a in rows(t.Answer, t.Answer.batch_idx) if a.kind == kind
        }
    inputs: dict[int, list[SampleInput]] = {batch.batch_idx: [] for batch in batches}
    for sample in rows(t.BatchSample, t.BatchSample.batch_idx, t.BatchSample.in_batch_idx):
        answer = answers.get((sample.batch_idx, sample.in_batch_idx))
        inputs[sample.batch_idx].append(_fed_again(sample, answer))
    routing = {(row.batch_idx, row.scope): row for row in rows(t.BatchRouting, t.BatchRouting.batch_idx)}
    return _Stored(batches, list(inputs.values()), routing)


def _fed_again(sample: t.BatchSample, answer: NDArray[Any] | None) -> SampleInput:
    own = None if sample.own is None else sample.own.astype(np.bool_)
    return SampleInput(
        in_batch_idx=sample.in_batch_idx,
        row_idx=sample.row_idx,
        row_id=sample.row_id,
        label=Label(sample.label),
        messages=(),
        answer_ids=None if answer is None else answer.astype(np.int32),
        fed=EncodedPrompt(sample.token_ids.astype(np.int32), sample.truncated, own),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Collector:
    """Keeps, of each row that an engine shows, the tokens that one scope counts."""

    scope: Scope
    seen: dict[int, tuple[NDArray[np.int64], list[NDArray[np.int16]]]] = field(default_factory=dict)

    def __call__(self, row: TokenRouting) -> None:
        """Keep one row."""
        counted = row.scopes[self.scope]
        self.seen[row.place] = (
            row.ids[counted].astype(np.int64),
            [site[counted].astype(np.int16) for site in row.chosen],
        )

    def tokens(self, inputs: Sequence[Sequence[SampleInput]], kept: Sequence[bool]) -> RoutedTokens:
        """Return the tokens of the kept batches, sample after sample in the planned order."""
        samples = [(s, ok) for batch, ok in zip(inputs, kept, strict=True) for s in batch]
        rows = [self.seen[place] for place, (_, ok) in enumerate(samples) if ok]
        labels = np.array([LABELS.index(s.label) for s, ok in samples if ok], dtype=np.int8)
        n_sites = len(next(iter(self.seen.values()))[1])
        lengths = [len(ids) for ids, _ in rows]
        return RoutedTokens(
            ids=np.concatenate([ids for ids, _ in rows] or [np.zeros(0, np.int64)]),
            sample=np.repeat(np.arange(len(rows)), lengths),
            labels=labels,
            chosen=[
                np.concatenate([sites[i] for _, sites in rows] or [np.zeros((0, 1), np.int16)]) for i in range(n_sites)
            ],
        )


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: NDArray[np.int64]) -> list[str]:
    """Return what each token stands for, in characters that can be seen."""
    return [visible(_text(tokenizer, int(i))) for i in ids]


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    text = str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    # A part of a character decodes to a replacement sign: the vocabulary's own word for it says more.
    return str(tokenizer.convert_ids_to_tokens(token)) if not text or "\ufffd" in text else text


def visible(text: str) -> str:
    """Return the text with white space and control characters as signs: a blank is ␣, a line break ⏎, a tab ⇥."""
    signs = {" ": "␣", "\n": "⏎", "\t": "⇥"}
    return "".join(signs.get(c) or (c if c.isprintable() else f"\\u{ord(c):04x}") for c in text)
