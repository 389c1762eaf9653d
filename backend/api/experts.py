"""Expert sets: tried out at the speed of a slider, stored when they are good."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy.orm import Session

from backend.api.edge import PROBLEMS, Here, PathId
from backend.api.formats import IfNoneMatch, etag, json_response, unchanged
from backend.api.idempotency import IdempotencyKey, Made, json_answer, once
from backend.api.pagination import Paged, listing
from backend.api.schemas.common import Clean, Listing
from backend.api.schemas.experts import ExpertSetCreate, ExpertSetOut
from backend.domain.errors import Conflict, RuleInvalid
from backend.domain.experts import SelectionRule, to_esft
from backend.domain.vocabulary import Site
from backend.store import experts, risks, runs
from backend.store import tables as t
from backend.store.paging import Page

router = APIRouter(tags=["expert sets"], responses=PROBLEMS)

_FIELDS = ("id", "name", "sha256", "n_experts", "experts", "kind", "rule", "analysis_id", "created_at")


def show(stored: t.ExpertSet, sites: tuple[Site, ...], statistics_id: str | None = None) -> dict[str, Any]:
    """Return a stored set as the API shows it."""
    fields = {name: getattr(stored, name) for name in _FIELDS} | {"statistics_id": statistics_id}
    return fields | _derived(stored.experts, stored.per_batch, sites)


def _derived(chosen: Sequence[Any], per_batch: dict[str, Any] | None, sites: tuple[Site, ...]) -> dict[str, Any]:
    n_total = sum(site.n_experts for site in sites)
    return {
        "n_total": n_total,
        "share_of_experts": len(chosen) / n_total,
        "per_layer": experts.layers(chosen, sites),
        "per_batch": experts.sizes(per_batch),
    }


def tried(analysis: t.Analysis, name: str, chosen: experts.Chosen) -> dict[str, Any]:
    """Return a set that is not stored as the API shows it."""
    return {
        "id": None,
        "name": name,
        "sha256": chosen.sha256,
        "n_experts": len(chosen.experts),
        "experts": chosen.experts,
        "kind": chosen.rule.kind,
        "rule": chosen.rule.to_dict(),
        "statistics_id": chosen.statistics_id,
        "analysis_id": analysis.id,
        "created_at": None,
    } | _derived(chosen.experts, chosen.per_batch, risks.sites_of(analysis))


@router.post(
    "/analyses/{analysis_id}/expert-sets",
    status_code=201,
    response_model=ExpertSetOut,
    responses={200: {"model": ExpertSetOut, "description": "dry_run, or the same set under the same name exists."}},
)
def create(
    here: Here,
    analysis_id: PathId,
    body: ExpertSetCreate,
    dry_run: Annotated[bool, Query(description="Show what the rule chooses, store nothing.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Choose experts by a rule. A stored set never changes; it needs a finished analysis, a dry run does not.

    409 where `significant` has no finished statistics to go by: the answer says how to get them.
    """
    if body.statistics_id is not None and body.method != "significant":
        raise RuleInvalid("statistics_id belongs to method 'significant'.", ("statistics_id",))
    rule = SelectionRule.from_dict(body.model_dump(exclude={"name", "statistics_id"}))
    name = body.name or experts.default_name(rule)
    with here.reading() as session:
        analysis = runs.get_live(session, t.Analysis, analysis_id)
        if not dry_run and analysis.status != "succeeded":
            raise Conflict(f"The analysis is {analysis.status}: an expert set is stored once it has succeeded.")
        chosen = experts.apply(session, analysis, rule, body.statistics_id)
    if dry_run:
        return json_answer(200, tried(analysis, name, chosen))
    if not chosen.experts:
        raise RuleInvalid("This rule chooses no expert at all: nothing could be trained with it. Loosen it.")

    def make(session: Session) -> Made:
        stored, new = experts.create(session, analysis, name, chosen)
        shown = ExpertSetOut.model_validate(show(stored, risks.sites_of(analysis), chosen.statistics_id))
        return 201 if new else 200, shown, None

    route = f"POST /analyses/{analysis_id}/expert-sets"
    return once(here, idempotency_key, route, body.model_dump(mode="json"), make)


@router.get("/expert-sets")
def get_all(
    here: Here,
    page: Paged,
    analysis_id: Annotated[str | None, Query(max_length=100), Clean] = None,
) -> Listing[ExpertSetOut]:
    """List expert sets, newest first."""
    with here.reading() as session:
        found = experts.listing(session, analysis_id, page.after(str, str), page.limit)
        shown = _shown(session, found.items)
    return listing(Page(shown, found.next_key), ExpertSetOut.model_validate)


def _shown(session: Session, found: Sequence[t.ExpertSet]) -> list[dict[str, Any]]:
    named = experts.statistics_ids(session, found)
    sites = {id_: risks.sites_of(runs.get(session, t.Analysis, id_)) for id_ in {one.analysis_id for one in found}}
    return [show(one, sites[one.analysis_id], named.get(one.id)) for one in found]


@router.get(
    "/expert-sets/{set_id}", response_model=ExpertSetOut, responses={304: {"description": "Unchanged (sets never do)."}}
)
def get_one(
    here: Here,
    set_id: PathId,
    format: Annotated[  # noqa: A002 - the query parameter's name
        Literal["json", "esft"], Query(description="esft: the expert configuration that ESFT reads.")
    ] = "json",
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return one expert set."""
    with here.reading() as session:
        stored = experts.get(session, set_id)
        body = _shown(session, [stored])[0]
        sites = risks.sites_of(runs.get(session, t.Analysis, stored.analysis_id))
    tag = etag(stored.id, stored.sha256, format)
    if (same := unchanged(tag, if_none_match)) is not None:
        return same
    return json_response(body if format == "json" else to_esft(stored.experts, sites), tag)
