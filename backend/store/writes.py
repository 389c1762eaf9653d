"""What the worker writes. Every function takes a session whose transaction the caller owns; none of them commits.

Everything here is idempotent, because a job's step may run twice: a batch, an answer or a training step that is
already there is left exactly as it is, and the running sums count it once.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Table, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from backend.domain.errors import NoTokens, ProvenanceBroken
from backend.domain.evaluation.refusal import Judgement
from backend.domain.jobs import ACTIVE
from backend.domain.measured import MeasuredBatch, ScopeRouting
from backend.domain.plan import PlannedBatch
from backend.domain.risk import BatchCounts, RiskSums, check_counts, noise_floor, risk_diff
from backend.domain.vocabulary import LABELS, Scope, Site
from backend.store import tables as t


def is_postgresql(session: Session) -> bool:
    """Tell whether the session speaks to PostgreSQL."""
    return session.get_bind().dialect.name == "postgresql"


def storable(text: str) -> str:
    """Return a text with NUL shown as the replacement character: whoever made it may say anything, PostgreSQL not."""
    return text.replace("\x00", "\ufffd")


def insert_new(session: Session, table: type[t.Base], rows: Sequence[dict[str, Any]]) -> int:
    """Insert the rows that are not there yet (by primary key) and return how many were new."""
    if not rows:
        return 0
    inside = table.__table__  # not the mapped class: a bulk insert of the ORM does not say how many rows were new
    assert isinstance(inside, Table)
    if is_postgresql(session):  # its driver does not say how many were new; those that were come back
        new = postgresql.insert(inside).on_conflict_do_nothing().returning(*inside.primary_key)
        return len(session.execute(new, list(rows)).all())
    result = session.execute(sqlite.insert(inside).on_conflict_do_nothing(), list(rows))
    assert isinstance(result, CursorResult)
    return int(result.rowcount)


def record_batch(session: Session, analysis: t.Analysis, planned: PlannedBatch, measured: MeasuredBatch) -> bool:
    """Store one measured batch with its samples, its routing per scope and its share of the running sums.

    Returns False, and changes nothing, if the batch was already stored. Raises ProvenanceBroken if what was measured
    is not what was planned, ValueError if the counts of a sample do not sum to top_k times its tokens.
    """
    _check_composition(planned, measured)
    non_finite = any(s.non_finite for s in measured.samples)
    row = {
        "analysis_id": analysis.id,
        "batch_idx": planned.batch_idx,
        "batch_id": planned.batch_id,
        "status": "non_finite" if non_finite else "measured",
        "n_safe": planned.n_safe,
        "n_unsafe": planned.n_unsafe,
        "n_truncated": sum(s.truncated for s in measured.samples),
    }
    if not insert_new(session, t.AnalysisBatch, [row]):
        return False
    key = {"analysis_id": analysis.id, "batch_idx": planned.batch_idx}
    insert_new(session, t.BatchSample, [key | _sample_row(s) for s in measured.samples])
    labels = np.array([LABELS.index(s.label) for s in measured.samples], dtype=np.int8)
    top_k = [Site.from_dict(s).top_k for s in analysis.sites]
    for scope, routing in measured.routing.items():
        counts = BatchCounts(labels=labels, tokens=routing.tokens, counts=routing.counts)
        check_counts(counts, top_k)
        derived = _derived(counts, planned.batch_id) if not non_finite else _nothing()
        insert_new(session, t.BatchRouting, [key | {"scope": str(scope)} | _routing_row(routing) | derived])
        if not non_finite:
            _add_to_aggregate(session, analysis.id, scope, RiskSums.of(counts))
    session.execute(update(t.Analysis).where(t.Analysis.id == analysis.id).values(done=t.Analysis.done + 1))
    return True


def _check_composition(planned: PlannedBatch, measured: MeasuredBatch) -> None:
    expected = [(s.in_batch_idx, s.row_id, s.label) for s in planned.samples]
    found = [(s.in_batch_idx, s.row_id, s.label) for s in measured.samples]
    if expected == found and planned.batch_id == measured.batch_id and planned.batch_idx == measured.batch_idx:
        return
    wrong = [e[0] for e, f in zip(expected, found, strict=False) if e != f]
    raise ProvenanceBroken(
        f"Batch {planned.batch_idx} was planned with {len(expected)} samples and measured with {len(found)}; "
        f"samples that differ: {wrong or 'none by position, the batch id differs'}."
    )


def _sample_row(sample: Any) -> dict[str, Any]:
    names = ("in_batch_idx", "row_idx", "row_id", "prompt_digest", "token_ids", "tokens", "truncated", "non_finite")
    own = None if sample.own is None else sample.own.astype(np.uint8)
    return {name: getattr(sample, name) for name in names} | {"label": str(sample.label), "own": own}


def _routing_row(routing: ScopeRouting) -> dict[str, Any]:
    return {"tokens": routing.tokens, "counts": routing.counts, "weights": routing.weights}


def _nothing() -> dict[str, Any]:
    return {"max_abs_risk_diff": None, "noise_floor": None}


def _derived(counts: BatchCounts, batch_id: str) -> dict[str, Any]:
    try:
        diff = risk_diff(counts)
        floor, _ = noise_floor(counts, seed=batch_id)
    except NoTokens:
        return _nothing()
    return {
        "max_abs_risk_diff": float(np.abs(diff).max()),
        "noise_floor": float(floor),
    }


def _add_to_aggregate(session: Session, analysis_id: str, scope: Scope, share: RiskSums) -> None:
    key = {"analysis_id": analysis_id, "scope": str(scope)}
    zero = RiskSums.zero(share.counts.shape[1], share.counts.shape[2])
    insert_new(session, t.AnalysisAggregate, [key | sums_to_row(zero)])
    row = session.get_one(t.AnalysisAggregate, (analysis_id, str(scope)), with_for_update=True, populate_existing=True)
    for name, value in sums_to_row(sums_from_row(row) + share).items():
        setattr(row, name, value)
    session.flush()


def sums_to_row(sums: RiskSums) -> dict[str, Any]:
    """Return the columns of `analysis_aggregates` that hold these sums."""
    return {
        "n_batches": sums.n_batches,
        "samples": sums.samples,
        "tokens": sums.tokens,
        "counts": sums.counts,
        "rate_sums": sums.rate_sums,
    }


def sums_from_row(row: t.AnalysisAggregate) -> RiskSums:
    """Read the running sums of an analysis and scope, as int64."""
    return RiskSums(
        n_batches=row.n_batches,
        samples=row.samples.astype(np.int64),
        tokens=row.tokens.astype(np.int64),
        counts=row.counts.astype(np.int64),
        rate_sums=row.rate_sums.astype(np.int64),
    )


def measured_batches(session: Session, analysis_id: str, first: int, stop: int) -> set[int]:
    """Return the positions in [first, stop) of the batches that are stored already."""
    b = t.AnalysisBatch
    query = select(b.batch_idx).where(b.analysis_id == analysis_id, b.batch_idx >= first, b.batch_idx < stop)
    return set(session.scalars(query))


def record_answers(session: Session, analysis_id: str, rows: Iterable[dict[str, Any]]) -> int:
    """Store answers {batch_idx, in_batch_idx, kind, text, token_ids}; those already there stay as they are."""
    return insert_new(session, t.Answer, [{"analysis_id": analysis_id} | row for row in rows])


def record_examples(session: Session, training_id: str, rows: Iterable[dict[str, Any]]) -> int:
    """Store the frozen targets of a training, one row a sample; those already there stay as they are."""
    return insert_new(session, t.TrainingExample, [{"training_id": training_id} | row for row in rows])


def record_step(session: Session, training_id: str, row: dict[str, Any]) -> bool:
    """Store one optimizer step; a step that a resumed run took again is already there and stays as it was."""
    if not insert_new(session, t.TrainingStep, [{"training_id": training_id} | row]):
        return False
    done = (
        func.max(t.Training.done, row["step"])
        if not is_postgresql(session)
        else func.greatest(t.Training.done, row["step"])
    )
    session.execute(update(t.Training).where(t.Training.id == training_id).values(done=done))
    return True


def note(session: Session, training_id: str, kind: str, text: str) -> None:
    """Add to a training's `result["notes"]` what makes it other than an undisturbed run; each is kept once."""
    training = session.get(t.Training, training_id, with_for_update=True, populate_existing=True)
    if training is None:
        return
    notes = list(training.result.get("notes", []))
    if not any((n["kind"], n["text"]) == (kind, text) for n in notes):
        training.result = training.result | {"notes": [*notes, {"kind": kind, "text": text, "at": t.utcnow()}]}


