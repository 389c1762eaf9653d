"""What an import of one file would read, before anything is stored: the mapping, counts, problems, what to know.

A large file is looked at from its start only, and the preview says so; the import reads all of it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backend.domain.errors import InvalidInput, RowProblem
from backend.domain.formats import KnownMapping
from backend.domain.mappings import LEAVE_OUT, Mapping, raw_label
from backend.domain.prompts import LabelMeaning, PromptRow
from backend.domain.published import by_name, known_names
from backend.domain.reading import NO_ROWS, lacking, mapping_for
from backend.domain.reading_lines import Cells
from backend.domain.reading_rows import RowLeftOut, RowRefused, label_of, make_row, printable, problem
from backend.domain.reading_tables import Table, open_table
from backend.domain.vocabulary import LABELS, Label

MAX_ROWS = 100_000
"""Rows that a preview reads."""
MAX_SHOWN_PROBLEMS = 100
FIRST_ROWS = 20
MAX_LABEL_VALUES = 50
UNLABELLED = "unlabelled"


@dataclass(frozen=True, slots=True)
class Preview:
    """What an import of one file would read. counts: safe, unsafe, unlabelled. mapping: None if no format fits.

    problems: the first MAX_SHOWN_PROBLEMS of n_problems; first_rows: the file's own columns, safe to show;
    label_values: raw value -> how often, for the column that holds the label; notes: what is good to know, in words.
    complete: whether every row was looked at. left_out: reason -> rows. n_both_labels: prompts with both labels.
    suggested_label: what the file's name tells, where its columns do not. label_meaning: to propose, None if open.
    """

    filename: str
    format: str
    columns: tuple[str, ...]
    mapping: Mapping | None
    n_rows: int
    counts: dict[str, int]
    problems: tuple[RowProblem, ...]
    n_problems: int
    first_rows: tuple[dict[str, Any], ...]
    label_values: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    known_mappings: tuple[str, ...] = field(default_factory=lambda: tuple(known_names()))
    complete: bool = True
    left_out: dict[str, int] = field(default_factory=dict)
    n_both_labels: int = 0
    n_duplicates: int = 0
    suggested_label: Label | None = None
    label_meaning: LabelMeaning | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "filename": self.filename,
            "format": self.format,
            "columns": list(self.columns),
            "mapping": self.mapping and self.mapping.to_dict(),
            "n_rows": self.n_rows,
            "counts": self.counts,
            "label_values": self.label_values,
            "problems": [{"row": p.row, "column": p.column, "message": p.message} for p in self.problems],
            "n_problems": self.n_problems,
            "notes": list(self.notes),
            "first_rows": list(self.first_rows),
            "known_mappings": list(self.known_mappings),
            "complete": self.complete,
            "left_out": self.left_out,
            "n_both_labels": self.n_both_labels,
            "n_duplicates": self.n_duplicates,
            "suggested_label": self.suggested_label and str(self.suggested_label),
            "label_meaning": self.label_meaning and self.label_meaning.to_dict(),
        }


@dataclass(slots=True)
class _Tally:
    """What a preview counts while it reads."""

    watch: tuple[tuple[str, str, str], ...] = ()
    counts: Counter[str] = field(default_factory=Counter)
    values: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    watched: Counter[int] = field(default_factory=Counter)
    problems: list[RowProblem] = field(default_factory=list)
    labels: dict[bytes, Label | None] = field(default_factory=dict)  # of each prompt; None once it has both
    times: Counter[tuple[bytes, Label]] = field(default_factory=Counter)  # rows of each prompt, by label
    n_rows: int = 0
    n_problems: int = 0
    n_duplicates: int = 0
    complete: bool = True

    @property
    def n_both_labels(self) -> int:
        return sum(label is None for label in self.labels.values())

    def add(self, found: RowProblem) -> None:
        self.n_problems += 1
        if len(self.problems) < MAX_SHOWN_PROBLEMS:
            self.problems.append(found)

    def add_prompt(self, row: PromptRow, label: Label) -> None:
        key = bytes.fromhex(row.prompt_key)[:16]
        self.times[key, label] += 1
        if self.labels.setdefault(key, label) is not label:
            self.labels[key] = None

    def leave_out_both_labels(self) -> None:
        """Move the rows of prompts with both labels from the labels' counts to what is left out, as the import does."""
        for (key, label), n in self.times.items():
            if self.labels[key] is None:
                self.counts[label] -= n
                self.left_out["both_labels"] += n
                self.n_duplicates -= n
        self.n_duplicates += self.n_both_labels

    def add_watched(self, cells: Cells) -> None:
        for place, (column, value, _) in enumerate(self.watch):
            self.watched[place] += str(cells.get(column, "")).strip().casefold() == value


