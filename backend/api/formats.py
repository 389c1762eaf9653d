"""Tables and matrices as JSON, CSV, Parquet and npy, with an ETag where the same question gets the same bytes."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic_core
from fastapi import Header, Query
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import BaseModel

from backend.domain.canonical import digest

TableFormat = Literal["json", "csv", "parquet", "npy"]
RowsFormat = Annotated[
    Literal["json", "csv", "parquet"], Query(description="csv, parquet: every row, whatever `limit` and `cursor` say.")
]
ALL = 10**9
"""A limit that no listing reaches: what a file holds."""
IfNoneMatch = Annotated[str | None, Header(max_length=200, description="ETag of an earlier answer: 304 if unchanged.")]

FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/csv": {},
            "application/vnd.apache.parquet": {},
            "application/octet-stream": {},
        }
    },
    304: {"description": "Unchanged since the answer with this ETag."},
}


def etag(*parts: object) -> str:
    """Return an ETag over what an answer depends on."""
    return f'"{digest([str(part) for part in parts])[:32]}"'


def unchanged(tag: str, if_none_match: str | None) -> Response | None:
    """Return 304 if the client already holds this answer."""
    if if_none_match is None or tag not in [known.strip() for known in if_none_match.split(",")]:
        return None
    return Response(status_code=304, headers={"ETag": tag})


def _cached(tag: str | None) -> dict[str, str]:
    return {"ETag": tag, "Cache-Control": "private, no-cache"} if tag else {}


def json_response(body: dict[str, Any], tag: str | None = None) -> Response:
    """Return plain data; NaN becomes null. Fast enough for matrices: no validation, one pass."""
    return Response(pydantic_core.to_json(body, inf_nan_mode="null"), 200, _cached(tag), "application/json")


def file_response(content: bytes, media_type: str, filename: str, tag: str | None = None) -> Response:
    """Return a file to download."""
    headers = {"Content-Disposition": f'attachment; filename="{filename}"'} | _cached(tag)
    return Response(content, 200, headers, media_type)


def table_response(
    columns: Mapping[str, NDArray[Any]], form: Literal["csv", "parquet"], filename: str, tag: str | None = None
) -> Response:
    """Return columns of equal length as a CSV or Parquet file. What is not there (NaN) is an empty cell, or null.

    In CSV, text that a spreadsheet would run is quoted.
    """
    if form == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()}), sink)
        return file_response(sink.getvalue(), "application/vnd.apache.parquet", f"{filename}.parquet", tag)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(map(_inert, values.tolist()) for values in columns.values()), strict=True))
    return file_response(text.getvalue().encode(), "text/csv; charset=utf-8", f"{filename}.csv", tag)


def rows_response(
    rows: Sequence[BaseModel], model: type[BaseModel], form: Literal["csv", "parquet"], filename: str
) -> Response:
    """Return rows of one model as a file with its fields as columns; what is null is an empty cell."""
    plain = [row.model_dump() for row in rows]
    if form == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.table({name: pa.array([row[name] for row in plain]) for name in model.model_fields}), sink)
        return file_response(sink.getvalue(), "application/vnd.apache.parquet", f"{filename}.parquet", None)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(model.model_fields)
    writer.writerows([_inert(value) for value in row.values()] for row in plain)
    return file_response(text.getvalue().encode(), "text/csv; charset=utf-8", f"{filename}.csv", None)


def _inert(value: Any) -> Any:
    """Return a cell with an apostrophe before text that a spreadsheet takes for a formula; numbers as they are.

    NaN is no number: an empty cell.
    """
    if isinstance(value, float) and math.isnan(value):
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def npy_response(matrix: NDArray[Any], filename: str, tag: str | None = None) -> Response:
    """Return one array as a npy file."""
    sink = io.BytesIO()
    np.save(sink, np.ascontiguousarray(matrix), allow_pickle=False)
    return file_response(sink.getvalue(), "application/octet-stream", f"{filename}.npy", tag)
