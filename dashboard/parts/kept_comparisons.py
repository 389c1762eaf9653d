"""The table of kept comparisons, each row a link."""

from collections.abc import Sequence

from dashboard import words
from dashboard.client import Json
from dashboard.parts.run_tables import linked, name_cell, status_cell, when_cell
from dashboard.table import Column, cell

COLUMNS = (
    Column("name", "Comparison"),
    Column("status", "Status", kind="status"),
    Column("pairing", "Prompts"),
    Column("drift", "Drift (RMS)", "right"),
    Column("pool", "Pool", minor=True),
    Column("created", "Made", "right", minor=True),
)
_PROMPTS = {"paired": "same plan", "unpaired": "other prompts"}


def show(found: Sequence[Json], *, key: str) -> None:
    """Show kept comparisons as a table of links."""

    def cells(one: Json) -> dict[str, Json]:
        return {
            "name": name_cell(one),
            "status": status_cell(one),
            "pairing": cell(_prompts(one)),
            "drift": cell(words.number(one["result"]["drift"]["rms"], 4), one["result"]["drift"]["rms"]),
            "pool": cell(one["pool"]),
            "created": when_cell(one["created_at"]),
        }

    linked("compare", COLUMNS, found, cells, key=key, label="Kept comparisons")


def _prompts(one: Json) -> str:
    said = _PROMPTS.get(one["result"]["pairing"]["intervals"], "published table")
    return f"{said}, with intervals" if one["has_intervals"] else said
