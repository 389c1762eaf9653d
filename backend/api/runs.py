"""What all kinds of runs share at the edge: list, cancel, resume, verify, patch, delete, undelete.

Prompt sets are listed, changed, deleted and brought back the same way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends, Query
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from backend.api.edge import Edge
from backend.api.idempotency import Made, once
from backend.api.pagination import Paged, Paging
from backend.api.pagination import listing as page_body
from backend.api.schemas.common import Clean, LinkOut, Listing, Progress, RunnablePatch, Status, VerificationOut
from backend.domain.provenance import Link
from backend.store import jobs, runs
from backend.store import tables as t
from backend.store.paging import Page

Kept = TypeVar("Kept", bound=t.Kept)
Search = Annotated[str | None, Query(max_length=200, description="Text in name, notes, tags or id."), Clean]
Tag = Annotated[str | None, Query(max_length=60, description="Only those with this very tag; see GET /tags."), Clean]
RunSort = Annotated[
    Literal["-created_at", "created_at", "name", "-name"],
    Query(description="-created_at: the newest first. A cursor belongs to the order that it was given out in."),
]
Deleted = Annotated[bool, Query(description="List the deleted ones instead.")]
OfId = Annotated[str | None, Query(max_length=100), Clean]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which ones of a listing are asked for, in which order."""

    page: Paging
    status: Status | None = None
    q: str | None = None
    tag: str | None = None
    deleted: bool = False
    sort: RunSort = "-created_at"


def wanted(
    page: Paged, status: Status | None = None, q: Search = None, tag: Tag = None, deleted: Deleted = False
) -> Wanted:
    """Read the query parameters of every listing of runs."""
    return Wanted(page, status, q, tag, deleted)


Filtered = Annotated[Wanted, Depends(wanted)]


def in_order(asked: Filtered, sort: RunSort = "-created_at") -> Wanted:
    """Read the query parameters of a listing of runs whose order can be chosen."""
    return replace(asked, sort=sort)


Sorted = Annotated[Wanted, Depends(in_order)]


def listing(
    session: Session,
    table: type[Kept],
    asked: Wanted,
    show_all: Callable[[Session, Sequence[Kept]], Sequence[BaseModel]],
    **equal: str | None,
) -> Listing[Any]:
    """Return a page of those with these column values (None: any) as the answer's body."""
    page = asked.page
    found = runs.listing(
        session,
        table,
        status=asked.status,
        q=asked.q,
        tag=asked.tag,
        deleted=asked.deleted,
        after=page.after(str, str),
        limit=page.limit,
        sort=asked.sort,
        **equal,
    )
    return page_body(Page(list(show_all(session, found.items)), found.next_key), lambda one: one)


_FIELDS = (
    "id",
    "name",
    "tags",
    "notes",
    "status",
    "stage",
    "error",
    "environment",
    "created_at",
    "started_at",
    "finished_at",
    "deleted_at",
)


def shown_fields(run: t.Run, job_ids: dict[str, str]) -> dict[str, Any]:
    """Return the fields that every long-running resource shows."""
    fields = {name: getattr(run, name) for name in _FIELDS}
    return fields | {"progress": Progress(**jobs.progress_of(run)), "job_id": job_ids.get(run.id)}


def changes(patch: RunnablePatch) -> dict[str, Any]:
    """Return the fields that a PATCH names."""
    return patch.model_dump(exclude_none=True)


def cancel(edge: Edge, table: type[t.Run], id_: str) -> None:
    """Stop a queued or running resource. Raises NotFound, Conflict."""
    with edge.writing() as session:
        runs.get(session, table, id_)
        ids = jobs.cancel(session, table, id_)
    edge.cancel(ids)


def resume(
    edge: Edge, table: type[t.Run], id_: str, key: str | None, show: Callable[[Session, str], BaseModel]
) -> Response:
    """Queue a failed or cancelled resource again; it goes on where it stopped. Raises NotFound, Conflict."""
    kind = runs.noun(table)

    def make(session: Session) -> Made:
        runs.get(session, table, id_)
        job = jobs.resume(session, kind, id_)
        return 202, show(session, id_), job

    return once(edge, key, f"POST /{kind}/{id_}/resume", None, make)


def verification(links: Sequence[Link]) -> VerificationOut:
    """Return the links of a chain and the first that breaks."""
    shown = [LinkOut.model_validate(link, from_attributes=True) for link in links]
    broken = next((link for link in shown if not link.ok), None)
    return VerificationOut(ok=broken is None, links=shown, first_break=broken)
