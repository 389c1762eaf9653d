"""From files to a prompt set: reading row by row, and the whole import, refused as a whole.

Formats: CSV, TSV, JSONL, JSON, Parquet, text. Nothing is stored here. Files are read twice: once to check every row and
settle which make the set (ledger.py), once more to hand those out, so that memory holds digests and never a file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.domain.errors import ImportRefused, InvalidInput, RowProblem
from backend.domain.ledger import Ledger, LeftOutRow, Settled
from backend.domain.mappings import Mapping
from backend.domain.prompts import MAX_PROBLEMS, LabelMeaning, PromptRow, PromptSet
from backend.domain.published import propose
from backend.domain.reading_lines import Cells, shown
from backend.domain.reading_rows import RowLeftOut, RowRefused, label_of, make_row, problem
from backend.domain.reading_tables import Table, open_table
from backend.domain.vocabulary import Label

NO_ROWS = "The file has no data rows."
MAX_ROWS = 5_000_000
"""Rows of one set, those that are left out included."""

Read = PromptRow | LeftOutRow | RowProblem
"""What becomes of one row."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of an import. mapping: None proposes one; label: of every row, for files that hold one kind only."""

    path: Path
    filename: str
    mapping: Mapping | None = None
    label: Label | None = None


@dataclass(frozen=True, slots=True)
class ReadFile:
    """What became of one file of an import. n_rows: its data rows, duplicates and left-out ones included."""

    filename: str
    mapping: Mapping
    label: Label | None
    n_rows: int


@dataclass(frozen=True, slots=True)
class CheckedSet:
    """A set that can be stored. rows() reads the files once more, which must still be there."""

    files: tuple[SourceFile, ...]
    label_meaning: LabelMeaning
    settled: Settled
    read: tuple[ReadFile, ...]

    def rows(self) -> Iterator[tuple[str, PromptRow]]:
        """Yield (row digest, row) of the set in its order."""
        place = 0
        for file in self.files:
            for _, row in read_rows(file.path, file.filename, file.mapping, file.label):
                if isinstance(row, PromptRow):
                    if self.settled.keep[place]:
                        yield self.settled.row_id(place), row
                    place += 1


def mapping_for(table: Table, given: Mapping | None) -> Mapping | None:
    """Return the mapping to read a file with: the user's, the proposal, or the proposal as the user changed it."""
    if given is not None and not given.is_partial:
        return given
    proposed = propose(table.columns, table.first_cells)
    return proposed if given is None else given.over(proposed)


def lacking(table: Table, mapping: Mapping | None, file: str) -> RowProblem | None:
    """Return the problem that keeps every row from being read: no mapping, or one for another file."""
    have = ", ".join(shown(name) for name in table.columns[:30]) or "none"
    if mapping is None:
        if table.open_columns and not table.columns:
            return None  # no row could be read: the rows say why
        return RowProblem(0, f"No column looks like a prompt: name it in the mapping. The columns are {have}.", file)
    for name, column in mapping.columns.items():
        optional = table.open_columns and name not in ("prompt", "messages", "label")
        if column not in table.columns and table.columns and not optional:
            return RowProblem(
                0, f"The mapping's {name} column {shown(column)} is not there; there are {have}.", file, column
            )
    return None


def read_rows(
    path: Path, filename: str, mapping: Mapping | None = None, label: Label | None = None
) -> Iterator[tuple[int, Read]]:
    """Yield (row number from 1, row or what else becomes of it). A problem of the whole file comes alone, as number 0.

    mapping: None proposes one; label: of every row. A label that a row contradicts is a problem of that row.
    """
    try:
        table = open_table(path, filename)
    except InvalidInput as error:
        yield 0, RowProblem(0, str(error), filename)
        return
    yield from _read(table, filename, mapping_for(table, mapping), label)


