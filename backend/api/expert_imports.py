"""Expert sets from elsewhere: a file (ESFT's configuration, or our own JSON of a set), or the same as a JSON body."""

import json
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import UploadFile

from backend.api import experts as edge_experts
from backend.api.edge import PROBLEMS, Here, PathId
from backend.api.idempotency import IdempotencyKey, Made, json_answer, once
from backend.api.schemas.common import Name
from backend.api.schemas.experts import ExpertSetImport, ExpertSetOut
from backend.domain.canonical import canonical_json
from backend.domain.errors import Conflict, InvalidInput
from backend.domain.exchange import MAX_BYTES, imported_rule
from backend.domain.vocabulary import Scope
from backend.store import experts, risks, runs
from backend.store import tables as t

router = APIRouter(tags=["expert sets"], responses=PROBLEMS)

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ExpertSetImport.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
                        "name": {"type": "string", "maxLength": 200},
                    },
                }
            },
        },
    }
}


@dataclass(frozen=True, slots=True)
class Sent:
    """What the client sent. filename: only ever shown."""

    content: bytes
    filename: str
    name: str | None


async def _sent(request: Request) -> Sent:
    """Read either kind of body. The gate has bounded its size."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data":
        return await _form(request)
    try:
        body = ExpertSetImport.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(str(first["msg"]), ("body", *first["loc"])) from None
    try:
        content = canonical_json(body.config)
    except (ValueError, RecursionError):
        raise InvalidInput("config holds what no file could: a NaN, or broken Unicode.", ("body", "config")) from None
    return Sent(content, body.filename, body.name)


async def _form(request: Request) -> Sent:
    async with request.form(max_files=1, max_fields=4) as form:
        file, name = form.get("file"), form.get("name")
        if not isinstance(file, UploadFile):
            raise InvalidInput("Send the configuration as a file in the field `file`.", ("body", "file"))
        content = await file.read(MAX_BYTES + 1)
        filename = (file.filename or "").replace("\\", "/").rpartition("/")[2].strip()[:200] or "upload"
    return Sent(content, _text(filename, "file"), _text(name, "name") if name else None)


def _text(value: Any, field: str) -> str:
    try:
        return _NAME.validate_python(value)
    except ValidationError as error:
        raise InvalidInput(str(error.errors()[0]["msg"]), ("body", field)) from None


@router.post(
    "/analyses/{analysis_id}/expert-sets/import",
    status_code=201,
    response_model=ExpertSetOut,
    responses={200: {"model": ExpertSetOut, "description": "dry_run, or the same set under the same name exists."}},
    openapi_extra=_BODY,
)
def create(
    here: Here,
    analysis_id: PathId,
    sent: Annotated[Sent, Depends(_sent)],
    dry_run: Annotated[bool, Query(description="Show what the file names, store nothing.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Bring in a set that was chosen elsewhere. Its rule is `manual` and says the file's name and SHA-256.

    ESFT's configuration (`{"experts": {"3": [0, 7]}, "shared_experts": false, "non_expert_modules": false}`) or the
    JSON of one of our own global sets. Refused by name: shared experts, other modules, experts the model does not have.
    """
    rule = imported_rule(sent.content, sent.filename)
    name = sent.name or experts.default_name(rule)
    with here.reading() as session:
        analysis = runs.get_live(session, t.Analysis, analysis_id)
        if not dry_run and analysis.status != "succeeded":
            raise Conflict(f"The analysis is {analysis.status}: an expert set is stored once it has succeeded.")
        if rule.scope not in (counted := analysis.params["scopes"]):  # it chooses nothing here: any will do
            rule = replace(rule, scope=Scope(counted[0]))
        chosen = experts.apply(session, analysis, rule)
    if dry_run:
        return json_answer(200, edge_experts.tried(analysis, name, chosen))

    def make(session: Any) -> Made:
        stored, new = experts.create(session, analysis, name, chosen)
        shown = ExpertSetOut.model_validate(edge_experts.show(stored, risks.sites_of(analysis)))
        return 201 if new else 200, shown, None

    asked = {"name": name, "config": json.loads(sent.content), "file": sent.filename}
    return once(here, idempotency_key, f"POST /analyses/{analysis_id}/expert-sets/import", asked, make)
