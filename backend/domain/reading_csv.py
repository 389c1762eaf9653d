"""Comma, semicolon and tab separated files, record by record. Quoted fields may hold line breaks."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from backend.domain.errors import InvalidInput
from backend.domain.reading_lines import MAX_LINE, TOO_LONG, Opened, RawRow, check_columns, lines, reason

_REMARK_LINES = 5


def open_csv(path: Path) -> Opened:
    """Open a file with a header line. Raises InvalidInput where the header is missing or unusable."""
    csv.field_size_limit(MAX_LINE)  # process-wide, as the csv module has it; its default refuses long prompts
    with path.open("rb") as file:
        delimiter = _delimiter(next(lines(file), None) or "")
    records = _records(path, delimiter)
    header, note = _header(records)
    names = check_columns([name.strip() or f"column {n}" for n, name in enumerate(header, 1)])
    return Opened(_rows(records, names), names, note)


def _delimiter(line: str) -> str:
    """Return the delimiter that the first line holds most often outside quotes; a comma where none does."""
    outside = "".join(line.split('"')[::2])
    return max(",\t;", key=outside.count)


class _TooLong(Exception):
    """One record is longer than a row may be."""


class _Lines:
    """The lines of a file as csv.reader takes them: no more of them for one record than a row may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._lines = lines(file)
        self.begin()

    def begin(self) -> None:
        """Count from here: a record begins."""
        self._taken, self.too_long = 0, False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if line is None:
            self.too_long = True
            return "\n"
        self._taken += len(line)
        if self._taken > MAX_LINE:
            raise _TooLong
        return line


def _records(path: Path, delimiter: str) -> Iterator[list[str] | str]:
    """Yield the cells of each record that is not blank or, as text, why it cannot be read."""
    with path.open("rb") as file:
        source = _Lines(file)
        reader = csv.reader(source, delimiter=delimiter, strict=True)
        while True:
            source.begin()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except _TooLong:
                yield TOO_LONG
                continue
            except csv.Error as error:
                why = f"It is not CSV ({reason(error)}): is a quote left open or not doubled?"
                yield TOO_LONG if source.too_long else why
                continue
            if source.too_long:
                yield TOO_LONG
            elif any(cell.strip() for cell in cells):
                yield cells


def _header(records: Iterator[list[str] | str]) -> tuple[list[str], str | None]:
    """Return the header. Published sheets may carry remarks above it: wide rows with at most one filled cell."""
    for skipped, cells in enumerate(records):
        if isinstance(cells, str):
            raise InvalidInput(f"The header cannot be read. {cells}")
        if len(cells) < 3 or sum(bool(cell.strip()) for cell in cells) > 1:
            return cells, f"{skipped} remark line(s) above the header were passed over." if skipped else None
        if skipped >= _REMARK_LINES:
            break
    raise InvalidInput("There is no header: the first line must name the columns.")


def _rows(records: Iterator[list[str] | str], names: list[str]) -> Iterator[RawRow]:
    for number, cells in enumerate(records, 1):
        if isinstance(cells, str):
            yield number, cells
        elif len(cells) != len(names):
            yield number, f"It has {len(cells)} cells, but the header has {len(names)}."
        else:
            yield number, dict(zip(names, cells, strict=True))
