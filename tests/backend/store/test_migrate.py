from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text

from backend.store.arrays import pack
from backend.store.engine import make_engine, reading
from backend.store.imports import to_purge
from backend.store.migrate import _config, upgrade
from backend.store.tables import Analysis, AnalysisPlan, Base, BatchRouting, BatchSample, Dataset, utcnow
from tests.backend.store.older_rows import insert_older


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


def older(path: Path, **changes: dict[str, Any]) -> str:
    """Make a database as version 0001 left it, and bring it to the newest; return its URL."""
    url = f"sqlite:///{path}"
    engine = make_engine(url)
    with engine.connect() as connection:
        command.upgrade(_config(connection), "0001")
        connection.commit()
    engine.dispose()
    insert_older(path, **changes)
    upgrade(url)
    return url


@pytest.mark.parametrize("deleted_at", [None, "2026-01-02T00:00:00"])
def test_a_prompt_set_that_was_deleted_before_there_was_an_undo_stays_deleted_for_good(
    tmp_path: Path, deleted_at: str | None
) -> None:
    engine = make_engine(older(tmp_path / "schema.sqlite3", datasets={"deleted_at": deleted_at}))
    with reading(engine) as session:
        kept = session.get_one(Dataset, "ds_1")
        assert (kept.purged, kept.tags, kept.notes) == (deleted_at is not None, [], "")
    assert list(to_purge(engine)) == (["ds_1"] if deleted_at else [])
    engine.dispose()


def test_a_run_that_was_deleted_long_ago_can_be_restored_for_the_whole_time_after_the_upgrade(tmp_path: Path) -> None:
    before = utcnow()
    engine = make_engine(older(tmp_path / "schema.sqlite3", analyses={"deleted_at": "2026-01-02T00:00:00"}))
    with reading(engine) as session:
        kept = session.get_one(Analysis, "an_1")
        assert (kept.purged, before <= (kept.deleted_at or "") <= utcnow()) == (False, True)
    engine.dispose()


def test_an_older_database_keeps_its_measured_batches(tmp_path: Path) -> None:
    ids, counts = pack(np.array([7, 8])), pack(np.array([[[1, 2]]]))
    changes = {"batch_samples": {"token_ids": ids}, "batch_routing": {"counts": counts}}
    engine = make_engine(older(tmp_path / "schema.sqlite3", **changes))
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
