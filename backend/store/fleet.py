"""The workers as the tables know them: heartbeats by the database's own clock, and how often work was begun.

Machines' clocks differ; what is compared with what another machine wrote is therefore the database's time.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from backend.domain.errors import TakenOver
from backend.domain.jobs import DEAD_AFTER_SECONDS
from backend.store import tables as t
from backend.store.writes import insert_new, is_postgresql


def now(session: Session) -> datetime:
    """Return the database server's present moment; on SQLite, whose processes share one machine, this machine's."""
    if not is_postgresql(session):
        return datetime.now(UTC)
    found = session.scalar(select(func.clock_timestamp()))
    assert isinstance(found, datetime)
    return found.astimezone(UTC)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def heartbeat(session: Session, row: dict[str, Any]) -> datetime:
    """Write a worker's heartbeat: a new row at its start, later a fresher `last_seen` and its memory.

    Returns the moment, by the clock that all of them go by.
    """
    if is_postgresql(session):  # a heartbeat lost in a crash is sent again: it need not wait for the disk
        session.execute(text("SET LOCAL synchronous_commit TO off"))
    moment = now(session)
    seen = {"last_seen": _text(moment)}
    values = {k: v for k, v in row.items() if k != "executor_id"} | seen
    result = session.execute(update(t.Worker).where(t.Worker.executor_id == row["executor_id"]).values(**values))
    if isinstance(result, CursorResult) and result.rowcount == 0:
        insert_new(session, t.Worker, [row | seen | {"started_at": seen["last_seen"]}])
    return moment


def _fresh(session: Session) -> tuple[str, str]:
    """Return between which moments a heartbeat is fresh: one from the future was written before the clock moved."""
    moment, span = now(session), timedelta(seconds=DEAD_AFTER_SECONDS)
    return _text(moment - span), _text(moment + span)


def workers(session: Session) -> list[tuple[t.Worker, bool]]:
    """Return every worker that ever sent a heartbeat, and whether it is alive; the freshest first."""
    oldest, newest = _fresh(session)
    found = session.scalars(select(t.Worker).order_by(t.Worker.last_seen.desc()))
    return [(worker, oldest <= worker.last_seen <= newest) for worker in found]


def alive(session: Session) -> list[t.Worker]:
    """Return the workers whose heartbeat is fresh, the freshest first."""
    fresh = select(t.Worker).where(t.Worker.last_seen.between(*_fresh(session)))
    return list(session.scalars(fresh.order_by(t.Worker.last_seen.desc())))


def dead(session: Session) -> list[str]:
    """Return the names of the workers whose heartbeat has stopped."""
    gone = ~t.Worker.last_seen.between(*_fresh(session))
    return list(session.scalars(select(t.Worker.executor_id).where(gone)))


def begun(session: Session, work: str, mark: str, token: str = "") -> int:
    """Note that a piece of work is begun, and return how often it was begun with just as much done.

    mark: how much. token: of this beginning; from now on no other one may write.
    """
    insert_new(session, t.Attempt, [{"work": work, "mark": mark, "n": 0}])
    row = session.get_one(t.Attempt, work, with_for_update=True, populate_existing=True)
    row.n = row.n + 1 if row.mark == mark else 1
    row.mark, row.token = mark, token
    session.flush()
    return row.n


def check_holder(session: Session, work: str, token: str) -> None:
    """Raise TakenOver if a piece of work was begun again since it was begun with this token, or has ended.

    Until this transaction ends, nobody else begins it.
    """
    query = select(t.Attempt.token).where(t.Attempt.work == work).with_for_update(read=True)
    if session.scalar(query) != token:
        raise TakenOver(work)


def over(session: Session, work: str, token: str | None = None) -> None:
    """Forget a piece of work that has ended, unless it was begun since with another token (None: all the same)."""
    row = session.get(t.Attempt, work, with_for_update=True, populate_existing=True)
    if row is not None and token in (None, row.token):
        session.delete(row)
