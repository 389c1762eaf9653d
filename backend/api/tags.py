"""Tags in use, to choose from. Not covered: giving them (PATCH) and listing by them (`tag`), which every list has."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from backend.api.edge import PROBLEMS, Here
from backend.api.pagination import Paged, listing
from backend.api.schemas.common import Listing, TagOut
from backend.store import tables as t
from backend.store import tags
from backend.store.paging import slice_page

router = APIRouter(prefix="/tags", tags=["tags"], responses=PROBLEMS)

_TABLES: dict[str, type[t.Kept]] = {
    "analyses": t.Analysis,
    "comparisons": t.Comparison,
    "datasets": t.Dataset,
    "evaluations": t.Evaluation,
    "studies": t.Study,
    "trainings": t.Training,
}
Of = Annotated[
    Literal["analyses", "comparisons", "datasets", "evaluations", "studies", "trainings"],
    Query(description="Whose tags: the list of this name takes each of them as `tag`."),
]


@router.get("")
def get_all(here: Here, page: Paged, of: Of) -> Listing[TagOut]:
    """List the tags in use, the most used first."""
    with here.reading() as session:
        found = tags.in_use(session, _TABLES[of])
    return listing(slice_page(found, page.after(int), page.limit), lambda one: TagOut(tag=one[0], n=one[1]))
