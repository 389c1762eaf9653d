"""Parquet files, a few hundred rows at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backend.domain.errors import InvalidInput
from backend.domain.reading_lines import Cells, Opened, RawRow, check_columns, reason

BATCH_ROWS = 500
MAX_RATIO, MAX_UNPACKED = 100, 64 << 20
"""A file that says it grows by more than this, beyond so many bytes, is there to fill the memory: text grows by 20."""


def open_parquet(path: Path) -> Opened:
    """Open a file. Raises InvalidInput where it is damaged, encrypted or names a column twice."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        names = list(file.schema_arrow.names)
        _check_growth(file.metadata)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(f"The file cannot be read as Parquet: {reason(error)}.") from None
    return Opened(_rows(file), check_columns(names))


def _check_growth(metadata: Any) -> None:
    groups = (metadata.row_group(n) for n in range(metadata.num_row_groups))
    columns = [group.column(n) for group in groups for n in range(group.num_columns)]
    packed, unpacked = (
        sum(getattr(column, name) for column in columns)
        for name in ("total_compressed_size", "total_uncompressed_size")
    )
    if unpacked > max(MAX_UNPACKED, MAX_RATIO * packed):
        raise InvalidInput(
            f"The Parquet file would grow from {packed:,} to {unpacked:,} bytes when it is read, which no prompts do: "
            "write it anew, or as CSV or JSONL."
        )


def _rows(file: Any) -> Iterator[RawRow]:
    import pyarrow as pa

    number = 0
    with file:
        try:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
                for cells in _batch_rows(batch):
                    number += 1
                    yield number, cells
        except (pa.ArrowException, OSError) as error:
            yield number + 1, f"The file is damaged from here on: {reason(error)}."


def _batch_rows(batch: Any) -> list[Cells | str]:
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError):  # text that is no UTF-8, a date out of range: find the rows it stands in
        return [_row(batch.slice(n, 1)) for n in range(batch.num_rows)]


def _row(batch: Any) -> Cells | str:
    try:
        return dict(batch.to_pylist()[0])
    except (ValueError, OverflowError) as error:
        return f"It cannot be read: {reason(error)}."
