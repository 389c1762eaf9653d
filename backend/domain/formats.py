"""What is known of one format of prompt files, and whether a file has it.

Not covered: which formats there are (published.py) and how a mapping is applied (reading_rows.py).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from backend.domain.mappings import Mapping
from backend.domain.vocabulary import Label


@dataclass(frozen=True, slots=True)
class KnownMapping:
    """One format. It fits a file that has every column named in `columns` or `needs` (without case).

    witness: (column, pattern): some value among the first rows must match it; every: (column, regular expression): all
    that are there must. only: no other columns. optional: field -> names in lower case, of which the first that the
    file has is taken. by_name: part of the file's name -> label to suggest. watch: (column, value, words): said with
    the number of such rows. meaning: of the labels, as LabelMeaning reads it. about: what the labels say; notes: traps.
    """

    name: str
    columns: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    optional: dict[str, tuple[str, ...]] = field(default_factory=dict)
    witness: tuple[str, str] | None = None
    every: tuple[str, str] | None = None
    only: bool = False
    label_values: dict[str, Label] = field(default_factory=dict)
    fixed_label: Label | None = None
    source: str | None = None
    leave_out: tuple[str, ...] = ()
    by_name: dict[str, Label] = field(default_factory=dict)
    watch: tuple[tuple[str, str, str], ...] = ()
    meaning: str | dict[str, str] | None = None
    about: str = ""
    notes: tuple[str, ...] = ()

    def fit(self, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> Mapping | None:
        """Return the mapping for a file with these columns and first rows, or None if the format is another."""
        have = {column.strip().casefold(): column for column in reversed(columns)}
        wanted = {name.casefold() for name in (*self.columns.values(), *self.needs)}
        if not wanted <= set(have) or (self.only and wanted != set(have)):
            return None
        found = {name: have[column.casefold()] for name, column in self.columns.items()}
        if self.witness and not _seen(rows, have.get(self.witness[0], ""), self.witness[1]):
            return None
        if self.every and not _all(rows, have.get(self.every[0], ""), self.every[1]):
            return None
        for name, candidates in self.optional.items():
            column = next((have[c] for c in candidates if c in have and have[c] not in found.values()), None)
            if column is not None:
                found[name] = column
        mapping = Mapping(found, dict(self.label_values), self.fixed_label, self.name, self.source, self.leave_out)
        return mapping if mapping.columns.keys() & {"prompt", "messages"} else None

    def suggested_label(self, filename: str) -> Label | None:
        """Return the label that the file's name tells, where its columns do not."""
        parts = filename.casefold()
        return next((label for part, label in self.by_name.items() if part in parts), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON: what to show of a format."""
        return {
            "name": self.name,
            "columns": list(dict.fromkeys([*self.columns.values(), *self.needs])),
            "optional_columns": sorted({name for names in self.optional.values() for name in names}),
            "fields": dict(self.columns),
            "label_values": {value: str(label) for value, label in self.label_values.items()},
            "fixed_label": self.fixed_label and str(self.fixed_label),
            "about": self.about,
            "notes": list(self.notes),
        }


def _values(rows: Iterable[dict[str, Any]], column: str) -> Iterable[Any]:
    for value in (row.get(column) for row in rows):
        yield from value if isinstance(value, list) else [value]


def _seen(rows: Iterable[dict[str, Any]], column: str, pattern: str) -> bool:
    return any(fnmatchcase(str(item), pattern) for item in _values(rows, column))


def _all(rows: Iterable[dict[str, Any]], column: str, pattern: str) -> bool:
    values = [str(item).strip() for item in _values(rows, column) if item not in (None, "")]
    return bool(values) and all(re.fullmatch(pattern, value, re.IGNORECASE) for value in values)
