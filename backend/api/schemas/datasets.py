"""Prompt sets over REST."""

from typing import Any

from pydantic import Field

from backend.api.schemas.common import Answer, LabelWord, Progress, Status


class LabelMeaningOut(Answer):
    """What the two labels mean in this prompt set, in words."""

    kind: str
    safe: str
    unsafe: str


class MappingOut(Answer):
    """Which column of a file is what. Send it back, changed or not, as `mapping` of POST /datasets."""

    name: str
    columns: dict[str, str]
    label_values: dict[str, LabelWord]
    fixed_label: LabelWord | None
    source: str | None = None
    leave_out: list[str] = Field(default_factory=list)


class LabelCounts(Answer):
    """Rows per label, as the proposed mapping reads them."""

    safe: int
    unsafe: int
    unlabelled: int


class ProblemRow(Answer):
    """One row that cannot be imported. `row` counts data rows from 1; 0 is the file itself."""

    row: int
    column: str
    message: str


class PreviewOut(Answer):
    """What a file would become. Nothing was stored."""

    filename: str
    format: str
    columns: list[str]
    mapping: MappingOut | None
    n_rows: int
    counts: LabelCounts
    label_values: dict[str, int]
    problems: list[ProblemRow]
    n_problems: int
    notes: list[str]
    first_rows: list[dict[str, Any]]
    known_mappings: list[str]
    complete: bool
    left_out: dict[str, int]
    n_both_labels: int
    n_duplicates: int
    suggested_label: LabelWord | None
    label_meaning: LabelMeaningOut | None


class FormatOut(Answer):
    """A published format. It is recognised by `columns`; `fields` says what they become; `about`: what labels say."""

    name: str
    columns: list[str]
    optional_columns: list[str]
    fields: dict[str, str]
    label_values: dict[str, LabelWord]
    fixed_label: LabelWord | None
    about: str
    notes: list[str]


class FileOut(Answer):
    """One file that a prompt set was made of."""

    name: str
    sha256: str
    bytes: int
    mapping: MappingOut | None = None
    label: LabelWord | None = None
    n_rows: int | None = None
    left_out: dict[str, int] = Field(default_factory=dict)


class LeftOutRowOut(Answer):
    """A row that a mapping left out. reason: a word of its `leave_out`."""

    file: str
    row: int
    reason: str


class DatasetOut(Answer):
    """A prompt set: content-addressed, immutable but for name, tags and notes.

    `progress` counts stored rows; `error`: why an import failed.
    """

    id: str
    name: str
    sha256: str
    n_rows: int
    n_safe: int
    n_unsafe: int
    n_duplicates: int
    label_meaning: LabelMeaningOut
    status: Status
    progress: Progress
    error: str | None
    files: list[FileOut]
    tags: list[str]
    notes: str
    created_at: str
    deleted_at: str | None


class MessageOut(Answer):
    """One turn of a chat."""

    role: str
    content: str


class RowOut(Answer):
    """One row of a prompt set. `text` is the user's last message."""

    row_idx: int
    row_id: str
    label: LabelWord
    text: str
    messages: list[MessageOut]
    response: str | None
    category: str | None
    difficulty: str | None
    group: str | None
    source: str | None
