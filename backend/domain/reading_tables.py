"""Any supported file as a table: CSV, TSV, JSONL, JSON, Parquet, or text with one prompt a line.

What the columns mean is not decided here (mappings.py, reading_rows.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from backend.domain.errors import InvalidInput
from backend.domain.reading_csv import open_csv
from backend.domain.reading_json import open_json, open_jsonl
from backend.domain.reading_lines import BOM, TOO_LONG, Cells, Opened, RawRow, lines
from backend.domain.reading_parquet import open_parquet

PEEK_ROWS = 500
PEEK_CHARACTERS = 8 << 20

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
}


_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}


@dataclass(frozen=True, slots=True)
class Table:
    """An opened file. columns: all of it, or those of its first rows where every row names its own (open_columns).

    first: the rows already read for a look; rows: every row once, those included. note: what was passed over.
    """

    format: str
    columns: tuple[str, ...]
    open_columns: bool
    first: tuple[RawRow, ...]
    rows: Iterator[RawRow]
    note: str | None = None

    @property
    def first_cells(self) -> list[Cells]:
        """Return the readable ones of the first rows."""
        return [cells for _, cells in self.first if not isinstance(cells, str)]


def open_table(path: Path, filename: str) -> Table:
    """Open a file by what it holds and what it is called. Raises InvalidInput if it is unreadable as a whole."""
    with path.open("rb") as file:
        head = file.read(4096)
    if not head.removeprefix(BOM).strip():
        raise InvalidInput("The file is empty.")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InvalidInput("The file is UTF-16: save it as UTF-8.")
    packer = next((name for mark, name in _PACKED.items() if head.startswith(mark)), None)
    if packer and not filename.lower().endswith(".xlsx"):  # which is told what to be called instead
        raise InvalidInput(f"The file is packed ({packer}): unpack it first.")
    kind = _format(head, filename)
    return _peeked(kind, _READERS[kind](path))


def _format(head: bytes, filename: str) -> str:
    if head[:4] == b"PAR1":
        return "parquet"
    named = _SUFFIXES.get(Path(filename).suffix.lower())
    if named not in (None, "json", "jsonl"):
        return str(named)
    start = head.removeprefix(BOM).lstrip()
    if start[:1] == b"[":  # a JSON array is often called .jsonl, and JSON lines .json: believe the content
        return "json"
    if start[:1] == b"{" and not (named == "json" and start.splitlines()[0].strip() == b"{"):
        return "jsonl"
    if named == "jsonl":
        return named
    if named == "json":
        raise InvalidInput("A JSON file must be an array of objects; for one object a line, use JSONL.")
    raise InvalidInput("The file must be called .csv, .tsv, .jsonl, .json, .parquet or .txt, after what it is.")


def _peeked(kind: str, opened: Opened) -> Table:
    first: list[RawRow] = []
    size = 0
    for row in opened.rows:
        first.append(row)
        size += len(str(row[1]))
        if len(first) >= PEEK_ROWS or size >= PEEK_CHARACTERS:
            break
    named = dict.fromkeys(name for _, cells in first if isinstance(cells, dict) for name in cells)
    columns = tuple(named if opened.columns is None else opened.columns)
    return Table(kind, columns, opened.columns is None, tuple(first), chain(first, opened.rows), opened.note)


def _open_text(path: Path) -> Opened:
    return Opened(_text_rows(path), ["prompt"])


def _text_rows(path: Path) -> Iterator[RawRow]:
    number = 0
    with path.open("rb") as file:
        for line in lines(file):
            if line is None or line.strip():
                number += 1
                yield number, TOO_LONG if line is None else {"prompt": line.rstrip("\r\n")}


_READERS: dict[str, Callable[[Path], Opened]] = {
    "csv": open_csv,
    "jsonl": open_jsonl,
    "json": open_json,
    "text": _open_text,
    "parquet": open_parquet,
}
