"""Published risk tables: import, browse, read as counts and risk_diff, delete."""

from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Form, UploadFile
from fastapi.responses import Response

from backend.api.edge import PROBLEMS, Edge, Here, PathId
from backend.api.formats import (
    FILES,
    IfNoneMatch,
    TableFormat,
    etag,
    json_response,
    npy_response,
    table_response,
    unchanged,
)
from backend.api.idempotency import json_answer
from backend.api.pagination import Paged, listing
from backend.api.schemas.common import Clean, LabelWord, Listing, Name
from backend.api.schemas.comparisons import RiskTableOut, TableRiskOut
from backend.api.uploads import on_disk
from backend.domain.errors import InvalidInput
from backend.domain.risk_tables import PublishedTable, rates_of, read_risk_table, table_columns
from backend.domain.vocabulary import Label, Site
from backend.store import risk_tables, risks, runs
from backend.store import tables as t

router = APIRouter(prefix="/risk-tables", tags=["risk tables"], responses=PROBLEMS)

_MODEL = Form(max_length=300, description="The model that the table is about, in your words.")
_MEANING = Form(max_length=500, description="What this label means in the table.")
_ANALYSIS = Form(max_length=100, description="An analysis of the same model: layers and experts must be its own.")
_LAYERS = Form(description="model: as in the model; position: 0 is the first MoE layer (needs analysis_id).")
_GROUP = Form(description="Which label a1 and d1 are of.")
_ACCEPT = Form(description="Import although stated values do not follow from the counts; the counts decide.")
Meaning = Annotated[str, _MEANING, Clean]


def show(table: t.RiskTable) -> RiskTableOut:
    """Return a table as the API shows it."""
    return RiskTableOut.model_validate(table, from_attributes=True)


@router.post(
    "",
    status_code=201,
    response_model=RiskTableOut,
    responses={
        200: {"model": RiskTableOut, "description": "The same counts under the same name were imported before."}
    },
)
def create(
    here: Here,
    file: UploadFile,
    name: Annotated[Name, Form()],
    model: Annotated[str, _MODEL, Clean] = "",
    safe_means: Meaning = "",
    unsafe_means: Meaning = "",
    group_1: Annotated[LabelWord, _GROUP] = "safe",
    analysis_id: Annotated[str, _ANALYSIS, Clean] = "",
    layer_numbers: Annotated[Literal["model", "position"], _LAYERS] = "model",
    accept_mismatch: Annotated[bool, _ACCEPT] = False,
) -> Response:
    """Import a table with the columns layer, expert, a1, a2, d1, d2 and maybe risk_diff, as CSV or Parquet.

    That is SteerMoE's form: a, tokens that took the expert; d, tokens that did not; its risk_diff is rate 1 − rate 2
    with the safe group first, the opposite of our sign. The counts decide: risk_diff is computed anew as
    rate_unsafe − rate_safe, and a stated value that fits in neither sign refuses the import, by row. Tables whose d is
    the number of all tokens, the original scripts' a_safe ... d_unsafe, and our own pooled CSV are read too.
    """
    with on_disk(here.scratch, [file]) as (upload,):
        table = read_risk_table(upload.path, upload.filename, group_1=Label(group_1), accept_mismatch=accept_mismatch)
    table = _fitted(here, table, analysis_id, layer_numbers)
    meaning = {"safe": safe_means.strip() or "safe", "unsafe": unsafe_means.strip() or "unsafe"}
    about = {"name": upload.filename, "sha256": upload.sha256, "bytes": upload.n_bytes}
    with here.writing() as session:
        found = risk_tables.find(session, table.sha256, name)
        if found is not None:
            return json_answer(200, show(found))
        stored = risk_tables.create(
            session,
            table,
            name=name,
            model=model.strip(),
            file=about,
            label_meaning=meaning,
            layer_numbers=layer_numbers,
        )
        return json_answer(201, show(stored))


