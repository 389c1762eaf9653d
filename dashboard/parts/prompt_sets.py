"""The table of prompt sets, each row a link."""

from collections.abc import Sequence

from dashboard import words
from dashboard.client import Json
from dashboard.parts.run_tables import linked, name_cell, when_cell
from dashboard.table import Column, cell

COLUMNS = (
    Column("name", "Prompt set"),
    Column("rows", "Prompts", "right"),
    Column("safe", "Safe", "right"),
    Column("unsafe", "Unsafe", "right"),
    Column("duplicates", "Duplicates dropped", "right", minor=True),
    Column("meaning", "Unsafe means", minor=True),
    Column("sha", "Identity", kind="code", minor=True),
    Column("created", "Stored", "right", minor=True),
)


def show(found: Sequence[Json], *, key: str) -> None:
    """Show prompt sets as a table of links."""

    def cells(d: Json) -> dict[str, Json]:
        return {
            "name": name_cell(d),
            "rows": cell(_rows_words(d), d["n_rows"]),
            "safe": cell(words.count(d["n_safe"]), d["n_safe"]),
            "unsafe": cell(words.count(d["n_unsafe"]), d["n_unsafe"]),
            "duplicates": cell(words.count(d["n_duplicates"]), d["n_duplicates"]),
            "meaning": cell(d["label_meaning"]["unsafe"]),
            "sha": cell(words.short_hash(d["sha256"]), hint=d["sha256"]),
            "created": when_cell(d["created_at"]),
        }

    linked("datasets", COLUMNS, found, cells, key=key, label="Prompt sets")


def _rows_words(dataset: Json) -> str:
    if dataset["status"] == "succeeded":
        return words.count(dataset["n_rows"])
    if dataset["status"] == "failed":
        return "failed"
    return f"{words.count(dataset['progress']['done'])} of {words.count(dataset['n_rows'])}"
