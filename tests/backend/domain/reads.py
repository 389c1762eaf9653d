"""What tests of reading share: a meaning, two rows, and short ways to read a file and to be refused."""

import csv
import io
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from backend.domain.errors import ImportRefused, RowProblem
from backend.domain.prompts import LabelMeaning
from backend.domain.reading import read_prompt_set, read_rows

MEANING = LabelMeaning.from_text("harmless_harmful")
BOTH = "prompt,label\na,safe\nb,unsafe\n"


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def rows_of(path, **options):
    return [row for _, row in read_rows(path, path.name, **options)]


def problems_of(path, **options):
    return [(n, row.message) for n, row in read_rows(path, path.name, **options) if isinstance(row, RowProblem)]


def refusal(*files):
    with pytest.raises(ImportRefused) as refused:
        read_prompt_set(files, MEANING)
    return refused.value.problems


def csv_text(rows, **options):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def write_table(path, records):
    """Write records in the format that the name of the file says."""
    if path.suffix == ".csv":
        path.write_text(csv_text(records, quoting=csv.QUOTE_ALL), encoding="utf-8", newline="")
    elif path.suffix == ".jsonl":
        path.write_bytes("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())
    elif path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1))
    else:
        parquet.write_table(pa.Table.from_pylist(records), path, row_group_size=3)
