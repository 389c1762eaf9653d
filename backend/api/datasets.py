"""Prompt sets: preview, import, browse, delete."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import Response
from starlette.background import BackgroundTask

from backend.api.edge import PROBLEMS, Edge, Here, PathId
from backend.api.idempotency import json_answer
from backend.api.pagination import Paged, listing
from backend.api.schemas.common import Clean, LabelWord, Listing, Name
from backend.api.schemas.datasets import DatasetOut, FormatOut, PreviewOut, RowOut
from backend.api.uploads import MAX_FILES, Upload, on_disk
from backend.demo_prompts import DEMO_MEANING, DEMO_NAME, DEMO_PROMPTS
from backend.domain.canonical import sha256_hex
from backend.domain.errors import InvalidInput
from backend.domain.mappings import Mapping, as_label
from backend.domain.previewing import preview_file
from backend.domain.prompts import LabelMeaning, PromptSet
from backend.domain.published import known_formats
from backend.domain.reading import ReadFile, SourceFile, import_files
from backend.domain.vocabulary import Label
from backend.store import datasets
from backend.store import tables as t

router = APIRouter(prefix="/datasets", tags=["datasets"], responses=PROBLEMS)

MANY_ROWS = 50_000
"""Above this, the rows land in the background and the answer is 202."""
_CHUNK = 5000

LabelField = Annotated[str, Form(max_length=20, description="safe or unsafe, for every row of the file; empty: none.")]
MappingField = Annotated[
    str, Form(max_length=500_000, description="A mapping as JSON, as the preview shows it."), Clean
]
Q = Annotated[str | None, Query(max_length=200, description="Text to look for."), Clean]


def show(dataset: t.Dataset) -> DatasetOut:
    """Return a prompt set as the API shows it."""
    return DatasetOut.model_validate(dataset, from_attributes=True)


def show_row(row: t.PromptRow) -> RowOut:
    """Return one row as the API shows it."""
    fields = ("row_idx", "row_id", "label", "messages", "response", "category", "difficulty", "group", "source")
    return RowOut.model_validate({name: getattr(row, name) for name in fields} | {"text": datasets.text_of(row)})


@router.post("/preview", response_model=PreviewOut)
def preview(here: Here, file: UploadFile, mapping: MappingField = "", label: LabelField = "") -> Response:
    """Say what a file would become, row by row, and store nothing."""
    (chosen,), (fixed,) = _mappings(mapping, 1), _labels([label], 1)
    with on_disk(here.scratch, [file]) as (upload,):
        found = preview_file(upload.path, upload.filename, chosen, fixed)
    body = {
        "filename": found.filename,
        "format": found.format,
        "columns": list(found.columns),
        "mapping": found.mapping and found.mapping.to_dict(),
        "n_rows": found.n_rows,
        "counts": {str(label): n for label, n in found.counts.items()},
        "label_values": found.label_values,
        "problems": [{"row": p.row, "column": p.column, "message": p.message} for p in found.problems],
        "n_problems": found.n_problems,
        "notes": list(found.notes),
        "first_rows": list(found.first_rows),
        "known_mappings": list(found.known_mappings),
        "complete": found.complete,
        "left_out": found.left_out,
        "n_both_labels": found.n_both_labels,
        "n_duplicates": found.n_duplicates,
        "suggested_label": found.suggested_label,
        "label_meaning": found.label_meaning and found.label_meaning.to_dict(),
    }
    return json_answer(200, body)


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
    label: Annotated[list[str], Form(max_length=MAX_FILES, description="One per file: safe, unsafe or empty.")] = [],  # noqa: B006 - read only
) -> Response:
    """Import files as one prompt set. One wrong row refuses the whole import, with every problem listed.

    `mapping` is one mapping for all files, or a list aligned with them (null: propose one).
    """
    meaning = LabelMeaning.from_text(label_meaning)
    mappings, labels = _mappings(mapping, len(file)), _labels(label, len(file))
    with on_disk(here.scratch, file) as uploads:
        sources = [
            SourceFile(upload.path, upload.filename, chosen, fixed)
            for upload, chosen, fixed in zip(uploads, mappings, labels, strict=True)
        ]
        prompts, read = import_files(sources, meaning)
    return _store(here, name, prompts, _described(uploads, read))


@router.post("/demo", response_model=DatasetOut, status_code=201, responses={200: {"model": DatasetOut}})
def create_demo(here: Here) -> Response:
    """Import the demonstration prompt set."""
    source = SourceFile(DEMO_PROMPTS, DEMO_PROMPTS.name)
    prompts, read = import_files([source], LabelMeaning.from_text(DEMO_MEANING))
    content = DEMO_PROMPTS.read_bytes()
    upload = Upload(DEMO_PROMPTS, DEMO_PROMPTS.name, sha256_hex(content), len(content))
    return _store(here, DEMO_NAME, prompts, _described([upload], read))


@router.get("")
def get_all(here: Here, page: Paged, q: Q = None) -> Listing[DatasetOut]:
    """List prompt sets, newest first."""
    with here.reading() as session:
        return listing(datasets.listing(session, q, page.after(str, str), page.limit), show)


@router.get("/formats")
def get_formats() -> Listing[FormatOut]:
    """List the published formats that are known by their columns, in the order in which they are tried."""
    return Listing(items=[FormatOut.model_validate(known.to_dict()) for known in known_formats()], next_cursor=None)


@router.get("/{dataset_id}")
def get_one(here: Here, dataset_id: PathId) -> DatasetOut:
    """Return one prompt set."""
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


@router.delete("/{dataset_id}", status_code=204, response_class=Response)
def delete(here: Here, dataset_id: PathId) -> None:
    """Delete a prompt set for good. Refused while an analysis uses it."""
    with here.writing() as session:
        datasets.remove(session, dataset_id)


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


def _described(uploads: Sequence[Upload], read: Sequence[ReadFile]) -> list[dict[str, Any]]:
    return [
        {
            "name": upload.filename,
            "sha256": upload.sha256,
            "bytes": upload.n_bytes,
            "mapping": file.mapping.to_dict(),
            "label": file.label and str(file.label),
            "n_rows": file.n_rows,
        }
        for upload, file in zip(uploads, read, strict=True)
    ]


def _store(edge: Edge, name: str, prompts: PromptSet, files: list[dict[str, Any]]) -> Response:
    many = len(prompts.rows) > MANY_ROWS
    sha256 = prompts.sha256
    values = [] if many else datasets.row_values(prompts.rows)
    with edge.writing() as session:
        found = datasets.find(session, sha256, name)
        if found is not None:
            return json_answer(200 if found.status == "succeeded" else 202, show(found))
        dataset = datasets.create(session, name, sha256, prompts, files, "running" if many else "succeeded")
        datasets.add_rows(session, dataset.id, values)
        answer = json_answer(202 if many else 201, show(dataset))
    if many:
        answer.background = BackgroundTask(_fill, edge, dataset.id, prompts)
    return answer


def _fill(edge: Edge, dataset_id: str, prompts: PromptSet) -> None:
    """Store the rows of a large set in short transactions, so that nobody waits long for the database."""
    for start in range(0, len(prompts.rows), _CHUNK):
        values = datasets.row_values(prompts.rows[start : start + _CHUNK], start)
        with edge.writing() as session:
            datasets.add_rows(session, dataset_id, values)
    with edge.writing() as session:
        datasets.set_status(session, dataset_id, "succeeded")