def preview_file(path: Path, filename: str, mapping: Mapping | None = None, label: Label | None = None) -> Preview:
    """Read a file, a large one from its start, and say what an import would make of it. mapping, label: as changed.

    Never raises for what is in the file: an unreadable one has a problem with row 0.
    """
    try:
        table = open_table(path, filename)
    except InvalidInput as error:
        found = (RowProblem(0, str(error), filename),)
        return Preview(filename, "unknown", (), mapping, 0, _counts(Counter()), found, 1, ())
    chosen = mapping_for(table, mapping)
    known = by_name(chosen.name) if chosen else None
    tally = _Tally(known.watch if known else ())
    if missing := lacking(table, chosen, filename):
        tally.add(missing)
    _count(table, None if missing else chosen, label, filename, tally)
    if not tally.n_rows and not missing:
        tally.add(RowProblem(0, NO_ROWS, filename))
    unsaid = chosen is not None and not chosen.has_label and label is None
    return Preview(
        filename=filename,
        format=table.format,
        columns=table.columns,
        mapping=_with_values(chosen, tally.values),
        n_rows=tally.n_rows,
        counts=_counts(tally.counts),
        problems=tuple(tally.problems),
        n_problems=tally.n_problems,
        first_rows=tuple(
            {name: printable(cell) for name, cell in cells.items()} for cells in table.first_cells[:FIRST_ROWS]
        ),
        label_values=dict(tally.values.most_common(MAX_LABEL_VALUES)),
        notes=tuple(_notes(table, known, tally, unsaid=unsaid)),
        complete=tally.complete,
        left_out=dict(tally.left_out),
        n_both_labels=tally.n_both_labels,
        n_duplicates=tally.n_duplicates,
        suggested_label=known.suggested_label(filename) if known and unsaid else None,
        label_meaning=LabelMeaning.of(known.meaning) if known and known.meaning else None,
    )


def _count(table: Table, mapping: Mapping | None, label: Label | None, file: str, tally: _Tally) -> None:
    column = mapping.columns.get("label") if mapping else None
    for number, cells in table.rows:
        if tally.n_rows >= MAX_ROWS:
            tally.complete = False
            break
        tally.n_rows += 1
        if isinstance(cells, str):
            tally.add(RowProblem(number, cells, file))
        elif mapping is not None:
            if column and len(tally.values) < 10 * MAX_LABEL_VALUES and (raw := cells.get(column)) is not None:
                tally.values[printable(raw if isinstance(raw, str) else raw_label(raw), 100)] += 1
            tally.add_watched(cells)
            _count_row(number, cells, mapping, label, file, tally)
    tally.counts[UNLABELLED] += tally.n_rows - tally.counts.total() - tally.left_out.total()
    torn = tally.n_both_labels
    if torn and mapping is not None and "both_labels" in mapping.leave_out:
        tally.leave_out_both_labels()
    elif torn:
        subject = "1 prompt carries" if torn == 1 else f"{torn:,} prompts carry"
        message = (
            f"{subject} both labels, safe in one row and unsafe in another: keep one of the two, or leave such prompts "
            'out ("leave_out": ["both_labels"] in the mapping).'
        )
        tally.add(RowProblem(0, message, file, column or ""))


def _count_row(number: int, cells: Cells, mapping: Mapping, label: Label | None, file: str, tally: _Tally) -> None:
    counted: str | None = None
    try:
        found = label_of(cells, mapping, label)
        counted = found or UNLABELLED
        row = make_row(cells, mapping, found or Label.SAFE)
        if found is not None:
            before = len(tally.labels)
            tally.add_prompt(row, found)
            tally.n_duplicates += len(tally.labels) == before
    except RowRefused as error:
        tally.add(problem(number, error, file))
    except RowLeftOut as error:
        tally.left_out[error.reason] += 1
        counted = None
    if counted:
        tally.counts[counted] += 1


def _counts(counts: Counter[str]) -> dict[str, int]:
    return {str(name): counts[name] for name in (*LABELS, UNLABELLED)}


def _with_values(mapping: Mapping | None, values: Counter[str]) -> Mapping | None:
    """Return the mapping with the meaning of every label word that occurs spelled out, so that it can be changed."""
    if mapping is None or mapping.label_values:
        return mapping
    known = {value: label for value in values if (label := mapping.label_of(value)) is not None}
    return replace(mapping, label_values=known)


def _notes(table: Table, known: KnownMapping | None, tally: _Tally, *, unsaid: bool) -> Iterator[str]:
    if table.note:
        yield table.note
    if not tally.complete:
        yield f"Looked at: the first {MAX_ROWS:,} rows. The import reads every row."
    if unsaid:
        yield "No column tells safe from unsafe: say which the whole file is, or choose its label column."
    if known is not None:
        yield from known.notes
        for place, (column, value, words) in enumerate(known.watch):
            if n := tally.watched[place]:
                yield f"{n:,} rows have {column} {value}: they {words}."
    for reason, n in tally.left_out.items():
        rows_of = f"{n:,} rows of {tally.n_both_labels:,}" if reason == "both_labels" else f"{n:,}"
        yield f"Left out: {rows_of} {LEAVE_OUT[reason]}."
