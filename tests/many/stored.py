"""What an analysis left in a database, byte by byte: to be compared between databases and between fleets."""

from typing import Any

from sqlalchemy import text

from backend.store.engine import make_engine

TABLES = {
    "analysis_batches": "batch_idx, batch_id, status, n_safe, n_unsafe, n_truncated",
    "batch_samples": "batch_idx, in_batch_idx, row_idx, row_id, label, prompt_digest, token_ids, tokens, truncated, "
    "non_finite, own",
    "batch_routing": "batch_idx, scope, tokens, counts, weights, max_abs_risk_diff, noise_floor",
    "analysis_aggregates": "scope, n_batches, samples, tokens, counts, rate_sums",
    "answers": "batch_idx, in_batch_idx, kind, text, token_ids",
    "statistics": "scope, pool, status, input_digest, sha256, figures",
    "analyses": "status, done, total, plan_digest",
    "prompt_rows": "row_idx, row_id, label, response, category, difficulty, group_, source",
}


def stored(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of these tables, without ids and times of the run, in the order of their numbers."""
    engine = make_engine(url)
    found = {}
    with engine.connect() as connection:
        for name, columns in TABLES.items():
            rows = connection.execute(text(f"SELECT {columns} FROM {name} ORDER BY 1, 2"))
            found[name] = [tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in rows]
    engine.dispose()
    return found


def differing(one: dict[str, list[tuple[Any, ...]]], other: dict[str, list[tuple[Any, ...]]]) -> list[str]:
    """Return the names of the tables whose rows differ."""
    return [name for name in TABLES if one[name] != other[name]]
