"""JSON lines and JSON arrays, object by object. NaN, infinities and keys that stand twice in one object are refused."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backend.domain.prompts import is_storable
from backend.domain.reading_lines import MAX_LINE, TOO_LONG, Cells, Opened, RawRow, lines, reason, repeated, shown


def open_jsonl(path: Path) -> Opened:
    """Open a file with one JSON object a line; blank lines are no rows."""
    return Opened(_line_rows(path))


def open_json(path: Path) -> Opened:
    """Open a file that is one JSON array of objects."""
    return Opened(_array_rows(path))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> Cells:
    cells = dict(pairs)
    if len(cells) < len(pairs):
        raise ValueError(f"the key {shown(repeated(name for name, _ in pairs) or '')} is there twice")
    if broken := next((name for name in cells if not is_storable(name)), None):
        raise ValueError(f"the key {shown(broken)} holds NUL or text that is not UTF-8")
    return cells


DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique)
ERRORS = (ValueError, RecursionError)


def _as_cells(value: Any) -> Cells | str:
    return value if isinstance(value, dict) else f"It must be a JSON object, not {type(value).__name__}."


def _line_rows(path: Path) -> Iterator[RawRow]:
    number = 0
    with path.open("rb") as file:
        for line in lines(file):
            if line is None or line.strip():
                number += 1
                yield number, TOO_LONG if line is None else _line_cells(line)


def _line_cells(line: str) -> Cells | str:
    try:
        return _as_cells(DECODER.decode(line))
    except ERRORS as error:
        return f"It is not a JSON object: {reason(error)}."


_SPACE = re.compile(r"\s*")


class _Window:
    """A moving window on a text file that always holds MAX_LINE characters behind `at`, while the file has them."""

    def __init__(self, path: Path) -> None:
        self.file = path.open(encoding="utf-8-sig", errors="surrogateescape")
        self.text, self.at = "", 0

    def next_char(self) -> str:
        """Return the next character that is not white space, without taking it; empty at the end of the file."""
        while True:
            self._fill()
            start = self.at
            self.at = _SPACE.match(self.text, start).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self.at < len(self.text) or start == self.at:
                self._fill()
                return self.text[self.at : self.at + 1]

    def take_value(self) -> Any:
        """Decode the value at the window's start and step behind it."""
        value, end = DECODER.raw_decode(self.text, self.at)
        if end - self.at > MAX_LINE:
            raise ValueError(TOO_LONG)
        self.at = end
        return value

    def _fill(self) -> None:
        if len(self.text) - self.at <= MAX_LINE and (more := self.file.read(MAX_LINE)):
            self.text, self.at = self.text[self.at :] + more, 0


def _array_rows(path: Path) -> Iterator[RawRow]:
    window = _Window(path)
    with window.file:
        window.next_char()
        window.at += 1  # the opening bracket, by which this reader was chosen
        number, mark = 0, window.next_char()
        while mark != "]":
            number += 1
            try:
                if number > 1:
                    _expect(mark, ",")
                    window.at += 1
                    window.next_char()
                cells = _as_cells(window.take_value())
            except ERRORS as error:
                yield number, f"It is not JSON, or longer than {MAX_LINE:,} bytes; reading ends here: {reason(error)}."
                return
            yield number, cells
            mark = window.next_char()
        window.at += 1
        if window.next_char():
            yield number + 1, "There is more text behind the end of the JSON array."


def _expect(mark: str, wanted: str) -> None:
    if mark != wanted:
        raise ValueError(f"expected {wanted} or ], found {shown(mark) if mark else 'the end of the file'}")
