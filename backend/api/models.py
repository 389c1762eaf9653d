"""Models: what the workers found in the models folder."""

from fastapi import APIRouter
from fastapi.responses import Response
from sqlalchemy.orm import Session

from backend.api.edge import PROBLEMS, Here
from backend.api.idempotency import IdempotencyKey, Made, once
from backend.api.pagination import Paged, listing
from backend.api.schemas.common import Listing
from backend.api.schemas.models import ModelOut, ScanOut
from backend.store import jobs, models
from backend.store import tables as t

router = APIRouter(prefix="/models", tags=["models"], responses=PROBLEMS)


def show(model: t.Model) -> ModelOut:
    """Return a model as the API shows it. Sizes are those of its largest site."""
    return ModelOut.model_validate(
        {
            "id": model.id,
            "architecture": model.architecture,
            "moe_layers": len({site["layer"] for site in model.sites}),
            "n_experts": max((site["n_experts"] for site in model.sites), default=0),
            "top_k": max((site["top_k"] for site in model.sites), default=0),
            "sites": model.sites,
            "engines": model.engines,
            "supported": model.supported,
            "reason": model.reason,
            "refuses": model.refuses,
            "n_parameters": model.n_parameters,
            "has_chat_template": model.template_digest is not None,
            "scanned_at": model.scanned_at,
        }
    )


@router.get("")
def get_all(here: Here, page: Paged) -> Listing[ModelOut]:
    """List the scanned models, those that are not supported with the reason."""
    with here.reading() as session:
        return listing(models.listing(session, page.after(str), page.limit), show)


@router.post("/scan", status_code=202, response_model=ScanOut)
def scan(here: Here, idempotency_key: IdempotencyKey = None) -> Response:
    """Have a worker look through the models folder. A scan that is already queued or running is returned instead."""

    def make(session: Session) -> Made:
        waiting = jobs.active_scan(session)
        job = waiting or jobs.add(session, "scan", jobs.SCAN_SUBJECT)
        return 202, ScanOut.model_validate(job, from_attributes=True), None if waiting else job

    return once(here, idempotency_key, "POST /models/scan", None, make)