def _fitted(here: Edge, table: PublishedTable, analysis_id: str, layer_numbers: str) -> PublishedTable:
    """Check the table against the model of an analysis, and give its layers the model's own numbers where asked."""
    if not analysis_id:
        if layer_numbers == "position":
            raise InvalidInput("layer_numbers 'position' needs analysis_id.", ("body", "analysis_id"))
        return table
    with here.reading() as session:
        sites = risks.sites_of(runs.get_live(session, t.Analysis, analysis_id))
    layers = [site.layer for site in sites]
    if layer_numbers == "position":
        if table.layers[-1] >= len(layers):
            raise _misfit(f"the table has layer {table.layers[-1]}, and the model has {len(layers)} MoE layers")
        table = replace(table, layers=tuple(layers[position] for position in table.layers))
    _check_fit(table, sites)
    return table


def _check_fit(table: PublishedTable, sites: tuple[Site, ...]) -> None:
    sizes = {site.layer: site.n_experts for site in sites}
    strange = [layer for layer in table.layers if layer not in sizes]
    if strange:
        hint = (
            " If the table counts MoE layers from 0, say layer_numbers=position."
            if len(table.layers) == len(sizes)
            else ""
        )
        raise _misfit(f"the model has no MoE layer {strange[0]} (it has {', '.join(map(str, sizes))}).{hint}")
    for row, layer in enumerate(table.layers):
        beyond = np.flatnonzero(table.tokens[:, row].any(axis=0))
        if len(beyond) and beyond[-1] >= sizes[layer]:
            raise _misfit(f"layer {layer} has {sizes[layer]} experts, and the table has expert {beyond[-1]}")


def _misfit(why: str) -> InvalidInput:
    return InvalidInput(f"The table does not fit the analysis' model: {why.rstrip('.')}.", ("body", "analysis_id"))


@router.get("")
def get_all(here: Here, page: Paged) -> Listing[RiskTableOut]:
    """List published tables, newest first."""
    with here.reading() as session:
        return listing(risk_tables.listing(session, page.after(str, str), page.limit), show)


@router.get("/{table_id}")
def get_one(here: Here, table_id: PathId) -> RiskTableOut:
    """Return one table, without its counts."""
    with here.reading() as session:
        return show(risk_tables.get(session, table_id))


@router.get("/{table_id}/risk-diff", response_model=TableRiskOut, responses=FILES)
def risk_diff(
    here: Here,
    table_id: PathId,
    format: TableFormat = "json",  # noqa: A002 - the query parameter's name
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return risk_diff [layer][expert] in our sign (pool `pooled`). `npy` holds risk_diff alone, NaN where null."""
    with here.reading() as session:
        table = risk_tables.get(session, table_id)
    tag = etag(table.id, table.sha256, format)
    if (same := unchanged(tag, if_none_match)) is not None:
        return same
    rates = rates_of(table.counts, table.tokens)
    diff, name = rates[1] - rates[0], f"risk_diff-{table.id}"
    if format == "npy":
        return npy_response(diff, name, tag)
    if format != "json":
        return table_response(table_columns(table.layers, table.counts, table.tokens), format, name, tag)
    return json_response(_body(table, rates, diff), tag)


def _body(table: t.RiskTable, rates: Any, diff: Any) -> dict[str, Any]:
    return {
        "risk_table_id": table.id,
        "pool": "pooled",
        "layers": table.layers,
        "n_experts": table.n_experts,
        "risk_diff": diff.tolist(),
        "rate_safe": rates[0].tolist(),
        "rate_unsafe": rates[1].tolist(),
        "max_abs": float(np.nanmax(np.abs(diff))),
        "reasons": table.reading["reasons"],
    }


@router.delete("/{table_id}", status_code=204, response_class=Response)
def delete(here: Here, table_id: PathId) -> None:
    """Delete a table for good. Refused while a comparison uses it."""
    with here.writing() as session:
        risk_tables.remove(session, table_id)
