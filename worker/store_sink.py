"""Where a training stage reports to: the tables. What a run reports, and when, stands in runs.py."""

from functools import partial

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from backend.store import tables as t
from backend.store import tallies, writes
from backend.store.engine import insist
from worker import pausing
from worker.measuring import is_wanted
from worker.runs import StepRecord


class StoreSink:
    """Records a run's steps in the store and asks there whether the run is still wanted."""

    def __init__(self, engine: Engine, training_id: str, job_id: str) -> None:
        self.engine, self.training_id, self.job_id = engine, training_id, job_id

    def record_step(self, record: StepRecord) -> None:
        """Store one step; a step that was stored before a crash stays as it was."""
        insist(self.engine, partial(_store, training_id=self.training_id, record=record))

    def should_stop(self) -> bool:
        """Return True once the run was cancelled or deleted, or the worker ends."""
        return pausing.asked() or not is_wanted(self.engine, t.Training, self.training_id)

    def log(self, message: str) -> None:
        """Append a line to the job's log."""
        insist(self.engine, partial(writes.log, job_id=self.job_id, message=message))

    def note(self, kind: str, message: str) -> None:
        """Append a line to the job's log and to the training's own record, there once."""

        def store(session: Session) -> None:
            writes.log(session, self.job_id, message, "warning")
            writes.note(session, self.training_id, kind, message)

        insist(self.engine, store)


def _store(session: Session, training_id: str, record: StepRecord) -> None:
    """Store a step and count it, both or neither."""
    row = {name: getattr(record, name) for name in StepRecord.__slots__}
    if writes.record_step(session, training_id, row | {"samples": list(record.samples)}):
        tallies.add(session, training_id, tallies.STEP, record.seconds, record.n_answer_tokens)
