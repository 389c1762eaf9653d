"""Rows as version 0001 stored them, for tests that upgrade."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from backend.store.arrays import pack

_NOW, _KEY = "2026-01-01T00:00:00", {"analysis_id": "an_1", "batch_idx": 0}
OLDER: dict[str, dict[str, Any]] = {  # one row a table, as version 0001 stored it
    "datasets": {"id": "ds_1", "name": "n", "sha256": "5" * 64, "label_meaning": "{}", "files": "[]"}
    | {"n_rows": 2, "n_safe": 1, "n_unsafe": 1, "n_duplicates": 0, "status": "succeeded", "created_at": _NOW},
    "analyses": {"id": "an_1", "name": "n", "dataset_id": "ds_1", "model_id": "m", "engine": "transformers"}
    | {"params": "{}", "plan": b"frozen", "plan_digest": "6" * 64, "plan_summary": "{}", "sites": "[]", "notes": ""}
    | {"model_digests": "{}", "tags": "[]", "status": "running", "stage": "", "done": 1, "total": 1}
    | {"environment": "{}", "created_at": _NOW},
    "batch_samples": _KEY
    | {"in_batch_idx": 0, "row_idx": 0, "row_id": "ab" * 32, "label": "safe", "prompt_digest": "0f" * 32}
    | {"token_ids": b"", "tokens": 2, "truncated": False, "non_finite": False},
    "batch_routing": _KEY | {"scope": "prompt", "tokens": pack(np.array([2])), "counts": b"", "risk_diff": b"old"},
}


def insert_older(path: Path, **changes: dict[str, Any]) -> None:
    """Insert them into a database at revision 0001. changes: {table: {column: value}} on top."""
    with closing(sqlite3.connect(path)) as older:
        for table, values in OLDER.items():
            row = values | changes.get(table, {})
            marks = ", ".join("?" * len(row))
            older.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
        older.commit()
