"""Deleted runs and prompt sets on their way out for good: which of them go, and their rows, some at a time.

A run goes once it has been deleted for long enough and nothing that stays refers to it, directly or through others: a
training keeps its analysis and its expert set, an evaluation the training whose model it asked, a comparison both of
its sides, a study its runs. What stays is every run that is not deleted, or that can still be restored. Statistics,
context runs and expert sets are parts of their analysis: they keep nothing by themselves and go with it, and one that a
kept run uses keeps the analysis. So users and what they use go together once all of them are deleted, and not before.

Removal begins with a mark on everything that goes (`purged`), in one transaction: from then on nobody finds it,
restores it or starts work on it. Then its rows go, bit by bit; then its files (backend/retention.py); then its head.
Killed anywhere, the marked heads are left, and the next purge takes them up. Kept: tallies, which metrics sum.
"""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import (
    Column,
    ColumnElement,
    CursorResult,
    Engine,
    LargeBinary,
    Table,
    delete,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy import cast as as_type
from sqlalchemy.orm import Session

from backend.domain.jobs import ACTIVE
from backend.domain.retention import removable
from backend.store import tables as t
from backend.store.engine import reading, writing
from backend.store.evaluations import TRAINED
from backend.store.imports import Pace

_PROMPTS = ("dataset_id", "capability_dataset_id")
_USED = ("analysis_id", "expert_set_id", "model_id", "model_digests", "side_a", "side_b", "params", "rule")
NAMING = _PROMPTS + _USED
"""Columns of runs and expert sets that name what they stand on; `params` is the request, and names all that it used."""
_NAME = re.compile(r"\b[a-z]{2,3}_[0-9a-f]{12}\b|\b[0-9a-f]{64}\b")  # an id, or statistics by the digest of a rule
_TABLES = list(reversed(t.Base.metadata.sorted_tables))  # users before what they use
_PARTS: dict[str, type[t.Statistics] | type[t.Context]] = {"statistics": t.Statistics, "context": t.Context}
_HEADS = {table.__table__ for table in t.KEPT.values()}


@dataclass(frozen=True, slots=True)
class Going:
    """A run or prompt set that goes. kind: the word for it."""

    kind: str
    id: str
    name: str

    @property
    def table(self) -> type[t.Kept]:
        """Where its head is."""
        return t.KEPT[self.kind]


def references(session: Session) -> dict[str, set[str]]:
    """Return {run or expert set: ids that it refers to}, all of them; an analysis refers to its parts, too."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    things: list[type[t.Kept] | type[t.ExpertSet]] = [*t.KEPT.values(), t.ExpertSet]
    for table in things:
        columns = [getattr(table, name) for name in NAMING if hasattr(table, name)]
        for id_, *values in session.execute(select(table.id, *columns)):
            found[id_] |= {name for value in values for name in _NAME.findall(str(value))}
    for study_id, run_id in session.execute(select(t.StudyRun.study_id, t.StudyRun.run_id)):
        found[study_id].add(str(run_id))
    for id_, analysis_id in session.execute(select(t.ExpertSet.id, t.ExpertSet.analysis_id)):
        found[analysis_id].add(id_)
    for part in _PARTS.values():
        for id_, analysis_id in session.execute(select(part.id, part.analysis_id).where(part.deleted_at.is_(None))):
            found[analysis_id].add(id_)
    s = t.Statistics
    for id_, sha256 in session.execute(select(s.id, s.sha256).where(s.sha256.is_not(None))):
        found[str(sha256)].add(id_)
    return dict(found)


def going(session: Session, until: str) -> list[Going]:
    """Return what of all that was deleted until then (ISO 8601) goes, and what is marked already; users first."""
    expired, heads = _expired(session, until), {}
    if not expired:
        return []
    found = references(session)
    sets = set(session.scalars(select(t.ExpertSet.id).where(t.ExpertSet.analysis_id.in_(expired))))
    digests = {name for name in found if len(name) == 64}  # names for statistics, not things
    for id_ in removable(found, expired.keys() | sets | digests):
        if id_ in expired:
            heads[id_] = expired[id_]
    return sorted(heads.values(), key=lambda one: (_TABLES.index(cast(Table, one.table.__table__)), one.id))


def _expired(session: Session, until: str) -> dict[str, Going]:
    found: dict[str, Going] = {}
    for kind, table in t.KEPT.items():
        query = select(table.id, table.name).where((table.deleted_at <= until) | table.purged)
        found |= {id_: Going(kind, id_, name) for id_, name in session.execute(query.with_for_update())}
    analyses = list(found)
    for kind, part in _PARTS.items():
        parts = select(part.id, part.name).where(part.analysis_id.in_(analyses), part.status.not_in(ACTIVE))
        found |= {id_: Going(kind, id_, name) for id_, name in session.execute(parts.with_for_update())}
    return found


def mark(session: Session, until: str) -> list[Going]:
    """Begin the removal of what goes, and return it. Nobody finds any of it once this has landed."""
    found = going(session, until)
    for kind, table in t.KEPT.items():
        ids = [one.id for one in found if one.kind == kind]
        values = {"purged": True, "deleted_at": func.coalesce(table.deleted_at, t.utcnow())}
        session.execute(update(table).where(table.id.in_(ids)).values(values))
    models = [TRAINED + one.id for one in found if one.kind == "training"]
    session.execute(delete(t.Model).where(t.Model.id.in_(models)))
    return found


def rows_of(one: Going) -> Iterator[tuple[Table, ColumnElement[bool]]]:
    """Yield where the rows of a run are, without its head, in the order in which they can go."""
    head = one.table.__table__
    for table in _TABLES:
        if table not in _HEADS:
            yield from ((table, key.parent == one.id) for key in table.foreign_keys if key.column.table is head)
    jobs = select(t.Job.id).where(t.Job.subject_id == one.id)
    yield _table(t.JobLog), t.JobLog.job_id.in_(jobs)
    shards = select(t.Job.id).where(t.Job.subject_id == one.id, t.Attempt.work.startswith(t.Job.id)).exists()
    yield _table(t.Attempt), shards


def _table(mapped: type[t.Base]) -> Table:
    return cast(Table, mapped.__table__)


def bytes_of(session: Session, one: Going) -> int:
    """Return about how many bytes the rows of a run hold, without the databases' own."""
    places = [*rows_of(one), (_table(one.table), one.table.id == one.id)]
    return sum(session.scalar(select(_size(session, table)).where(where)) or 0 for table, where in places)


def _size(session: Session, table: Table) -> ColumnElement[int]:
    def size(column: Column[Any]) -> ColumnElement[int]:
        if session.get_bind().dialect.name == "postgresql":
            return func.pg_column_size(column)
        return func.length(as_type(column, LargeBinary))

    return func.sum(sum((func.coalesce(size(column), 0) for column in table.columns), start=0))


def remove_rows(engine: Engine, one: Going, stopped: Callable[[], bool], pace: Pace | None = None) -> bool:
    """Remove the rows of a marked run, some in each transaction; return whether all are gone. May be done again."""
    pace = pace or Pace()
    for table, where in rows_of(one):
        key = list(table.primary_key.columns)
        removed = asked = pace.rows
        while removed == asked:
            if stopped():
                return False
            asked = pace.rows
            begun = time.perf_counter()
            with writing(engine) as session:
                some = tuple_(*key).in_(select(*key).where(where).limit(asked).correlate(None))
                removed = cast("CursorResult[Any]", session.execute(delete(table).where(some))).rowcount
            if removed:
                pace.rest(time.perf_counter() - begun)
    return True


def job_ids(engine: Engine, one: Going) -> list[str]:
    """Return the ids of all jobs that ever worked on a run."""
    with reading(engine) as session:
        return list(session.scalars(select(t.Job.id).where(t.Job.subject_id == one.id)))


def remove_head(session: Session, one: Going) -> None:
    """Remove what is left of a marked run when its rows and its files have gone."""
    session.execute(delete(t.Job).where(t.Job.subject_id == one.id))
    session.execute(delete(one.table).where(one.table.id == one.id, one.table.purged))
