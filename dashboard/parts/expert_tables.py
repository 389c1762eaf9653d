"""Tables whose rows are experts: a row opens its expert, and the expert in the address is marked."""

from collections.abc import Callable, Sequence

from dashboard import address, words
from dashboard.client import Json
from dashboard.table import Column, Row, cell, table

EXPERT = Column("expert", "Expert", kind="short")
"""The column that `expert_row` fills by itself, sorted by layer, then by number."""


def expert_row(layer: int, expert: int, cells: dict[str, Json], hint: str | None = None) -> Row:
    """Return the row of an expert: its name, with a tooltip, and the other cells by column."""
    here = address.here(layer=layer, expert=expert)
    name = cell(words.expert(layer, expert), layer * 100_000 + expert, hint)
    return Row(f"{layer}.{expert}", here, {"expert": name, **cells})


def show(
    columns: Sequence[Column],
    rows: Sequence[Row],
    *,
    key: str,
    label: str,
    height: int | None = 420,
    sort: str | None = None,
    on_sort: Callable[[str], None] | None = None,
) -> None:
    """Show the rows of experts; the other arguments are those of `table`."""
    table(
        columns,
        rows,
        key=key,
        label=label,
        selected=f"{address.index('layer')}.{address.index('expert')}",
        height=height,
        on_open=address.put_expert,
        sort=sort,
        on_sort=on_sort,
    )
