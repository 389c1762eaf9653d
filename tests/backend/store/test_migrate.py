import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text

from backend.store.arrays import pack
from backend.store.engine import make_engine, reading
from backend.store.migrate import _config, upgrade
from backend.store.tables import AnalysisPlan, Base, BatchRouting, BatchSample

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


def test_the_migrations_make_exactly_the_tables_that_the_code_names(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'schema.sqlite3'}"
    upgrade(url)
    engine = make_engine(url)
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    engine.dispose()
    assert differences == []


def test_upgrading_twice_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'schema.sqlite3'}"
    upgrade(url)
    before = (tmp_path / "schema.sqlite3").read_bytes()
    upgrade(url)
    assert (tmp_path / "schema.sqlite3").read_bytes() == before


def test_an_older_database_keeps_its_measured_batches(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'schema.sqlite3'}"
    engine = make_engine(url)
    with engine.connect() as connection:
        command.upgrade(_config(connection), "0001")
        connection.commit()
    engine.dispose()
    ids, counts = pack(np.array([7, 8])), pack(np.array([[[1, 2]]]))
    with closing(sqlite3.connect(tmp_path / "schema.sqlite3")) as older:
        for table, values in OLDER.items():
            marks = ", ".join("?" * len(values))
            older.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))
        older.execute("UPDATE batch_samples SET token_ids = ?", (ids,))
        older.execute("UPDATE batch_routing SET counts = ?", (counts,))
        older.commit()
    upgrade(url)
    engine = make_engine(url)
    with reading(engine) as session:
        [routing] = session.scalars(select(BatchRouting)).all()
        [sample] = session.scalars(select(BatchSample)).all()
        [plan] = session.scalars(select(AnalysisPlan)).all()
    with engine.connect() as connection:
        [kind] = connection.execute(text("SELECT typeof(row_id) FROM batch_samples")).one()
    engine.dispose()
    assert routing.counts.tolist() == [[[1, 2]]]
    assert (sample.row_id, sample.prompt_digest, sample.token_ids.tolist()) == ("ab" * 32, "0f" * 32, [7, 8])
    assert kind == "blob"
    assert (plan.analysis_id, plan.plan) == ("an_1", b"frozen")
