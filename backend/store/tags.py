"""Tags, which people give to what they keep: a list of words as JSON, searched where it lies, in the database."""

from sqlalchemy import ColumnElement, TableValuedAlias, func, literal, select, true
from sqlalchemy.orm import Session

from backend.store import tables as t


def has(session: Session, table: type[t.Kept], tag: str) -> ColumnElement[bool]:
    """Return the condition that a row has exactly this tag, upper and lower case told apart."""
    each = _each(session, table)
    return select(literal(1)).select_from(each).where(each.c.value == tag).exists()


def in_use(session: Session, table: type[t.Kept]) -> list[tuple[str, int]]:
    """Return every tag of what is not deleted, with how many have it: the most used first, then by code points."""
    each = _each(session, table)
    query = select(each.c.value, func.count()).select_from(table).join(each, true())
    found = session.execute(query.where(table.deleted_at.is_(None)).group_by(each.c.value)).all()
    return sorted(((str(tag), n) for tag, n in found), key=lambda one: (-one[1], one[0]))


def _each(session: Session, table: type[t.Kept]) -> TableValuedAlias:
    """Return the tags of a row as a table with the one column `value`, for use beside that row."""
    if session.get_bind().dialect.name == "postgresql":
        return func.json_array_elements_text(table.tags).table_valued("value").render_derived()
    return func.json_each(table.tags).table_valued("value")