def record_evaluated(session: Session, evaluation_id: str, rows: Sequence[dict[str, Any]]) -> int:
    """Store what an arm answered and count it as progress; answers already there stay as they are."""
    new = insert_new(session, t.EvaluationAnswer, [{"evaluation_id": evaluation_id} | row for row in rows])
    done = update(t.Evaluation).where(t.Evaluation.id == evaluation_id).values(done=t.Evaluation.done + new)
    session.execute(done)
    return new


def record_verdicts(session: Session, evaluation_id: str, verdicts: Iterable[tuple[int, Judgement, str]]) -> None:
    """Store (n, judgement, judge) of answers that nobody has judged yet; a verdict that is there stays."""
    x = t.EvaluationAnswer
    for n, judgement, judge in verdicts:
        open_ = (x.evaluation_id == evaluation_id, x.n == n, x.verdict.is_(None))
        values = {"verdict": str(judgement.verdict), "why": storable(judgement.why), "judge": judge}
        session.execute(update(x).where(*open_).values(**values))


def start(session: Session, table: type[t.Run], id_: str, **values: Any) -> bool:
    """Set a queued or running resource to running. False if it was cancelled, finished or deleted meanwhile."""
    now = t.utcnow()
    result = session.execute(
        update(table)
        .where(table.id == id_, table.status.in_(ACTIVE), table.deleted_at.is_(None))
        .values(status="running", started_at=func.coalesce(table.started_at, now), error=None, **values)
    )
    return isinstance(result, CursorResult) and result.rowcount == 1


