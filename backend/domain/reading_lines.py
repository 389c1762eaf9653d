"""What every reader of prompt files shares: limits, the shape of a raw row, and decoding lines in bounded memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from backend.domain.errors import InvalidInput
from backend.domain.prompts import is_storable

MAX_LINE = 1 << 20
"""Longest line or JSON object in bytes; longest CSV record, message or other text in characters."""
TOO_LONG = f"It is longer than {MAX_LINE:,} bytes, the most that one row may have."
BOM = b"\xef\xbb\xbf"

Cells = dict[str, Any]
RawRow = tuple[int, Cells | str]
"""(row number from 1, cells by column or, as text, why the row cannot be read)"""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a reader found. columns: None where every row names its own; note: what was passed over, in words."""

    rows: Iterator[RawRow]
    columns: list[str] | None = None
    note: str | None = None


def check_columns(names: list[str]) -> list[str]:
    """Return the names. Raises InvalidInput where one value would hide another or a name is no text."""
    if (twice := repeated(names)) is not None:
        raise InvalidInput(f"The column {shown(twice)} is there twice: give every column a name of its own.")
    if broken := next((name for name in names if not is_storable(name)), None):
        raise InvalidInput(f"The column name {shown(broken)} holds NUL or text that is not UTF-8.")
    return names


def repeated(names: Iterable[str]) -> str | None:
    """Return the first name that was there before. There may be a hundred thousand of them."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def shown(text: str) -> str:
    """Return a short quotation that is safe to print, whatever the text holds."""
    return repr(text[:80]) if is_storable(text) else ascii(text[:80])


def reason(error: Exception) -> str:
    """Return a library's reason in one short, printable line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return shown(" ".join(str(error).split()))[1:-1]


def lines(file: BinaryIO) -> Iterator[str | None]:
    """Yield decoded lines with their ends, a BOM left out; None for a line over MAX_LINE.

    Bytes that are no UTF-8 become lone surrogates, so that the row they stand in is refused by its number later on.
    """
    file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
    while line := file.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE:
            yield line.decode("utf-8", errors="surrogateescape")
            continue
        while not line.endswith(b"\n") and (line := file.readline(MAX_LINE)):
            pass
        yield None
