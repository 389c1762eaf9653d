"""Previews and imports of large files, in a child of the API (child.py); of small ones, in the request itself."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.domain.errors import ImportRefused
from backend.domain.mappings import Mapping as ColumnMapping
from backend.domain.previewing import preview_file
from backend.domain.prompts import LabelMeaning
from backend.domain.reading import CheckedSet, SourceFile, check_files
from backend.domain.vocabulary import Label
from backend.orders import Json, Said
from backend.store import imports
from backend.store.engine import make_engine

CACHE_MB = 64
"""Of the database, for an import: row digests come in no order, and each touches another page of their index."""


def source_to_dict(source: SourceFile) -> Json:
    """Return a file of an import as plain JSON."""
    mapping = source.mapping and source.mapping.to_dict()
    label = source.label and str(source.label)
    return {"path": str(source.path), "filename": source.filename, "mapping": mapping, "label": label}


def _source(value: Mapping[str, Any]) -> SourceFile:
    mapping = value["mapping"] and ColumnMapping.from_dict(value["mapping"])
    label = Label(value["label"]) if value["label"] else None
    return SourceFile(Path(value["path"]), value["filename"], mapping, label)


def describe(checked: CheckedSet, origins: Sequence[Json]) -> list[Json]:
    """Return what is stored of the files of a set. origins: {"sha256", "bytes"} of each."""
    left_out = checked.settled.left_out
    return [
        {
            "name": file.filename,
            **origin,
            "mapping": file.mapping.to_dict(),
            "label": file.label and str(file.label),
            "n_rows": file.n_rows,
            "left_out": {reason: n for (name, reason), n in left_out.items() if name == file.filename},
        }
        for file, origin in zip(checked.read, origins, strict=True)
    ]


def check(order: Json) -> CheckedSet:
    """Read every row that an order is about. Raises ImportRefused."""
    return check_files([_source(value) for value in order["files"]], LabelMeaning.from_dict(order["label_meaning"]))


def preview(order: Json) -> Iterator[tuple[Said, Any]]:
    """Do what `preview_order` says."""
    one = _source(order["files"][0])
    yield Said.PREVIEW, preview_file(one.path, one.filename, one.mapping, one.label).to_dict()


def bring_in(order: Json) -> Iterator[tuple[Said, Any]]:
    """Do what `import_order` says, telling each stage."""
    try:
        checked = check(order)
    except ImportRefused as error:
        yield Said.REFUSED, [[p.row, p.message, p.file, p.column] for p in error.problems]
        return
    engine = make_engine(order["tables_url"], cache_mb=order["cache_mb"])
    dataset, is_new = imports.store(engine, order["name"], checked, describe(checked, order["origins"]))
    yield (Said.BEGUN if is_new else Said.FOUND), {"id": dataset.id, "n_rows": dataset.n_rows}
    if is_new and dataset.status != "succeeded":
        imports.fill(engine, dataset.id, checked.rows())
    engine.dispose()
    yield Said.STORED, None


def preview_order(source: SourceFile) -> Json:
    """Return the order to preview a file."""
    return {"verb": "preview", "files": [source_to_dict(source)]}


def import_order(
    tables_url: str, name: str, meaning: LabelMeaning, sources: Sequence[SourceFile], origins: Sequence[Json]
) -> Json:
    """Return the order to import files as one set."""
    return {
        "verb": "import",
        "tables_url": tables_url,
        "name": name,
        "label_meaning": meaning.to_dict(),
        "files": [source_to_dict(source) for source in sources],
        "origins": list(origins),
        "cache_mb": CACHE_MB,
    }
