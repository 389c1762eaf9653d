"""One shard of an analysis: load the frozen plan, measure window by window, store batch by batch.

Every batch is a transaction of its own. Batches that are stored already are not stored again; a window that holds one
missing batch is measured whole, so that a resumed analysis does the same forward passes as an undisturbed one.
"""

import time
from collections.abc import Collection, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from backend.domain.errors import Conflict, NotFound
from backend.domain.measured import MeasuredBatch
from backend.domain.plan import BatchPlan, PlannedBatch
from backend.domain.vocabulary import Scope
from backend.settings import Settings, get_settings
from backend.store import plans, tallies, writes
from backend.store import tables as t
from backend.store.engine import insist, reading, shared_engine
from worker.answering import answers_for, messages_of
from worker.capture.engines import open_engine
from worker.capture.protocol import CaptureEngine, EngineOptions, EngineRequest, SampleInput, Words
from worker.pausing import leave_if_asked
from worker.scanning import choose_device, environment
from worker.windows import windows


def measure_shard(analysis_id: str, first: int, stop: int, job_id: str) -> int:
    """Measure the batches [first, stop) that are not stored yet; return how many were stored now."""
    settings = get_settings()
    engine = shared_engine(settings.tables_url)
    with reading(engine) as session:
        analysis = session.get(t.Analysis, analysis_id)
        if analysis is None:
            raise NotFound("analysis", analysis_id)
        plan = plans.read(session, analysis_id)
        model_path = session.get_one(t.Model, analysis.model_id).path
        stored = writes.measured_batches(session, analysis_id, first, stop)
    if plan.digest != analysis.plan_digest:
        raise Conflict(f"The stored plan of {analysis_id} does not match its digest: the database was changed by hand.")
    started = time.monotonic()
    with closing(open_engine(analysis.engine, engine_request(analysis, model_path, settings))) as capture:
        check_model(analysis, capture.words)
        loaded = f"{analysis.model_id} loaded on {capture.place} in {time.monotonic() - started:.1f} s"

        def note(session: Session) -> None:
            writes.set_stage(session, t.Analysis, analysis_id, environment=environment(settings))
            writes.log(session, job_id, loaded)

        insist(engine, note)
        return _measure_windows(engine, analysis, plan, range(first, stop), stored, capture, job_id)


def engine_request(analysis: t.Analysis, model_path: str, settings: Settings) -> EngineRequest:
    """Return what the analysis asks its engine for."""
    params: dict[str, Any] = analysis.params
    return EngineRequest(
        model=model_path,
        device=choose_device(settings),
        allow_hub=settings.allow_hub,
        dtype=params["dtype"],
        max_length=params["max_length"],
        system_prompt=params["system_prompt"],
        exclude_template_tokens=params.get("exclude_template_tokens", False),  # absent before it could be asked for
        scopes=tuple(Scope(scope) for scope in params["scopes"]),
        max_new_tokens=params["max_new_tokens"],
        options=EngineOptions(**(params.get("engine_options") or {})),
    )


def _measure_windows(
    engine: Engine,
    analysis: t.Analysis,
    plan: BatchPlan,
    batches: range,
    stored: Collection[int],
    capture: CaptureEngine,
    job_id: str,
) -> int:
    done = 0
    for window in windows(batches.start, batches.stop, stored):
        if not still_wanted(engine, t.Analysis, analysis.id):
            break
        started = time.monotonic()
        done += _measure_window(engine, analysis, [plan.batches[i] for i in window], capture)
        said = f"batches {window.start} to {window.stop - 1} measured in {time.monotonic() - started:.1f} s"
        insist(engine, partial(writes.log, job_id=job_id, message=said))
    return done


def check_model(analysis: t.Analysis, words: Words) -> None:
    """Refuse a model whose tokenizer or template is not the one the analysis was submitted with."""
    for name in ("tokenizer", "template"):
        if analysis.model_digests[name] != getattr(words, f"{name}_digest"):
            raise Conflict(
                f"The {name} of {analysis.model_id} is not the one this analysis was submitted with. "
                "Scan the models again and start a new analysis."
            )


def still_wanted(engine: Engine, table: type[t.Run], id_: str) -> bool:
    """Return what `is_wanted` returns. Raises Paused where this process was asked to pause."""
    leave_if_asked()
    return is_wanted(engine, table, id_)


def is_wanted(engine: Engine, table: type[t.Run], id_: str) -> bool:
    """Return False once a run was cancelled, finished by somebody else or deleted."""
    query = select(table.status).where(table.id == id_, table.deleted_at.is_(None))
    return insist(engine, lambda session: session.scalar(query), reading) == "running"


def _measure_window(
    engine: Engine, analysis: t.Analysis, window: Sequence[PlannedBatch], capture: CaptureEngine
) -> int:
    rows = prompt_rows(engine, analysis.dataset_id, [s.row_idx for batch in window for s in batch.samples])
    answers = (
        answers_for(engine, analysis, window, rows, capture) if Scope.RESPONSE in analysis.params["scopes"] else {}
    )
    inputs = [
        [
            SampleInput(
                in_batch_idx=s.in_batch_idx,
                row_idx=s.row_idx,
                row_id=s.row_id,
                label=s.label,
                messages=messages_of(rows[s.row_idx]),
                answer_ids=answers.get((batch.batch_idx, s.in_batch_idx)),
            )
            for s in batch.samples
        ]
        for batch in window
    ]
    started = time.monotonic()
    found = capture.measure(window, inputs)
    seconds = (time.monotonic() - started) / len(window)
    return sum(
        insist(engine, partial(_store, analysis=analysis, planned=planned, measured=measured, seconds=seconds))
        for planned, measured in zip(window, found, strict=True)
    )


def _store(
    session: Session, analysis: t.Analysis, planned: PlannedBatch, measured: MeasuredBatch, seconds: float
) -> bool:
    """Store a batch and count it, both or neither. seconds: its share of the forward passes of its window."""
    new = writes.record_batch(session, analysis, planned, measured)
    if new:
        tallies.add(session, analysis.id, tallies.BATCH, seconds, sum(s.tokens for s in measured.samples))
    return new


def prompt_rows(engine: Engine, dataset_id: str, wanted: Sequence[int]) -> dict[int, t.PromptRow]:
    """Return the rows at these positions of a prompt set."""
    query = select(t.PromptRow).where(t.PromptRow.dataset_id == dataset_id, t.PromptRow.row_idx.in_(wanted))
    found = insist(engine, lambda session: list(session.scalars(query)), reading)
    return {row.row_idx: row for row in found}