def _read(table: Table, filename: str, mapping: Mapping | None, label: Label | None) -> Iterator[tuple[int, Read]]:
    found = lacking(table, mapping, filename)
    if found is None and mapping is not None and not mapping.has_label and label is None:
        message = "No column tells safe from unsafe: give the file a label, or name its label column in the mapping."
        found = RowProblem(0, message, filename)
    if found is not None:
        yield 0, found
        return
    number = 0
    for number, cells in table.rows:
        if isinstance(cells, str):
            yield number, RowProblem(number, cells, filename)
        elif mapping is not None:
            yield number, _row(number, cells, filename, mapping, label)
    if not number:
        yield 0, RowProblem(0, NO_ROWS, filename)


def _row(number: int, cells: Cells, file: str, mapping: Mapping, given: Label | None) -> Read:
    try:
        label = label_of(cells, mapping, given)
        assert label is not None, "checked for the whole file before"
        return make_row(cells, mapping, label)
    except RowRefused as error:
        return problem(number, error, file)
    except RowLeftOut as error:
        return LeftOutRow(file, number, error.reason)


def check_files(files: Sequence[SourceFile], label_meaning: LabelMeaning) -> CheckedSet:
    """Read all files in order and settle which rows make the set. Raises ImportRefused with every problem found.

    At most MAX_PROBLEMS of them. A mapping that leaves out prompts with both labels does so in every file.
    """
    ledger = Ledger()
    problems: list[RowProblem] = []
    read = [found for file in files if (found := _enter(file, ledger, problems)) is not None]
    torn = any("both_labels" in file.mapping.leave_out for file in read)
    settled = None
    try:
        settled = ledger.settle(label_meaning, leave_out_both_labels=torn)
    except ImportRefused as error:
        if not problems:
            raise
        problems.extend(found for found in error.problems if found.row)
    if problems or settled is None:
        raise ImportRefused(problems[:MAX_PROBLEMS])
    chosen = (SourceFile(f.path, f.filename, r.mapping, f.label) for f, r in zip(files, read, strict=True))
    return CheckedSet(tuple(chosen), label_meaning, settled, tuple(read))


def _enter(file: SourceFile, ledger: Ledger, problems: list[RowProblem]) -> ReadFile | None:
    """Enter a file's good rows; gather the problems of the others. Nothing is read after MAX_PROBLEMS of them."""
    if len(problems) >= MAX_PROBLEMS:
        return None
    try:
        table = open_table(file.path, file.filename)
    except InvalidInput as error:
        problems.append(RowProblem(0, str(error), file.filename))
        return None
    mapping = mapping_for(table, file.mapping)
    n_rows = 0
    ledger.begin(file.filename)
    for number, row in _read(table, file.filename, mapping, file.label):
        if len(ledger) >= MAX_ROWS or number > MAX_ROWS:
            message = f"These are more than {MAX_ROWS:,} rows, the most that one set may have: split it."
            problems.append(RowProblem(number, message, file.filename))
            break
        n_rows += number > 0
        if isinstance(row, PromptRow):
            ledger.add(number, row)
        elif isinstance(row, LeftOutRow):
            ledger.leave_out(number, row.reason)
        else:
            problems.append(row)
            if len(problems) >= MAX_PROBLEMS:
                break
    return None if mapping is None else ReadFile(file.filename, mapping, file.label, n_rows)


def import_files(files: Sequence[SourceFile], label_meaning: LabelMeaning) -> tuple[PromptSet, tuple[ReadFile, ...]]:
    """Return the prompt set in memory and, per file, the mapping used and its rows. Raises ImportRefused."""
    checked = check_files(files, label_meaning)
    rows = tuple(row for _, row in checked.rows())
    return PromptSet(rows, label_meaning, checked.settled.n_duplicates), checked.read


def read_prompt_set(files: Sequence[SourceFile], label_meaning: LabelMeaning) -> PromptSet:
    """Return one prompt set of all files in order, in memory. Raises ImportRefused with every problem."""
    return import_files(files, label_meaning)[0]