def set_stage(session: Session, table: type[t.Run], id_: str, **values: Any) -> None:
    """Change stage, progress or environment of a resource that is still active."""
    session.execute(update(table).where(table.id == id_, table.status.in_(ACTIVE)).values(**values))


def finish(session: Session, table: type[t.Run], id_: str, status: str, error: str | None = None) -> bool:
    """Set the final status of an active resource. False if somebody else finished it first (a cancel, say)."""
    result = session.execute(
        update(table)
        .where(table.id == id_, table.status.in_(ACTIVE))
        .values(status=status, error=error, stage="", finished_at=t.utcnow())
    )
    return isinstance(result, CursorResult) and result.rowcount == 1


def start_job(session: Session, job_id: str, executor_id: str) -> bool:
    """Note that a worker took a job. False if it is over: cancelled, and what it worked on may have another job now."""
    result = session.execute(
        update(t.Job)
        .where(t.Job.id == job_id, t.Job.status.in_(ACTIVE))
        .values(status="running", executor_id=executor_id, started_at=func.coalesce(t.Job.started_at, t.utcnow()))
    )
    return isinstance(result, CursorResult) and result.rowcount == 1


def finish_job(session: Session, job_id: str, status: str, error: str | None = None) -> bool:
    """Set the final status of an active job. False if it is over already."""
    result = session.execute(
        update(t.Job)
        .where(t.Job.id == job_id, t.Job.status.in_(ACTIVE))
        .values(status=status, error=error, finished_at=t.utcnow())
    )
    return isinstance(result, CursorResult) and result.rowcount == 1


def finish_all(
    session: Session, job_id: str, kind: str, subject_id: str, status: str, error: str | None = None
) -> bool:
    """Set the final status of a job and of what it worked on, and note it in the job's log.

    False, and nothing changes, if the job is over: it was cancelled, and a run that was resumed since has another job.
    """
    error = None if error is None else storable(error)
    if not finish_job(session, job_id, status, error):
        return False
    if kind in t.RUNS:
        finish(session, t.RUNS[kind], subject_id, status, error)
    log(session, job_id, error or status, "error" if error else "info")
    return True


def log(session: Session, job_id: str, message: str, level: str = "info") -> None:
    """Append a line to a job's log."""
    session.add(t.JobLog(job_id=job_id, level=level, message=storable(message)[:20_000]))


def record_model(session: Session, row: dict[str, Any]) -> None:
    """Store what a worker found out about a model, replacing what an earlier scan said."""
    session.merge(t.Model(**row))
