"""Prompt sets: preview, import, browse, rename, delete and bring back."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import Response
from pydantic import StringConstraints

from backend.api import runs as edge_runs
from backend.api.edge import PROBLEMS, Here, PathId
from backend.api.idempotency import json_answer
from backend.api.importing import imported_by_child, imported_here, purge_later, show
from backend.api.pagination import Paged, listing
from backend.api.schemas.common import Clean, LabelWord, Listing, Name, RunnablePatch
from backend.api.schemas.datasets import DatasetOut, FormatOut, LeftOutRowOut, PreviewOut, RowOut
from backend.api.uploads import MAX_FILES, on_disk
from backend.demo_prompts import DEMO_MEANING, DEMO_NAME, DEMO_PROMPTS
from backend.domain.canonical import sha256_hex
from backend.domain.errors import InvalidInput
from backend.domain.mappings import Mapping, as_label
from backend.domain.previewing import preview_file
from backend.domain.prompts import LabelMeaning
from backend.domain.published import known_formats
from backend.domain.reading import SourceFile
from backend.domain.vocabulary import Label
from backend.importing import import_order, preview_order
from backend.orders import Said
from backend.store import datasets, runs
from backend.store import tables as t
from backend.store.paging import slice_page

router = APIRouter(prefix="/datasets", tags=["datasets"], responses=PROBLEMS)

SMALL_BYTES = 2**20
"""Files up to this size are read by the request itself, larger ones by a child."""

LabelText = Annotated[str, StringConstraints(max_length=20)]
LabelField = Annotated[str, Form(max_length=20, description="safe or unsafe, for every row of the file; empty: none.")]
MappingField = Annotated[
    str, Form(max_length=500_000, description="A mapping as JSON, as the preview shows it."), Clean
]
ForGood = Annotated[bool, Query(description="Delete the prompts themselves, so that nothing can bring them back.")]
Q = Annotated[str | None, Query(max_length=200, description="Text to look for."), Clean]


def show_row(row: t.PromptRow) -> RowOut:
    """Return one row as the API shows it."""
    fields = ("row_idx", "row_id", "label", "messages", "response", "category", "difficulty", "group", "source")
    return RowOut.model_validate({name: getattr(row, name) for name in fields} | {"text": datasets.text_of(row)})


@router.post("/preview", response_model=PreviewOut)
def preview(here: Here, file: UploadFile, mapping: MappingField = "", label: LabelField = "") -> Response:
    """Say what a file would become, row by row, and store nothing."""
    (chosen,), (fixed,) = _mappings(mapping, 1), _labels([label], 1)
    with ExitStack() as stack:
        (upload,) = stack.enter_context(on_disk(here.scratch, [file]))
        source = SourceFile(upload.path, upload.filename, chosen, fixed)
        if upload.n_bytes <= SMALL_BYTES:
            return json_answer(200, preview_file(upload.path, upload.filename, chosen, fixed).to_dict())
        said, value = here.children.start(preview_order(source), stack).hear()
        assert said is Said.PREVIEW
        return json_answer(200, value)


@router.post(
    "",
    response_model=DatasetOut,
    status_code=201,
    responses={
        200: {"model": DatasetOut, "description": "The same set under the same name was imported before."},
        202: {"model": DatasetOut, "description": "More than 50,000 rows: they land in the background; see `status`."},
    },
)
def create(
    here: Here,
    file: Annotated[list[UploadFile], File(min_length=1, max_length=MAX_FILES)],
    name: Annotated[Name, Form()],
    label_meaning: Annotated[
        str,
        Form(max_length=10_000, description='harmless_harmful, refused_complied, or {"safe": "...", "unsafe": "..."}.'),
        Clean,
    ],
    mapping: MappingField = "",
    label: Annotated[  # one per file
        list[LabelText], Form(max_length=MAX_FILES, description="One per file: safe, unsafe or empty.")
    ] = [],  # noqa: B006 - read only
) -> Response:
    """Import files as one prompt set. One wrong row refuses the whole import, with every problem listed.

    `mapping` is one mapping for all files, or a list aligned with them (null: propose one).
    """
    meaning = LabelMeaning.from_text(label_meaning)
    mappings, labels = _mappings(mapping, len(file)), _labels(label, len(file))
    with ExitStack() as stack:
        uploads = stack.enter_context(on_disk(here.scratch, file))
        sources = [
            SourceFile(upload.path, upload.filename, chosen, fixed)
            for upload, chosen, fixed in zip(uploads, mappings, labels, strict=True)
        ]
        origins = [{"sha256": upload.sha256, "bytes": upload.n_bytes} for upload in uploads]
        order = import_order(here.settings.tables_url, name, meaning, sources, origins)
        if sum(upload.n_bytes for upload in uploads) <= SMALL_BYTES:
            return imported_here(here, order, stack)
        return imported_by_child(here, order, stack)


@router.post("/demo", response_model=DatasetOut, status_code=201, responses={200: {"model": DatasetOut}})
def create_demo(here: Here) -> Response:
    """Import the demonstration prompt set."""
    source, content = SourceFile(DEMO_PROMPTS, DEMO_PROMPTS.name), DEMO_PROMPTS.read_bytes()
    origin = {"sha256": sha256_hex(content), "bytes": len(content)}
    meaning = LabelMeaning.from_text(DEMO_MEANING)
    with ExitStack() as stack:
        order = import_order(here.settings.tables_url, DEMO_NAME, meaning, [source], [origin])
        return imported_here(here, order, stack)


@router.get("")
def get_all(here: Here, asked: edge_runs.Sorted) -> Listing[DatasetOut]:
    """List prompt sets, newest first if not asked otherwise."""
    with here.reading() as session:
        return edge_runs.listing(session, t.Dataset, asked, lambda _, found: [show(one) for one in found])


@router.get("/formats")
def get_formats() -> Listing[FormatOut]:
    """List the published formats that are known by their columns, in the order in which they are tried."""
    return Listing(items=[FormatOut.model_validate(known.to_dict()) for known in known_formats()], next_cursor=None)


@router.get("/{dataset_id}")
def get_one(here: Here, dataset_id: PathId) -> DatasetOut:
    """Return one prompt set, deleted or not."""
    with here.reading() as session:
        return show(datasets.get(session, dataset_id))


@router.get("/{dataset_id}/rows")
def get_rows(
    here: Here, dataset_id: PathId, page: Paged, label: LabelWord | None = None, q: Q = None
) -> Listing[RowOut]:
    """List the rows of a prompt set in its own order."""
    with here.reading() as session:
        dataset = datasets.get(session, dataset_id)
        return listing(datasets.rows(session, dataset.id, label, q, page.after(int), page.limit), show_row)


@router.get("/{dataset_id}/left-out")
def get_left_out(here: Here, dataset_id: PathId, page: Paged) -> Listing[LeftOutRowOut]:
    """List the rows that the mappings left out: the first 1,000; `files` counts all of them."""
    with here.reading() as session:
        rows = slice_page(datasets.left_out(session, dataset_id), page.after(int), page.limit)
    return listing(rows, LeftOutRowOut.model_validate)


@router.patch("/{dataset_id}")
def patch(here: Here, dataset_id: PathId, body: RunnablePatch) -> DatasetOut:
    """Change name, tags or notes. The prompts, and so `sha256`, stay what they are."""
    with here.writing() as session:
        return show(runs.patch(session, t.Dataset, dataset_id, edge_runs.changes(body)))


@router.delete("/{dataset_id}", status_code=204, response_class=Response)
def delete(here: Here, dataset_id: PathId, for_good: ForGood = False) -> None:
    """Hide a prompt set; `undelete` brings it back. Refused while a run uses it, or while it is being imported."""
    with here.writing() as session:
        if not for_good:
            return datasets.remove(session, dataset_id)
        n_rows = datasets.remove_for_good(session, dataset_id)
    return purge_later(here, [dataset_id] if n_rows else [])


@router.post("/{dataset_id}/undelete")
def undelete(here: Here, dataset_id: PathId) -> DatasetOut:
    """Bring a deleted prompt set back."""
    with here.writing() as session:
        return show(runs.restore(session, t.Dataset, dataset_id))


def _mappings(text: str, n_files: int) -> list[Mapping | None]:
    if not text.strip():
        return [None] * n_files
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput("mapping is not JSON.", ("body", "mapping")) from None
    values = value if isinstance(value, list) else [value] * n_files
    if len(values) != n_files:
        raise InvalidInput(f"There are {n_files} files and {len(values)} mappings.", ("body", "mapping"))
    return [None if one is None else Mapping.from_dict(one) for one in values]


def _labels(given: Sequence[str], n_files: int) -> list[Label | None]:
    if not given:
        return [None] * n_files
    if len(given) != n_files:
        message = f"There are {n_files} files and {len(given)} labels: give one per file, empty for none."
        raise InvalidInput(message, ("body", "label"))
    return [as_label(one, ("body", "label", place)) if one.strip() else None for place, one in enumerate(given)]
